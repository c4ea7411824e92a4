"""Hosts on the nodes of a Ray cluster: an actor on each starts and watches the host's process. No task passes Ray."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from typing import Any

import ray
from ray import exceptions

from offload_rllib.cluster.connection import Cluster
from offload_rllib.cluster.placement import NODE_SHARE
from offload_rllib.config import ConfigError
from offload_rllib.testbed.launch import MODULE, HostSpec, host_environment

STOPS_S = 10.0


class HostActor:
    """The process of a host, on its machine."""

    def __init__(self, arguments: list[str], token: bytes) -> None:
        """Start it; it connects to the controller by itself."""
        self._process = subprocess.Popen(  # noqa: S603 - this package, with arguments of its own
            [sys.executable, "-m", MODULE, *arguments],
            env=host_environment(token),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def watch(self) -> str:
        """Return how it ended when it has: its last line, or its exit status."""
        last = ""
        for line in self._process.stderr or ():
            text = line.decode(errors="replace")
            sys.stderr.write(text)  # for the log that Ray keeps
            last = text.strip() or last
        return last or f"exit status {self._process.wait()}"

    def stop(self) -> None:
        """End it, and with it its nodes."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class RayLauncher:
    """Hosts that are nodes of a Ray cluster, by their address."""

    def __init__(self, cluster: Cluster, port: int = 0) -> None:
        """Take the cluster that this process is connected to, and the controller's port.

        Raises:
            ConfigError: this process is on none of its nodes, so that hosts could not connect to it.
        """
        if cluster.driver is None:
            raise ConfigError(
                "--address ray://...: hosts connect to the controller, which must be on a node of the Ray cluster; "
                "accepted: auto, or the head's address, on a machine that has joined"
            )
        self.bind = cluster.driver.address
        self.port = port
        self._resources = {node.address: node.resource for node in cluster.nodes}
        self._actors: dict[str, Any] = {}
        self._watched: dict[Any, str] = {}

    def start(self, host: HostSpec, port: int, token: bytes) -> None:
        """As `Launcher.start`.

        Raises:
            ConfigError: no node of the cluster has the host's address.
        """
        if host.address not in self._resources:
            raise ConfigError(
                f"hosts.{host.address}: no node of the Ray cluster has this address; there are: "
                f"{', '.join(sorted(self._resources))}"
            )
        options = {"num_cpus": 0, "resources": {self._resources[host.address]: NODE_SHARE}, "max_concurrency": 2}
        make: Any = ray.remote(HostActor)
        arguments = [self.bind, str(port), host.name, host.address]
        self._actors[host.name] = started = make.options(**options).remote(arguments, token)
        self._watched[started.watch.remote()] = host.name

    def ended(self) -> str:
        """As `Launcher.ended`."""
        done, _ = ray.wait(list(self._watched), timeout=0)
        for watched in done:
            name = self._watched[watched]
            try:
                return f"host {name}: its process has ended ({ray.get(watched)})"
            except exceptions.RayError as error:
                return f"host {name}: Ray has lost it ({str(error).splitlines()[0]})"
        return ""

    def close(self) -> None:
        """As `Launcher.close`."""
        for actor in self._actors.values():
            # One that cannot be reached has lost the controller, and ends by itself.
            with suppress(exceptions.RayError):
                ray.get(actor.stop.remote(), timeout=STOPS_S)
            ray.kill(actor)
        self._actors.clear()
        self._watched.clear()
