"""A slow reference of the simulator in simpy: the same semantics, told as the lives of tasks instead of an event loop.

It shares with the simulator the random streams (so that both see the same workload) and nothing else: it reads the
configuration, not the simulator's arrays. Every task is a process that lives through holding, waiting, service,
transfers and return; clients, agents and deadlines are processes beside it.

Simpy runs events of one instant in the order they were made. The simulator promises an order by kind, then node,
then task, so each event here carries that rank; whatever simpy schedules for itself to carry on at the same instant
(starts and interruptions of processes, grants of servers) goes first, before any other event of the instant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import simpy
from simpy.core import SimTime
from simpy.events import NORMAL, EventPriority

from offload_rllib.config.base import Distribution
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.links import Fixed
from offload_rllib.config.topology import Manual, ManualNode
from offload_rllib.config.workload import TaskMix
from offload_rllib.simulator import streams
from offload_rllib.simulator.types import EXPIRED, FINISHED, OPEN, QUEUE_FULL

# Kinds of events, in their order at equal times.
RESULT, SERVICE_END, EXPIRY, TRANSFER, ARRIVAL, DECISION = range(6)

Life = Generator[simpy.Event, Any, Any]


class Fate(NamedTuple):
    """How a task ended, and where its time went.

    The parts count the stages that the task has left, also those it was torn out of; a stage that the end of the
    episode cuts short counts nothing. The return counts for finished tasks only.
    """

    outcome: int  # FINISHED, QUEUE_FULL, EXPIRED, or OPEN: still inside when the episode ended
    ended_s: float  # since the start of the episode
    hops: int
    node: int  # the last node that the task reached, or tried to enter
    holding_s: float
    waiting_s: float
    service_s: float
    transfer_s: float
    return_s: float


class Link(NamedTuple):
    """One direction of a link."""

    latency_s: float
    seconds_per_bit: float


class _Dropped(Exception):  # noqa: N818  # not an error: one of the ways a task ends
    def __init__(self, outcome: int) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class _Clock(simpy.Environment):
    """Runs events of one instant by rank; those without a rank are simpy's own and go first."""

    def schedule(self, event: simpy.Event, priority: EventPriority = NORMAL, delay: SimTime = 0) -> None:
        super().schedule(event, getattr(event, "rank", priority), delay)


class _Moment(simpy.Timeout):
    """An event that has a place among those of the same instant."""

    def __init__(self, clock: simpy.Environment, delay_s: float, kind: int, node: int = 0, task: int = 0) -> None:
        # Above NORMAL, the larger of simpy's own two priorities.
        self.rank = EventPriority(NORMAL + 1 + (kind * 2**32 + node) * 2**32 + task)
        super().__init__(clock, delay_s)


@dataclass(eq=False)
class _Node:
    described: ManualNode
    core_speed: float
    servers: simpy.Resource
    neighbours: list[int]  # where the agent can send tasks, in the order of its actions
    decides: bool
    key: np.uint64
    tasks: int = 0  # held, waiting and served
    held: list[_Task] = field(default_factory=list)


@dataclass(eq=False)
class _Task:
    number: int
    origin: int
    created_s: float
    relative_deadline_s: float
    work: float
    bits_in: float
    bits_out: float
    decision: simpy.Event
    node: int
    life: simpy.Process | None = None
    stage: str = ""
    path: list[tuple[int, int]] = field(default_factory=list)
    spent_s: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("holding", "waiting", "service", "transfer", "return"), 0.0)
    )
    outcome: int = OPEN
    ended_s: float = 0.0


class _Reference:
    def __init__(self, config: EnvironmentConfig, key: int, actions: np.ndarray, links: dict[tuple[int, int], Link]):
        assert isinstance(config.topology, Manual)
        self.config = config
        self.actions = actions
        self.links = links
        self.clock = _Clock()
        self.tasks: list[_Task] = []
        graph = nx.Graph(list(links))
        clients = {i for i, node in enumerate(config.topology.nodes) if node.client}
        # Hops from the nearest client: a task that reaches a node later than that has no more hops left.
        distance = nx.multi_source_dijkstra_path_length(graph, clients)
        self.nodes = [
            self._node(described, np.uint64(key), sorted(graph[i]), decides=distance[i] < config.decisions.max_hops)
            for i, described in enumerate(config.topology.nodes)
        ]
        self.agents = [i for i, node in enumerate(self.nodes) if node.decides]
        for i in sorted(clients):
            self.clock.process(self._client(i))
        self.clock.process(self._agents())

    def _node(self, described: ManualNode, key: np.uint64, neighbours: list[int], *, decides: bool) -> _Node:
        pooled = self.config.service == "pooled"
        return _Node(
            described=described,
            core_speed=described.instructions_per_second * (described.cores if pooled else 1),
            servers=simpy.Resource(self.clock, capacity=1 if pooled else described.cores),
            neighbours=neighbours,
            decides=decides,
            key=np.uint64(streams.node_key(key, np.uint64(streams.stable_hash(described.name)))),
        )

    def run(self) -> list[Fate]:
        # Not `clock.run(until=...)`: that stops before the events at the very end, which still count.
        end_s = len(self.actions) * self.config.decisions.interval_s
        while self.clock.peek() <= end_s:
            self.clock.step()
        return [
            Fate(
                outcome=task.outcome,
                ended_s=end_s if task.outcome == OPEN else task.ended_s,
                hops=len(task.path),
                node=task.node,
                **{f"{stage}_s": seconds for stage, seconds in task.spent_s.items()},
            )
            for task in self.tasks
        ]

    def _uniform(self, node: _Node, purpose: int, index: int) -> float:
        return float(streams.uniform(np.uint64(streams.stream(node.key, purpose)), index))

    def _sample(self, distribution: Distribution, node: _Node, purpose: int, index: int) -> float:
        u = self._uniform(node, purpose, index)
        if distribution.exponential is not None:
            return float(streams.sample(streams.EXPONENTIAL, distribution.exponential, 0.0, u))
        if distribution.uniform is not None:
            return float(streams.sample(streams.UNIFORM, *distribution.uniform, u))
        return float(distribution.constant or 0.0)

    def _client(self, n: int) -> Life:
        """Make tasks at node `n` in a Poisson process."""
        rate = self.config.workload.load.tasks_per_second_per_client
        assert rate is not None
        node = self.nodes[n]
        index = 0
        while True:
            gap_s = (
                streams.sample(streams.EXPONENTIAL, 1.0, 0.0, self._uniform(node, streams.ARRIVAL_GAP, index)) / rate
            )
            yield _Moment(self.clock, gap_s, ARRIVAL, n)
            self._make_task(n, index)
            index += 1

    def _make_task(self, n: int, index: int) -> None:
        jobs, deadline_s = self.config.workload.jobs, self.config.workload.deadline_s
        assert isinstance(jobs, TaskMix)
        node = self.nodes[n]
        total = list(accumulate(kind.weight for kind in jobs.types))
        shares = [weight / total[-1] for weight in total]
        kind = jobs.types[bisect_right(shares, self._uniform(node, streams.TASK_TYPE, index))]
        task = _Task(
            number=len(self.tasks),
            origin=n,
            created_s=self.clock.now,
            relative_deadline_s=(
                float("inf") if deadline_s is None else self._sample(deadline_s, node, streams.DEADLINE, index)
            ),
            work=self._sample(kind.instructions, node, streams.WORK, index) * kind.cycles_per_instruction,
            bits_in=self._sample(kind.bits_in, node, streams.BITS_IN, index),
            bits_out=self._sample(kind.bits_out, node, streams.BITS_OUT, index),
            decision=self.clock.event(),
            node=n,
        )
        self.tasks.append(task)
        task.life = self.clock.process(self._live(task))
        if deadline_s is not None and self.config.deadlines.expiry != "never":
            self.clock.process(self._watch(task))

    def _watch(self, task: _Task) -> Life:
        """Interrupt a task that is still inside when it expires."""
        yield self.clock.timeout(task.relative_deadline_s)
        yield _Moment(self.clock, self.config.deadlines.grace_s, EXPIRY, task.origin, task.number)
        assert task.life is not None
        anywhere = self.config.deadlines.expiry == "abort"
        if task.life.is_alive and (anywhere or task.stage in {"holding", "waiting"}):
            task.life.interrupt()

    def _agents(self) -> Life:
        """Let every agent decide about the head of its held tasks, once in a decision interval."""
        for step, actions in enumerate(self.actions):
            # The difference of successive multiples is exact, so that this comes at exactly `step` intervals.
            yield _Moment(self.clock, step * self.config.decisions.interval_s - self.clock.now, DECISION)
            for n, action in zip(self.agents, actions, strict=True):
                node = self.nodes[n]
                if node.held:
                    valid = 1 <= action <= len(node.neighbours)
                    node.held.pop(0).decision.succeed(node.neighbours[action - 1] if valid else None)

    @contextmanager
    def _stage(self, task: _Task, name: str) -> Iterator[None]:
        """Book the time until the block is left, in whatever way, under a stage."""
        began_s = self.clock.now
        task.stage = name
        try:
            yield
        finally:
            task.spent_s[name] += self.clock.now - began_s
            task.stage = ""

    def _live(self, task: _Task) -> Life:
        try:
            here: int = task.origin
            there: int | None = yield from self._visit(task, here)
            while there is not None:
                with self._stage(task, "transfer"):
                    task.path.append((here, there))
                    yield from self._cross(task, self.links[here, there], task.bits_in, TRANSFER, there)
                here = there
                there = yield from self._visit(task, here)
            served_s = self.clock.now
            for sender, receiver in reversed(task.path):
                yield from self._cross(task, self.links[receiver, sender], task.bits_out, RESULT, sender)
            task.spent_s["return"] = self.clock.now - served_s
            task.outcome = FINISHED
        except _Dropped as drop:
            task.outcome = drop.outcome
        except simpy.Interrupt:
            task.outcome = EXPIRED
        task.ended_s = self.clock.now

    def _cross(self, task: _Task, link: Link, bits: float, kind: int, receiver: int) -> Life:
        """Travel a link: it has no queue."""
        yield self.clock.timeout(link.latency_s)
        yield _Moment(self.clock, bits * link.seconds_per_bit, kind, receiver, task.number)

    def _visit(self, task: _Task, n: int) -> Generator[simpy.Event, Any, int | None]:
        """Stay at node `n` until served there, or until sent on; return where to, or None."""
        node = self.nodes[n]
        task.node = n
        capacity = node.described.queue_capacity
        if capacity is not None and node.tasks >= capacity:
            raise _Dropped(QUEUE_FULL)
        deadlines = self.config.deadlines
        if deadlines.expiry != "never":
            # A late task is not let in, even where a server is idle.
            expires_s = task.created_s + task.relative_deadline_s + deadlines.grace_s
            if self.clock.now >= expires_s:
                raise _Dropped(EXPIRED)
        node.tasks += 1
        try:
            if node.decides and len(task.path) < self.config.decisions.max_hops:
                destination = yield from self._hold(task, node)
                if destination is not None:
                    return destination
            yield from self._serve(task, n)
        finally:
            node.tasks -= 1
        return None

    def _hold(self, task: _Task, node: _Node) -> Generator[simpy.Event, Any, int | None]:
        task.decision = self.clock.event()
        node.held.append(task)
        with self._stage(task, "holding"):
            try:
                return (yield task.decision)
            except simpy.Interrupt:
                node.held.remove(task)
                raise

    def _serve(self, task: _Task, n: int) -> Life:
        node = self.nodes[n]
        with node.servers.request() as server:
            with self._stage(task, "waiting"):
                yield server
            with self._stage(task, "service"):
                yield _Moment(self.clock, task.work / node.core_speed, SERVICE_END, n, task.number)


def fixed_links(config: EnvironmentConfig) -> dict[tuple[int, int], Link]:
    """Return both directions of every link of a manual topology with `fixed` links, by (source, destination)."""
    assert isinstance(config.topology, Manual)
    assert isinstance(config.links, Fixed)
    index = {node.name: i for i, node in enumerate(config.topology.nodes)}
    pairs = [(index[a], index[b]) for a, b in config.topology.links]
    link = Link(config.links.latency_s, 1 / config.links.rate_bps)
    return dict.fromkeys([*pairs, *((b, a) for a, b in pairs)], link)


def reference_fates(
    config: EnvironmentConfig,
    key: int,
    actions: np.ndarray | Sequence[Sequence[int]],
    links: dict[tuple[int, int], Link] | None = None,
) -> list[Fate]:
    """Run one episode.

    Args:
        config: a `manual` topology, `fixed` links, jobs of kind `mix`, load in tasks per second per client, and no
            limit on destinations.
        key: the episode's key.
        actions: [W, A] integers, row w applied at w decision intervals; one that is not valid acts as 0.
        links: [source, destination] -> link, in seconds and seconds per bit, where they differ from `fixed_links`.

    Returns:
        What became of each task, in order of creation (then by node); times in seconds.
    """
    return _Reference(config, key, np.asarray(actions), links or fixed_links(config)).run()
