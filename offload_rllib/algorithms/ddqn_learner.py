"""One gradient step of double DQN on a sample of replay; the formulas are in `docs/algorithms/ddqn.md`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor

from offload_rllib.algorithms.direct_learner import GRADIENT_NORM, largest_norm
from offload_rllib.algorithms.double_q import double_q_targets, move_target, weighted_huber
from offload_rllib.algorithms.fused.action_values import ActionValueSteps
from offload_rllib.algorithms.fused.kernels import ACTION_VALUE, ERROR_SIZE, HUBER_LOSS
from offload_rllib.algorithms.fused.learner import FusedLearner
from offload_rllib.algorithms.fused.network import CoveredNetwork
from offload_rllib.policies.module import QF_PREDS
from offload_rllib.rollout.replay import Sample

RETURNS = "returns"
DISCOUNTS = "discounts"
WEIGHTS = "weights"
TD_ERRORS = "td_errors"
UPDATES = "updates"


class DDQNLearner(FusedLearner):
    """Learns from samples of replay, one gradient step each, without connectors."""

    def build(self) -> None:
        """Make networks, optimisers and target networks."""
        super().build()
        self._updates: dict[str, int] = {}
        # Of the policies whose weights the steps of the present round hold.
        self._taken_over: dict[str, ActionValueSteps] = {}
        for module_id in list(self.module.keys()):
            self.network(module_id).make_target_networks()
            self._updates[module_id] = 0

    def trained_modules(self) -> list[str]:
        """Return the names of the modules that are to be trained."""
        return [module_id for module_id in sorted(self.module.keys()) if self.should_module_be_updated(module_id)]

    def make_steps(self, network: CoveredNetwork, optimizer: Any) -> ActionValueSteps:
        """Make gradient steps of action values; see `FusedLearner`."""
        return ActionValueSteps(network, optimizer)

    def begin_round(self, module_id: str) -> None:
        """Let written-out steps take over a policy's weights, if they are covered, until `finish_round`."""
        steps = self.fused_steps(module_id)
        if steps is not None:
            steps.take_over()
            self._taken_over[module_id] = steps

    def learn(self, module_id: str, sample: Sample) -> np.ndarray:
        """Take one gradient step, and move the target network when it is due.

        Args:
            module_id: whose network.
            sample: from the module's replay.

        Returns:
            TD errors [B] float32, before the step.

        Raises:
            DivergedError: the loss or its gradient is not finite.
        """
        config = self.config.get_config_for_module(module_id)
        module = self.network(module_id)
        steps = self._taken_over.get(module_id)
        errors = (
            self._learn(module_id, config, sample)
            if steps is None
            else self._learn_fused(module_id, config, sample, steps)
        )
        self._updates[module_id] += 1
        if self._updates[module_id] % config.target_update_every == 0:
            if steps is not None:
                steps.hand_back()
            for network, target in module.get_target_network_pairs():
                move_target(network, target, config.target_tau)
        return errors

    def _learn(self, module_id: str, config: Any, sample: Sample) -> np.ndarray:
        batch = self._tensors(module_id, sample)
        outputs = self.network(module_id).compute_q_values(batch)
        loss = self.compute_loss_for_module(module_id=module_id, config=config, batch=batch, fwd_out=outputs)
        self.descend(module_id, config, loss)
        return outputs[TD_ERRORS].cpu().numpy()

    def _learn_fused(self, module_id: str, config: Any, sample: Sample, steps: ActionValueSteps) -> np.ndarray:
        errors, found = steps.compute(sample, config.huber_delta)
        norm = steps.norm()
        figures = {
            self.TOTAL_LOSS_KEY: torch.tensor(found[HUBER_LOSS]),
            "td_error_mean": torch.tensor(found[ERROR_SIZE]),
            "q_mean": torch.tensor(found[ACTION_VALUE]),
        }
        self.check_finite(module_id, found[HUBER_LOSS], norm, lambda: figures)
        self.note(module_id, figures | {GRADIENT_NORM: torch.tensor(norm)})
        steps.step(norm, largest_norm(config))
        return errors

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Return the weighted Huber loss of the TD errors, and put those [B] beside the action values in `fwd_out`."""
        module = self.network(module_id)
        following = {Columns.OBS: batch[Columns.NEXT_OBS]}
        with torch.no_grad():
            targets = double_q_targets(
                batch[RETURNS],
                batch[DISCOUNTS],
                online=module.compute_q_values(following)[QF_PREDS],
                target=module.forward_target(following)[QF_PREDS],
            )
        values = fwd_out[QF_PREDS].gather(-1, batch[Columns.ACTIONS].unsqueeze(-1)).squeeze(-1)
        errors = targets - values
        fwd_out[TD_ERRORS] = errors.detach()
        loss = weighted_huber(errors, batch[WEIGHTS], config.huber_delta)
        self.note(module_id, {self.TOTAL_LOSS_KEY: loss, "td_error_mean": errors.abs().mean(), "q_mean": values.mean()})
        return loss

    fused_loss = compute_loss_for_module

    def _tensors(self, module_id: str, sample: Sample) -> dict[str, Any]:
        rows = sample.transitions

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self._device)

        return {
            Columns.OBS: {"observations": tensor(rows.observations), "action_mask": tensor(rows.masks)},
            Columns.NEXT_OBS: {"observations": tensor(rows.next_observations), "action_mask": tensor(rows.next_masks)},
            Columns.ACTIONS: tensor(rows.actions),
            RETURNS: tensor(rows.returns),
            DISCOUNTS: tensor(rows.discounts),
            WEIGHTS: tensor(sample.weights),
        }

    def finish_round(self, env_steps: int, transitions: dict[str, int]) -> dict[str, Any]:
        """Give weights back, set the learning rate for the next round, and return the metrics of this one.

        Args:
            env_steps: sampled by the run so far.
            transitions: in the replay of each module.
        """
        self._weights_seq_no += 1
        self._hand_back()
        for module_id, size in transitions.items():
            # The runners' copies of the module follow the same schedule.
            schedule = self.network(module_id).epsilon
            schedule.update(env_steps)
            epsilon = float(schedule.get_current_value())
            present = {"epsilon": epsilon, "replay_transitions": size, "updates_lifetime": self._updates[module_id]}
            self.metrics.log_dict(present, key=module_id, reduce="item")
            self.log_noted(module_id)
        self.after_gradient_based_update(timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps})
        return self.metrics.reduce()

    def _hand_back(self) -> None:
        while self._taken_over:
            _, steps = self._taken_over.popitem()
            steps.hand_back()

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return RLlib's state and the number of updates, which the target networks are moved by."""
        return super().get_state(*args, **kwargs) | {UPDATES: dict(self._updates)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore `get_state`."""
        super().set_state(state)
        self._updates |= state.get(UPDATES, {})
