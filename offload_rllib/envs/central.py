"""The environment for Gymnasium: one central agent decides for all nodes.

Importing this module registers it as ``offload/Offload-v0``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from offload_rllib.config import EnvironmentConfig, load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.rendering import FRAMES_PER_SECOND, RENDER_MODES, Renderer
from offload_rllib.envs.series import EpisodeSeries
from offload_rllib.envs.spaces import ACTION_MASK, FIGURES, OBSERVATIONS, TIME_S
from offload_rllib.envs.vector import batch_of
from offload_rllib.scenario import build_scenario

ENV_ID = "offload/Offload-v0"
# Of an observation: which node asks.
AGENT = "agent"
ENTRY_POINT = "offload_rllib.envs.central:OffloadGymEnv"

Observation = dict[str, Any]


class OffloadGymEnv(gymnasium.Env[Observation, Any]):
    """`OffloadParallelEnv` with one agent that sees what all agents see and decides for all of them.

    ## Action space
    `MultiDiscrete`, A x k numbers from 0 to R - 1: the actions of agent 0 for its k tasks, of agent 1, and so on, in
    the order of `agents`. As there, an action that is not valid acts as 0 and is counted.

    ## Observation space
    `Dict(observations=Box((A, F), float32), action_mask=Box(0, 1, (A x k, R), int8))`: the agents' observations and
    masks, row by row in the same order. `action_masks()` gives the masks alone, as MaskablePPO of sb3-contrib asks for
    them.

    ## One question at a time
    With `decisions.when: arrival` a step goes to the next task that is to be decided, at whichever node. The action is
    `Discrete(R)`; the observation is that of the node, with its mask and its index among `agents`:
    `Dict(observations=Box((F,), float32), action_mask=Box(0, 1, (R,), int8), agent=Discrete(A))`, of zeros at the end.
    `info["time_s"]` says when it is; the lengths of steps differ, and so do the numbers of steps of episodes.

    ## Rewards
    That of `reward.scope: team`, whatever the configuration says: the sum of the rewards of all nodes, over the number
    of agents.

    ## Starting state, episode end
    As there; the episode ends by truncation, after `spec.max_episode_steps` steps. `info["figures"]` holds its figures
    then.
    """

    # Gymnasium declares it per instance, and gives it per class.
    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "render_modes": list(RENDER_MODES),
        "render_fps": FRAMES_PER_SECOND,
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
            ConfigError: the input is invalid.
        """
        overrides = tuple(overrides)
        config = load_environment(env, [*overrides, "reward.scope=team"], trust=trust)
        self._batch = batch_of(build_scenario(config), 1)
        self._renderer = Renderer(self._batch, render_mode)
        self.render_mode = render_mode
        self._series = EpisodeSeries()
        agents, rows, size = len(self._batch.agents), self._batch.num_actions, self._batch.observation_size
        low, high = self._batch.observation_bounds
        self.action_space: spaces.Space[Any]
        if self._one_at_a_time:
            self.action_space = spaces.Discrete(rows)
            self.observation_space = spaces.Dict(
                {
                    OBSERVATIONS: spaces.Box(low, high, (size,), np.float32),
                    ACTION_MASK: spaces.Box(0, 1, (rows,), np.int8),
                    AGENT: spaces.Discrete(agents),
                }
            )
        else:
            decisions = agents * self._batch.tasks_per_decision
            self.action_space = spaces.MultiDiscrete(np.full(decisions, rows))
            self.observation_space = spaces.Dict(
                {
                    OBSERVATIONS: spaces.Box(low, high, (agents, size), np.float32),
                    ACTION_MASK: spaces.Box(0, 1, (decisions, rows), np.int8),
                }
            )
        given = {"env": env, "overrides": overrides, "render_mode": render_mode}
        self._spec = EnvSpec(ENV_ID, ENTRY_POINT, kwargs=given)
        self.spec = self._spec  # pyright: ignore[reportIncompatibleVariableOverride] - gymnasium has an attribute

    @property
    def spec(self) -> EnvSpec | None:
        """How to make the environment again; `max_episode_steps` is the length of its episodes unless it is given."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        # `gymnasium.make` sets what was registered, for environments of any length. A copy: what was registered, and
        # what `make` reads afterwards, stays as it is.
        self._spec = copy.copy(spec)
        if self._spec is not None and self._spec.max_episode_steps is None:
            self._spec.max_episode_steps = self._batch.steps_per_episode

    @property
    def _one_at_a_time(self) -> bool:
        return isinstance(self._batch, ArrivalEnv)

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the nodes that the agent decides for."""
        return self._batch.agents

    @property
    def config(self) -> EnvironmentConfig:
        """The resolved configuration."""
        return self._batch.scenario.config

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. A seed starts its series of episodes; without one the series continues.

        An environment that is never seeded has a series of its own (`envs.series.EpisodeSeries`).
        """
        super().reset(seed=seed)
        if seed is not None:
            self._series.start(seed)
        self._series.begin_episode(self._batch)
        self._renderer.show()
        if isinstance(self._batch, ArrivalEnv):
            self._batch.step_rewards(0, 1)  # rewards before the first decision belong to no agent
        return self._observation(), self._when()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide for all agents, or for the one that is asked.

        Args:
            action: [A x k] integers, or one.

        Raises:
            ValueError: wrong size, or an action that is not valid, in a strict environment.
            RuntimeError: the episode has ended, or none has begun.
        """
        batch, decisions = self._batch, np.asarray(action)
        if decisions.shape != self.action_space.shape:
            meaning = "" if self._one_at_a_time else " (agents x tasks)"
            raise ValueError(f"an action has shape {self.action_space.shape}{meaning}, is {decisions.shape}")
        truncated = batch.step(decisions.reshape(batch.masks.shape[:-1]))
        reward = batch.step_rewards(0, 1)[0] if isinstance(batch, ArrivalEnv) else batch.rewards[0, 0]
        info = self._when() | ({FIGURES: batch.episode_metrics(0)} if truncated else {})
        self._renderer.show()
        return self._observation(), float(reward), False, truncated, info

    def _when(self) -> dict[str, Any]:
        """Return the time, where decisions have no clock."""
        return {TIME_S: float(self._batch.time_s[0])} if isinstance(self._batch, ArrivalEnv) else {}

    def _observation(self) -> Observation:
        if isinstance(self._batch, ArrivalEnv):
            return {
                OBSERVATIONS: self._batch.observations[0].copy(),
                ACTION_MASK: self._batch.masks[0].copy(),
                AGENT: np.int64(max(self._batch.deciding[0], 0)),
            }
        masks = self._batch.masks[0].reshape(-1, self._batch.num_actions)
        return {OBSERVATIONS: self._batch.observations[0].copy(), ACTION_MASK: masks.copy()}

    def action_masks(self) -> np.ndarray:
        """Return which actions are valid now, [A k R] bool: R for each number of an action, in their order."""
        return self._batch.masks[0].reshape(-1).astype(np.bool_)

    def render(self) -> Any:
        """Return a table (`ansi`), a picture [height, width, 3] uint8 (`rgb_array`), or None; see `envs.rendering`."""
        return self._renderer.render()


def gym_env(
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    *,
    overrides: Iterable[str] = (),
    render_mode: str | None = None,
    trust: bool = False,
) -> OffloadGymEnv:
    """Return the Gymnasium environment; arguments and errors as `OffloadGymEnv`."""
    return OffloadGymEnv(env, overrides=overrides, render_mode=render_mode, trust=trust)


gymnasium.register(ENV_ID, entry_point=ENTRY_POINT)
