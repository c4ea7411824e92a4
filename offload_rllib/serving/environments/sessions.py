"""The sessions of a service: opened, used by one request at a time, closed, and closed when abandoned."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.envs.parallel import OffloadParallelEnv
from offload_rllib.envs.vector import batch_of
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.serving.environments.messages import (
    PARALLEL,
    VECTOR,
    CreateRequest,
    ResetRequest,
    SessionLimits,
    StepRequest,
    refused_value,
)
from offload_rllib.serving.environments.overrides import load_for_client
from offload_rllib.serving.environments.session import ParallelSession, Session, VectorSession
from offload_rllib.serving.http import RefusedError

# Random bytes of a session's name: it cannot be guessed, and a program that knows it may use the session.
ID_BYTES = 24


@dataclass
class Held:
    """A session, and what the service keeps of its calls.

    Attributes:
        session: the environments.
        calls: resets and steps so far.
        last: to the last of them: what was asked for, and its answer.
        used_at: when its last request ended, s of the monotonic clock.
        is_busy: whether a request is being carried out.
        took_s: how long the last reset and the last step took.
    """

    session: Session
    calls: int = 0
    last: tuple[str, bytes] = ("", b"")
    used_at: float = field(default_factory=time.monotonic)
    is_busy: bool = False
    took_s: dict[str, float] = field(default_factory=dict)


class Sessions:
    """The sessions of one environment. Several threads may use it."""

    def __init__(self, env: str, overrides: tuple[str, ...], limits: SessionLimits, *, trust: bool = False) -> None:
        """Build the environment once.

        Args:
            env: a preset's name, or a path to a YAML file.
            overrides: ``a.b=value`` texts that hold for all sessions.
            limits: of them.
            trust: see `load_environment`.

        Raises:
            ConfigError: the environment is invalid.
        """
        self._env, self._overrides, self._trust = env, overrides, trust
        self.name = Path(env).stem
        self.limits = limits
        self.scenario: BuiltScenario = build_scenario(load_for_client(env, overrides, (), trust=trust))
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()
        # One at a time is built: large networks take memory and minutes.
        self._building = threading.Lock()

    def compile_kernels(self) -> None:
        """Compile what sessions run, or load it from the cache: in a new checkout it takes a minute."""
        first = ResetRequest(seed=0)
        for interface in (PARALLEL, VECTOR):
            session = self._build(CreateRequest.model_validate({"interface": interface}))
            session.reset(first)
            session.step(StepRequest(actions=()), {"actions": np.zeros(session.action_shape, np.int64)})

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._held)

    def open(self, request: CreateRequest) -> tuple[str, dict[str, Any]]:
        """Open a session; return its name and its description.

        Raises:
            RefusedError: the request is not accepted, or there is no room.
        """
        self._check_request(request)
        with self._building:
            self.close_abandoned()
            self._check_room()
            try:
                session = self._build(request)
            except ConfigError as error:
                raise RefusedError(
                    422, str(error), field="overrides", value=list(request.overrides)[:10], accepted="see the message"
                ) from error
            name = secrets.token_urlsafe(ID_BYTES)
            with self._lock:
                self._held[name] = Held(session)
        return name, session.description()

    def _check_request(self, request: CreateRequest) -> None:
        if request.interface == PARALLEL and request.num_envs != 1:
            raise refused_value("num_envs", str(request.num_envs), "1 with interface: parallel; more with vector")
        if request.num_envs > self.limits.environments:
            raise refused_value("num_envs", str(request.num_envs), f"integers from 1 to {self.limits.environments}")

    def _check_room(self) -> None:
        if len(self._held) >= self.limits.sessions:
            raise RefusedError(
                503,
                f"sessions: all {self.limits.sessions} are in use; close one, or ask again later. One without requests "
                f"for {self.limits.timeout_s:g} s is closed",
                field="sessions",
                value=len(self._held),
                accepted=f"at most {self.limits.sessions}",
            )

    def _build(self, request: CreateRequest) -> Session:
        scenario = self.scenario
        if request.overrides:
            config = load_for_client(self._env, self._overrides, request.overrides, trust=self._trust)
            scenario = build_scenario(config)
        one = OffloadParallelEnv(scenario)
        with self._lock:
            used = sum(held.session.needed_bytes for held in self._held.values())
        needed = request.num_envs * one.batch.bytes_per_environment
        if used + needed > self.limits.memory_bytes:
            raise RefusedError(
                503,
                f"memory: {request.num_envs} environments need about {needed / 2**20:,.0f} MiB, and of "
                f"{self.limits.memory_bytes / 2**20:,.0f} MiB sessions use {used / 2**20:,.0f}; take fewer, or ask "
                "again later",
                field="num_envs",
                value=request.num_envs,
                accepted=f"at most {max(0, self.limits.memory_bytes - used) // one.batch.bytes_per_environment}",
            )
        if request.interface == PARALLEL:
            return ParallelSession(one, self.name)
        return VectorSession(batch_of(scenario, request.num_envs), self.name)

    @contextmanager
    def used(self, name: str) -> Iterator[Held]:
        """Use a session while the block runs; its time without requests begins at the end.

        Raises:
            RefusedError: there is no such session, or it carries out another request.
        """
        with self._lock:
            held = self._held.get(name)
            if held is None:
                raise self._unknown(name)
            if held.is_busy:
                raise RefusedError(
                    409,
                    "session: carries out another request; send one at a time",
                    field="session",
                    value=None,
                    accepted="one request at a time",
                )
            held.is_busy = True
        try:
            yield held
        finally:
            held.used_at, held.is_busy = time.monotonic(), False

    def seconds_of(self, name: str, action: str) -> float:
        """Return how long the last such action of a session took; infinity if there was none."""
        held = self._held.get(name)
        return math.inf if held is None else held.took_s.get(action, math.inf)

    def close(self, name: str) -> None:
        """Close a session, and free its memory as soon as no request uses it.

        Raises:
            RefusedError: there is no such session.
        """
        with self._lock:
            if self._held.pop(name, None) is None:
                raise self._unknown(name)

    def close_abandoned(self) -> int:
        """Close the sessions that were without a request for too long; return how many."""
        last = time.monotonic() - self.limits.timeout_s
        with self._lock:
            abandoned = [name for name, held in self._held.items() if held.used_at < last and not held.is_busy]
            for name in abandoned:
                del self._held[name]
        return len(abandoned)

    def _unknown(self, name: str) -> RefusedError:
        return RefusedError(
            404,
            f"session: '{name[:8]}...' is unknown: it was closed, or was without a request for "
            f"{self.limits.timeout_s:g} s",
            field="session",
            value=f"{name[:8]}...",
            accepted="an open session; POST /v1/sessions opens one",
        )
