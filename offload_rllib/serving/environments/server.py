"""What runs the application of an environment: one process, until it is interrupted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn

from offload_rllib.serving.environments.app import make_app
from offload_rllib.serving.environments.sessions import Sessions

# Open connections of clients that wait for nothing; more are answered 503.
MOST_CONNECTIONS = 1000
# Requests under way get so long to end after Ctrl-C.
SHUTDOWN_S = 5


def make_server(sessions: Sessions, token: str | None) -> uvicorn.Server:
    """Return a server that does not listen yet.

    Args:
        sessions: that it opens.
        token: see `make_app`.
    """
    config = uvicorn.Config(
        make_app(sessions, token),
        log_level="error",
        access_log=False,
        server_header=False,
        # A client that learns between two steps keeps its connection.
        timeout_keep_alive=int(sessions.limits.timeout_s) + 1,
        timeout_graceful_shutdown=SHUTDOWN_S,
        limit_concurrency=MOST_CONNECTIONS,
    )
    return uvicorn.Server(config)


def serve_on(bound: socket.socket, sessions: Sessions, token: str | None, say_ready: Callable[[], None]) -> None:
    """Answer requests until the process is interrupted.

    Args:
        bound: socket to listen on.
        sessions: that it opens.
        token: see `make_app`.
        say_ready: called once it listens.

    Raises:
        KeyboardInterrupt: by SIGINT, or SIGTERM where its handler raises that.
    """
    server = make_server(sessions, token)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if not serving.done():
            say_ready()
        await serving

    asyncio.run(run())
