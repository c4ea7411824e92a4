"""What PPO and A2C share: from fragments to the rows that are learned from, and the loop over minibatches.

Most steps of an agent offer no task: only action 0 is valid. Those steps carry rewards and stay in the fragments, so
that credit reaches the decisions that earned it. But the actor learns nothing from them: they are left out of its
loss and of the entropy. The critic's loss sees a sample of them, because advantages need values there too.
"""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false
# pyright: reportOptionalOperand=false

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import torch
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from offload_rllib.algorithms.advantages import generalised_advantages
from offload_rllib.algorithms.direct_learner import DirectLearner
from offload_rllib.policies.module import EVERYONE
from offload_rllib.policies.network import CentralCritic
from offload_rllib.rollout.episodes import as_fragments
from offload_rllib.rollout.fragment import Fragment

HAS_CHOICE = "has_choice"
IDLE_PER_CHOICE = "idle_per_choice"
EXPLAINED_VARIANCE = "vf_explained_var"

# Observations per forward pass of the critic: few enough to stay in a core's cache.
CRITIC_ROWS = 4096

# Arrays of other processes are mapped read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

Rows = dict[str, Any]
# Observations of all agents [T + 1, E, N, F], and those at the ends of episodes [K, N, F].
Everyone = tuple[np.ndarray, np.ndarray]
TIME = "time"


def select_rows(has_choice: np.ndarray, idle_per_choice: float, rng: np.random.Generator) -> np.ndarray:
    """Return the indices [n] of the steps to learn from, in random order: all choices and a sample of the rest.

    Args:
        has_choice: [N] bool.
        idle_per_choice: steps without a choice to keep, per step with one; all of them if none has a choice.
        rng: draws the sample and the order.
    """
    chosen = np.flatnonzero(has_choice)
    idle = np.flatnonzero(~has_choice)
    count = min(len(idle), round(idle_per_choice * len(chosen)) if len(chosen) else len(idle))
    return rng.permutation(np.concatenate([chosen, rng.choice(idle, count, replace=False)]))


def standardised(advantages: Tensor, has_choice: Tensor) -> Tensor:
    """Return advantages [N] with mean 0 and spread 1 over the steps with a choice; as they are if only one has one."""
    if has_choice.sum() < 2:
        return advantages
    spread, mean = torch.std_mean(advantages[has_choice])
    return (advantages - mean) / spread.clamp_min(1e-4)


class OnPolicyLearner(DirectLearner):
    """Learns from fragments, whichever runner sampled them, in minibatches of ready tensors.

    A subclass gives `compute_loss_for_module`, and reports with `note`. Its weight of the entropy follows
    `entropy_coeff_schedulers_per_module`.
    """

    def schedules(self) -> list[Scheduler]:
        """Return the schedules of the entropy's weight."""
        return [self.entropy_coeff_schedulers_per_module[module_id] for module_id in list(self.module.keys())]

    def build(self) -> None:
        """Make networks and optimisers, and the stream that rows are drawn from."""
        super().build()
        self._rng = np.random.default_rng((self.config.seed or 0, self._learner_index or 0))

    def values_of(self, module_id: str, observations: np.ndarray, everyone: np.ndarray | None = None) -> np.ndarray:
        """Return the critic's values [T, ..., A] float32.

        Args:
            module_id: the policy.
            observations: [T, ..., A, F] float32, of its agents.
            everyone: [T, ..., N, F] float32, of all agents; a central critic sees them.
        """
        module = self.module[module_id].unwrapped()
        values = np.empty(observations.shape[:-1], np.float32)
        piece = max(CRITIC_ROWS // max(math.prod(observations.shape[1:-1]), 1), 1)
        with torch.no_grad():
            for first in range(0, len(observations), piece):
                here = slice(first, first + piece)
                seen = torch.from_numpy(observations[here]).to(self._device)
                if everyone is None:
                    found = module.compute_values({Columns.OBS: {"observations": seen}})
                else:
                    found = module.critic(seen, torch.from_numpy(everyone[here]).to(self._device))
                values[here] = found.cpu().numpy()
        return values

    def rows_of(self, module_id: str, fragments: list[Fragment], config: Any, everyone: list[Everyone]) -> Rows:
        """Return the columns to learn from: the selected steps of all fragments of one policy, in random order.

        Advantages are standardised over the steps with a choice. `TIME` says where in `everyone`, its steps and
        environments in one row, a row belongs.

        Args:
            module_id: the policy.
            fragments: its own.
            config: its own, with `gamma` and `lambda_`.
            everyone: what all agents saw, for each fragment; empty for a local critic.
        """
        pieces: list[Rows] = []
        times = 0
        for i, fragment in enumerate(fragments):
            seen, final_seen = everyone[i] if everyone else (None, None)
            values = self.values_of(module_id, fragment.observations, seen)
            final_values = self.values_of(module_id, fragment.final_observations, final_seen)
            advantages = generalised_advantages(fragment, values, final_values, config.gamma, config.lambda_)
            choices = fragment.choices()
            rows = select_rows(choices.reshape(-1), self.config.learner_config_dict[IDLE_PER_CHOICE], self._rng)
            pieces.append(
                {
                    "observations": fragment.observations[:-1].reshape(-1, fragment.observations.shape[-1])[rows],
                    "action_mask": fragment.masks[:-1].reshape(-1, fragment.masks.shape[-1])[rows],
                    Columns.ACTIONS: fragment.actions.reshape(-1)[rows],
                    Columns.ACTION_LOGP: fragment.log_probabilities.reshape(-1)[rows],
                    HAS_CHOICE: choices.reshape(-1)[rows],
                    Postprocessing.ADVANTAGES: advantages.reshape(-1)[rows],
                    Postprocessing.VALUE_TARGETS: (advantages + values[:-1]).reshape(-1)[rows],
                    TIME: times + rows // len(fragment.agents),
                }
            )
            times += fragment.env_steps
        order = self._rng.permutation(sum(len(piece[HAS_CHOICE]) for piece in pieces))
        columns = {
            name: torch.from_numpy(np.concatenate([piece[name] for piece in pieces])[order]).to(self._device)
            for name in pieces[0]
        }
        chosen = columns[HAS_CHOICE]
        columns[Postprocessing.ADVANTAGES] = standardised(columns[Postprocessing.ADVANTAGES], chosen)
        columns[Columns.ACTIONS] = columns[Columns.ACTIONS].long()
        columns[Columns.OBS] = {name: columns.pop(name) for name in ("observations", "action_mask")}
        return columns

    def update(
        self,
        batch: Any = None,
        batches: Any = None,
        batch_refs: Any = None,
        episodes: Any = None,
        episodes_refs: Any = None,
        data_iterators: Any = None,
        training_data: TrainingData | None = None,
        *,
        timesteps: dict[str, Any] | None = None,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Learn from fragments or episodes, given as `episodes`, `episodes_refs` or `training_data`.

        Args:
            batch: not taken; for RLlib's signature.
            batches: not taken.
            batch_refs: not taken.
            data_iterators: not taken.
            episodes: fragments, or episodes of RLlib's runner.
            episodes_refs: references to lists of them.
            training_data: either of them.
            timesteps: counters for schedules.
            num_epochs: passes over the rows.
            minibatch_size: rows of each policy per gradient step; all if None.
            kwargs: not read; for RLlib's signature.

        Returns:
            The reduced metrics.

        Raises:
            DivergedError: a loss or gradient is not finite.
        """
        self._check_is_built()
        self.before_gradient_based_update(timesteps=timesteps or {})
        training_data = training_data or TrainingData(episodes=episodes, episodes_refs=episodes_refs)
        training_data.solve_refs()
        fragments = as_fragments(training_data.episodes or training_data.batch)
        self._weights_seq_no += 1
        by_module: dict[str, list[Fragment]] = {}
        for fragment in fragments:
            by_module.setdefault(fragment.module_id, []).append(fragment)
        everyone = _joined(by_module) if self._has_central_critic() else []
        for module_id, members in by_module.items():
            if self.should_module_be_updated(module_id):
                self._update_module(module_id, members, everyone, num_epochs, minibatch_size)
        # Every policy's fragments cover the same steps of the environments.
        env_steps = sum(fragment.env_steps for fragment in next(iter(by_module.values()), []))
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED), env_steps, reduce="sum")
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), env_steps, reduce="lifetime_sum")
        self.after_gradient_based_update(timesteps=timesteps or {})
        return self.metrics.reduce()

    def _has_central_critic(self) -> bool:
        return any(
            isinstance(getattr(module.unwrapped(), "critic", None), CentralCritic) for module in self.module.values()
        )

    def _update_module(
        self,
        module_id: str,
        fragments: list[Fragment],
        everyone: list[Everyone],
        num_epochs: int,
        minibatch_size: int | None,
    ) -> None:
        config = self.config.get_config_for_module(module_id)
        rows = self.rows_of(module_id, fragments, config, everyone)
        joint = None
        if everyone:
            seen = [observations[:-1].reshape(-1, *observations.shape[2:]) for observations, _ in everyone]
            joint = torch.from_numpy(np.concatenate(seen)).to(self._device)
        size = self._common_size(len(rows[HAS_CHOICE]))
        step = min(minibatch_size or size, size)
        # What does not fill a minibatch is spread over the others.
        edges = np.linspace(0, size, max(size // step, 1) + 1).astype(int)
        for epoch in range(num_epochs):
            if epoch:
                order = torch.from_numpy(self._rng.permutation(len(rows[HAS_CHOICE]))).to(self._device)
            else:
                order = torch.arange(len(rows[HAS_CHOICE]), device=self._device)
            for first, last in itertools.pairwise(edges):
                minibatch = take(rows, order[first:last])
                if joint is not None:
                    minibatch[EVERYONE] = joint[minibatch[TIME]]
                self._gradient_step(module_id, config, minibatch)
        self.log_noted(module_id)
        self.metrics.log_value((module_id, NUM_MODULE_STEPS_TRAINED), size * num_epochs, reduce="sum")
        self.metrics.log_value((module_id, NUM_MODULE_STEPS_TRAINED_LIFETIME), size * num_epochs, reduce="lifetime_sum")

    def _common_size(self, size: int) -> int:
        """Return the rows that every learner has: they must take equally many gradient steps, or wait for ever."""
        if self.config.num_learners < 2:
            return size
        smallest = torch.tensor(size, device=self._device)
        torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
        return int(smallest)

    def _gradient_step(self, module_id: str, config: Any, minibatch: Rows) -> None:
        outputs = self.module[module_id].forward_train(minibatch)
        loss = self.compute_loss_for_module(module_id=module_id, config=config, batch=minibatch, fwd_out=outputs)
        self.descend(module_id, config, loss)


def _joined(by_module: dict[str, list[Fragment]]) -> list[Everyone]:
    """Return what all agents saw, and saw last, in each sample; the i-th fragments of all policies are one sample."""
    return [
        (
            np.concatenate([fragment.observations for fragment in sample], 2),
            np.concatenate([fragment.final_observations for fragment in sample], 1),
        )
        for sample in zip(*by_module.values(), strict=True)
    ]


def take(rows: Rows, order: Tensor) -> Rows:
    """Return the rows at some places, in that order, of a dictionary of columns."""
    return {
        key: take(value, order) if isinstance(value, dict) else value.index_select(0, order)
        for key, value in rows.items()
    }
