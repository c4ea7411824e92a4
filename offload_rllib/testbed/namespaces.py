"""A network namespace for every node, and for every link a pair of virtual Ethernet devices at its rate (Linux, root).

TCP behaves there as it does on a wire: it shares a link, adds headers, acknowledges. Namespaces have no names, so they
clash with none, and the kernel removes them with their devices when the processes that use them have ended, however
that happens.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offload_rllib.simulator.types import Array

PROGRAMS = ("ip", "tc")
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - of a namespace that holds one node, and devices to its neighbours alone
_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_FIRST_ADDRESS = ipaddress.IPv4Address("10.0.0.0")
# A bucket lets a few packets pass at once; a queue of this length fills no slower than TCP sends.
_BURST_S = 0.001
_LEAST_BURST_BYTES = 3200
_QUEUE_BYTES = 2**20


class NamespaceError(RuntimeError):
    """The kernel, or a program, refuses namespaces or devices."""


def why_not() -> str:
    """Return why there can be no namespaces here; empty if there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are those of Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{' and '.join(missing)} of iproute2 not found" if missing else ""


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise NamespaceError(f"{name}: {os.strerror(ctypes.get_errno())}")


def enter(namespace: int) -> None:
    """Let this thread open its further sockets in a namespace; those it has stay where they are.

    Raises:
        NamespaceError: the kernel refuses it.
    """
    _call("setns", namespace, _CLONE_NEWNET)


def address_of(link: Array, index: int) -> str:
    """Return the address that the source of a link has on it.

    Args:
        link: [M] LINK.
        index: of the link.
    """
    reverse = int(link[index]["reverse"])
    return str(_FIRST_ADDRESS + 4 * min(index, reverse) + (1 if index < reverse else 2))


def make_namespaces(link: Array, nodes: int) -> list[int]:
    """Return a file descriptor of each node's namespace; they live as long as it is open, or a process is there.

    Args:
        link: [M] LINK, whose rates the devices keep to.
        nodes: how many.

    Raises:
        NamespaceError: the kernel, or a program, refuses it.
    """
    home = os.open(_OWN, os.O_RDONLY)
    made: list[int] = []
    try:
        for _ in range(nodes):
            _call("unshare", _CLONE_NEWNET)
            made.append(os.open(_OWN, os.O_RDONLY))
    finally:
        enter(home)
        os.close(home)
    for n, namespace in enumerate(made):
        _run("ip", namespace, _pairs(link, n, made))
    for n, namespace in enumerate(made):
        _run("ip", namespace, _addresses(link, n))
        _run("tc", namespace, _shapers(link, n))
    return made


def _of_node(link: Array, n: int) -> list[tuple[int, Any]]:
    return [(index, record) for index, record in enumerate(link) if record["source"] == n]


def _pairs(link: Array, n: int, namespaces: Sequence[int]) -> list[str]:
    return [
        f"link add to{record['destination']} type veth peer name to{n} "
        f"netns /proc/{os.getpid()}/fd/{namespaces[int(record['destination'])]}"
        for index, record in _of_node(link, n)
        if index < record["reverse"]
    ]


def _addresses(link: Array, n: int) -> list[str]:
    devices = [(f"to{record['destination']}", address_of(link, index)) for index, record in _of_node(link, n)]
    return [f"addr add {address}/30 dev {name}" for name, address in devices] + [
        f"link set {name} addrgenmode none up" for name, _ in devices
    ]


def _shapers(link: Array, n: int) -> list[str]:
    return [
        f"qdisc add dev to{record['destination']} root tbf rate {round(1 / seconds)}bit "
        f"burst {max(round(_BURST_S / seconds / 8), _LEAST_BURST_BYTES)} limit {_QUEUE_BYTES}"
        for _, record in _of_node(link, n)
        if (seconds := float(record["seconds_per_bit"])) > 0
    ]


def _run(program: str, namespace: int, lines: Sequence[str]) -> None:
    if not lines:
        return
    found = shutil.which(program)
    if found is None:
        raise NamespaceError(f"{program} of iproute2 not found")
    done = subprocess.run(  # noqa: S603 - a system program, with arguments of our own
        [found, "-batch", "-"],
        check=False,
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        preexec_fn=lambda: enter(namespace),
    )
    if done.returncode:
        raise NamespaceError(f"{program}: {' '.join(done.stderr.split())}")


def wire_counts() -> dict[str, int]:
    """Return what this process's namespace has sent: bytes with all headers, and TCP segments sent again."""
    devices = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    sent = {name.strip(): int(rest.split()[8]) for name, _, rest in (line.partition(":") for line in devices)}
    tcp = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text("ascii").splitlines()]
    names, values = (line for line in tcp if line[0] == "Tcp:")
    again = int(dict(zip(names, values, strict=True))["RetransSegs"])
    return {"wire_bytes": sum(count for name, count in sent.items() if name != "lo"), "segments_sent_again": again}
