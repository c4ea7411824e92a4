"""The environment for PettingZoo, one agent at a time: the one that has a task to decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pettingzoo import AECEnv

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.pettingzoo_face import Observation, PettingZooFace
from offload_rllib.envs.spaces import ACTION_MASK, ELAPSED_S, TIME_S
from offload_rllib.envs.vector import NativeEnv


class OffloadAECEnv(PettingZooFace, AECEnv[str, Observation, Any]):
    """`OffloadParallelEnv` with `decisions.when: arrival`, one decision after the other.

    Spaces, rewards, episodes and infos are those of `OffloadParallelEnv`. `agent_selection` is the agent whose node a
    task has just entered; `last()` gives it what it has earned since its previous decision, or since the start.
    `infos[agent]` holds the time of its decision, `time_s`, and the time since its previous one, `elapsed_s`. At the
    end all agents are truncated, with a last observation and what they have earned since their last decision.
    """

    # PettingZoo declares it per instance, and gives it per class.
    metadata: ClassVar[dict[str, Any]] = PettingZooFace.metadata | {  # pyright: ignore[reportIncompatibleVariableOverride]
        "is_parallelizable": False
    }

    _last_observations: dict[str, Observation] | None = None

    def _require(self, batch: NativeEnv) -> None:
        if not isinstance(batch, ArrivalEnv):
            raise ConfigError(
                "decisions.when: interval lets all agents decide at once, which is PettingZoo's ParallelEnv "
                "(offload_rllib.parallel_env). Accepted here: arrival"
            )

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Start an episode. A seed starts its series of episodes; without one the series continues."""
        if seed is not None:
            self._series.start(seed)
        self._series.begin_episode(self._batch)
        self._renderer.show()
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self._last_observations = None
        self._ask()

    def _ask(self) -> None:
        """Let the agent whose decision is due be the one that acts."""
        agent = self.possible_agents[self._batch.deciding[0]]
        self.agent_selection = agent
        self.rewards[agent] = self._cumulative_rewards[agent] = float(self._batch.rewards[0])
        self.infos[agent] = {TIME_S: float(self._batch.time_s[0]), ELAPSED_S: float(self._batch.elapsed_s[0])}

    def step(self, action: Any) -> None:
        """Let the agent that is asked act; None once it is truncated."""
        agent = self.agent_selection
        if self.truncations[agent]:
            self._was_dead_step(action)
            return
        self.rewards[agent] = 0.0
        self._cumulative_rewards[agent] = 0.0
        ended = self._batch.step(np.array([action]))
        self._renderer.show()
        if ended:
            self._end()
        else:
            self._ask()

    def _end(self) -> None:
        self._last_observations, self.rewards, self.infos = self.last_step()
        self._cumulative_rewards = dict(self.rewards)
        self.truncations = dict.fromkeys(self.agents, True)
        self.agent_selection = self.agents[0]

    def observe(self, agent: str) -> Observation:
        """Return what an agent observes now."""
        if self._last_observations is not None:
            return {key: value.copy() for key, value in self._last_observations[agent].items()}
        i = self.possible_agents.index(agent)
        if i == self._batch.deciding[0]:
            return {self.observation_key: self._batch.observations[0].copy(), ACTION_MASK: self._batch.masks[0].copy()}
        seen, masks = self._batch.observe_all(0)
        return {self.observation_key: seen[i], ACTION_MASK: masks[i]}


def aec_env(
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    *,
    overrides: Iterable[str] = (),
    render_mode: str | None = None,
    trust: bool = False,
) -> OffloadAECEnv:
    """Return the PettingZoo environment in which one agent acts at a time; arguments and errors as `OffloadAECEnv`."""
    return OffloadAECEnv(env, overrides=overrides, render_mode=render_mode, trust=trust)
