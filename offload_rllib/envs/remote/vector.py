"""Many environments behind HTTP, stepped by one request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.remote.connection import TIMEOUT_S
from offload_rllib.envs.remote.session import RemoteSession, figures_of
from offload_rllib.simulator.types import NONE, Array


class RemoteVectorEnv:
    """`VectorEnv` or `ArrivalEnv` in another process: the same keys give the same bits.

    `reset`, `step`, `episode_metrics` and `closing` are theirs, and so are the arrays, which are replaced by every call
    and not written again: `observations`, `masks`, `rewards`, `truncated`; with `decisions.when: arrival` also
    `deciding`, `time_s`, `elapsed_s` and `decisions`.

    Attributes:
        agents: names of the A agents.
        num_envs: E.
        num_actions: R.
        tasks_per_decision: k.
        observation_size: F.
        steps_per_episode: None with `decisions.when: arrival`.
    """

    observations: Array
    masks: Array
    rewards: Array
    truncated: Array
    deciding: Array
    time_s: Array
    elapsed_s: Array
    decisions: Array

    def __init__(self, session: RemoteSession, num_envs: int) -> None:
        """Take a session that is open."""
        self._session = session
        self.num_envs = num_envs
        self.agents = tuple(session.agents)
        self.num_actions = session.num_actions
        self.tasks_per_decision = session.tasks_per_decision
        self.observation_size = session.observation_size
        self.steps_per_episode = session.steps_per_episode
        self.truncated = np.ones(num_envs, np.bool_)
        if session.at_arrivals:
            self.deciding = np.full(num_envs, NONE, np.int64)

    @property
    def description(self) -> Mapping[str, Any]:
        """What the service says of the environment: its name, fingerprint and sizes."""
        return self._session.description

    def reset(
        self,
        keys: Array | None = None,
        environments: Array | None = None,
        *,
        seed: int | None = None,
        worker: int = 0,
    ) -> None:
        """Start a new episode in all environments, or in some.

        Args:
            keys: [e] uint64 episode keys, e.g. from `held_out_keys`; None: the next of the environments' series.
            environments: [e] which ones; all by default.
            seed: starts series of episodes: environment e plays those of `parallel_env` after
                ``start_series(seed, worker=worker, environment=e)``.
            worker: see there.

        Raises:
            ValueError: a key, a number of an environment or the seed is not accepted.
            ServiceError: the service does not answer, or has closed the session.
        """
        values: dict[str, Any] = {}
        if keys is not None:
            values["keys"] = np.asarray(keys, np.uint64).tolist()
        if environments is not None:
            values["environments"] = np.asarray(environments, np.int64).tolist()
        if seed is not None:
            values |= {"seed": int(seed), "worker": int(worker)}
        self._take(self._session.call("reset", values))

    def step(self, actions: Array) -> bool:
        """Carry out actions [E], [E, A] or [E, A, k], as `ArrivalEnv.step` or `VectorEnv.step`.

        Returns:
            Whether an episode has ended: `truncated` says which.

        Raises:
            ValueError: wrong shape or type, or an action that is not accepted.
            ServiceError: the service does not answer, has closed the session, or waits for a reset.
        """
        answer = self._session.call("step", {}, {"actions": np.asarray(actions)})
        self._take(answer)
        return bool(answer["ended"])

    def _take(self, answer: Mapping[str, Any]) -> None:
        self.masks = answer["action_masks"]
        names = ("observations", "rewards", "truncated")
        if self._session.at_arrivals:
            names += ("deciding", "time_s", "elapsed_s", "decisions")
        for name in names:
            setattr(self, name, answer[name])

    def episode_metrics(self, e: int) -> dict[str, float]:
        """Return the figures of environment `e`'s finished episode (`simulator.metrics.summary`)."""
        return figures_of(self._session.ask("metrics", f"environments={int(e)}")["figures"][0])

    def closing(self, e: int) -> tuple[Array, Array, Array, Array]:
        """Return what there is to say of every agent at the end of environment `e`'s episode: `ArrivalEnv.closing`."""
        answer = self._session.ask("closing", f"environment={int(e)}")
        return answer["observations"], answer["action_masks"], answer["rewards"], answer["elapsed_s"]

    def close(self) -> None:
        """Close the session, which frees its memory in the service."""
        self._session.close()


def remote_vector_env(
    url: str,
    num_envs: int = 1,
    *,
    overrides: Iterable[str] = (),
    token: str | None = None,
    binary: bool = True,
    timeout_s: float = TIMEOUT_S,
) -> RemoteVectorEnv:
    """Return a batch of the environments that `offload-rllib serve-env` plays.

    Args:
        url: of the service, e.g. ``http://127.0.0.1:8500``.
        num_envs: how many episodes run in parallel.
        overrides: as `remote_env`, and so are the other arguments and the errors.
        token: of the service.
        binary: let arrays travel as safetensors.
        timeout_s: for each answer.
    """
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, is {num_envs}")
    session = RemoteSession(url, "vector", num_envs, overrides, token=token, binary=binary, timeout_s=timeout_s)
    return RemoteVectorEnv(session, num_envs)
