"""One node of the network as a process: its sockets, its clock, and its life from the first connection to the last row.

Imports neither ray nor torch. It ends when the connection to its controller does, whatever the reason.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import selectors
import time
from typing import Any

import numpy as np

from offload_rllib.envs.node_view import NodeView
from offload_rllib.testbed.clock import ScenarioClock
from offload_rllib.testbed.namespaces import ANY_ADDRESS, address_of, enter, wire_counts
from offload_rllib.testbed.node_tasks import NodeTasks
from offload_rllib.testbed.processes import clock_name, memory_bytes
from offload_rllib.testbed.setup import NodeOrder
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


class NodeProcess:
    """The connections of a node, and what comes over them."""

    def __init__(self, order: NodeOrder) -> None:
        """Take the order; `run` does the rest."""
        self._order = order
        arrays = order.network.arrays
        self._nodes, self._links = len(arrays.node), len(arrays.link)
        self._view = NodeView(arrays, order.n, order.key, order.network.interval_s, order.network.rows)
        self._view.prepare()
        here = arrays.node[order.n]
        links = range(int(here["first_link"]), int(here["first_link"] + here["degree"]))
        self._link_to = {int(arrays.link[index]["destination"]): index for index in links}
        self._outgoing: dict[int, FrameReader] = {}
        self._tasks: NodeTasks | None = None
        self._early: list[tuple[FrameReader, int, memoryview]] = []
        self._incoming: dict[int, FrameReader] = {}
        self._ended: set[int] = set()
        self._over = asyncio.Event()
        self._all_ended = asyncio.Event()
        self._clock = ScenarioClock(0.0, order.options.speed)
        self._work: set[asyncio.Task[None]] = set()
        self._malformed = 0
        self._last_malformed = ""
        self._began = self._cpu = 0.0
        self._wire: dict[str, int] = {}
        self._control = FrameReader(self._on_control, self._on_control_lost, self._on_error, MOST_CONTROL_BYTES)

    async def run(self) -> None:
        """Live until the controller says that it is over, or is gone."""
        loop, order = asyncio.get_running_loop(), self._order
        loop.set_exception_handler(self._on_exception)
        await loop.create_connection(lambda: self._control, *order.controller)
        bind = order.bind
        if order.namespace is not None:
            enter(order.namespace)  # the connection to the controller stays where it was made
            bind = ANY_ADDRESS
        server = await loop.create_server(self._accept, bind, order.port)
        port = server.sockets[0].getsockname()[1]
        self._say("node", node=order.n, port=port, token=order.token.hex(), play=order.play, clock=clock_name())
        await self._over.wait()
        if self._tasks is not None:
            self._tasks.compute.close()
        server.close()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tell the controller of a mistake of this program: it must not pass for the failure of a node."""
        loop.default_exception_handler(context)
        self._say("error", reason=f"{context['message']}: {context.get('exception')!r}")

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
        for n, (address, port) in addresses.items():
            if n not in self._link_to:
                continue
            host = address
            if self._order.namespace is not None:
                link = self._order.network.arrays.link
                host = address_of(link, int(link[self._link_to[n]]["reverse"]))
            reader = FrameReader(self._on_answer, self._on_link_lost, self._on_error)
            try:
                async with asyncio.timeout(CONNECT_S):
                    await loop.create_connection(lambda reader=reader: reader, host, port)
            except OSError as error:
                failed.append(f"{host}:{port}: {error.strerror or error}")
                continue
            reader.node = n
            reader.send_at_once()
            reader.write(pack_hello(self._order.token, self._order.n))
            self._outgoing[n] = reader
            if self._tasks is not None:
                self._tasks.links[self._link_to[n]].connection = reader
        if failed:
            self._say("unreachable", reasons=failed)
        self._say("ready")

    def _on_answer(self, reader: FrameReader, kind: int, body: memoryview) -> None:
        del reader, kind, body
        raise WireError("a frame against the direction of a link")

    def _on_link_lost(self, reader: FrameReader) -> None:
        """Note that a neighbour cannot be reached any more."""
        n = -1 if reader.node is None else reader.node
        if self._outgoing.get(n) is not reader:
            return
        del self._outgoing[n]
        if self._tasks is not None and self._tasks.open:
            self._tasks.links[self._link_to[n]].connection = None
            self._tasks.miss(self._link_to[n])
            self._say("missing", neighbour=n)

    def _cut(self, neighbour: int) -> None:
        """Break the link to a neighbour, both ways: the cable is pulled."""
        for connections in (self._outgoing, self._incoming):
            if neighbour in connections:
                connections[neighbour].close()

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
            if n not in self._link_to:
                raise WireError("a greeting of a node that is no neighbour")
            reader.node = n
            self._incoming[n] = reader
            self._ended.discard(n)
        elif kind == END:
            self._note_end(reader.node)
        elif kind == PAYLOAD:
            pass  # the bytes have travelled, and their content does not matter
        elif self._tasks is None:
            self._early.append((reader, kind, body))  # this node is back, and does not know the time yet
        else:
            self._take(self._tasks, reader.node, kind, body)

    def _take(self, tasks: NodeTasks, sender: int, kind: int, body: memoryview) -> None:
        """Take what a neighbour has sent."""
        if kind == BROADCAST:
            self._view.hear(self._link_to[sender], read_broadcast(body))
        elif kind in (TASK, RESULT):
            tasks.receive(kind, read_task(body, self._nodes, self._links), sender)
        elif kind == GAP and len(body) > 1 and body[0] in (TASK, RESULT):
            tasks.lose(body[0], read_task(body[1:], self._nodes, self._links))
        else:
            raise WireError(f"a frame of kind {kind} from a neighbour")

    def _start(self, start: float) -> None:
        """Begin the play at a time of this process's monotonic clock; it may be past, after a failure."""
        order = self._order
        self._clock = clock = ScenarioClock(start, order.options.speed)
        self._began, self._cpu, self._wire = time.monotonic(), time.process_time(), self._wire_counts()
        self._tasks = tasks = NodeTasks(order, self._view, clock, self._outgoing)
        clock.at(float(order.network.arrays.settings[0]["horizon_s"]), self._finish, tasks)
        self._spawn(self._flush(tasks))
        for reader, kind, body in self._early:
            self._on_frame(reader, kind, body)
        self._early.clear()

    def _wire_counts(self) -> dict[str, int]:
        return wire_counts() if self._order.namespace is not None else {}

    async def _flush(self, tasks: NodeTasks) -> None:
        """Hand the journal to the controller, again and again: little is lost with a process that is killed."""
        while tasks.open:
            await asyncio.sleep(FLUSH_S)
            self._flush_now(tasks)

    def _flush_now(self, tasks: NodeTasks) -> None:
        if len(tasks.journal):
            self._control.write(pack_arrays({"kind": "journal"}, tasks.journal.take()))

    def _finish(self, tasks: NodeTasks) -> None:
        tasks.stop()
        for connection in self._outgoing.values():
            connection.write(frame(END))
        self._spawn(self._report(tasks))

    async def _report(self, tasks: NodeTasks) -> None:
        """Wait for what neighbours had sent before their end, and report."""
        cpu_s, wall_s = time.process_time() - self._cpu, time.monotonic() - self._began
        if not self._ended >= self._incoming.keys():
            try:
                async with asyncio.timeout(LAST_FRAMES_S):
                    await self._all_ended.wait()
            except TimeoutError:
                self._last_malformed = self._last_malformed or "a neighbour did not end its frames"
        self._flush_now(tasks)
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
            "command_failures": tasks.compute.failures,
            **{name: count - self._wire[name] for name, count in self._wire_counts().items()},
        }
        arrays = {
            "late_s": np.array(self._clock.late_s, np.float32),
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
