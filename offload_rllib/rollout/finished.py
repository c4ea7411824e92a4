"""What is known and logged of episodes that ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from offload_rllib.envs.spaces import FIGURES
from offload_rllib.simulator.types import Array

Key = str | tuple[str, ...]

REDUCTIONS: dict[str, Callable[[Array], Any]] = {
    "mean": np.mean,
    "min": np.min,
    "max": np.max,
}


class FinishedEpisode:
    """What is known of an episode that ended, for `on_episode_end` callbacks: RLlib's names, without the steps."""

    def __init__(self, returns: Mapping[str, float], env_steps: int, figures: dict[str, float]) -> None:
        """Keep the return of each agent, the length, and the figures of `simulator.metrics.summary`."""
        self.agent_returns = dict(returns)
        self._env_steps = env_steps
        self._figures = figures
        self.is_done = True

    def __len__(self) -> int:
        """The number of environment steps."""
        return self._env_steps

    def env_steps(self) -> int:
        """Return the number of environment steps."""
        return self._env_steps

    def get_return(self) -> float:
        """Return the sum of all agents' rewards."""
        return sum(self.agent_returns.values())

    def get_infos(self, _indices: int = -1) -> dict[str, dict[str, Any]]:
        """Return the infos of the last step, as `OffloadParallelEnv` gives them; no others are kept."""
        return {agent: {FIGURES: self._figures} for agent in self.agent_returns}


class EpisodeLog:
    """Values of episodes, kept until they are asked for, and then logged as one value each.

    Logging a value takes RLlib's logger as long as several decisions take the simulator. What it reports is the same:
    it reduces the values between two reports in the same way.
    """

    def __init__(self) -> None:
        """Begin without values."""
        self._episodes: dict[tuple[str, tuple[Key, ...]], list[list[float]]] = {}

    def add(self, values: Mapping[Key, float], reduce: str = "mean") -> None:
        """Keep values of one episode.

        Args:
            values: by key of RLlib's logger; NaN where the episode has none.
            reduce: a key of `REDUCTIONS`, as RLlib's logger names them.
        """
        self._episodes.setdefault((reduce, tuple(values)), []).append(list(values.values()))

    def write(self, logger: Any) -> None:
        """Log all values, reduced, and forget them."""
        for (reduce, keys), episodes in self._episodes.items():
            for key, column in zip(keys, np.array(episodes, np.float64).T, strict=True):
                values = column[~np.isnan(column)]
                if len(values):
                    logger.log_value(key, float(REDUCTIONS[reduce](values)), reduce=reduce)
        self._episodes.clear()
