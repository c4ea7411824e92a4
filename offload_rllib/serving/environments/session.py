"""A session: environments of one client, and what they answer. Nothing here knows of HTTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.parallel import OffloadParallelEnv
from offload_rllib.envs.series import MOST_EMPTY, EpisodeSeries
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.serving.environments.messages import (
    PARALLEL,
    VECTOR,
    ResetRequest,
    StepRequest,
    checked_actions,
    refused_value,
)
from offload_rllib.serving.http import RefusedError
from offload_rllib.simulator.types import Array

# What arrays of a `vector` session are called here, by their names in the native environment.
NATIVE = ("rewards", "truncated")
NATIVE_AT_ARRIVALS = ("deciding", "time_s", "elapsed_s", "decisions")


@dataclass
class Answer:
    """What a session says: arrays and plain values, by name."""

    values: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)


def no_episode(reason: str) -> RefusedError:
    """Return the error of a request that the present state does not allow."""
    return RefusedError(409, f"session: {reason}", field=None, value=None, accepted="reset")


class Session:
    """What both kinds of session have in common.

    Attributes:
        batch: the native environment.
        interface: `parallel` or `vector`.
    """

    interface: str

    def __init__(self, batch: NativeEnv, name: str) -> None:
        """Take the environment, and the name of what is served."""
        self.batch = batch
        self._name = name
        self._has_begun = False

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Axes of the actions of a step."""
        return self.batch.masks.shape[:-1]

    @property
    def needed_bytes(self) -> int:
        """Memory that it needs, by estimate."""
        return self.batch.num_envs * self.batch.bytes_per_environment

    def description(self) -> dict[str, Any]:
        """Return what a client must know of the environment: agents, spaces, sizes."""
        batch, config = self.batch, self.batch.scenario.config
        low, high = batch.observation_bounds
        bounds = {"low": low, "high": high} if math.isfinite(high) else {"low": None, "high": None}
        return {
            "interface": self.interface,
            "environment": self._name,
            "description": config.description,
            "fingerprint": fingerprint(config),
            "when": config.decisions.when,
            "num_envs": batch.num_envs,
            "agents": list(batch.agents),
            "spaces": {
                "observation": {"shape": [batch.observation_size], "dtype": "float32", **bounds},
                "action_mask": {"shape": list(batch.masks.shape[-1:]), "dtype": "int8"},
                "action": {"n": batch.num_actions, "tasks": batch.tasks_per_decision},
            },
            "observation_names": list(batch.layout.names),
            "steps_per_episode": batch.steps_per_episode,
        }

    def reset(self, request: ResetRequest) -> Answer:
        """Start episodes.

        Raises:
            RefusedError: the request does not fit this session.
        """
        raise NotImplementedError

    def step(self, request: StepRequest, arrays: dict[str, Array]) -> Answer:
        """Carry out actions.

        Raises:
            RefusedError: the actions do not fit, or no episode is under way.
        """
        raise NotImplementedError

    def figures(self, environments: Sequence[int]) -> Answer:
        """Return the figures of finished episodes (`simulator.metrics.summary`).

        Args:
            environments: whose; empty: of all that have ended.

        Raises:
            RefusedError: there is no such environment, or its episode has not ended.
        """
        ended = self._has_begun * self.batch.truncated
        for e in environments:
            self._check_environment(e)
            if not ended[e]:
                raise no_episode(f"the episode of environment {e} has not ended; its figures come with its end")
        shown = list(environments) or np.flatnonzero(ended).tolist()
        return Answer({"figures": [{"environment": e, **self._figures(e)} for e in shown]})

    def closing(self, environment: int) -> Answer:
        """Return what all agents get at the end of an episode where decisions come with arrivals: `ArrivalEnv.closing`.

        Raises:
            RefusedError: decisions come at intervals, there is no such environment, or its episode has not ended.
        """
        self._check_environment(environment)
        if not isinstance(self.batch, ArrivalEnv):
            raise refused_value("closing", "decisions.when: interval", "decisions.when: arrival")
        if not (self._has_begun and self.batch.truncated[environment]):
            raise no_episode(f"the episode of environment {environment} has not ended")
        names = ("observations", "action_masks", "rewards", "elapsed_s")
        return Answer({}, dict(zip(names, self.batch.closing(environment), strict=True)))

    def destinations(self, environment: int) -> Answer:
        """Return, for each agent, the nodes that its actions lead to in the present episode, itself first."""
        self._check_environment(environment)
        batch = self.batch
        return Answer(
            {"destinations": {name: batch.destinations_of(environment, i) for i, name in enumerate(batch.agents)}}
        )

    def _figures(self, e: int) -> dict[str, Any]:
        return self.batch.episode_metrics(e)

    def _check_environment(self, e: int) -> None:
        if not 0 <= e < self.batch.num_envs:
            raise refused_value("environment", str(e), f"integers from 0 to {self.batch.num_envs - 1}")

    def _check_under_way(self) -> None:
        if not self._has_begun:
            raise no_episode("no episode has begun; reset comes before the first step")

    def _refuse_invalid(self, error: ValueError) -> RefusedError:
        return RefusedError(422, f"request: actions: {error}", field="actions", value=None, accepted="valid actions")


class ParallelSession(Session):
    """One environment in which all agents observe and act: `OffloadParallelEnv`."""

    interface = PARALLEL

    def __init__(self, env: OffloadParallelEnv, name: str) -> None:
        """Take the environment, and the name of what is served."""
        super().__init__(env.batch, name)
        self._env = env

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Axes of the actions of a step: agents, and tasks if there are several at a time."""
        tasks = self.batch.tasks_per_decision
        return (len(self.batch.agents), tasks) if tasks > 1 else (len(self.batch.agents),)

    def reset(self, request: ResetRequest) -> Answer:  # noqa: D102 - see `Session`
        if request.keys or request.environments is not None:
            key = "keys" if request.keys else "environments"
            raise refused_value(key, "given", "only with interface: vector; here seed starts a series of episodes")
        if request.seed is not None:
            self._env.start_series(
                request.seed,
                worker=request.worker,
                environment=request.environment,
                first_episode=request.first_episode,
            )
        self._env.agents = list(self._env.possible_agents)
        self._env.begin_episode()
        self._has_begun = True
        return self._shown({}, {})

    def step(self, request: StepRequest, arrays: dict[str, Array]) -> Answer:  # noqa: D102 - see `Session`
        self._check_under_way()
        if not self._env.agents:
            raise no_episode("the episode has ended; reset comes before the next step")
        env = self._env
        chosen = checked_actions(request, arrays, self.action_shape, self.batch.num_actions, env.possible_agents)
        try:
            ended = env.carry_out(dict(zip(env.possible_agents, chosen, strict=True)))
        except ValueError as error:
            raise self._refuse_invalid(error) from error
        values: dict[str, Any] = {"truncated": ended}
        if ended:
            env.agents = []
            values["figures"] = self._figures(0)
        return self._shown(values, {"rewards": env.step_rewards()})

    def _shown(self, values: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        seen, masks = self._env.observe_all()
        return Answer(
            {"deciding": self._env.deciding_agent, **values},
            {"observations": seen, "action_masks": masks, **arrays},
        )


class VectorSession(Session):
    """A batch of environments: `VectorEnv` or `ArrivalEnv`."""

    interface = VECTOR

    def __init__(self, batch: NativeEnv, name: str) -> None:
        """Take the environments, and the name of what is served."""
        super().__init__(batch, name)
        self._series = [EpisodeSeries() for _ in range(batch.num_envs)]

    def reset(self, request: ResetRequest) -> Answer:  # noqa: D102 - see `Session`
        every = range(self.batch.num_envs)
        which = np.array(every if request.environments is None else request.environments, np.int64)
        for e in which.tolist():
            self._check_environment(e)
        if len(np.unique(which)) != len(which) or not len(which):
            raise refused_value("environments", str(which.tolist()[:20]), "at least one, each once")
        if not self._has_begun and len(which) < self.batch.num_envs:
            raise no_episode("the first reset must start all environments")
        if request.keys:
            self._reset_to(request, which)
        else:
            self._continue_series(request, which)
        self._has_begun = True
        return self._shown(ended=bool(self.batch.truncated.any()))

    def _reset_to(self, request: ResetRequest, which: Array) -> None:
        if request.seed is not None:
            raise refused_value("seed", str(request.seed), "seed or keys, not both")
        keys = [int(key) for key in request.keys]
        if len(keys) != len(which):
            raise refused_value("keys", f"{len(keys)} keys", f"{len(which)}, one for each environment")
        if max(keys) >= 2**64:
            raise refused_value("keys", str(max(keys)), f"integers from 0 to {2**64 - 1}")
        self.batch.reset(np.array(keys, np.uint64), which)

    def _continue_series(self, request: ResetRequest, which: Array) -> None:
        if request.seed is not None:
            for e in which.tolist():
                self._series[e].start(request.seed, request.worker, request.environment + e, request.first_episode)
        for _ in range(MOST_EMPTY):
            self.batch.reset(np.array([self._series[e].next_key() for e in which.tolist()], np.uint64), which)
            which = which[self.batch.truncated[which]]
            if not len(which):
                return
        raise ConfigError(
            f"workload: {MOST_EMPTY:,} episodes without a single decision; raise workload.load or horizon_s"
        )

    def step(self, request: StepRequest, arrays: dict[str, Array]) -> Answer:  # noqa: D102 - see `Session`
        self._check_under_way()
        batch = self.batch
        chosen = checked_actions(request, arrays, self.action_shape, batch.num_actions, None)
        try:
            ended = batch.step(chosen)
        except RuntimeError as error:
            raise no_episode(str(error)) from error
        except ValueError as error:
            raise self._refuse_invalid(error) from error
        return self._shown(ended=ended)

    def _shown(self, *, ended: bool) -> Answer:
        names = NATIVE + (NATIVE_AT_ARRIVALS if isinstance(self.batch, ArrivalEnv) else ())
        shown = {name: getattr(self.batch, name) for name in names}
        shown |= {"observations": self.batch.observations, "action_masks": self.batch.masks}
        return Answer({"ended": ended}, shown)
