"""The runner of a learner that samples by itself, in its own process."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.episodes import as_samples
from offload_rllib.rollout.fragment import Fragment


class OwnRunner:
    """Samples one learner's share of every batch, from environments that no other learner has."""

    def __init__(self, config: Any, index: int) -> None:
        """Make the runner.

        Args:
            config: of the run.
            index: of the learner, from 0.
        """
        own = config.copy(copy_frozen=False)
        own.env_runners(num_env_runners=config.num_learners)
        threads = torch.get_num_threads()
        self._runner = own.env_runner_cls(config=own, worker_index=index + 1, num_workers=config.num_learners)
        torch.set_num_threads(threads)  # a runner sets another number
        self._env_steps = config.train_batch_size_per_learner
        self._learners = config.num_learners
        self.continues = False
        """Whether the next sample is of the same run as the last one."""

    def sample(self, module: Any, env_steps: int) -> list[Fragment | AgentSteps]:
        """Return samples of the learner's present policies.

        Args:
            module: of the learner.
            env_steps: that the run has sampled so far, all learners together.
        """
        if not self.continues and env_steps:
            self._runner.continue_series(env_steps)
        self.continues = True
        self._runner.set_state(
            {
                COMPONENT_RL_MODULE: module.get_state(inference_only=True),
                NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps,
            }
        )
        samples: list[Any] = []
        # The runner counts for all learners, as if they were alike.
        while self._runner.num_env_steps_sampled_lifetime < env_steps + self._learners * self._env_steps:
            samples += self._runner.sample()
        return as_samples(samples)

    def get_metrics(self) -> dict[str, Any]:
        """Return what was counted since the last call."""
        return self._runner.get_metrics()
