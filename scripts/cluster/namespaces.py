"""A Ray cluster of several nodes on one Linux machine: each node in a network namespace, with an address of its own.

Nodes can be killed, cut off, healed and added, as machines are. Needs root, `ip` of iproute2 and permission to make
namespaces. Used by the tests and by `chaos.py`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PORT = 6379
STARTS_S = 180.0
# A lost node is noticed after about this long, in place of Ray's half minute.
HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "3000",
    "RAY_health_check_period_ms": "1500",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}

_WATCHER = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import RayError
for _ in sys.stdin:
    try:
        nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5).values()
        print(*[node.node_manager_address for node in nodes if node.state == 0], flush=True)
    except RayError:  # the head does not answer
        print(flush=True)
"""


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own arguments
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def why_not() -> str | None:
    """Return why namespaces cannot be made here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"oft{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        try:
            _run("ip", "link", "add", f"{name[:12]}a", "type", "veth", "peer", "name", f"{name[:12]}b")
            _run("ip", "link", "del", f"{name[:12]}a")
        finally:
            _run("ip", "netns", "del", name)
    except RuntimeError as error:
        return f"network namespaces cannot be made: {error}"
    return None


@dataclass
class _Node:
    namespace: str
    address: str
    link: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None


class NamespaceCluster:
    """Head and workers, joined by a bridge that no other machine is on."""

    def __init__(self, workers: int = 3, *, cpus: int = 1, object_store_mb: int = 80) -> None:
        """Prepare a cluster; nothing is made before `with`."""
        self._tag = f"{os.getpid() % 10000}"
        self._bridge = f"ofb{self._tag}"
        self._subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self._first = workers
        self._cpus = cpus
        self._object_store_mb = object_store_mb
        self._nodes: list[_Node] = []
        self._watcher: subprocess.Popen[str] | None = None
        # Short: Ray puts sockets into it, whose paths have a limit.
        self.folder = Path(tempfile.mkdtemp(prefix="ofc"))
        self._token = self.folder / "token"
        self._token.touch(mode=0o600)
        self._token.write_text(secrets.token_hex(32), encoding="utf-8")

    def __enter__(self) -> Self:
        """Make network and nodes."""
        try:
            _run("ip", "link", "add", self._bridge, "type", "bridge")
            _run("ip", "link", "set", self._bridge, "up")
            for _node in range(1 + self._first):
                self._add_namespace()
            for node in range(1 + self._first):
                self.start(node, wait=node == 0)
            self.wait_for(1 + self._first)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every process and remove everything."""
        for number in range(len(self._nodes)):
            self.kill(number)
        if self._watcher is not None:
            self._watcher.wait()
        for node in self._nodes:
            subprocess.run(["ip", "netns", "del", node.namespace], check=False, capture_output=True)  # noqa: S603, S607
        subprocess.run(["ip", "link", "del", self._bridge], check=False, capture_output=True)  # noqa: S603, S607
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add_namespace(self) -> None:
        number = len(self._nodes)
        name = f"ofn{self._tag}x{number}"
        node = _Node(name, f"{self._subnet}.{number + 1}", f"ofv{self._tag}x{number}", self.folder / f"n{number}")
        node.folder.mkdir()
        self._nodes.append(node)
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", node.link, "master", self._bridge)
        _run("ip", "link", "set", node.link, "up")
        _run("ip", "-n", name, "addr", "add", f"{node.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", name, "link", "set", device, "up")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of the nodes, the head's first."""
        return tuple(node.address for node in self._nodes)

    @property
    def address(self) -> str:
        """Address of the cluster, for its nodes."""
        return f"{self._nodes[0].address}:{PORT}"

    @property
    def client_address(self) -> str:
        """Address of the cluster, for clients from outside."""
        return f"ray://{self._nodes[0].address}:10001"

    @property
    def workers(self) -> range:
        """Numbers of the nodes that are not the head."""
        return range(1, len(self._nodes))

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every process in the cluster; Ray finds the token's file in them."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return (
            kept
            | HEALTH_CHECKS
            | {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(self._token),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_raylet_start_wait_time_s": "180",
                # Ray's 15 would starve workers wherever the machine does anything else.
                "RAY_worker_niceness": "0",
            }
        )

    def inside(self, node: int, command: Sequence[str]) -> list[str]:
        """Return a command line that runs a command on a node."""
        return ["ip", "netns", "exec", self._nodes[node].namespace, *command]

    def run(self, command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
        """Start a command on the head, in a process group of its own; what it prints is added to `output`."""
        with (folder / "output").open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own arguments
                self.inside(0, command),
                cwd=folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def start(self, number: int, *, wait: bool = False) -> None:
        """Start Ray on a node; a worker joins as soon as it can."""
        node = self._nodes[number]
        # A folder of its own for each life of a node: a killed Ray leaves sockets behind.
        life = Path(tempfile.mkdtemp(prefix="r", dir=node.folder))
        where = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"] if number == 0 else [f"--address={self.address}"]
        )
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", *where, f"--node-ip-address={node.address}",
            f"--temp-dir={life}", f"--num-cpus={self._cpus}", f"--object-store-memory={self._object_store_mb * 2**20}",
            "--block", "--disable-usage-stats",
        ]  # fmt: skip
        with (node.folder / "log").open("ab") as log:
            node.process = subprocess.Popen(  # noqa: S603 - our own arguments
                self.inside(number, command), env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_for(1)

    def alive(self) -> list[str]:
        """Return the addresses of the nodes that the head takes for alive; none if there is no head."""
        if self._watcher is None or self._watcher.poll() is not None:
            # One process that stays: importing ray for every question would keep a core busy.
            self._watcher = subprocess.Popen(  # noqa: S603 - our own arguments
                self.inside(0, [sys.executable, "-c", _WATCHER, self.address]), env=self.environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        question, answer = self._watcher.stdin, self._watcher.stdout
        if question is None or answer is None:
            raise RuntimeError("the process that watches the head has no pipes")
        try:
            question.write("\n")
            question.flush()
        except BrokenPipeError:
            return []
        return answer.readline().split()

    def wait_for(self, count: int, timeout_s: float = STARTS_S) -> None:
        """Wait until so many nodes are alive.

        Raises:
            TimeoutError: they are not in time.
        """
        deadline = time.monotonic() + timeout_s
        while len(self.alive()) != count:
            if time.monotonic() > deadline:
                logs = [(node.folder / "log").read_text(errors="replace")[-500:] for node in self._nodes]
                raise TimeoutError(f"{count} nodes wanted, alive: {self.alive()}; logs: {logs}")
            time.sleep(1)

    def pids(self, number: int) -> list[int]:
        """Return the processes on a node."""
        return [int(pid) for pid in _run("ip", "netns", "pids", self._nodes[number].namespace).split()]

    def kill(self, number: int) -> None:
        """End every process on a node at once, as a power cut does."""
        node = self._nodes[number]
        for _ in range(5):  # a dying raylet may still have started something
            try:
                pids = self.pids(number)
            except RuntimeError:
                break
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not pids:
                break
            time.sleep(0.1)
        if node.process is not None:
            node.process.wait()
            node.process = None

    def runs(self, number: int) -> bool:
        """Whether Ray runs on a node."""
        process = self._nodes[number].process
        return process is not None and process.poll() is None

    def cut_off(self, number: int) -> None:
        """Take a node off the network; its processes live on."""
        _run("ip", "link", "set", self._nodes[number].link, "down")

    def heal(self, number: int) -> None:
        """Bring a node back to the network."""
        _run("ip", "link", "set", self._nodes[number].link, "up")

    def keep_up(self) -> list[int]:
        """Start Ray again on workers where it has ended, as an init system does; return their numbers."""
        ended = [number for number in self.workers if not self.runs(number)]
        for number in ended:
            self.kill(number)
            self.start(number)
        return ended

    def add(self) -> int:
        """Add a node, and return its number."""
        self._add_namespace()
        self.start(len(self._nodes) - 1)
        return len(self._nodes) - 1
