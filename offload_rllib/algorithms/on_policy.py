"""What PPO and A2C share: from agents' steps to the rows that are learned from, and the loop over minibatches.

With decisions at arrivals every step has a choice. With decisions at intervals most steps of an agent offer no task:
only action 0 is valid. Those steps carry rewards and stay among the rows, so that credit reaches the decisions that
earned it. But the actor learns nothing from them: they are left out of its loss and of the entropy. The critic's loss
sees a sample of them, because advantages need values there too.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_KL_KEY
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
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
from offload_rllib.algorithms.direct_learner import GRADIENT_NORM, largest_norm
from offload_rllib.algorithms.fused.actor_critic import HAS_CHOICE, ActorCriticSteps, LossSettings
from offload_rllib.algorithms.fused.kernels import (
    CHOICES,
    CLIPPED,
    DIVERGENCE,
    ENTROPY,
    EXPLAINED,
    SURROGATE,
    VALUE_LOSS,
)
from offload_rllib.algorithms.fused.learner import FusedLearner
from offload_rllib.algorithms.fused.network import CoveredNetwork
from offload_rllib.algorithms.pull import FIRST_LOGP, PULL, divergence, first_actor, weight_at
from offload_rllib.algorithms.sequences import MEMORY_STEPS, sequence_orders, sequences_of
from offload_rllib.policies.module import EVERYONE, MEMORY, SEQUENCES
from offload_rllib.policies.network import CentralCritic
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.episodes import agent_steps_of

IDLE_PER_CHOICE = "idle_per_choice"
EXPLAINED_VARIANCE = "vf_explained_var"
FIRST_DIVERGENCE = "divergence_from_first"

# Observations per forward pass of the critic: few enough to stay in a core's cache.
CRITIC_ROWS = 4096

# Arrays of other processes are mapped read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

Rows = dict[str, Any]
MOMENT = "moment"


def select_rows(has_choice: np.ndarray, idle_per_choice: float, rng: np.random.Generator) -> np.ndarray:
    """Return the indices [n] of the steps to learn from, in random order: all choices and a sample of the rest.

    Args:
        has_choice: [N] bool.
        idle_per_choice: steps without a choice to keep, per step with one; all of them if none has a choice.
        rng: draws the sample and the order.
    """
    chosen = np.flatnonzero(has_choice)
    idle = np.flatnonzero(~has_choice)
    count = _idle_rows(len(chosen), len(idle), idle_per_choice)
    return rng.permutation(np.concatenate([chosen, rng.choice(idle, count, replace=False)]))


def _idle_rows(chosen: int, idle: int, idle_per_choice: float) -> int:
    """Return how many of the steps without a choice are kept."""
    return min(idle, round(idle_per_choice * chosen) if chosen else idle)


def standardised(advantages: Tensor, has_choice: Tensor) -> Tensor:
    """Return advantages [N] with mean 0 and spread 1 over the steps with a choice; as they are if only one has one."""
    if has_choice.sum() < 2:
        return advantages
    spread, mean = torch.std_mean(advantages[has_choice])
    return (advantages - mean) / spread.clamp_min(1e-4)


class OnPolicyLearner(FusedLearner):
    """Learns from agents' steps, whichever runner sampled them, in minibatches of ready tensors.

    A subclass gives `compute_loss_for_module`, and reports with `note`. Its weight of the entropy follows
    `entropy_coeff_schedulers_per_module`.
    """

    entropy_coeff_schedulers_per_module: dict[str, Scheduler]

    def schedules(self) -> list[Scheduler]:
        """Return the schedules of the entropy's weight."""
        return [self.entropy_coeff_schedulers_per_module[module_id] for module_id in list(self.module.keys())]

    def build(self) -> None:
        """Make networks and optimisers, and the stream that rows are drawn from."""
        super().build()
        self._rng = np.random.default_rng((self.config.seed or 0, self._learner_index or 0))
        # By policy; none without a pull.
        self._first_actors: dict[str, torch.nn.Module] = {}
        start = self.config.starting_weights
        if self.config.learner_config_dict.get(PULL) and start is not None:
            for module_id, weights in start.modules.items():
                self._first_actors[module_id] = first_actor(self.network(module_id).actor, weights)

    def values_of(self, module_id: str, steps: AgentSteps) -> np.ndarray:
        """Return the critic's values [N + C] float32 of a policy's steps and closing states."""
        module = self.network(module_id)
        observations = np.concatenate([steps.observations, steps.closing_observations])
        with torch.no_grad():
            if steps.memory is not None:
                values = [
                    module.compute_values({Columns.OBS: {"observations": seen}, MEMORY: remembered})
                    for seen, remembered in zip(
                        self._pieces(observations, CRITIC_ROWS), self._pieces(steps.memory, CRITIC_ROWS), strict=True
                    )
                ]
            elif steps.joint is None or steps.moment is None:
                values = [
                    module.compute_values({Columns.OBS: {"observations": seen}})
                    for seen in self._pieces(observations, CRITIC_ROWS)
                ]
            else:
                agents = steps.joint.shape[1]
                team = torch.cat([module.critic.team(s) for s in self._pieces(steps.joint, CRITIC_ROWS // agents + 1)])
                places = self._pieces(steps.moment, CRITIC_ROWS)
                values = [
                    module.critic.values(seen, team[at])
                    for seen, at in zip(self._pieces(observations, CRITIC_ROWS), places, strict=True)
                ]
        return torch.cat(values).cpu().numpy()

    def _pieces(self, rows: np.ndarray, size: int) -> Iterator[Tensor]:
        """Yield the rows, so many at a time, as tensors on the learner's device."""
        for first in range(0, len(rows), size):
            yield torch.from_numpy(rows[first : first + size]).to(self._device)

    def rows_of(self, module_id: str, samples: list[AgentSteps], config: Any) -> Rows:
        """Return the columns to learn from: the selected rows of all samples of one policy, in random order.

        Advantages are standardised over the rows with a choice. With a central critic `MOMENT` says where in the
        joint observations of all samples, one sample after the other, a row belongs. Actors that remember learn from
        all rows: those of one of `SEQUENCES` stand together, in the order of time.

        Args:
            module_id: the policy.
            samples: its own.
            config: its own, with `gamma`, `lambda_` and `discount_s`.
        """
        pieces: list[Rows] = []
        moments = before = 0
        for steps in samples:
            values = self.values_of(module_id, steps)
            advantages = generalised_advantages(
                steps, values, gamma=config.gamma, lambda_=config.lambda_, discount_s=config.discount_s
            )
            choices = steps.choices
            sequences = None
            if steps.memory is None:
                rows = select_rows(choices, self.config.learner_config_dict[IDLE_PER_CHOICE], self._rng)
            else:
                rows, sequences = sequences_of(steps.following, self.config.learner_config_dict[MEMORY_STEPS])
            piece = {
                "observations": steps.observations[rows],
                "action_mask": steps.masks[rows],
                Columns.ACTIONS: steps.actions[rows],
                Columns.ACTION_LOGP: steps.log_probabilities[rows],
                HAS_CHOICE: choices[rows],
                Postprocessing.ADVANTAGES: advantages[rows],
                Postprocessing.VALUE_TARGETS: (advantages + values[: len(steps)])[rows],
            }
            if steps.joint is not None and steps.moment is not None:
                piece[MOMENT] = moments + steps.moment[rows]
                moments += len(steps.joint)
            if steps.memory is not None and sequences is not None:
                piece |= {MEMORY: steps.memory[rows], SEQUENCES: before + sequences}
                before += int(sequences[-1]) + 1
            pieces.append(piece)
        count = sum(len(piece[HAS_CHOICE]) for piece in pieces)
        # Sequences stay together; their order is drawn with each pass.
        order = np.arange(count) if SEQUENCES in pieces[0] else self._rng.permutation(count)
        columns: dict[str, Any] = {
            name: torch.from_numpy(np.concatenate([piece[name] for piece in pieces])[order]).to(self._device)
            for name in pieces[0]
        }
        chosen = columns[HAS_CHOICE]
        columns[Postprocessing.ADVANTAGES] = standardised(columns[Postprocessing.ADVANTAGES], chosen)
        columns[Columns.ACTIONS] = columns[Columns.ACTIONS].long()
        columns[Columns.OBS] = {name: columns.pop(name) for name in ("observations", "action_mask")}
        if self._pull_weight(module_id):
            seen = columns[Columns.OBS]
            with torch.no_grad():
                first = self._first_actors[module_id](seen["observations"], seen["action_mask"])
            columns[FIRST_LOGP] = first.log_softmax(-1)
        return columns

    def _pull_weight(self, module_id: str) -> float:
        """Return the present weight of the pull to the first policy."""
        if module_id not in self._first_actors:
            return 0.0
        return weight_at(self.config.learner_config_dict, self._schedules_at)

    def pull_of(self, module_id: str, batch: Rows, logits: Tensor) -> Tensor | float:
        """Return the part of the loss that pulls to the first policy, after the other figures have been noted."""
        if FIRST_LOGP not in batch:
            return 0.0
        found = divergence(batch[FIRST_LOGP], logits, batch[HAS_CHOICE])
        self._noted[module_id][-1][FIRST_DIVERGENCE] = found.detach()
        return self._pull_weight(module_id) * found

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
        """Learn from samples or episodes, given as `episodes`, `episodes_refs` or `training_data`.

        Args:
            batch: not taken; for RLlib's signature.
            batches: not taken.
            batch_refs: not taken.
            data_iterators: not taken.
            episodes: what the batched runner sampled, or episodes of RLlib's runner.
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
        given: Any = training_data.episodes or training_data.batch
        samples = agent_steps_of(given, joint=self._has_central_critic())
        self._weights_seq_no += 1
        by_module: dict[str, list[AgentSteps]] = {}
        for steps in samples:
            by_module.setdefault(steps.module_id, []).append(steps)
        for module_id in list(self.module.keys()):
            if self.should_module_be_updated(module_id):
                self._update_module(module_id, by_module.get(module_id, []), num_epochs, minibatch_size)
        # The samples that one runner gives for several policies cover the same steps of the environments.
        env_steps = sum({(steps.source, steps.start): steps.env_steps for steps in samples}.values())
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED), env_steps, reduce="sum")
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), env_steps, reduce="lifetime_sum")
        self.after_gradient_based_update(timesteps=timesteps or {})
        return self.metrics.reduce()

    def _has_central_critic(self) -> bool:
        return any(
            isinstance(getattr(self.network(module_id), "critic", None), CentralCritic)
            for module_id in list(self.module.keys())
        )

    def _update_module(
        self, module_id: str, samples: list[AgentSteps], num_epochs: int, minibatch_size: int | None
    ) -> None:
        samples = [steps for steps in samples if len(steps)]
        # Every learner must state how many rows it has; otherwise the others would wait indefinitely.
        size = self._common_size(sum(map(self._count_rows, samples)))
        if size == 0:
            return  # none of the policy's agents had a task
        config = self.config.get_config_for_module(module_id)
        rows = self.rows_of(module_id, samples, config)
        joint = None
        if MOMENT in rows:
            seen = [steps.joint for steps in samples if steps.joint is not None]
            joint = torch.from_numpy(np.concatenate(seen)).to(self._device)
        step = min(minibatch_size or size, size)
        # What does not fill a minibatch is spread over the others.
        minibatches = max(size // step, 1)
        if SEQUENCES in rows:
            orders = sequence_orders(rows[SEQUENCES], minibatches, num_epochs, self._rng)
        else:
            edges = np.linspace(0, size, minibatches + 1).astype(int)
            orders = self._orders(len(rows[HAS_CHOICE]), edges, num_epochs)
        self.learn_from(module_id, config, rows, orders, joint)
        self.log_noted(module_id)
        self.metrics.log_value((module_id, NUM_MODULE_STEPS_TRAINED), size * num_epochs, reduce="sum")
        self.metrics.log_value((module_id, NUM_MODULE_STEPS_TRAINED_LIFETIME), size * num_epochs, reduce="lifetime_sum")

    def _count_rows(self, steps: AgentSteps) -> int:
        """Return how many rows of a sample are learned from."""
        if steps.memory is not None:
            return len(steps)
        chosen = int(steps.choices.sum())
        return chosen + _idle_rows(chosen, len(steps) - chosen, self.config.learner_config_dict[IDLE_PER_CHOICE])

    def _common_size(self, size: int) -> int:
        """Return the rows that every learner has: they must take equally many gradient steps, or wait indefinitely."""
        if self.config.num_learners < 2:
            return size
        smallest = torch.tensor(size, device=self._device)
        torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
        return int(smallest)

    def _orders(self, rows: int, edges: np.ndarray, num_epochs: int) -> Iterator[Tensor]:
        """Yield the places of each minibatch's rows: in the first pass as they are, in each other in a new order."""
        for epoch in range(num_epochs):
            order = torch.from_numpy(self._rng.permutation(rows)) if epoch else torch.arange(rows)
            for first, last in itertools.pairwise(edges):
                yield order[first:last].to(self._device)

    def learn_from(
        self, module_id: str, config: Any, rows: Rows, orders: Iterable[Tensor], joint: Tensor | None = None
    ) -> None:
        """Take one gradient step after the other.

        Args:
            module_id: the policy.
            config: its own.
            rows: columns as `rows_of` returns them.
            orders: the places in them of each minibatch.
            joint: observations of all agents that `MOMENT` of the rows points into, for a central critic.
        """
        fused = self.fused_steps(module_id)
        if fused is not None:
            self._learn_fused(module_id, config, rows, orders, fused)
            return
        for order in orders:
            minibatch = take(rows, order)
            if joint is not None:
                minibatch[EVERYONE] = joint[minibatch[MOMENT]]
            outputs = self.module[module_id].forward_train(minibatch)
            loss: Any = self.compute_loss_for_module(
                module_id=module_id, config=config, batch=minibatch, fwd_out=outputs
            )
            self.descend(module_id, config, loss)

    def fused_steps(self, module_id: str) -> Any:
        """Return the gradient steps that are written out; see `FusedLearner`. The pull is not."""
        return None if self._pull_weight(module_id) else super().fused_steps(module_id)

    def make_steps(self, network: CoveredNetwork, optimizer: Any) -> ActorCriticSteps:
        """Make gradient steps of actor and critic; see `FusedLearner`."""
        return ActorCriticSteps(network, optimizer)

    def _learn_fused(
        self, module_id: str, config: Any, rows: Rows, orders: Iterable[Tensor], steps: ActorCriticSteps
    ) -> None:
        settings = LossSettings(
            clip=self.clip_of(config),
            entropy_coeff=float(self.entropy_coeff_schedulers_per_module[module_id].get_current_value()),
            value_coeff=config.vf_loss_coeff,
        )
        found: list[np.ndarray] = []
        steps.take_over()
        try:
            for order in orders:
                figures = steps.compute(rows, order, settings)
                self.average_gradient(steps.gradient)
                norm, loss = steps.norm(), settings.loss_of(figures)
                figures[CHOICES] /= len(order)
                found.append(np.append(figures, norm))
                self.check_finite(module_id, loss, norm, lambda found=found: self._figures_of(config, found[-1]))
                steps.step(norm, largest_norm(config))
        finally:
            steps.hand_back()
        self.note(module_id, self._figures_of(config, np.mean(found, 0)))

    def _figures_of(self, config: Any, found: np.ndarray) -> dict[str, Tensor]:
        """Return what the kernels have found, with the norm behind it, under the torch learner's names."""
        figures = {
            POLICY_LOSS_KEY: -found[SURROGATE],
            VF_LOSS_KEY: found[VALUE_LOSS],
            EXPLAINED_VARIANCE: found[EXPLAINED],
            ENTROPY_KEY: found[ENTROPY],
            "choices_share": found[CHOICES],
            GRADIENT_NORM: found[-1],
        }
        if self.clip_of(config) is not None:
            figures |= {LEARNER_RESULTS_KL_KEY: found[DIVERGENCE], "clip_fraction": found[CLIPPED]}
        return {name: torch.tensor(value) for name, value in figures.items()}

    def clip_of(self, config: Any) -> float | None:
        """Return how far the ratio of probabilities may move; None: the loss has no ratio."""
        return None


def take(rows: Rows, order: Tensor) -> Rows:
    """Return the rows at some places, in that order, of a dictionary of columns."""
    return {
        key: take(value, order) if isinstance(value, dict) else value.index_select(0, order)
        for key, value in rows.items()
    }
