"""One node of the network as a process: its sockets, its clock, and its life from the first connection to the last row.

Imports neither ray nor torch. It ends when the connection to its controller does, whatever the reason.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import selectors
import socket
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from offload_rllib.simulator.types import Array
from offload_rllib.testbed.clock import ScenarioClock
from offload_rllib.testbed.compute import Commanded
from offload_rllib.testbed.node_tasks import NodeTasks
from offload_rllib.testbed.processes import memory_bytes
from offload_rllib.testbed.setup import Brain, Network, Options
from offload_rllib.testbed.wire import (
    BROADCAST,
    END,
    GAP,
    HELLO,
    MESSAGE,
    MOST_CONTROL_BYTES,
    PAYLOAD,
    RESULT,
    TASK,
    FrameReader,
    WireError,
    frame,
    pack_arrays,
    pack_hello,
    pack_message,
    read_broadcast,
    read_hello,
    read_message,
    read_task,
)

FLUSH_S = 0.2
CONNECT_S = 10.0
# So long a node waits, at the end, for what neighbours have already written.
LAST_FRAMES_S = 2.0
# `select` waits to the microsecond, where `epoll` rounds up to the millisecond; it takes no more sockets than this.
MOST_SELECTED = 400


@dataclass(frozen=True)
class NodeOrder:
    """What a node process is started with.

    Attributes:
        network: that is played on.
        options: how.
        brain: how agents decide.
        n: index of the node.
        key: of the episode.
        arrivals: [a] ARRIVAL_ROW, of the client here.
        controller: address of the controller.
        bind: address to listen on.
        port: to listen on; 0 takes a free one.
        token: of this run.
        play: number of the play.
        units_per_s: of `compute.calibrate`; 0 if servers do not burn.
    """

    network: Network
    options: Options
    brain: Brain
    n: int
    key: int
    arrivals: Array
    controller: tuple[str, int]
    bind: str
    port: int
    token: bytes
    play: int
    units_per_s: float


class NodeProcess:
    """The connections of a node, and what comes over them."""

    def __init__(self, order: NodeOrder) -> None:
        """Take the order; `run` does the rest."""
        self._order = order
        arrays = order.network.arrays
        self._nodes, self._links = len(arrays.node), len(arrays.link)
        self._tasks = NodeTasks(order.network, order.options, order.brain, order.n, order.key, order.units_per_s)
        self._by_neighbour = {link.destination: link for link in self._tasks.links.values()}
        self._incoming: dict[int, FrameReader] = {}
        self._ended: set[int] = set()
        self._over = asyncio.Event()
        self._all_ended = asyncio.Event()
        self._clock: ScenarioClock | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._malformed = 0
        self._last_malformed = ""
        self._began = self._cpu = 0.0
        self._control = FrameReader(self._on_control, self._on_control_lost, self._on_error, MOST_CONTROL_BYTES)

    async def run(self) -> None:
        """Live until the controller says that it is over, or is gone."""
        loop, order = asyncio.get_running_loop(), self._order
        server = await loop.create_server(self._accept, order.bind, order.port)
        await loop.create_connection(lambda: self._control, *order.controller)
        port = server.sockets[0].getsockname()[1]
        self._say("node", node=order.n, port=port, token=order.token.hex(), play=order.play)
        await self._over.wait()
        if self._tasks.compute is not None:
            self._tasks.compute.close()
        server.close()

    def _say(self, kind: str, **content: Any) -> None:
        self._control.write(pack_message({"kind": kind} | content))

    def _accept(self) -> FrameReader:
        return FrameReader(self._on_frame, self._on_lost, self._on_error)

    def _on_error(self, reader: FrameReader, reason: str) -> None:
        del reader
        self._malformed += 1
        self._last_malformed = reason

    def _on_control_lost(self, reader: FrameReader) -> None:
        del reader
        self._over.set()

    def _on_control(self, reader: FrameReader, kind: int, body: memoryview) -> None:
        if kind != MESSAGE:
            raise WireError(f"a frame of kind {kind} from the controller")
        message = read_message(body)
        if message["kind"] == "sync":
            reader.write(pack_message({"kind": "sync", "number": message["number"], "time": time.monotonic()}))
        elif message["kind"] == "peers":
            self._spawn(self._connect({int(n): (host, port) for n, (host, port) in message["addresses"].items()}))
        elif message["kind"] == "start":
            self._start(message["start"])
        elif message["kind"] == "cut":
            self._cut(message["neighbour"])
        elif message["kind"] == "close":
            self._over.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _connect(self, addresses: dict[int, tuple[str, int]]) -> None:
        """Connect the links to neighbours at new addresses."""
        loop, failed = asyncio.get_running_loop(), []
        for n, (host, port) in addresses.items():
            link = self._by_neighbour.get(n)
            if link is None:
                continue
            reader = FrameReader(self._on_answer, self._on_link_lost, self._on_error)
            try:
                async with asyncio.timeout(CONNECT_S):
                    await loop.create_connection(lambda reader=reader: reader, host, port)
            except OSError as error:
                failed.append(f"{host}:{port}: {error.strerror or error}")
                continue
            assert reader.transport is not None
            reader.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader.node = n
            reader.write(pack_hello(self._order.token, self._order.n))
            link.connection = reader
        if failed:
            self._say("unreachable", reasons=failed)
        self._say("ready")

    def _on_answer(self, reader: FrameReader, kind: int, body: memoryview) -> None:
        raise WireError("a frame against the direction of a link")

    def _on_link_lost(self, reader: FrameReader) -> None:
        link = self._by_neighbour.get(-1 if reader.node is None else reader.node)
        if link is not None and link.connection is reader:
            link.connection = None
            self._miss(link.destination)

    def _miss(self, neighbour: int) -> None:
        if self._clock is not None and self._tasks.open:
            self._tasks.miss(neighbour)
            self._say("missing", neighbour=neighbour)

    def _cut(self, neighbour: int) -> None:
        """Break the link to a neighbour, both ways: the cable is pulled."""
        link = self._by_neighbour.get(neighbour)
        if link is not None and link.connection is not None:
            link.connection.close()
        if neighbour in self._incoming:
            self._incoming[neighbour].close()

    def _on_lost(self, reader: FrameReader) -> None:
        if reader.node is not None and self._incoming.get(reader.node) is reader:
            del self._incoming[reader.node]
            self._note_end(reader.node)

    def _note_end(self, neighbour: int) -> None:
        self._ended.add(neighbour)
        if self._ended >= self._incoming.keys():
            self._all_ended.set()

    def _on_frame(self, reader: FrameReader, kind: int, body: memoryview) -> None:
        if reader.node is None:
            if kind != HELLO:
                raise WireError("a frame before the greeting")
            n = read_hello(body, self._order.token)
            if n not in self._by_neighbour:
                raise WireError("a greeting of a node that is no neighbour")
            reader.node = n
            self._incoming[n] = reader
            self._ended.discard(n)
        elif kind == PAYLOAD:
            pass  # the bytes have travelled; nobody reads what is in them
        elif kind == BROADCAST:
            self._tasks.hear(self._by_neighbour[reader.node].index, read_broadcast(body))
        elif kind in (TASK, RESULT):
            self._tasks.receive(kind, read_task(body, self._nodes, self._links), reader.node)
        elif kind == GAP and len(body) > 1 and body[0] in (TASK, RESULT):
            self._tasks.lose(body[0], read_task(body[1:], self._nodes, self._links))
        elif kind == END:
            self._note_end(reader.node)
        else:
            raise WireError(f"a frame of kind {kind} from a neighbour")

    def _start(self, start: float) -> None:
        """Begin the play at a time of this process's monotonic clock; it may be past, after a failure."""
        order = self._order
        self._clock = clock = ScenarioClock(start, order.options.speed)
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._tasks.begin(clock, order.arrivals)
        clock.at(float(order.network.arrays.settings[0]["horizon_s"]), self._finish)
        self._spawn(self._flush())

    async def _flush(self) -> None:
        """Hand the journal to the controller, again and again: little is lost with a process that is killed."""
        while self._tasks.open:
            await asyncio.sleep(FLUSH_S)
            self._flush_now()

    def _flush_now(self) -> None:
        if len(self._tasks.journal):
            self._control.write(pack_arrays({"kind": "journal"}, self._tasks.journal.take()))

    def _finish(self) -> None:
        self._tasks.stop()
        for link in self._by_neighbour.values():
            if link.connection is not None:
                link.connection.write(frame(END))
        self._spawn(self._report())

    async def _report(self) -> None:
        """Wait for what neighbours had sent before their end, and report."""
        cpu_s, wall_s = time.process_time() - self._cpu, time.monotonic() - self._began
        if not self._ended >= self._incoming.keys():
            try:
                async with asyncio.timeout(LAST_FRAMES_S):
                    await self._all_ended.wait()
            except TimeoutError:
                self._last_malformed = self._last_malformed or "a neighbour did not end its frames"
        self._flush_now()
        clock, tasks = self._clock, self._tasks
        assert clock is not None
        compute = tasks.compute
        content = {
            "kind": "final",
            "cpu_s": cpu_s,
            "wall_s": wall_s,
            **memory_bytes(),
            "decisions": len(tasks.decider.wall_s),
            "masked": tasks.decider.masked,
            "broadcasts": tasks.broadcasts,
            "payload_bytes": sum(link.sent_bytes for link in tasks.links.values()),
            "malformed": self._malformed,
            "last_malformed": self._last_malformed,
            "command_failures": compute.failures if isinstance(compute, Commanded) else 0,
        }
        arrays = {
            "late_s": np.array(clock.late_s, np.float32),
            "decision_wall_s": np.array(tasks.decider.wall_s, np.float32),
        }
        self._control.write(pack_arrays(content, arrays))


def _loop(neighbours: int) -> asyncio.AbstractEventLoop:
    many = neighbours > MOST_SELECTED
    return asyncio.SelectorEventLoop(None if many else selectors.SelectSelector())


def run_node(order: NodeOrder) -> None:
    """Be a node until it is over."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    del soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.collect()
    gc.freeze()  # no pause for what was there at the start
    degree = int(order.network.arrays.node[order.n]["degree"])

    async def live() -> None:
        await NodeProcess(order).run()

    with asyncio.Runner(loop_factory=lambda: _loop(degree)) as runner:
        runner.run(live())
