"""The environment for PettingZoo, one agent at a time: the one that has a task to decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.rendering import FRAMES_PER_SECOND, RENDER_MODES, Renderer
from offload_rllib.envs.series import EpisodeSeries
from offload_rllib.envs.spaces import (
    ACTION_MASK,
    ELAPSED_S,
    FIGURES,
    OBSERVATION,
    TIME_S,
    action_space,
    observation_space,
)
from offload_rllib.envs.vector import vector_env


class OffloadAECEnv(AECEnv[str, dict[str, Any], Any]):
    """`OffloadParallelEnv` with `decisions.when: arrival`, one decision after the other.

    Spaces, rewards, episodes and infos are those of `OffloadParallelEnv`. `agent_selection` is the agent whose node a
    task has just entered; `last()` gives it what it has earned since its previous decision, or since the start.
    `infos[agent]` holds the time of its decision, `time_s`, and the time since its previous one, `elapsed_s`. At the
    end all agents are truncated, with a last observation and what they have earned since their last decision.
    """

    # PettingZoo declares it per instance, and gives it per class.
    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "name": "offload_v0",
        "render_modes": list(RENDER_MODES),
        "render_fps": FRAMES_PER_SECOND,
        "is_parallelizable": False,
    }

    def __init__(
        self,
        env: str | Path | Mapping[str, Any] | EnvironmentConfig,
        *,
        overrides: Iterable[str] = (),
        render_mode: str | None = None,
        trust: bool = False,
    ) -> None:
        """Build the environment.

        Args:
            env: a preset's name, a path to a YAML file, a mapping, or a configuration.
            overrides: ``a.b=value`` texts.
            render_mode: `human` (shown in the terminal), `ansi`, `rgb_array` or None.
            trust: run Python code that a file of a run's folder names.

        Raises:
            ConfigError: the input is invalid, or all agents decide by a clock.
        """
        super().__init__()
        batch = vector_env(env, 1, overrides=overrides, trust=trust)
        if not isinstance(batch, ArrivalEnv):
            raise ConfigError(
                "decisions.when: interval lets all agents decide at once, which is PettingZoo's ParallelEnv "
                "(offload_rllib.parallel_env). Accepted here: arrival"
            )
        self._batch = batch
        self._series = EpisodeSeries()
        self._renderer = Renderer(batch, render_mode)
        self.render_mode = render_mode
        self.possible_agents = list(batch.agents)
        self.agents: list[str] = []
        space = observation_space(batch, OBSERVATION)
        self.observation_spaces = dict.fromkeys(self.possible_agents, space)
        self.action_spaces = {agent: action_space(batch) for agent in self.possible_agents}
        self._closing: tuple[np.ndarray, np.ndarray] | None = None

    def observation_space(self, agent: str) -> spaces.Space:
        """Return the observation space of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """Return the action space of an agent."""
        return self.action_spaces[agent]

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
        self._closing = None
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
        seen, masks, rewards, elapsed_s, _ = self._batch.closing(0)
        self._closing = seen, masks
        figures, now_s = self._batch.episode_metrics(0), float(self._batch.time_s[0])
        for i, agent in enumerate(self.possible_agents):
            self.rewards[agent] = self._cumulative_rewards[agent] = float(rewards[i])
            self.truncations[agent] = True
            self.infos[agent] = {TIME_S: now_s, ELAPSED_S: float(elapsed_s[i]), FIGURES: figures}
        self.agent_selection = self.agents[0]

    def observe(self, agent: str) -> dict[str, Any]:
        """Return what an agent observes now."""
        i = self.possible_agents.index(agent)
        if self._closing is None and i == self._batch.deciding[0]:
            return {OBSERVATION: self._batch.observations[0].copy(), ACTION_MASK: self._batch.masks[0].copy()}
        seen, masks = self._closing or self._batch.observe_all(0)
        return {OBSERVATION: seen[i].copy(), ACTION_MASK: masks[i].copy()}

    def render(self) -> Any:
        """Return a table (`ansi`), a picture [height, width, 3] uint8 (`rgb_array`), or None; see `envs.rendering`."""
        return self._renderer.render()

    def close(self) -> None:
        """Release nothing; for the interface."""


def aec_env(
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    *,
    overrides: Iterable[str] = (),
    render_mode: str | None = None,
    trust: bool = False,
) -> OffloadAECEnv:
    """Return the PettingZoo environment in which one agent acts at a time; arguments and errors as `OffloadAECEnv`."""
    return OffloadAECEnv(env, overrides=overrides, render_mode=render_mode, trust=trust)
