"""What runs the application of an environment: one process, until it is interrupted."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from offload_rllib.serving.environments.app import make_app
from offload_rllib.serving.environments.sessions import Sessions

# Open connections, also of clients that send nothing; more are answered 503.
MOST_CONNECTIONS = 1000
# Requests under way get so long to end after Ctrl-C.
SHUTDOWN_S = 5


class EnvironmentServer(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, sessions: Sessions, token: str | None, say_ready: Callable[[], None]) -> None:
        """Prepare to serve; `run` does it.

        Args:
            sessions: that it opens.
            token: see `make_app`.
            say_ready: called once it listens.
        """
        super().__init__(
            uvicorn.Config(
                make_app(sessions, token),
                log_level="error",
                access_log=False,
                server_header=False,
                # A client that learns between two steps keeps its connection.
                timeout_keep_alive=int(sessions.limits.timeout_s) + 1,
                timeout_graceful_shutdown=SHUTDOWN_S,
                limit_concurrency=MOST_CONNECTIONS,
            )
        )
        self._say_ready = say_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen; uvicorn calls it."""
        await super().startup(sockets)
        self._say_ready()
