"""The batched runner with RLlib's own episodes as its output, for algorithms whose learners are RLlib's."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from offload_rllib.rollout.clocked import ClockedSampling
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.rllib_episodes import episodes_at_arrivals, episodes_of
from offload_rllib.rollout.runner import BatchedEnvRunner


class EpisodesEnvRunner(BatchedEnvRunner):
    """Samples as `BatchedEnvRunner` does, and hands over flat lists of RLlib's `SingleAgentEpisode`s.

    One per environment, agent and piece of an episode. With decisions at intervals an episode that a sample's end cuts
    continues in the next sample under the same id. The id is the episode's address (see `envs.vector.training_key`),
    which no other episode has.
    """

    def make_module(self) -> None:
        """Build the modules, and the lists of what each environment plays."""
        super().make_module()
        self._played: list[list[str]] = [[] for _ in range(self.num_envs or 0)]

    def start_episodes(self, which: np.ndarray) -> None:
        """Begin the next episodes of some environments, and note their ids."""
        super().start_episodes(which)
        for e in which:
            self._played[e].append(f"{int(self.keys[e]):016x}")

    def _sample(self, *, num_episodes: int | None = None, force_reset: bool = False, **how: Any) -> Any:
        anew = num_episodes is not None or force_reset or self._needs_initial_reset
        # Of each environment only the episode that continues is known from before.
        self._played = [[] if anew else played[-1:] for played in self._played]
        steps_before = np.zeros(self.num_envs, np.int64)
        if isinstance(self._sampling, ClockedSampling) and not anew:
            steps_before = self._sampling.decided.copy()
        episodes: list[SingleAgentEpisode] = []
        for sample in super()._sample(num_episodes=num_episodes, force_reset=force_reset, **how):
            if isinstance(sample, Fragment):
                episodes += episodes_of(sample, self._played, steps_before, self._weights_seq_no)
            else:
                episodes += episodes_at_arrivals(sample, self._weights_seq_no)
        return episodes
