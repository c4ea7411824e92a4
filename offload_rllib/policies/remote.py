"""A policy behind a service: the interface of a loaded one, answered over HTTP."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import validated
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.draws import CallSeeds
from offload_rllib.policies.saved import PolicyDescription
from offload_rllib.policies.sharing import Assignment, device_types
from offload_rllib.simulator.types import Array

SCHEMES = ("http", "https")
TIMEOUT_S = 30.0
# How often a request is repeated when the service is full, and the wait before the first repetition.
REPEATS = 5
FIRST_WAIT_S = 0.05


class ServiceError(RuntimeError):
    """A service rejected a request, or does not answer; the message names it and its reason."""


def is_service(name: str) -> bool:
    """Return whether a text is the address of a service rather than a name or a folder."""
    return name.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


class Connection:
    """A connection to a service that is kept open; one request at a time, from one thread."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        """Take an address; no request is sent yet.

        Raises:
            ConfigError: it is not the address of a service.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"'{url}': not an address: {error}") from error
        if parts.scheme not in SCHEMES or not parts.hostname or parts.query or parts.username:
            raise ConfigError(f"'{url}': not the address of a service; write http://HOST:PORT")
        self.url = url.rstrip("/")
        self._parts: SplitResult = parts
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, port, timeout=timeout_s)

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def get(self, path: str) -> Any:
        """Return what a path answers; errors as `post`."""
        return self._request("GET", path, None)

    def post(self, path: str, content: Any) -> Any:
        """Return the answer to some content; if the service is full, the request is repeated with growing pauses.

        Raises:
            ServiceError: there is no service, it stays full, or it rejects the content.
        """
        return self._request("POST", path, json.dumps(content, allow_nan=False, separators=(",", ":")).encode())

    def _request(self, method: str, path: str, body: bytes | None) -> Any:
        status, answer = self._send(method, path, body)
        for repeat in range(REPEATS):
            if status != http.client.SERVICE_UNAVAILABLE:
                break
            time.sleep(FIRST_WAIT_S * 2**repeat * random.uniform(0.5, 1.5))  # noqa: S311 - spreads clients; no secret
            status, answer = self._send(method, path, body)
        try:
            content = json.loads(answer)
        except ValueError:
            content = answer.decode(errors="replace").strip()[:200]
        if status != http.client.OK:
            reason = content.get("error", content) if isinstance(content, dict) else content
            raise ServiceError(f"{self.url}{path}: {status}: {reason}")
        return content

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        for is_last in (False, True):
            fresh = self._connection.sock is None
            try:
                self._connection.request(method, f"{self._parts.path.rstrip('/')}{path}", body, headers)
                response = self._connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # A service may close a connection that was idle. Only what was never answered is sent again.
                if isinstance(error, http.client.RemoteDisconnected | ConnectionError) and not (fresh or is_last):
                    continue
                raise ServiceError(f"{self.url}: no answer from a service: {error or type(error).__name__}") from error
        raise AssertionError("the last try returns or raises")


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
