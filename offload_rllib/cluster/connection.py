"""Which Ray a command works on: its own on this machine, or a cluster that is there; and what its nodes can do.

`connect` is the only place that starts Ray or connects to it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util import client

from offload_rllib.cluster.ray_settings import (
    AUTH_MODE,
    messages_to_log,
    on_loopback,
    restrict_token,
    use_token_if_there_is_one,
)
from offload_rllib.config import ConfigError
from offload_rllib.version import __version__

ADDRESS_VARIABLE = "RAY_ADDRESS"
LOCAL = "local"
CLIENT = "ray://"
# What must be the same on all nodes: weights, configurations and random streams travel between them.
COMPARED = ("python", "ray", "offload-rllib", "sources", "torch", "numpy")
NODE_ANSWERS_S = 120.0


_default: RayOptions | None = None


class ClusterError(RuntimeError):
    """A cluster cannot be reached, or its nodes do not fit together; the message names which, and what to do."""


@dataclass(frozen=True)
class RayOptions:
    """Where a command finds Ray."""

    address: str | None = None
    """``auto``, ``host:port`` of a cluster that this machine is part of, ``ray://host:port`` of any other, ``local``
    for a Ray of its own; None: the value of RAY_ADDRESS, otherwise ``local``."""
    ship_code: bool = False
    """Send this package's files to the nodes, in place of what is installed there."""
    dashboard: bool = False
    """Start Ray's dashboard with a Ray of its own."""

    @property
    def resolved(self) -> str:
        """The address, with the environment's if none was given."""
        return self.address or os.environ.get(ADDRESS_VARIABLE) or LOCAL

    @property
    def is_local(self) -> bool:
        """Whether a Ray of its own is started."""
        return self.resolved == LOCAL

    @property
    def is_client(self) -> bool:
        """Whether this process stays outside the cluster."""
        return self.resolved.startswith(CLIENT)

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            ConfigError: it is none.
        """
        address = self.resolved
        host, _, port = address.removeprefix(CLIENT).rpartition(":")
        if address not in {LOCAL, "auto"} and not (host and port.isdigit()):
            source = "--address" if self.address else ADDRESS_VARIABLE
            raise ConfigError(f"{source} '{address}': accepted: auto, local, host:port, or ray://host:port")


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    node_id: str
    address: str
    cpus: float
    gpus: float
    is_driver: bool

    @property
    def resource(self) -> str:
        """Ray's resource that only this node has."""
        return f"node:{self.address}"


@dataclass(frozen=True)
class Cluster:
    """What a connection found."""

    nodes: tuple[Node, ...]
    owned: bool = field(default=True)
    """Whether this process started it."""

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def cpus_by_node(self) -> tuple[float, ...]:
        """CPUs of the nodes that have any, this process's first, then the largest; a single 1 if none has."""
        nodes = sorted((node for node in self.nodes if node.cpus), key=lambda node: (not node.is_driver, -node.cpus))
        return tuple(node.cpus for node in nodes) or (1.0,)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def driver(self) -> Node | None:
        """The node that this process is on; None for a client from outside."""
        return next((node for node in self.nodes if node.is_driver), None)

    def trainer_node(self, *, shared_storage: bool) -> str | None:
        """Return the resource of the node on which the trainer must be, or None if it may be on any.

        The trainer writes checkpoints. Without storage that all nodes see it must write where this process reads.

        Raises:
            ClusterError: it cannot be there.
        """
        if shared_storage or len(self.nodes) == 1:
            return None
        if self.driver is None or not self.driver.cpus:
            where = "outside the cluster" if self.driver is None else f"on node {self.driver.address}, without CPUs"
            raise ClusterError(
                f"this process is {where}, and a trainer elsewhere could not write into its run folder: give a folder "
                "or an address that all nodes see, with --storage"
            )
        return self.driver.resource


def use(options: RayOptions) -> None:
    """Let every later `connect` of this process without options take these."""
    global _default  # noqa: PLW0603 - a process has one Ray
    _default = options


def local_cpus() -> int:
    """Return how many CPUs a Ray of this machine is given."""
    return max(os.cpu_count() or 1, 2)


def found() -> Cluster:
    """Return the cluster that this process is connected to."""
    here = None if client.ray.is_connected() else ray.get_runtime_context().get_node_id()
    nodes = tuple(
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=float(node["Resources"].get("CPU", 0)),
            gpus=float(node["Resources"].get("GPU", 0)),
            is_driver=node["NodeID"] == here,
        )
        for node in ray.nodes()
        if node["Alive"]
    )
    return Cluster(nodes, owned=False)


def found_or_local() -> Cluster:
    """Return the cluster that this process is connected to, or the Ray of its own that it would start."""
    if ray.is_initialized():
        return found()
    return Cluster((Node("", "127.0.0.1", local_cpus(), 0.0, is_driver=True),))


@contextmanager
def connect(options: RayOptions | None = None) -> Iterator[Cluster]:
    """Start a Ray of its own or connect to a cluster, and let go of it at the end.

    A process that is connected already stays so. Ray's token authentication is left as it is: on for a Ray of its own,
    and for a cluster that has it the token of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token is used.

    Raises:
        ClusterError: Ray does not start, the cluster cannot be reached, or a node has other versions than this process.
    """
    if ray.is_initialized():
        yield found()
        return
    options = options or _default or RayOptions()
    # A busy machine needs longer than Ray's default to start; it says "node timed out during startup" otherwise.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.is_local:
        try:
            with on_loopback():
                ray.init(address=LOCAL, num_cpus=local_cpus(), include_dashboard=options.dashboard, **settings)
            restrict_token()
        except Exception as error:  # Ray raises Exception itself when its processes do not come up in time
            ray.shutdown()
            raise ClusterError(f"Ray does not start on this machine: {error}") from error
    else:
        _join(options, settings)
    try:
        cluster = found()
        if not options.is_local:
            compare_versions(cluster)
        with messages_to_log():
            yield Cluster(cluster.nodes, owned=options.is_local)
    finally:
        ray.shutdown()


def _knock(address: str, hint: str) -> None:
    """Raise ClusterError if no process listens at a host:port: Ray itself tries for a minute before it fails."""
    host, separator, port = address.removeprefix(CLIENT).rpartition(":")
    if separator and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ClusterError(f"{address}: no Ray cluster can be reached there ({error.strerror}){hint}") from error


def _join(options: RayOptions, settings: dict[str, Any]) -> None:
    if options.ship_code:
        settings["runtime_env"] = {"py_modules": [str(Path(__file__).parents[1])]}
    hint = (
        ""
        if options.resolved.startswith(CLIENT)
        else "; from outside of the cluster: ray://HOST:10001 or `ray job submit`"
    )
    _knock(options.resolved, hint)
    use_token_if_there_is_one()
    # Ray reads the variable itself where no address is given, and with "auto" prefers it to what it finds.
    try:
        ray.init(address=options.resolved, **settings)
    except exceptions.AuthenticationError as error:
        raise ClusterError(
            f"{options.resolved}: the cluster asks for a token that this process does not have: put the cluster's into "
            "~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"
        ) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if "Version mismatch" in str(error):
            raise ClusterError(f"{options.resolved}: {' '.join(str(error).split())}") from error
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(
            f"{options.resolved}: no Ray cluster lets this process in there ({first[0]}): is the port that of a Ray "
            f"head{_about_token()}?{hint}"
        ) from error


def _about_token() -> str:
    """Return what may be wrong with the token, as the end of a question."""
    mode = os.environ.get(AUTH_MODE)
    if mode == "token":
        return ", and the token in ~/.ray/auth_token, or RAY_AUTH_TOKEN_PATH, the cluster's"
    if mode is None:
        return ", one that asks for no token (there is none here: ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH)"
    return f", one that asks for no token (none is sent, for {AUTH_MODE} is {mode} here)"


def versions() -> dict[str, str]:
    """Return the versions of what the nodes of a cluster must have in common, and a hash of this package's sources."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "ray": ray.__version__,
        "offload-rllib": __version__,
        "sources": digest.hexdigest()[:12],
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "host": f"{socket.gethostname()} {platform.machine()}",
    }


def _remote_on(node: Node) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415 - not all callers need it

    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=False)}


def compare_versions(cluster: Cluster, ours: dict[str, str] | None = None) -> None:
    """Ask every other node for its versions.

    Args:
        cluster: whose nodes are asked.
        ours: what they are to have; None: what this process has.

    Raises:
        ClusterError: a node has others, lacks this package, or does not answer; it and the versions are named.
    """
    task = ray.remote(versions)
    others = [node for node in cluster.nodes if not node.is_driver]
    asked = {task.options(**_remote_on(node)).remote(): node for node in others}
    ours = ours or versions()
    complaints = []
    for reference, node in asked.items():
        try:
            theirs = ray.get(reference, timeout=NODE_ANSWERS_S)
        except exceptions.GetTimeoutError:
            complaints.append(f"node {node.address}: no answer within {NODE_ANSWERS_S:g} s")
            continue
        except exceptions.RayError as error:
            lines = [line for line in str(error).strip().splitlines() if line.strip()]
            complaints.append(f"node {node.address}: offload_rllib cannot be used there ({lines[-1].strip()})")
            continue
        complaints.extend(
            f"node {node.address}: {_called(name)} {theirs[name]}, here {ours[name]}"
            for name in COMPARED
            if theirs[name] != ours[name]
        )
    if complaints:
        raise ClusterError(
            "\n".join(
                [
                    "the nodes of the cluster do not fit to this process:",
                    *complaints,
                    "install the same wheel everywhere, or send this one along with --ship-code (Python code only)",
                ]
            )
        )


def _called(name: str) -> str:
    return "sources of offload-rllib" if name == "sources" else name


def _sees(path: str) -> bool:
    return Path(path).exists()


def check_shared(path: Path, cluster: Cluster) -> None:
    """Find nodes that do not see a folder which they are to share.

    Raises:
        ClusterError: a node does not see it.
    """
    task = ray.remote(_sees)
    asked = {
        task.options(**_remote_on(node)).remote(str(path.resolve())): node
        for node in cluster.nodes
        if not node.is_driver
    }
    blind = [node.address for reference, node in asked.items() if not ray.get(reference, timeout=NODE_ANSWERS_S)]
    if blind:
        raise ClusterError(f"{path.resolve()}: not seen by {', '.join(blind)}; --storage must be shared by all nodes")
