"""`offload-rllib serve`: a trained policy as a service."""

from __future__ import annotations

import importlib.util
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError

if TYPE_CHECKING:
    from offload_rllib.config.decisions import Weights
    from offload_rllib.serving.deployment import PolicyListener
    from offload_rllib.serving.messages import Limits

# Of the extra `serve`; what is there without it has ray.serve, but not what that imports.
NEEDED = ("starlette", "uvicorn", "fastapi")


def serve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, of a checkpoint or of a saved policy.")],
    host: Annotated[str, typer.Option(help="Interface to listen on; 0.0.0.0 admits other machines.")] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that decide.")] = 1,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait, of each replica; more are answered 503.")
    ] = 256,
    max_rows: Annotated[int, typer.Option(min=1, help="Observations in one request.")] = 4096,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="OBJECTIVE=WEIGHT,...",
            help="Weights of the objectives, e.g. response=0.7,energy=0.3, for requests without any.",
        ),
    ] = None,
) -> None:
    """Answer observations with a trained policy's actions, over HTTP, until Ctrl-C."""
    import numpy as np

    from offload_rllib.config.base import is_function_path
    from offload_rllib.config.decisions import parse_weights
    from offload_rllib.policies.objectives import write_weights
    from offload_rllib.policies.saved import load_saved_policy, packed, version_of
    from offload_rllib.runs.lookup import trained_policy_folder
    from offload_rllib.simulator.heuristics import HEURISTICS

    if not Path(run).exists() and (run.partition(":")[0] in HEURISTICS or is_function_path(run)):
        raise ConfigError(
            f"'{run}' is a heuristic: it reads the simulator's state, not observations, and cannot be served; "
            "give the folder of a trained policy"
        )
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"serve: needs {', '.join(missing)}: pip install 'offload-rllib[serve]'")
    folder = trained_policy_folder(Path(run))
    description = load_saved_policy(folder).description  # a folder that cannot be read is found here, not in a replica
    if description.network.memory:
        raise ConfigError(
            f"{folder}: network.memory ({description.network.memory}): a service keeps nothing between requests; "
            "accepted: 0. `export` writes a policy that remembers for programs that keep its states"
        )
    files = packed(folder)
    chosen = parse_weights(weights) if weights is not None else None
    if chosen is not None:
        write_weights(np.zeros(description.observation_size), description.weights, chosen)  # finds what does not fit

    from offload_rllib.cluster.connection import connect
    from offload_rllib.serving.deployment import PolicyListener, prepare_serving
    from offload_rllib.serving.messages import Limits
    from offload_rllib.training.train import quieten

    listener = PolicyListener(host, port, replicas, queue)
    listener.check_free()
    say(
        f"policy {version_of(files)} from {folder}: {description.algorithm}, {description.sharing}, "
        f"{description.observation_size} observations, {description.actions} actions"
    )
    if not listener.is_loopback:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"warning: listening on {host}: all programs that reach this machine can send requests, because there is "
            "no authentication; put a proxy with TLS and a login in front of it",
            style="yellow",
            markup=False,
        )
    quieten()
    prepare_serving()
    try:
        with connect():
            # Ray's handler of SIGTERM would leave Serve's processes to be killed; background jobs ignore SIGINT.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            _serve_until_interrupted(files, listener, Limits(rows=max_rows), chosen)
    except KeyboardInterrupt:
        say("stopped")


def _serve_until_interrupted(
    files: dict[str, bytes], listener: PolicyListener, limits: Limits, weights: Weights | None
) -> None:
    from offload_rllib.serving.deployment import served

    status = console.status("starting Ray Serve")
    with status, served(files, listener, limits, weights):
        status.stop()
        say(f"listening: {listener.url}/v1/act (health: {listener.url}/health); Ctrl-C stops it")
        try:
            threading.Event().wait()
        finally:
            # A second Ctrl-C would leave processes behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say("stopping")
