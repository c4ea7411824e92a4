"""One play as the controller sees it: which nodes are there, what they tell, and which of them have failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offload_rllib.simulator.types import Array
from offload_rllib.testbed.processes import clock_name
from offload_rllib.testbed.setup import MOVE, ROW, Network
from offload_rllib.testbed.wire import FrameReader, pack_message

SYNCS = 8
SYNC_S = 30.0


@dataclass(frozen=True)
class Fault:
    """A node fails: its process is killed, and started again at the repair."""

    node: int
    from_s: float
    until_s: float
    """Infinite: it stays down."""


@dataclass(frozen=True)
class Outcome:
    """What the nodes reported of one play.

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
    faults: tuple[Fault, ...]
    offsets_s: dict[int, tuple[float, float]]
    notes: tuple[str, ...]
    broken: frozenset[frozenset[int]] = frozenset()


class Playing:
    """A play under way.

    Attributes:
        number: of the play in its run.
        nodes: indices of all nodes.
        readers: connections of the nodes that are there.
        addresses: where each listens.
        ready: nodes that have reached their neighbours.
        started: nodes that play.
        gone: nodes whose process has ended.
        finals: what nodes said at the end.
        trouble: why the play cannot continue; empty if it can.
        notes: what went wrong otherwise.
    """

    def __init__(self, number: int, network: Network, speed: float, tell_host: Callable[[int, str], None]) -> None:
        """Begin without nodes.

        Args:
            number: of the play.
            network: that is played on.
            speed: scenario seconds per real second.
            tell_host: sends a message about a node (``kill``, ``fork``) to its host.
        """
        self.number = number
        self.nodes = frozenset(range(len(network.names)))
        self.readers: dict[int, FrameReader] = {}
        self.addresses: dict[int, tuple[str, int]] = {}
        self.ready: set[int] = set()
        self.started: set[int] = set()
        self.gone: set[int] = set()
        self.finals: dict[int, dict[str, Any]] = {}
        self.trouble = ""
        self.notes: list[str] = []
        self._network = network
        self._speed = speed
        self._tell_host = tell_host
        self._start = float("inf")
        self._over = False
        self._down_from_s: dict[int, float] = {}
        self._faults: list[Fault] = []
        self._arrays: dict[str, list[Array]] = {name: [] for name in ("rows", "moves", "late_s", "decision_wall_s")}
        self._clock_of: dict[int, str] = {}
        self._offsets_s: dict[int, tuple[float, float]] = {}
        self._silent: list[frozenset[int]] = []
        self._answers: dict[tuple[int, int], asyncio.Future[float]] = {}
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def now_s(self) -> float:
        """The scenario's time."""
        return (time.monotonic() - self._start) * self._speed

    @property
    def horizon_s(self) -> float:
        """When the play ends, in the scenario's time."""
        return float(self._network.arrays.settings[0]["horizon_s"])

    @property
    def is_heard(self) -> bool:
        """Whether the play is over, and every node that plays has reported."""
        return self.now_s > self.horizon_s and self.started <= self.finals.keys()

    def join(self, n: int, reader: FrameReader, address: tuple[str, int], clock: str = "") -> None:
        """Take a node that has connected, with the name of its clock; after the start it is one that was down."""
        self.readers[n], self.addresses[n], self._clock_of[n] = reader, address, clock
        self.gone.discard(n)
        if not self.started:
            return
        link = self._network.arrays.link
        neighbours = set(link["destination"][link["source"] == n].tolist()) & self.readers.keys()
        self.ready.discard(n)
        self._faults.append(Fault(n, self._down_from_s.pop(n, self.now_s), self.now_s))
        self._introduce(n, neighbours)
        for m in neighbours:
            self._introduce(m, {n})

    def _introduce(self, n: int, others: set[int] | frozenset[int]) -> None:
        self._tell(n, "peers", addresses={m: self.addresses[m] for m in others})

    def introduce_all(self) -> None:
        """Tell every node where the others are."""
        for n in self.nodes:
            self._introduce(n, self.nodes)

    def _tell(self, n: int, kind: str, **content: Any) -> None:
        if n in self.readers:  # otherwise it has just ended, which `on_exit` tells
            self.readers[n].write(pack_message({"kind": kind} | content))

    def on_exit(self, n: int, code: int, reason: str = "") -> None:
        """Note that the process of a node has ended, and what it said of that."""
        self.readers.pop(n, None)
        self.started.discard(n)
        self.gone.add(n)
        if self._over or n in self.finals or n in self._down_from_s:
            return
        name = self._network.names[n]
        if self._start == float("inf") or code >= 0:  # not killed: a mistake
            self.trouble = f"node {name}: {reason or f'its process has ended too early (exit status {code})'}"
            return
        self._down_from_s[n] = self.now_s
        self.notes.append(f"node {name}: its process has ended at {self.now_s:.1f} s (exit status {code})")

    def on_message(self, n: int, reader: FrameReader, message: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Take a message of a node; one of a process that has been replaced is left out."""
        kind = message["kind"]
        if self.readers.get(n) is not reader:
            return
        for name, array in arrays.items():
            self._arrays[name].append(array)
        if kind == "ready":
            self._note_ready(n)
        elif kind == "unreachable":
            self._note_unreachable(n, message["reasons"])
        elif kind == "error":
            self.trouble = f"node {self._network.names[n]}: {message['reason']}"
        elif kind == "missing":
            self._silent.append(frozenset((n, int(message["neighbour"]))))
        elif kind == "sync":
            answer = self._answers.get((n, message["number"]))
            if answer is not None and not answer.done():
                answer.set_result(float(message["time"]))
        elif kind == "final":
            self.finals[n] = dict(message)

    def _note_ready(self, n: int) -> None:
        """Note that a node has reached its neighbours; let it play if the others do."""
        self.ready.add(n)
        if self.started and n not in self.started and n not in self.finals:
            self._begin(n)

    def _note_unreachable(self, n: int, reasons: Sequence[str]) -> None:
        self.notes += [f"node {self._network.names[n]}: {reason}" for reason in reasons]
        if not self.started:
            self.trouble = self.notes[-1]

    async def measure_clocks(self) -> None:
        """Measure every node's monotonic clock against this one, by the fastest answer to several questions.

        A node that does not answer is trouble.
        """
        loop = asyncio.get_running_loop()
        for n in sorted(self.nodes):
            best = (0.0, float("inf"))
            for number in range(SYNCS):
                answer = self._answers[n, number] = loop.create_future()
                sent = time.monotonic()
                self._tell(n, "sync", number=number)
                try:
                    async with asyncio.timeout(SYNC_S):
                        there = await answer
                except TimeoutError:
                    name = self._network.names[n]
                    self.trouble = self.trouble or f"node {name}: did not tell its clock within {SYNC_S:g} s"
                    return
                received = time.monotonic()
                if received - sent < best[1]:
                    best = (there - (sent + received) / 2, received - sent)
            self._offsets_s[n] = best

    def ahead_s(self, n: int) -> float:
        """Return by how much a node's clock is ahead of this one, by the fastest answer of all that have that clock.

        An offset is known to half a round trip. What has this process's own clock is ahead by nothing.
        """
        clock = self._clock_of.get(n)
        if not clock:
            return self._offsets_s[n][0]
        if clock == clock_name():
            return 0.0
        same = [self._offsets_s[m] for m in self._offsets_s if self._clock_of.get(m) == clock]
        return min(same, key=lambda measured: measured[1])[0]

    def begin(self, lead_s: float, faults: Sequence[Fault]) -> None:
        """Start the clock so many real seconds from now; nodes fail at the times of `faults`."""
        self._start = time.monotonic() + lead_s
        for n in self.nodes:
            self._begin(n)
        for fault in faults:
            self._at(fault.from_s, self._kill, fault.node)
            self._at(fault.until_s, self._tell_host, fault.node, "fork")

    def _begin(self, n: int) -> None:
        self.started.add(n)
        self._tell(n, "start", start=self._start + self.ahead_s(n))

    def _at(self, time_s: float, call: Callable[..., None], *arguments: Any) -> None:
        if time_s <= self.horizon_s:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_at(self._start + time_s / self._speed, call, *arguments))

    def _kill(self, n: int) -> None:
        if n in self.started:
            self._down_from_s[n] = self.now_s
            self._tell_host(n, "kill")

    def close(self) -> None:
        """End the play."""
        self._over = True
        for timer in self._timers:
            timer.cancel()
        for n in self.readers:
            self._tell(n, "close")

    def cut(self, n: int, m: int) -> None:
        """Break the link between two nodes."""
        self._tell(n, "cut", neighbour=m)

    def absent(self, there: Mapping[int, Any] | set[int]) -> str:
        """Return which nodes are not among some."""
        missing = [self._network.names[n] for n in sorted(self.nodes - set(there))]
        return f"node {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}: no answer"

    def outcome(self) -> Outcome:
        """Return what the nodes have reported."""
        faults = (*self._faults, *(Fault(n, from_s, float("inf")) for n, from_s in self._down_from_s.items()))
        failed = {fault.node for fault in faults}
        broken = frozenset(pair for pair in self._silent if not pair & failed)
        names = sorted(" - ".join(self._network.names[n] for n in sorted(pair)) for pair in broken)
        empty = {"rows": np.zeros(0, ROW), "moves": np.zeros(0, MOVE)}
        told = {
            name: np.concatenate([empty.get(name, np.zeros(0, np.float32)), *parts])
            for name, parts in self._arrays.items()
        }
        return Outcome(
            **told,
            finals=self.finals,
            faults=faults,
            offsets_s=self._offsets_s,
            notes=(*self.notes, *(f"the link {name} broke" for name in names)),
            broken=broken,
        )
