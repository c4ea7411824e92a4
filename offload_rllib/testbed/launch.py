"""Which nodes are on which host, and what starts a host's process there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Protocol

from offload_rllib.testbed.host import TOKEN

LOOPBACK = "127.0.0.1"
MODULE = "offload_rllib.testbed.host"


@dataclass(frozen=True)
class HostSpec:
    """A host and its nodes.

    Attributes:
        name: of the host.
        address: under which the others reach its nodes.
        nodes: indices of its nodes.
    """

    name: str
    address: str
    nodes: tuple[int, ...]


class Launcher(Protocol):
    """What starts and ends the processes of hosts."""

    bind: str
    """Address on which the controller listens."""
    port: int
    """Its port; 0 takes a free one."""

    def start(self, host: HostSpec, port: int, token: bytes) -> None:
        """Start the process of a host; it connects to the controller."""

    def ended(self) -> str:
        """Return which host has ended, and how; empty if none has."""
        ...

    def close(self) -> None:
        """End them all."""


def host_environment(token: bytes) -> dict[str, str]:
    """Return the environment of a host's process: with the run's token, and one thread for each product."""
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return os.environ | one | {TOKEN: token.hex()}


class LocalLauncher:
    """Hosts that are processes of this machine."""

    def __init__(self) -> None:
        """Begin with none."""
        self.bind = LOOPBACK
        self.port = 0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, host: HostSpec, port: int, token: bytes) -> None:
        """As `Launcher.start`."""
        # A session of its own: Ctrl-C in the terminal reaches the controller alone.
        self._processes[host.name] = subprocess.Popen(  # noqa: S603 - this package, with arguments of its own
            [sys.executable, "-m", MODULE, self.bind, str(port), host.name, host.address],
            env=host_environment(token),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ended(self) -> str:
        """As `Launcher.ended`."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                return f"host {name}: its process has ended (exit status {process.returncode})"
        return ""

    def close(self) -> None:
        """As `Launcher.close`; a host kills its nodes."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
