"""The process of one host: it loads what all its nodes need, forks each node, and says which of them have ended.

Started as ``python -m offload_rllib.testbed.host CONTROLLER PORT NAME BIND``, with the run's token in the environment.
Nodes are forked, not started: the compiled kernels are loaded once for all, and a node is there in milliseconds.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
from typing import Any

import numpy as np

from offload_rllib.envs.node_view import NodeView
from offload_rllib.simulator.choice import best_action, draw_action
from offload_rllib.simulator.types import Array
from offload_rllib.testbed.compute import calibrate
from offload_rllib.testbed.namespaces import NamespaceError, make_namespaces
from offload_rllib.testbed.node import run_node
from offload_rllib.testbed.processes import end_with_parent
from offload_rllib.testbed.setup import ARRAY_TYPES, NAMESPACES, Brain, Network, NodeOrder, Options
from offload_rllib.testbed.wire import (
    ARRAYS,
    MESSAGE,
    MOST_CONTROL_BYTES,
    WireError,
    cut,
    pack_message,
    read_arrays,
    read_message,
)

TOKEN = "OFFLOAD_TESTBED_TOKEN"  # noqa: S105 - the name of a variable
REAP_S = 0.02
MOST_COMPLAINED = 2000  # characters of a node's last words


def warm_up(network: Network, brain: Brain, key: int) -> None:
    """Load and run every kernel that a node needs once, so that no first decision of a play is slow."""
    arrays = network.arrays
    n = int(arrays.agent_node[0]) if len(arrays.agent_node) else 0
    NodeView(arrays, n, key, network.interval_s, network.rows).prepare()
    if brain.rule is None:
        mask = np.ones(2, np.int8)
        choose: Any = (best_action, draw_action)
        choose[0](np.zeros(2, np.float32), mask)
        choose[1](np.zeros(2, np.float32), mask, 0.5)


class Host:
    """The nodes of one host."""

    def __init__(self, connection: socket.socket, controller: tuple[str, int], bind: str, token: bytes) -> None:
        """Take the connection to the controller, its address, the address to listen on, and the run's token."""
        self._connection = connection
        self._controller = controller
        self._bind = bind
        self._token = token
        self._buffer = bytearray()
        self._network: Network | None = None
        self._options = Options()
        self._play: dict[str, Any] = {}
        self._brain = Brain()
        self._arriving: Array = np.zeros(0)
        self._units_per_s = 0.0
        self._namespaces: list[int] = []
        self._nodes: dict[int, int] = {}
        self._play_of: dict[int, int] = {}
        self._complaint_of: dict[int, int] = {}  # by process, a pipe from it

    @property
    def _loaded(self) -> Network:
        """The network; the controller sends it before anything else."""
        if self._network is None:
            raise WireError("a play before its network")
        return self._network

    def say(self, kind: str, **content: Any) -> None:
        """Send a message to the controller."""
        self._connection.sendall(pack_message({"kind": kind} | content))

    def run(self) -> None:
        """Do what the controller says, until it is gone."""
        try:
            while True:
                readable, _, _ = select.select([self._connection], [], [], REAP_S if self._nodes else None)
                if readable:
                    data = self._connection.recv(2**20)
                    if not data:
                        return
                    self._buffer += data
                    self._read_frames()
                self._reap()
        finally:
            for pid in self._nodes:
                os.kill(pid, signal.SIGKILL)

    def _read_frames(self) -> None:
        for kind, body in cut(self._buffer, MOST_CONTROL_BYTES):
            if kind == MESSAGE:
                self._obey(read_message(body), {})
            elif kind == ARRAYS:
                self._obey(*read_arrays(body, ARRAY_TYPES))

    def _obey(self, message: dict[str, Any], arrays: dict[str, Array]) -> None:
        if message["kind"] == "network":
            self._network = Network.unpacked(message["network"], arrays)
            self._options = Options(**(message["options"] | {"command": tuple(message["options"]["command"])}))
            if self._options.compute == "burn":
                self._units_per_s = calibrate()
            if self._options.network == NAMESPACES:
                try:
                    self._namespaces = make_namespaces(self._network.arrays.link, len(self._network.names))
                except (NamespaceError, OSError) as error:
                    self.say("failed", reason=f"--network {NAMESPACES}: {error}")
                    return
            self.say("loaded", units_per_s=self._units_per_s)
        elif message["kind"] == "play":
            self._play = message
            self._arriving = arrays.pop("arriving")
            self._brain = Brain.unpacked(message["brain"], arrays)
            self._warm_up()
            for n in message["nodes"]:
                self._fork(n)
        elif message["kind"] == "fork":
            self._fork(message["node"])
        elif message["kind"] == "kill" and message["node"] in self._nodes:
            os.kill(self._nodes[message["node"]], signal.SIGKILL)

    def _warm_up(self) -> None:
        """Load the kernels; a child does so first, for compiling them takes memory that nodes are not to inherit."""
        pid = os.fork()
        if not pid:
            try:
                warm_up(self._loaded, self._brain, self._play["key"])
            finally:
                os._exit(0)  # what goes wrong shows where it is done again
        os.waitpid(pid, 0)
        warm_up(self._loaded, self._brain, self._play["key"])

    def _fork(self, n: int) -> None:
        order = NodeOrder(
            network=self._loaded,
            options=self._options,
            brain=self._brain,
            n=n,
            key=self._play["key"],
            arrivals=self._arriving[self._arriving["origin"] == n],
            controller=self._controller,
            bind=self._bind,
            port=0 if self._play["first_port"] == 0 else self._play["first_port"] + n,
            token=self._token,
            play=self._play["play"],
            units_per_s=self._units_per_s,
            namespace=self._namespaces[n] if self._namespaces else None,
        )
        complaints, complaint = os.pipe()
        pid = os.fork()
        if pid:
            os.close(complaint)
            self._nodes[n] = pid
            self._play_of[pid], self._complaint_of[pid] = order.play, complaints
            return
        status = 1
        try:
            end_with_parent()
            self._connection.close()
            run_node(order)
            status = 0
        except OSError as error:
            port = f"port {order.port}: " if order.port else ""
            os.write(complaint, f"{port}{error}".encode())
        except BaseException as error:  # noqa: BLE001 - what goes wrong in a child must not run the parent's code
            traceback.print_exc()
            os.write(complaint, repr(error).encode())
        finally:
            os._exit(status)

    def _reap(self) -> None:
        for n, pid in list(self._nodes.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._nodes[n]
                with os.fdopen(self._complaint_of.pop(pid), encoding="utf-8", errors="replace") as complaints:
                    reason = complaints.read(MOST_COMPLAINED)
                code = os.waitstatus_to_exitcode(status)
                self.say("exited", node=n, code=code, reason=reason, play=self._play_of.pop(pid))


def main() -> None:
    """Be the process of a host."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's business
    address, port, name, bind = sys.argv[1:]
    token = bytes.fromhex(os.environ.pop(TOKEN))
    try:
        connection = socket.create_connection((address, int(port)))
    except OSError as error:
        sys.exit(f"no connection to the controller at {address}:{port}: {error.strerror or error}")
    host = Host(connection, (address, int(port)), bind, token)
    host.say("host", name=name, token=token.hex())
    host.run()


if __name__ == "__main__":
    main()
