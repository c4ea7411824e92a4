"""Which node runs where: on this machine, or on the machines of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field

from offload_rllib.config import ConfigError
from offload_rllib.config.base import Schema
from offload_rllib.config.loading import read_yaml, validated
from offload_rllib.testbed.launch import LOOPBACK, HostSpec, Launcher, LocalLauncher

Patterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class HostsFile(Schema):
    """The content of a hosts file."""

    hosts: Annotated[dict[str, Patterns], Field(min_length=1)]
    """For each address of a machine, the names of its nodes; ``*`` and ``?`` stand for any text and any character."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """On which the controller listens; 0: a free one."""

    def placed(self, names: Sequence[str], where: str) -> list[HostSpec]:
        """Return where each node runs.

        Args:
            names: of the nodes.
            where: the file, for messages.

        Raises:
            ConfigError: a node has no host, or two; or a pattern names no node.
        """
        nodes: dict[str, list[int]] = {address: [] for address in self.hosts}
        host_of: dict[int, str] = {}
        for address, patterns in self.hosts.items():
            for pattern in patterns:
                meant = [n for n, name in enumerate(names) if fnmatchcase(name, pattern)]
                if not meant:
                    raise ConfigError(
                        f"{where}: hosts.{address}: '{pattern}' names no node; there are: {', '.join(names)}"
                    )
                for n in meant:
                    if host_of.setdefault(n, address) != address:
                        raise ConfigError(f"{where}: node '{names[n]}' is given to {host_of[n]} and to {address}")
                    nodes[address] += [n] if n not in nodes[address] else []
        missing = [name for n, name in enumerate(names) if n not in host_of]
        if missing:
            raise ConfigError(f"{where}: hosts: no host for node {', '.join(missing)}")
        return [HostSpec(address, address, tuple(sorted(of_one))) for address, of_one in nodes.items()]


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a testbed run, and what starts them there.

    Attributes:
        launcher: starts the processes.
        file: which node is where; None: all are on this machine.
        where: the file's name, for messages.
    """

    launcher: Launcher
    file: HostsFile | None = None
    where: str = ""

    def hosts(self, names: Sequence[str]) -> list[HostSpec]:
        """Return where each node runs; errors as `HostsFile.placed`."""
        if self.file is None:
            return [HostSpec("local", LOOPBACK, tuple(range(len(names))))]
        return self.file.placed(names, self.where)


def here() -> Placement:
    """Return the placement of all nodes on this machine."""
    return Placement(LocalLauncher())


def read_hosts(path: Path) -> HostsFile:
    """Return the content of a hosts file; errors as `read_yaml` and `validated`."""
    return validated(HostsFile, read_yaml(path), str(path))
