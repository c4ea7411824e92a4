"""The controller: it starts the hosts, lets their nodes find each other, starts the clock, and collects what happened.

No task passes through it. It holds one connection to every host and every node; when it ends, they end.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offload_rllib.simulator.types import Array
from offload_rllib.testbed.launch import HostSpec, Launcher
from offload_rllib.testbed.setup import ARRAY_TYPES, MOVE, ROW, Brain, Network, Options
from offload_rllib.testbed.wire import (
    ARRAYS,
    MESSAGE,
    MOST_CONTROL_BYTES,
    TOKEN_BYTES,
    FrameReader,
    WireError,
    pack_arrays,
    pack_message,
    read_arrays,
    read_message,
)

# For a host to load the package, which compiles kernels on its first use; for nodes to be there; for their last words.
LOADING_S = 600.0
MEETING_S = 60.0
LAST_WORDS_S = 20.0
# From the message to the start: all nodes must have it by then.
LEAD_S = 0.3
SYNCS = 8


class TestbedError(RuntimeError):
    """The testbed could not play; the message says which part, and why."""

    __test__ = False  # not a test, whatever its name


@dataclass(frozen=True)
class Fault:
    """A node fails: its process is killed, and started again at the repair."""

    node: int
    from_s: float
    until_s: float
    """Infinite: it stays down."""


@dataclass
class Outcome:
    """What the nodes told of one play.

    Attributes:
        rows: [n] ROW, ends of tasks.
        moves: [m] MOVE.
        finals: by node, what it said at the end.
        late_s: real seconds by which the timers of all nodes came late.
        decision_wall_s: real seconds of each decision.
        faults: of the nodes that were killed, or ended by themselves: with the scenario's times.
        offsets_s: by node, its monotonic clock minus the controller's, and the round trip of that measurement.
        notes: what went wrong and did not end the play.
        broken: pairs of nodes whose link broke while both were up.
    """

    rows: Array
    moves: Array
    finals: dict[int, dict[str, Any]]
    late_s: Array
    decision_wall_s: Array
    faults: list[Fault]
    offsets_s: dict[int, tuple[float, float]]
    notes: list[str]
    broken: frozenset[frozenset[int]] = frozenset()


@dataclass
class _Play:
    """What is known of the present play."""

    number: int
    nodes: set[int]
    addresses: dict[int, tuple[str, int]] = field(default_factory=dict)
    readers: dict[int, FrameReader] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    started: set[int] = field(default_factory=set)
    down_from_s: dict[int, float] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    finals: dict[int, dict[str, Any]] = field(default_factory=dict)
    rows: list[Array] = field(default_factory=list)
    moves: list[Array] = field(default_factory=list)
    late_s: list[Array] = field(default_factory=list)
    decision_wall_s: list[Array] = field(default_factory=list)
    offsets_s: dict[int, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    silent: list[tuple[float, int, int]] = field(default_factory=list)
    start: float = float("inf")
    over: bool = False


class Controller:
    """A testbed that is up; use it as an asynchronous context."""

    def __init__(self, network: Network, options: Options, hosts: Sequence[HostSpec], launcher: Launcher) -> None:
        """Take what is played on, how, which nodes are where, and what starts the hosts."""
        self._network = network
        self._options = options
        self._hosts = {host.name: host for host in hosts}
        self._host_of = {n: host.name for host in hosts for n in host.nodes}
        self._launcher = launcher
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._connections: dict[str, FrameReader] = {}
        self._who: dict[FrameReader, tuple[str, Any]] = {}
        self._loaded: set[str] = set()
        self._play: _Play | None = None
        self._plays = 0
        self._sync: dict[tuple[int, int], asyncio.Future[float]] = {}
        self._changed = asyncio.Event()
        self._lost = ""
        self._server: asyncio.Server | None = None
        self._timers: list[asyncio.TimerHandle] = []

    async def __aenter__(self) -> Controller:
        """Start the hosts, and give them the network."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, self._launcher.bind, self._launcher.port)
        except OSError as error:
            raise TestbedError(f"{self._launcher.bind}:{self._launcher.port}: {error.strerror or error}") from error
        port = self._server.sockets[0].getsockname()[1]
        try:
            for host in self._hosts.values():
                self._launcher.start(host, port, self._token)
            await self._until(lambda: self._connections.keys() == self._hosts.keys(), LOADING_S, self._missing_hosts)
            content, arrays = self._network.packed()
            about = {"kind": "network", "network": content, "options": self._options.__dict__}
            for reader in self._connections.values():
                reader.write(pack_arrays(about, arrays))
            await self._until(lambda: self._loaded == self._hosts.keys(), LOADING_S, self._missing_hosts)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """End all hosts, and with them their nodes."""
        for timer in self._timers:
            timer.cancel()
        for reader in list(self._who):
            reader.close()
        self._launcher.close()
        if self._server is not None:
            self._server.close()

    def _missing_hosts(self) -> str:
        missing = sorted(self._hosts.keys() - (self._loaded or self._connections.keys()))
        return f"{', '.join(missing)}: no process of this host has answered"

    async def _until(self, reached: Callable[[], bool], timeout_s: float, missing: Callable[[], str]) -> None:
        """Wait until something is reached.

        Raises:
            TestbedError: it is not in time, or a host is gone.
        """
        until = time.monotonic() + timeout_s
        while not reached():
            gone = self._launcher.ended() or self._lost
            if gone:
                raise TestbedError(gone)
            left = until - time.monotonic()
            if left <= 0:
                raise TestbedError(f"{missing()} within {timeout_s:g} s")
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left, 0.2)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _accept(self) -> FrameReader:
        return FrameReader(self._on_frame, self._on_lost, lambda reader, reason: None, MOST_CONTROL_BYTES)

    def _on_frame(self, reader: FrameReader, kind: int, body: memoryview) -> None:
        arrays: dict[str, Array] = {}
        if kind == MESSAGE:
            message = read_message(body)
        elif kind == ARRAYS and reader in self._who:
            message, arrays = read_arrays(body, ARRAY_TYPES)
        else:
            raise WireError(f"a frame of kind {kind} for the controller")
        if reader not in self._who:
            self._greet(reader, message)
        elif self._who[reader][0] == "host":
            self._on_host(self._who[reader][1], message)
        else:
            self._on_node(self._who[reader][1], reader, message, arrays)
        self._changed.set()

    def _greet(self, reader: FrameReader, message: dict[str, Any]) -> None:
        if not secrets.compare_digest(str(message.get("token")), self._token.hex()):
            raise WireError("a greeting with another token")
        if message["kind"] == "host" and message["name"] in self._hosts:
            self._who[reader] = ("host", message["name"])
            self._connections[message["name"]] = reader
        elif message["kind"] == "node" and self._play is not None and message["play"] == self._play.number:
            n = message["node"]
            self._who[reader] = ("node", n)
            self._play.readers[n] = reader
            self._play.gone.discard(n)
            self._play.addresses[n] = (self._hosts[self._host_of[n]].address, message["port"])
            if self._play.started:
                self._rejoin(n)
        else:
            raise WireError("a greeting of nobody")

    def _on_lost(self, reader: FrameReader) -> None:
        kind, name = self._who.pop(reader, ("", None))
        if kind == "host":
            self._lost = f"host {name}: its process has ended, or cannot be reached any more"
        self._changed.set()

    def _on_host(self, name: str, message: dict[str, Any]) -> None:
        if message["kind"] == "loaded":
            self._loaded.add(name)
        elif message["kind"] == "exited" and self._play is not None and message["play"] == self._play.number:
            self._on_exit(message["node"], message["code"])

    def _on_exit(self, n: int, code: int) -> None:
        play = self._play
        assert play is not None
        name = self._network.names[n]
        play.readers.pop(n, None)
        play.gone.add(n)
        play.started.discard(n)
        if play.over or n in play.finals:
            return
        if n not in play.down_from_s:
            if not np.isfinite(play.start):
                self._lost = f"node {name}: its process has ended before the start (exit status {code})"
                return
            play.down_from_s[n] = self._now()
            play.notes.append(f"node {name}: its process has ended at {self._now():.1f} s (exit status {code})")

    def _on_node(self, n: int, reader: FrameReader, message: dict[str, Any], arrays: Mapping[str, Array]) -> None:
        play = self._play
        if play is None or play.readers.get(n) is not reader:
            return
        if message["kind"] == "ready":
            if n not in play.ready:
                play.ready.add(n)
            if play.started and n not in play.started and n not in play.finals:
                self._start_node(n)
        elif message["kind"] == "unreachable":
            play.notes += [f"node {self._network.names[n]}: {reason}" for reason in message["reasons"]]
            if not play.started:
                self._lost = play.notes[-1]
        elif message["kind"] == "missing":
            play.silent.append((self._now(), n, message["neighbour"]))
        elif message["kind"] == "sync":
            answer = self._sync.get((n, message["number"]))
            if answer is not None and not answer.done():
                answer.set_result(message["time"])
        elif message["kind"] == "journal":
            play.rows.append(arrays["rows"])
            play.moves.append(arrays["moves"])
        elif message["kind"] == "final":
            play.finals[n] = message
            play.late_s.append(arrays["late_s"])
            play.decision_wall_s.append(arrays["decision_wall_s"])

    def _now(self) -> float:
        assert self._play is not None
        return (time.monotonic() - self._play.start) * self._options.speed

    def _start_node(self, n: int) -> None:
        play = self._play
        assert play is not None
        play.started.add(n)
        play.readers[n].write(pack_message({"kind": "start", "start": play.start + play.offsets_s[n][0]}))

    def _rejoin(self, n: int) -> None:
        """Let a node that was down be a part of the network again: it is as empty as it is new."""
        play = self._play
        assert play is not None
        link = self._network.arrays.link
        neighbours = set(link["destination"][link["source"] == n].tolist())
        play.ready.discard(n)
        play.faults.append(Fault(n, play.down_from_s.pop(n), self._now()))
        there = {m: play.addresses[m] for m in neighbours & play.readers.keys()}
        play.readers[n].write(pack_message({"kind": "peers", "addresses": there}))
        for m in neighbours & play.readers.keys():
            play.readers[m].write(pack_message({"kind": "peers", "addresses": {n: play.addresses[n]}}))

    def _at(self, time_s: float, call: Callable[..., None], *arguments: Any) -> None:
        assert self._play is not None
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_at(self._play.start + time_s / self._options.speed, call, *arguments))

    def _kill(self, n: int) -> None:
        assert self._play is not None
        if n in self._play.started:
            self._play.down_from_s[n] = self._now()
            self._tell_host(n, "kill")

    def _tell_host(self, n: int, kind: str) -> None:
        self._connections[self._host_of[n]].write(pack_message({"kind": kind, "node": n}))

    async def _measure(self, n: int) -> tuple[float, float]:
        """Return a node's monotonic clock minus this one's, and the round trip of the fastest of several questions."""
        assert self._play is not None
        loop, best = asyncio.get_running_loop(), (0.0, float("inf"))
        for number in range(SYNCS):
            answer = self._sync[n, number] = loop.create_future()
            sent = time.monotonic()
            self._play.readers[n].write(pack_message({"kind": "sync", "number": number}))
            async with asyncio.timeout(MEETING_S):
                there = await answer
            received = time.monotonic()
            if received - sent < best[1]:
                best = (there - (sent + received) / 2, received - sent)
        return best

    async def play(
        self,
        brain: Brain,
        key: int,
        arriving: Array,
        faults: Sequence[Fault] = (),
        *,
        first_port: int = 0,
        tell: Callable[[float], None] = lambda time_s: None,
    ) -> Outcome:
        """Play an episode.

        Args:
            brain: how agents decide.
            key: of the episode.
            arriving: [n] ARRIVAL_ROW.
            faults: nodes that are to fail, and when.
            first_port: the first of the ports that nodes listen on, one each; 0 takes free ones.
            tell: called now and then with the scenario's time.

        Raises:
            TestbedError: nodes do not start, or do not reach each other.
        """
        horizon_s = float(self._network.arrays.settings[0]["horizon_s"])
        nodes = set(range(len(self._network.names)))
        self._plays += 1
        self._play = play = _Play(self._plays, nodes)
        content, weights = brain.packed()
        for name, host in self._hosts.items():
            mine = arriving[np.isin(arriving["origin"], host.nodes)]
            about = {
                "kind": "play",
                "play": play.number,
                "key": int(key),
                "brain": content,
                "nodes": list(host.nodes),
                "first_port": first_port,
            }
            self._connections[name].write(pack_arrays(about, weights | {"arriving": mine}))
        await self._until(lambda: play.addresses.keys() == nodes, LOADING_S, lambda: self._absent(play.addresses))
        for n in nodes:
            play.readers[n].write(pack_message({"kind": "peers", "addresses": play.addresses}))
        await self._until(lambda: play.ready == nodes, MEETING_S, lambda: self._absent(play.ready))
        for n in sorted(nodes):
            play.offsets_s[n] = await self._measure(n)
        play.start = time.monotonic() + LEAD_S
        for n in nodes:
            self._start_node(n)
        for fault in faults:
            if fault.from_s <= horizon_s:
                self._at(fault.from_s, self._kill, fault.node)
            if fault.until_s <= horizon_s:
                self._at(fault.until_s, self._tell_host, fault.node, "fork")
        await self._play_on(play, horizon_s, tell)
        # The next play may want the same ports.
        await self._until(lambda: play.gone >= nodes, LAST_WORDS_S, lambda: "a process of a node does not end")
        return self._outcome(play)

    async def _play_on(self, play: _Play, horizon_s: float, tell: Callable[[float], None]) -> None:
        """Wait until every node that is up has reported."""
        end = play.start + horizon_s / self._options.speed
        while not (time.monotonic() > end and play.started <= play.finals.keys()):
            gone = self._launcher.ended() or self._lost
            if gone:
                raise TestbedError(gone)
            if time.monotonic() > end + LAST_WORDS_S:
                play.notes.append(f"{self._absent(play.finals)} has not reported the end of the play")
                break
            tell(min(self._now(), horizon_s))
            await asyncio.sleep(0.1)
        play.over = True
        for reader in play.readers.values():
            reader.write(pack_message({"kind": "close"}))

    def _absent(self, there: Mapping[int, Any] | set[int]) -> str:
        nodes = self._play.nodes if self._play is not None else set()
        missing = [self._network.names[n] for n in sorted(nodes - set(there))]
        return f"node {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}: no answer"

    def _outcome(self, play: _Play) -> Outcome:
        failed = {fault.node for fault in play.faults} | play.down_from_s.keys()
        broken = frozenset(frozenset((n, m)) for _, n, m in play.silent if not {n, m} & failed)
        faults = play.faults + [Fault(n, from_s, float("inf")) for n, from_s in play.down_from_s.items()]
        empty = np.zeros(0, np.float32)
        return Outcome(
            np.concatenate(play.rows) if play.rows else np.zeros(0, ROW),
            np.concatenate(play.moves) if play.moves else np.zeros(0, MOVE),
            play.finals,
            np.concatenate(play.late_s or [empty]),
            np.concatenate(play.decision_wall_s or [empty]),
            faults,
            play.offsets_s,
            play.notes + [f"the link {a} - {b} broke" for a, b in self._pairs(broken)],
            broken,
        )

    def _pairs(self, broken: frozenset[frozenset[int]]) -> list[list[str]]:
        return sorted([self._network.names[n] for n in sorted(pair)] for pair in broken)
