"""A learner that, where there are several, samples by itself and meets the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.numpy import convert_to_numpy

from offload_rllib.algorithms.exchange.lesson import Lesson, Met, assume, meet
from offload_rllib.algorithms.exchange.meeting import EXCHANGE, EXCHANGE_BATCHES, GRADIENTS, ProcessMeeting
from offload_rllib.algorithms.exchange.own_runner import OwnRunner
from offload_rllib.algorithms.exchange.round import Round, Taught, average_taught
from offload_rllib.algorithms.fused.actor_critic_learner import ActorCriticLearner


class MeetingLearner(ActorCriticLearner):
    """Samples, learns, and exchanges weights or gradients with the other learners (see `docs/scaling.md`).

    A subclass gives `teach`, which calls `meet_before` and `meet_behind`.
    """

    def build(self) -> None:
        """Make networks and optimisers, the same in all learners."""
        super().build()
        self._own_runner: OwnRunner | None = None
        self._round: Round | None = None
        # What this learner took to learn from the last batch, and the median learner for a batch of the last round.
        self._learned_s = self._usual_s = 0.0
        if self.config.num_learners > 1:
            self.meeting = ProcessMeeting(self._device)
            self.begin_as_the_first(self.meeting)

    @property
    def adds_gradients(self) -> bool:
        """Whether several learners take every gradient step together, rather than each its own."""
        return self.meeting is not None and self.config.learner_config_dict[EXCHANGE] == GRADIENTS

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state; episodes begin where the restored run has had none."""
        super().set_state(state)
        if self._own_runner is not None:
            self._own_runner.continues = False

    def iterate(
        self, env_steps: int, batches: int = 1, **how: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
        """Sample this learner's share of batches by itself, learn from each, and exchange what was learned.

        Args:
            env_steps: that the run has sampled so far, all learners together.
            batches: how many, one after the other.
            how: `num_epochs` and `minibatch_size` of `update`.

        Returns:
            The metrics of sampling and of learning, and from the first learner the weights that act.
        """
        if self._own_runner is None:
            self._own_runner = OwnRunner(self.config, self._learner_index or 0)
        if self.meets_rarely:
            self._round = Round(self.taught_optimizers(), env_steps)
        for left in reversed(range(batches)):
            samples = self._own_runner.sample(self.module, env_steps)
            env_steps = self.teach(samples, {NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps}, meets=not left, **how)
        self._round = None
        sampled, learned = self._own_runner.get_metrics(), self.metrics.reduce()
        acting: Any = None
        if not self._learner_index:
            acting = convert_to_numpy(self.module.get_state(inference_only=True))
        return sampled, learned, acting

    def teach(
        self,
        given: Any,
        timesteps: dict[str, Any],
        *,
        meets: bool = True,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
    ) -> int:
        """Learn from a batch, and log metrics.

        Args:
            given: samples or episodes.
            timesteps: counters for schedules; of several learners, from before these samples.
            meets: whether learners that meet rarely exchange their weights now.
            num_epochs: passes over the rows.
            minibatch_size: rows of each policy per gradient step, of all learners together; all if None.

        Returns:
            The environment steps of the run with this batch, of several learners.
        """
        raise NotImplementedError

    @property
    def meets_rarely(self) -> bool:
        """Whether several learners learn from more than one batch before they exchange weights."""
        return self.meeting is not None and self.config.learner_config_dict[EXCHANGE_BATCHES] > 1

    def meet_before(self, lessons: Sequence[Lesson], env_steps: int) -> Met:
        """Standardise advantages, with all learners unless they meet rarely.

        Args:
            lessons: of this learner.
            env_steps: that it has sampled for them.
        """
        if self._round is None or self.meeting is None:
            return meet(self.meeting, lessons, env_steps, self._learned_s)
        return assume(lessons, env_steps, self.meeting.size, self._usual_s)

    def meet_behind(self, taught: Sequence[Taught], env_steps: int, *, meets: bool) -> int | None:
        """Average what was learned, unless gradients are added or the learners do not meet yet.

        Args:
            taught: by policy.
            env_steps: that this learner has sampled for it.
            meets: whether learners that meet rarely meet now.

        Returns:
            The environment steps of the run, where more than one batch is counted.
        """
        if self.meeting is None or self.adds_gradients:
            return None
        if self._round is None:
            average_taught(self.meeting, self.taught_optimizers(), taught)
            return None
        self._round.add(taught, env_steps, self._learned_s)
        if not meets:
            return None
        found, self._usual_s = self._round.end(self.meeting)
        return found
