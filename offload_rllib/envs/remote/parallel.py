"""An environment behind HTTP, for PettingZoo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from offload_rllib.envs.pettingzoo_face import Observation
from offload_rllib.envs.remote.connection import TIMEOUT_S
from offload_rllib.envs.remote.session import RemoteSession, figures_of
from offload_rllib.envs.spaces import ACTION_MASK, FIGURES, OBSERVATION, action_space, observation_space


class RemoteParallelEnv(ParallelEnv[str, Observation, Any]):
    """`OffloadParallelEnv` in another process, maybe on another machine: the same seeds give the same bits.

    Spaces, observations, rewards and episodes are those that `OffloadParallelEnv` documents. Nothing is rendered.
    """

    metadata: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride] - PettingZoo declares it per instance
        "name": "offload_remote_v0",
        "render_modes": [],
        "is_parallelizable": True,
    }
    render_mode = None

    def __init__(self, session: RemoteSession) -> None:
        """Take a session that is open."""
        self._session = session
        self.possible_agents: list[str] = list(session.agents)
        self.agents: list[str] = []
        space = observation_space(session, OBSERVATION)
        self.observation_spaces: Any = dict.fromkeys(self.possible_agents, space)
        self.action_spaces: Any = {agent: action_space(session) for agent in self.possible_agents}
        low, high = session.observation_bounds
        self.state_space = spaces.Box(low, high, (len(self.possible_agents) * session.observation_size,), np.float32)
        self.deciding_agent: str | None = None
        self._seen = np.zeros((0,), np.float32)

    @property
    def description(self) -> Mapping[str, Any]:
        """What the service says of the environment: its name, fingerprint and sizes."""
        return self._session.description

    @property
    def steps_per_episode(self) -> int | None:
        """Steps until the truncation; None with `decisions.when: arrival`, where episodes differ."""
        return self._session.steps_per_episode

    def observation_space(self, agent: str) -> spaces.Space:
        """Return the observation space of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        """Return the action space of an agent."""
        return self.action_spaces[agent]

    def destinations(self, agent: str) -> list[str]:
        """Return the node that each valid action of an agent leads to in this episode, itself first."""
        return self._session.ask("destinations")["destinations"][agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Start an episode; as `OffloadParallelEnv.reset`.

        Args:
            seed: at least 0; None continues the series.
            options: `worker`, `environment` and `first_episode` of a series, as `OffloadParallelEnv.start_series`;
                others are ignored.

        Raises:
            ValueError: the seed is not accepted.
            ServiceError: the service does not answer, or has closed the session.
        """
        values: dict[str, Any] = {} if seed is None else {"seed": int(seed)}
        if seed is not None and options:
            known = ("worker", "environment", "first_episode")
            values |= {key: options[key] for key in known if key in options}
        answer = self._session.call("reset", values)
        self.agents = list(self.possible_agents)
        return self._observations(answer), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Let every agent act; as `OffloadParallelEnv.step`.

        Raises:
            ValueError: an action is not an integer from 0 to R - 1, or not valid in a strict environment.
            ServiceError: the service does not answer, has closed the session, or waits for a reset.
        """
        agents, tasks = self.possible_agents, self._session.tasks_per_decision
        chosen = np.zeros((len(agents), *((tasks,) * (tasks > 1))), np.int64)
        for i, agent in enumerate(agents):
            action = np.asarray(actions.get(agent, 0))
            if action.dtype.kind not in "iub":
                raise ValueError(f"agent '{agent}': action {actions[agent]!r}: must be an integer")
            chosen[i] = action
        answer = self._session.call("step", {}, {"actions": chosen})
        truncated = bool(answer["truncated"])
        infos: dict[str, dict[str, Any]] = {agent: {} for agent in agents}
        if truncated:
            self.agents = []
            figures = figures_of(answer["figures"])
            infos = {agent: {FIGURES: figures} for agent in agents}
        return (
            self._observations(answer),
            dict(zip(agents, answer["rewards"].tolist(), strict=True)),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, truncated),
            infos,
        )

    def _observations(self, answer: Mapping[str, Any]) -> dict[str, Observation]:
        self.deciding_agent = answer.get("deciding")
        seen, masks = answer["observations"], answer["action_masks"]
        self._seen = seen
        several = self._session.tasks_per_decision > 1
        return {
            agent: {OBSERVATION: seen[i], ACTION_MASK: tuple(masks[i]) if several else masks[i]}
            for i, agent in enumerate(self.possible_agents)
        }

    def state(self) -> np.ndarray:
        """Return what all agents observe, in the order of `possible_agents`: [A F] float32."""
        return self._seen.reshape(-1).copy()

    def render(self) -> None:
        """Show nothing; for the interface."""

    def close(self) -> None:
        """Close the session, which frees its memory in the service."""
        self._session.close()


def remote_env(
    url: str,
    *,
    overrides: Iterable[str] = (),
    token: str | None = None,
    binary: bool = True,
    timeout_s: float = TIMEOUT_S,
) -> RemoteParallelEnv:
    """Return the PettingZoo environment that `offload-rllib serve-env` plays.

    Args:
        url: of the service, e.g. ``http://127.0.0.1:8500``.
        overrides: ``a.b=value`` texts for this session; they may not name files or Python functions.
        token: of the service; None: that of the environment variable `OFFLOAD_RLLIB_TOKEN`, if it is set.
        binary: let arrays travel as safetensors, which is faster; False: as JSON.
        timeout_s: for each answer.

    Raises:
        ConfigError: the address, the token or an override is not accepted.
        ServiceError: no service of this kind answers there, it is full, or it rejects the token.
    """
    return RemoteParallelEnv(
        RemoteSession(url, "parallel", 1, overrides, token=token, binary=binary, timeout_s=timeout_s)
    )
