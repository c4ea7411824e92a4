"""A learner that, where there are several, samples by itself and meets the others."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.numpy import convert_to_numpy

from offload_rllib.algorithms.exchange.averaging import average
from offload_rllib.algorithms.exchange.meeting import EXCHANGE, GRADIENTS, Meeting, ProcessMeeting
from offload_rllib.algorithms.exchange.own_runner import OwnRunner
from offload_rllib.algorithms.fused.learner import FusedLearner


class MeetingLearner(FusedLearner):
    """Samples, learns, and exchanges weights or gradients with the other learners (see `docs/scaling.md`).

    A subclass gives `update`, which meets.
    """

    def build(self) -> None:
        """Make networks and optimisers, the same in all learners."""
        super().build()
        self._own_runner: OwnRunner | None = None
        if self.config.num_learners > 1:
            self.meeting = ProcessMeeting(self._device)
            self._begin_as_the_first(self.meeting)

    @property
    def adds_gradients(self) -> bool:
        """Whether several learners take every gradient step together, rather than each its own."""
        return self.meeting is not None and self.config.learner_config_dict[EXCHANGE] == GRADIENTS

    def _begin_as_the_first(self, meeting: Meeting) -> None:
        """Take over the first learner's weights: without a seed every learner has drawn its own."""
        optimizers = [self.get_optimizer(module_id) for module_id in list(self.module.keys())]
        is_first = float(meeting.index == 0)
        average(meeting, optimizers, [is_first] * len(optimizers), [0] * len(optimizers))

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state; episodes begin where the restored run has had none."""
        super().set_state(state)
        if self._own_runner is not None:
            self._own_runner.continues = False

    def iterate(self, env_steps: int, **how: Any) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any] | None]:
        """Sample this learner's share of a batch by itself, and learn from it.

        Args:
            env_steps: that the run has sampled so far, all learners together.
            how: `num_epochs` and `minibatch_size` of `update`.

        Returns:
            The metrics of sampling and of learning, and from the first learner the weights that act.
        """
        if self._own_runner is None:
            self._own_runner = OwnRunner(self.config, self._learner_index or 0)
        samples, sampled = self._own_runner.sample(self.module, env_steps)
        data = TrainingData(batch=samples)  # pyright: ignore[reportArgumentType] - `update` takes these
        learned = self.update(training_data=data, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps}, **how)
        acting: Any = None
        if not self._learner_index:
            acting = convert_to_numpy(self.module.get_state(inference_only=True))
        return sampled, learned, acting
