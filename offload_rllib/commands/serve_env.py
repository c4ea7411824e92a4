"""`offload-rllib serve-env`: an environment as a service."""

from __future__ import annotations

import importlib.util
import secrets
import signal
from typing import Annotated

import typer

from offload_rllib.commands.environment_options import EnvArgument, SetOption, TrustOption, WeightsOption, changes_of
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError
from offload_rllib.envs.remote.session import TOKEN

# Of the extra `serve`.
NEEDED = ("starlette", "uvicorn")
TOKEN_BYTES = 32


def serve_env(
    env: EnvArgument,
    set_: SetOption = None,
    weights: WeightsOption = None,
    host: Annotated[str, typer.Option(help="Interface to listen on; 0.0.0.0 admits other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8500,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN,
            show_envvar=True,
            help="What clients must send; without it, one is generated where other machines are admitted.",
        ),
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions at a time.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, help="A session without a request for so many seconds closes.")] = (
        600.0
    ),
    environments: Annotated[int, typer.Option(min=1, help="Environments of one session.")] = 1024,
    trust: TrustOption = False,
) -> None:
    """Let programs in any language reset and step an environment, over HTTP, until Ctrl-C."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"serve-env: needs {', '.join(missing)}: pip install 'offload-rllib[serve]'")

    from offload_rllib.envs.remote.connection import check_token
    from offload_rllib.serving.environments.messages import SessionLimits
    from offload_rllib.serving.environments.server import EnvironmentServer
    from offload_rllib.serving.environments.sessions import Sessions
    from offload_rllib.serving.listener import Listener

    if token is not None:
        check_token(token)
    limits = SessionLimits(sessions=sessions, timeout_s=timeout, environments=environments)
    listener, bound = Listener(host, port).bound()
    with bound:
        if token is None and not listener.is_loopback:
            token = secrets.token_urlsafe(TOKEN_BYTES)
            say(f"token: {token} (clients send it; export {TOKEN}={token})")
        with console.status("building the environment"):
            served = Sessions(env, tuple(changes_of(set_, weights)), limits, trust=trust)
            served.compile_kernels()
        # Background jobs ignore SIGINT, and SIGTERM would end the process without a word.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        ready = f"listening: {listener.url} (environment {served.name}; description: {listener.url}/openapi.json)"
        try:
            EnvironmentServer(served, token, lambda: say(f"{ready}; Ctrl-C stops it")).run([bound])
        except KeyboardInterrupt:
            say("stopped")
