"""A policy behind a service: the interface of a loaded one, answered over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import validated
from offload_rllib.envs.remote.connection import TIMEOUT_S, Connection, ServiceError
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.draws import CallSeeds
from offload_rllib.policies.saved import PolicyDescription
from offload_rllib.policies.sharing import Assignment, device_types
from offload_rllib.simulator.types import Array


class RemotePolicy:
    """The policies that a service answers for: a plain callable from observations and masks to actions.

    It gives the actions of the saved policy that the service loaded, sampled ones too, from the same seeds. Only rows
    with a choice are sent. For one thread; others take a client of their own.

    Attributes:
        description: of the saved policies.
        version: of the saved policies; an answer of another version is an error.
        assignment: which agent uses which; at first for the agents of training, see `on`.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Ask a service what it serves.

        Args:
            url: e.g. ``http://127.0.0.1:8000``.
            timeout_s: for each answer.

        Raises:
            ConfigError: the address is none.
            ServiceError: no service of this kind answers there.
        """
        self._connection = Connection(url, timeout_s)
        served = self._connection.get("/v1/policy")
        try:
            self.version = str(served["version"])
            self._most_rows = int(served["limits"]["rows"])
            content = served["description"]
        except (TypeError, KeyError, ValueError) as error:
            raise ServiceError(f"{url}: answers, but is not a service of offload-rllib") from error
        self.description = validated(PolicyDescription, content, url)
        self.assignment = self.description.assignment
        self._draws = CallSeeds()

    @property
    def url(self) -> str:
        """Address of the service."""
        return self._connection.url

    def seed(self, seed: int) -> None:
        """Restart the draws of sampled actions."""
        self._draws.restart(seed)

    def for_agents(self, agents: Sequence[str], types: Sequence[str]) -> RemotePolicy:
        """Return these policies for other agents, as `SavedPolicy.for_agents`; the connection is shared."""
        return self._assigned(self.description.assignment.applied_to(agents, types))

    def on(self, env: NativeEnv) -> RemotePolicy:
        """Return these policies for the agents of an environment, as `SavedPolicy.on`; the connection is shared."""
        try:
            self.description.check_fits(env)
            return self.for_agents(env.agents, device_types(env.scenario))
        except ConfigError as error:
            raise ConfigError(f"{self.url}: {error}") from error

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._connection.close()

    def _assigned(self, assignment: Assignment) -> RemotePolicy:
        other = object.__new__(RemotePolicy)
        other.__dict__ |= self.__dict__
        other.assignment, other._draws = assignment, CallSeeds()
        return other

    def __call__(
        self, observations: Array, masks: Array, *, agents: Array | None = None, deterministic: bool = True
    ) -> Array:
        """Return actions [..., A] int64; arguments as `SavedPolicy`.

        Raises:
            ValueError: the arrays are not of the policy's sizes.
            ServiceError: the service does not answer, rejects, or has changed its policy.
        """
        seen, valid = self.description.rows_of(observations, masks)
        shape = np.shape(masks)[:-1]
        owners = self.assignment.owners(shape) if agents is None else self.assignment.owners_of(agents)
        policies = self.assignment.policies
        actions = valid.argmax(-1)
        choices = np.flatnonzero(valid.sum(-1, dtype=np.int32) > 1)
        seed = None if deterministic else self._draws.next_call()
        for first in range(0, len(choices), self._most_rows):
            rows = choices[first : first + self._most_rows]
            content: dict[str, Any] = {"observations": seen[rows].tolist(), "action_masks": valid[rows].tolist()}
            if len(policies) > 1:
                content["policies"] = [policies[owner] for owner in owners[rows]]
            if seed is not None:
                content |= {"deterministic": False, "seed": seed, "rows": rows.tolist()}
            answer = self._connection.post("/v1/act", content)
            if answer["version"] != self.version:
                raise ServiceError(f"{self.url}: now serves policy {answer['version']}, not {self.version} any more")
            actions[rows] = answer["actions"]
        return actions.reshape(shape)
