"""A served environment in a thread of the test, and requests to it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from offload_rllib.serving.environments.messages import SessionLimits
from offload_rllib.serving.environments.server import EnvironmentServer
from offload_rllib.serving.environments.sessions import Sessions

JSON = "application/json"
BINARY = "application/x-safetensors"


def written(folder: Path, environment: dict[str, Any], name: str = "small") -> str:
    """Write an environment as a file; return its path."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(environment))
    return str(path)


@contextmanager
def served(env: str, token: str | None = None, **limits: Any) -> Iterator[tuple[str, Sessions]]:
    """Serve an environment on a free port of loopback while the block runs; give its address and its sessions."""
    sessions = Sessions(env, (), SessionLimits(**limits))
    bound = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    server = EnvironmentServer(sessions, token, ready.set)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", sessions
    finally:
        server.should_exit = True
        thread.join(30)


def send(
    url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """Send JSON, or bytes as they are; return status, content (of JSON; otherwise bytes) and headers of the answer."""
    connection = HTTPConnection(url.partition("://")[2], timeout=60)
    given = headers or {}
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        given = {"Content-Type": JSON} | given
    connection.request(method, path, body, given)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    answered = {name.lower(): value for name, value in response.getheaders()}
    return response.status, json.loads(content) if JSON in answered.get("content-type", "") else content, answered


def opened(url: str, **request: Any) -> str:
    """Open a session; return its path."""
    status, answer, _ = send(url, "POST", "/v1/sessions", request)
    assert status == 201, answer
    return f"/v1/sessions/{answer['session']}"


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal to the last bit, types of arrays included; NaN equals NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or (one != one and other != other))  # noqa: PLR0124 - NaN
