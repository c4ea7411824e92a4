"""A client's session with a service of an environment: opened, called, closed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.remote.connection import JSON_TYPE, Connection, ServiceError
from offload_rllib.envs.remote.wire import BINARY_TYPE, WireError, body_of, contents_of
from offload_rllib.simulator.types import Array

# Environment variable with the token of services that want one.
TOKEN = "OFFLOAD_RLLIB_TOKEN"  # noqa: S105 - its name
# Types of the arrays of an answer, which JSON does not say.
DTYPES: dict[str, Any] = {
    "observations": np.float32,
    "action_masks": np.int8,
    "rewards": np.float32,
    "truncated": np.bool_,
    "deciding": np.int64,
    "decisions": np.int64,
    "time_s": np.float64,
    "elapsed_s": np.float64,
}
# Status of a request whose content is not accepted.
NOT_ACCEPTED = 422
UNKNOWN = 404


class RemoteSession:
    """A session that this client has opened; for one thread.

    Each reset and step has a number, so that one that is sent again after a broken connection is carried out once.

    Attributes:
        description: what the service says of the environment (`SessionDescription` in its OpenAPI document).
    """

    def __init__(
        self,
        url: str,
        interface: str,
        num_envs: int,
        overrides: Iterable[str],
        *,
        token: str | None,
        binary: bool,
        timeout_s: float,
    ) -> None:
        """Open the session.

        Args:
            url: of the service.
            interface: `parallel` or `vector`.
            num_envs: environments.
            overrides: ``a.b=value`` texts.
            token: of the service; None: that of the environment variable `TOKEN`, if it is set.
            binary: send and ask for arrays as safetensors; False: as JSON.
            timeout_s: for each answer.

        Raises:
            ConfigError: the address, the token or an override is not accepted.
            ServiceError: no service of this kind answers there, it is full, or it rejects the token.
        """
        self._connection = Connection(url, timeout_s, token or os.environ.get(TOKEN) or None)
        self._kind = BINARY_TYPE if binary else JSON_TYPE
        self._calls = 0
        wanted = {"interface": interface, "num_envs": num_envs, "overrides": list(overrides)}
        try:
            answer = self._connection.post("/v1/sessions", wanted)
        except ServiceError as error:
            if error.status == NOT_ACCEPTED:
                raise ConfigError(str(error)) from error
            raise
        try:
            self._path = f"/v1/sessions/{answer['session']}"
            self.description: Mapping[str, Any] = answer
            self.agents: list[str] = [str(agent) for agent in answer["agents"]]
            spaces = answer["spaces"]
            self.observation_size = int(spaces["observation"]["shape"][0])
            low, high = spaces["observation"]["low"], spaces["observation"]["high"]
            self.observation_bounds = (-np.inf, np.inf) if high is None else (float(low), float(high))
            self.num_actions = int(spaces["action"]["n"])
            self.tasks_per_decision = int(spaces["action"]["tasks"])
            self.at_arrivals = answer["when"] == "arrival"
            steps = answer["steps_per_episode"]
            self.steps_per_episode = None if steps is None else int(steps)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise ServiceError(f"{url}: answers, but is not an environment of offload-rllib") from error

    @property
    def url(self) -> str:
        """Address of the service."""
        return self._connection.url

    def call(self, name: str, values: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> dict[str, Any]:
        """Return the answer to a reset or a step: arrays by name, and plain values.

        Raises:
            ValueError: the service does not accept the actions or the values.
            ServiceError: it does not answer, or has no such session any more.
        """
        body = body_of(self._kind, arrays or {}, {**values, "call": self._calls + 1})
        try:
            answer = self._request("POST", name, body)
        except ServiceError as error:
            if error.status == NOT_ACCEPTED:
                raise ValueError(str(error)) from error
            raise
        self._calls += 1
        return answer

    def ask(self, name: str, query: str = "") -> dict[str, Any]:
        """Return what the session says of something; errors as `call`."""
        return self._request("GET", f"{name}?{query}" if query else name)

    def _request(self, method: str, name: str, body: bytes | None = None) -> dict[str, Any]:
        kind, answer = self._connection.request(
            method, f"{self._path}/{name}", body, self._kind, f"{self._kind}, {JSON_TYPE}"
        )
        try:
            arrays, values = contents_of(kind.partition(";")[0], answer)
        except WireError as error:
            raise ServiceError(f"{self.url}: answers what cannot be read: {error}") from error
        if not arrays:
            arrays = {
                key: np.asarray(values.pop(key)).astype(dtype)
                for key, dtype in DTYPES.items()
                if isinstance(values.get(key), list)
            }
        return {**values, **arrays}

    def close(self) -> None:
        """Close the session and the connection; one that is closed already stays so."""
        try:
            self._connection.request("DELETE", self._path)
        except ServiceError as error:
            if error.status not in (None, UNKNOWN):
                raise
        finally:
            self._connection.close()


def figures_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of an episode as numbers, also those that are not finite."""
    return {name: float(value) for name, value in figures.items() if name != "environment"}
