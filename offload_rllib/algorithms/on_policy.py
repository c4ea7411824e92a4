"""What PPO and A2C share: from agents' steps to the rows that are learned from, and the loop over minibatches.

With decisions at arrivals every step has a choice. With decisions at intervals most steps of an agent offer no task:
only action 0 is valid. Those steps carry rewards and stay among the rows, so that credit reaches the decisions that
earned it. But the actor learns nothing from them: they are left out of its loss and of the entropy. The critic's loss
sees a sample of them, because advantages need values there too.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from offload_rllib.algorithms.advantages import generalised_advantages
from offload_rllib.algorithms.annealing import annealed
from offload_rllib.algorithms.exchange.averaging import steps_of
from offload_rllib.algorithms.exchange.learner import MeetingLearner
from offload_rllib.algorithms.exchange.lesson import MOMENT, Lesson, Met, Rows, take
from offload_rllib.algorithms.exchange.meeting import BUDGET, LATE_SHARE
from offload_rllib.algorithms.exchange.plan import Plan
from offload_rllib.algorithms.exchange.round import Taught
from offload_rllib.algorithms.fused.actor_critic import HAS_CHOICE
from offload_rllib.algorithms.pull import FIRST_LOGP, PULL, divergence, first_actor
from offload_rllib.algorithms.sequences import MEMORY_STEPS, sequence_orders, sequences_of
from offload_rllib.policies.module import EVERYONE, MEMORY, SEQUENCES
from offload_rllib.policies.network import CentralCritic
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.episodes import agent_steps_of

IDLE_PER_CHOICE = "idle_per_choice"
FIRST_DIVERGENCE = "divergence_from_first"

# Observations per forward pass of the critic: few enough to stay in a core's cache.
CRITIC_ROWS = 4096

# Arrays of other processes are mapped read-only; nothing here writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def select_rows(has_choice: np.ndarray, idle_per_choice: float, rng: np.random.Generator) -> np.ndarray:
    """Return the indices [n] of the steps to learn from, in random order: all choices and a sample of the rest.

    Args:
        has_choice: [N] bool.
        idle_per_choice: steps without a choice to keep, per step with one; all of them if none has a choice.
        rng: draws the sample and the order.
    """
    chosen = np.flatnonzero(has_choice)
    idle = np.flatnonzero(~has_choice)
    count = min(len(idle), round(idle_per_choice * len(chosen))) if len(chosen) else len(idle)
    return rng.permutation(np.concatenate([chosen, rng.choice(idle, count, replace=False)]))


class OnPolicyLearner(MeetingLearner):
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

        Advantages are as they are estimated. With a central critic `MOMENT` says where in the joint observations of all
        samples, one sample after the other, a row belongs. Actors that remember learn from all rows: those of one of
        `SEQUENCES` stand together, in the order of time.

        Args:
            module_id: the policy.
            samples: its own.
            config: its own, with `gamma`, `lambda_` and `discount_s`.
        """
        pieces: list[Rows] = []
        moments = before = 0
        estimated, targets = self._estimates(module_id, samples, config)
        for steps, advantages, returns in zip(samples, estimated, targets, strict=True):
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
                Postprocessing.VALUE_TARGETS: returns[rows],
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
        columns[Columns.ACTIONS] = columns[Columns.ACTIONS].long()
        columns[Columns.OBS] = {name: columns.pop(name) for name in ("observations", "action_mask")}
        if self._pull_weight(module_id):
            seen = columns[Columns.OBS]
            with torch.no_grad():
                first = self._first_actors[module_id](seen["observations"], seen["action_mask"])
            columns[FIRST_LOGP] = first.log_softmax(-1)
        return columns

    @property
    def _share_left(self) -> float:
        """The share of the budget that is left: the pull fades with it, and credit moves."""
        return max(1.0 - self._schedules_at / self.config.learner_config_dict[BUDGET], 0.0)

    def _estimates(
        self, module_id: str, samples: list[AgentSteps], config: Any
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the advantages of each sample's rows, and the critic's targets; arguments as `rows_of`."""
        advantages, targets = [], []
        for steps in samples:
            values = self.values_of(module_id, steps)
            advantages.append(
                generalised_advantages(
                    steps, values, gamma=config.gamma, lambda_=config.lambda_, discount_s=config.discount_s
                )
            )
            targets.append(advantages[-1] + values[: len(steps)])
        gains = [steps.hindsight for steps in samples if steps.hindsight is not None]
        if gains:
            mixed = annealed(
                np.concatenate(advantages),
                np.concatenate(gains),
                np.concatenate([steps.observations for steps in samples]),
                np.concatenate([steps.choices for steps in samples]),
                self._share_left,
            )
            advantages = np.split(mixed, np.cumsum([len(steps) for steps in samples])[:-1])
        return advantages, targets

    def _pull_weight(self, module_id: str) -> float:
        """Return the present weight of the pull to the first policy."""
        if module_id not in self._first_actors:
            return 0.0
        return self.config.learner_config_dict[PULL] * self._share_left

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
            timesteps: counters for schedules; of several learners, from before these samples.
            num_epochs: passes over the rows.
            minibatch_size: rows of each policy per gradient step, of all learners together; all if None.
            kwargs: not read; for RLlib's signature.

        Returns:
            The reduced metrics.

        Raises:
            DivergedError: a loss or gradient is not finite.
        """
        self._check_is_built()
        training_data = training_data or TrainingData(episodes=episodes, episodes_refs=episodes_refs)
        training_data.solve_refs()
        given: Any = training_data.batch if training_data.episodes is None else training_data.episodes
        self.teach(given, timesteps or {}, num_epochs=num_epochs, minibatch_size=minibatch_size)
        return self.metrics.reduce()

    def teach(
        self,
        given: Any,
        timesteps: dict[str, Any],
        *,
        meets: bool = True,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
    ) -> int:
        """Learn from a batch, and log metrics; see `MeetingLearner.teach`.

        Raises:
            DivergedError: a loss or gradient is not finite.
        """
        self.before_gradient_based_update(timesteps=timesteps)
        samples = agent_steps_of(given, joint=self._has_central_critic())
        self._weights_seq_no += 1
        by_module: dict[str, list[AgentSteps]] = {}
        for steps in samples:
            by_module.setdefault(steps.module_id, []).append(steps)
        # The samples that one runner gives for several policies cover the same steps of the environments.
        env_steps = sum({(steps.source, steps.start): steps.env_steps for steps in samples}.values())
        names = self.taught_optimizers()
        lessons = [self._lesson(name, by_module.get(name, []), num_epochs, minibatch_size) for name in names]
        met = self.meet_before(lessons, env_steps)
        taught = self._learn(lessons, met, num_epochs, minibatch_size)
        counted = self.meet_behind(taught, env_steps, meets=meets)
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED), env_steps, reduce="sum")
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), env_steps, reduce="lifetime_sum")
        timesteps = dict(timesteps)
        if self.meeting is not None and NUM_ENV_STEPS_SAMPLED_LIFETIME in timesteps:
            present = timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME] + met.env_steps
            timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME] = present if counted is None else counted
        self.after_gradient_based_update(timesteps=timesteps)
        return int(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))

    def _has_central_critic(self) -> bool:
        return any(
            isinstance(getattr(self.network(module_id), "critic", None), CentralCritic)
            for module_id in list(self.module.keys())
        )

    def _lesson(self, module_id: str, samples: list[AgentSteps], num_epochs: int, minibatch_size: int | None) -> Lesson:
        """Return what a policy is to learn from samples of its own, in as many passes."""
        config = self.config.get_config_for_module(module_id)
        samples = [steps for steps in samples if len(steps)]
        if not samples:
            return Lesson(module_id, config, {}, [torch.arange(0)] * num_epochs)
        rows = self.rows_of(module_id, samples, config)
        joint = None
        if MOMENT in rows:
            seen = [steps.joint for steps in samples if steps.joint is not None]
            joint = torch.from_numpy(np.concatenate(seen)).to(self._device)
        size = len(rows[HAS_CHOICE])
        if SEQUENCES in rows:
            minibatches = max(size // min(minibatch_size or size, size), 1)
            ready = list(sequence_orders(rows[SEQUENCES], minibatches, num_epochs, self._rng))
            return Lesson(module_id, config, rows, [], joint, ready)
        # In the first pass as they are: they are in random order.
        orders = [
            torch.from_numpy(self._rng.permutation(size)) if epoch else torch.arange(size)
            for epoch in range(num_epochs)
        ]
        return Lesson(module_id, config, rows, [order.to(self._device) for order in orders], joint)

    def _learn(self, lessons: list[Lesson], met: Met, num_epochs: int, minibatch_size: int | None) -> list[Taught]:
        """Let every policy learn its lesson, alone or with all learners; return what they have learned."""
        index = 0 if self.meeting is None else self.meeting.index
        taught: list[Taught] = []
        ends_s = met.ends_s(met.sizes[index], self.config.learner_config_dict[LATE_SHARE])
        began_s = time.perf_counter()
        for lesson, of_all, end_s in zip(lessons, met.sizes.T, ends_s, strict=True):
            if not of_all.any():
                continue  # none of the policy's agents had a task
            plan = Plan.of(of_all, index, minibatch_size, together=self.adds_gradients)
            steps = plan.longest * num_epochs
            if self.meeting is not None:
                steps += steps_of(self.get_optimizer(lesson.module_id))
            taught.append(Taught(lesson.module_id, lesson.size, plan.share, steps))
            if lesson.size or self.adds_gradients:
                minibatches = lesson.minibatches(plan, end_s)
                self.learn_from(lesson.module_id, lesson.config, lesson.rows, minibatches, lesson.joint)
            self.log_noted(lesson.module_id)
            rows = lesson.size * num_epochs
            self.metrics.log_value((lesson.module_id, NUM_MODULE_STEPS_TRAINED), rows, reduce="sum")
            self.metrics.log_value((lesson.module_id, NUM_MODULE_STEPS_TRAINED_LIFETIME), rows, reduce="lifetime_sum")
        self._learned_s = time.perf_counter() - began_s
        return taught

    def learn_from(
        self,
        module_id: str,
        config: Any,
        rows: Rows,
        minibatches: Iterable[tuple[Tensor, float]],
        joint: Tensor | None = None,
    ) -> None:
        """Take one gradient step after the other.

        Args:
            module_id: the policy.
            config: its own.
            rows: columns as `rows_of` returns them.
            minibatches: for each step the places of its rows, and the factor on their gradient.
            joint: observations of all agents that `MOMENT` of the rows points into, for a central critic.
        """
        fused = self.fused_steps(module_id)
        if fused is not None:
            self.learn_fused(module_id, config, rows, minibatches, fused)
            return
        for order, share in minibatches:
            if not len(order):
                self.descend_with_others(module_id, config)
                continue
            minibatch = take(rows, order)
            if joint is not None:
                minibatch[EVERYONE] = joint[minibatch[MOMENT]]
            outputs = self.module[module_id].forward_train(minibatch)
            loss: Any = self.compute_loss_for_module(
                module_id=module_id, config=config, batch=minibatch, fwd_out=outputs
            )
            self.descend(module_id, config, loss if share == 1 else share * loss)

    def fused_steps(self, module_id: str) -> Any:
        """Return the gradient steps that are written out; see `FusedLearner`. The pull is not."""
        return None if self._pull_weight(module_id) else super().fused_steps(module_id)
