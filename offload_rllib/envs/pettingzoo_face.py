"""What the two forms of the environment for PettingZoo share: their making, spaces, pictures, and ends of episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from gymnasium import spaces

from offload_rllib.config import EnvironmentConfig
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
from offload_rllib.envs.vector import NativeEnv, batch_of, vector_env
from offload_rllib.scenario import BuiltScenario

Observation = dict[str, Any]


class PettingZooFace:
    """A native environment of one episode at a time, seen agent by agent."""

    metadata: ClassVar[dict[str, Any]] = {
        "name": "offload_v0",
        "render_modes": list(RENDER_MODES),
        "render_fps": FRAMES_PER_SECOND,
    }

    observation_key: ClassVar[str] = OBSERVATION
    """Of the numbers in an observation."""

    def __init__(
        self,
        env: str | Path | Mapping[str, Any] | EnvironmentConfig | BuiltScenario,
        *,
        overrides: Iterable[str] = (),
        render_mode: str | None = None,
        trust: bool = False,
    ) -> None:
        """Build the environment.

        Args:
            env: a preset's name, a path to a YAML file, a mapping, a configuration, or a scenario that is built.
            overrides: ``a.b=value`` texts; none for a scenario.
            render_mode: `human` (shown in the terminal), `ansi`, `rgb_array` or None.
            trust: run Python code that a file of a run's folder names.

        Raises:
            ConfigError: the input is invalid, or not an environment of this form.
        """
        super().__init__()
        self._batch: Any = (
            batch_of(env, 1) if isinstance(env, BuiltScenario) else vector_env(env, 1, overrides=overrides, trust=trust)
        )
        self._require(self._batch)
        self._series = EpisodeSeries()
        self._renderer = Renderer(self._batch, render_mode)
        self.render_mode = render_mode
        self.possible_agents: list[str] = list(self._batch.agents)
        self.agents: list[str] = []
        # One space object for all: the agents' observations have the same layout, so that they can share a policy.
        space = observation_space(self._batch, self.observation_key)
        self.observation_spaces: Any = dict.fromkeys(self.possible_agents, space)
        self.action_spaces: Any = {agent: action_space(self._batch) for agent in self.possible_agents}

    def _require(self, batch: NativeEnv) -> None:
        """Raise ConfigError for an environment that cannot be seen in this form."""

    @property
    def batch(self) -> Any:
        """The native environment behind this one: a `VectorEnv`, or an `ArrivalEnv`."""
        return self._batch

    @property
    def config(self) -> EnvironmentConfig:
        """The resolved configuration."""
        return self._batch.scenario.config

    def observation_space(self, agent: str) -> spaces.Space:
        """Return the observation space of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """Return the action space of an agent."""
        return self.action_spaces[agent]

    def last_step(self) -> tuple[dict[str, Observation], dict[str, float], dict[str, dict[str, Any]]]:
        """Return what all agents get at the end of an episode with `decisions.when: arrival`.

        Returns:
            By agent: the last observation, what it has earned since its last decision, and its info.
        """
        seen, masks, rewards, elapsed_s = self._batch.closing(0)
        figures, now_s = self._batch.episode_metrics(0), float(self._batch.time_s[0])
        agents = self.possible_agents
        return (
            {agent: {self.observation_key: seen[i], ACTION_MASK: masks[i]} for i, agent in enumerate(agents)},
            dict(zip(agents, rewards.tolist(), strict=True)),
            {
                agent: {TIME_S: now_s, ELAPSED_S: float(elapsed_s[i]), FIGURES: figures}
                for i, agent in enumerate(agents)
            },
        )

    def render(self) -> Any:
        """Return a table (`ansi`), a picture [height, width, 3] uint8 (`rgb_array`), or None; see `envs.rendering`."""
        return self._renderer.render()

    def close(self) -> None:
        """Release nothing; for the interface."""
