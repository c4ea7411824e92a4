"""A slow reference of the simulator in simpy: the same semantics, told as the lives of tasks instead of an event loop.

It shares with the simulator the random streams (so that both see the same workload) and nothing else: it reads the
configuration, not the simulator's arrays. Every task is a process that lives through holding, waiting, service,
transfers and return; clients, agents, deadlines and failures are processes beside it. A link with contention is a
resource that transfers queue for, and energy is metered as things go on and off.

Simpy runs events of one instant in the order they were made. The simulator promises an order by kind, then node,
then task, so each event here carries that rank; whatever simpy schedules for itself to carry on at the same instant
(starts and interruptions of processes, grants of servers) goes first, before any other event of the instant.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import simpy
from scipy import stats
from simpy.core import SimTime
from simpy.events import NORMAL, EventPriority

from helpers.distributions import lognormal
from helpers.reference_arrivals import Recorded, arrival_times, per_episode, recorded_rows
from helpers.reference_routes import shortest_paths
from offload_rllib.config.base import Distribution
from offload_rllib.config.cloud import Cloud
from offload_rllib.config.duration import Duration
from offload_rllib.config.energy import PowerDraw
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.links import Fixed, LinkOverride
from offload_rllib.config.topology import Manual, ManualNode
from offload_rllib.config.workload import TaskMix
from offload_rllib.config.workload.arrivals import Replay
from offload_rllib.simulator import streams
from offload_rllib.simulator.types import EXPIRED, FINISHED, LOST, NODE_FAILED, OPEN, QUEUE_FULL

# Kinds of events, in their order at equal times.
RESULT, SERVICE_END, LOSS, EXPIRY, FAILURE, REPAIR, TRANSFER, ARRIVAL, TICK, DECISION = range(10)

Life = Generator[simpy.Event, Any, Any]


class Fate(NamedTuple):
    """How a task ended, and where its time went.

    The parts count the stages that the task has left, also those it was torn out of; a stage that the end of the
    episode cuts short counts nothing. The return counts for finished tasks only.
    """

    outcome: int  # FINISHED, a cause of a drop, or OPEN: still inside when the episode ended
    ended_s: float  # since the start of the episode
    hops: int
    type: int  # of the task
    node: int  # the last node that the task reached, or tried to enter
    holding_s: float
    waiting_s: float
    service_s: float
    transfer_s: float
    return_s: float


class Episode(NamedTuple):
    """What became of every task, and what every node has used."""

    fates: list[Fate]
    energy: dict[str, list[float]]  # by use (idle, compute, transmit), then by node


class _Meter:
    """Integrates a level that changes in steps."""

    def __init__(self, clock: simpy.Environment, level: float = 0.0) -> None:
        self.clock, self.level, self.changed_s, self.total = clock, level, 0.0, 0.0

    def change(self, by: float) -> None:
        self.total = self.until(self.clock.now)
        self.changed_s = self.clock.now
        self.level += by

    def until(self, time_s: float) -> float:
        return self.total + self.level * (time_s - self.changed_s)

    @contextmanager
    def raised(self, by: float) -> Iterator[None]:
        self.change(by)
        try:
            yield
        finally:
            self.change(-by)


@dataclass(eq=False)
class _Link:
    """One direction of a link."""

    rate_bps: float
    latency: Duration
    jitter: Duration
    loss_probability: float
    channel: simpy.Resource | _SharedChannel | None  # with contention
    key: np.uint64
    transfers: int = 0
    free_s: float = 0.0  # where time has ticks: when what was given to it has been sent

    @property
    def mean_latency_s(self) -> float:
        return self.latency.mean + self.jitter.mean


class _Dropped(Exception):  # noqa: N818  # not an error: one of the ways a task ends
    def __init__(self, outcome: int) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class _NodeDownError(Exception):
    pass


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


class _SharedCores:
    """The cores of one node, shared equally by the tasks in service; each of them uses one core at most."""

    def __init__(self, clock: simpy.Environment, n: int, cores: int, core_speed: float, busy: _Meter) -> None:
        self.clock, self.n, self.cores, self.core_speed, self.busy = clock, n, cores, core_speed, busy
        self.work_left: dict[_Task, float] = {}
        self.changed_s = 0.0
        self.changes = 0
        self.left_over = 0.0  # of the task that left last

    def serve(self, task: _Task) -> Life:
        """Process a task; whoever interrupts it takes it off the cores."""
        task.served = self.clock.event()
        self._advance()
        self.work_left[task] = task.work
        self._share_anew()
        try:
            yield task.served
        finally:
            self._advance()
            self.left_over = self.work_left.pop(task)
            self._share_anew()

    def _speed_of_each(self) -> float:
        return self.core_speed * min(1.0, self.cores / len(self.work_left))

    def _advance(self) -> None:
        for task in self.work_left:
            self.work_left[task] -= self._speed_of_each() * (self.clock.now - self.changed_s)
        self.changed_s = self.clock.now

    def _share_anew(self) -> None:
        self.changes += 1
        self.busy.change(min(len(self.work_left), self.cores) - self.busy.level)
        if self.work_left:
            self.clock.process(self._end_next(self.changes))

    def _end_next(self, changes: int) -> Life:
        if changes != self.changes:
            return
        task = min(self.work_left, key=lambda task: (self.work_left[task], task.number))
        left_s = max(self.work_left[task], 0.0) / self._speed_of_each()
        yield self._end(left_s, task)
        if changes == self.changes:  # nobody has come or gone
            task.served.succeed()

    def _end(self, left_s: float, task: _Task) -> simpy.Event:
        return _Moment(self.clock, left_s, SERVICE_END, self.n, task.number)


class _SharedChannel(_SharedCores):
    """A channel of links, shared equally by the messages on it, whose work is their airtime."""

    def __init__(self, clock: simpy.Environment) -> None:
        super().__init__(clock, 0, 1, 1.0, _Meter(clock))

    def left_s(self, message: Any) -> float:
        """Return the airtime that is left of a message, also of the one that left last."""
        self._advance()
        return self.work_left.get(message, self.left_over)

    def _end(self, left_s: float, task: _Task) -> simpy.Event:  # noqa: ARG002 - as in its base class
        return self.clock.timeout(left_s)  # a message is sent before anything else happens


@dataclass(eq=False)
class _Message:
    """What a shared channel serves."""

    number: int  # of its task
    work: float  # airtime in seconds
    served: simpy.Event | None = None


@dataclass(eq=False)
class _Node:
    described: ManualNode
    core_speed: float
    servers: int
    at_once: int | None  # tasks in service at once; None: all of them
    cores: _SharedCores | None  # where they are shared
    discipline: str
    neighbours: list[int]  # where the agent can send tasks, in the order of its actions
    decides: bool
    key: np.uint64
    up: _Meter
    busy: _Meter
    sending: _Meter  # transfers at once
    sending_bps: _Meter
    down: bool = False
    result_bits: float = 0.0  # given to links
    serving: int = 0
    inside: list[_Task] = field(default_factory=list)  # held, waiting and served
    held: list[_Task] = field(default_factory=list)  # what the agent has to decide, in order of entry
    queue: list[_Task] = field(default_factory=list)  # in order of entry
    current: _Task | None = None  # in service, where nodes work in ticks
    received: list[_Task] = field(default_factory=list)  # and what waits to join the queue there

    def leave_queue(self, task: _Task) -> None:
        """Let a task wait no longer."""
        (self.received if task in self.received else self.queue).remove(task)
        if task in self.held:
            self.held.remove(task)

    def join_queue(self) -> None:
        """Let all tasks that have been received join the queue, and what the agent has to decide there."""
        self.queue += self.received
        if self.decides:
            self.held += self.received
        self.received = []

    def keep_newest(self) -> None:
        """Let the newest task of the queue, if it is on offer, be offered no more, as PeersimGym does."""
        if not self.queue:
            self.join_queue()
        if self.held and (self.discipline != "lifo" or self.held[-1] is self.queue[-1]):
            self.held.pop()

    def free_server(self) -> None:
        """Give the server that became idle to the next waiting task."""
        self.serving -= 1
        if self.queue:
            self.serving += 1
            self.take_next().decision.succeed(None)

    def take_next(self) -> _Task:
        """Take the next task to be served out of the queue."""
        if self.discipline == "edf":
            chosen = min(self.queue, key=lambda task: (task.created_s + task.relative_deadline_s, task.number))
        elif self.discipline == "sjf":
            chosen = min(self.queue, key=lambda task: (task.work, task.number))
        else:
            chosen = self.queue[0 if self.discipline == "fifo" else -1]
        self.leave_queue(chosen)
        return chosen


@dataclass(eq=False)
class _Task:
    number: int
    origin: int
    type: int
    created_s: float
    relative_deadline_s: float
    work: float
    bits_in: float
    bits_out: float
    decision: simpy.Event
    node: int
    served: simpy.Event
    life: simpy.Process | None = None
    stage: str = ""
    path: list[tuple[int, int]] = field(default_factory=list)
    spent_s: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("holding", "waiting", "service", "transfer", "return"), 0.0)
    )
    outcome: int = OPEN
    ended_s: float = 0.0


class _Reference:
    def __init__(self, config: EnvironmentConfig, key: int, actions: np.ndarray):
        assert isinstance(config.topology, Manual)
        self.config = config
        self.key = np.uint64(key)
        self.actions = actions
        self.at_once = config.decisions.when == "arrival"
        self.clock = _Clock()
        self.tasks: list[_Task] = []
        self.channels: dict[tuple[str, str], simpy.Resource | _SharedChannel] = {}
        self.shared: list[tuple[_Node, _Link, _Message]] = []  # messages on shared channels
        described = list(config.topology.nodes)
        pairs = list(config.topology.links)
        if config.cloud is not None:
            described.append(described_cloud(config.cloud))
            pairs += [(name, "cloud") for name in config.cloud.access.nodes or [node.name for node in described[:-1]]]
        self.names = [node.name for node in described]
        self.links = {
            (self.names.index(a), self.names.index(b)): self._link(np.uint64(key), a, b)
            for pair in pairs
            for a, b in (pair, pair[::-1])
        }
        graph = nx.Graph(list(self.links))
        graph.add_nodes_from(range(len(described)))
        clients = {i for i, node in enumerate(config.topology.nodes) if node.client}
        # Hops from the nearest client: a task that reaches a node later than that has no more hops left.
        entries = set(clients)
        if isinstance(config.workload.arrivals, Replay):
            names = [node.name for node in config.topology.nodes]
            rows = [row for i in clients for row in recorded_rows(config, np.uint64(key), names[i])]
            entries = {names.index(row.node) for row in rows}
        # Nothing gets anywhere through the cloud.
        passable = graph.subgraph(range(len(config.topology.nodes)))
        # What a transfer to another node crosses.
        self.routes = {pair: [pair] for pair in self.links}
        if config.decisions.destinations == "routed":
            self.routes = self._shortest_paths(graph, set(graph) - set(passable))
            graph = nx.DiGraph(list(self.routes))
            graph.add_nodes_from(range(len(described)))
            passable = graph.subgraph(range(len(config.topology.nodes)))
        distance = nx.multi_source_dijkstra_path_length(passable, entries)
        self.nodes = [
            self._node(
                node,
                np.uint64(key),
                sorted(graph[i]),
                decides=distance.get(i, config.decisions.max_hops) < config.decisions.max_hops,
            )
            for i, node in enumerate(described)
        ]
        self.agents = [i for i, node in enumerate(self.nodes) if node.decides]
        # The cloud works at any time.
        self.in_ticks = range(len(config.topology.nodes) if config.tick_s is not None else 0)
        self._clients(sorted(clients))
        if self.at_once:
            self.next_action = iter(actions)
        else:
            self.clock.process(self._agents())
        for i in self.in_ticks:
            self.clock.process(self._works(i))
        if config.failures is not None:
            for i in range(len(config.topology.nodes)):  # the cloud does not fail
                self.clock.process(self._failures(i))

    def _shortest_paths(self, graph: nx.Graph, impassable: set[int]) -> dict[tuple[int, int], list[tuple[int, int]]]:
        jobs = self.config.workload.jobs
        assert isinstance(jobs, TaskMix)
        mean_bits = sum(kind.weight * kind.bits_in.mean for kind in jobs.types) / sum(
            kind.weight for kind in jobs.types
        )
        step_s = {pair: link.mean_latency_s + mean_bits / link.rate_bps for pair, link in self.links.items()}
        most = self.config.decisions.reach_hops or len(self.names)
        return shortest_paths(graph, step_s, self.names, impassable, most)

    def _link(self, key: np.uint64, a: str, b: str) -> _Link:
        """Return the direction from `a` to `b`, with what overrides say of it by name."""
        base = self.config.links
        assert isinstance(base, Fixed)
        values: dict[str, Any] = {name: getattr(base, name) for name in LINK_KEYS}
        cloud = self.config.cloud
        if cloud is not None and "cloud" in (a, b):
            assert cloud.link is not None
            none = Duration(constant=0.0)
            own = (cloud.link.rate_bps, Duration(constant=cloud.link.latency_s), none, 0.0, "none", "direction")
            values = dict(zip(LINK_KEYS, own, strict=True))
        for override in self.config.link_overrides:
            if override.between == (a, b) or (override.between == (b, a) and not override.one_way):
                values |= given(override)
        return _Link(
            rate_bps=values["rate_bps"],
            latency=values["latency_s"],
            jitter=values["jitter_s"],
            loss_probability=values["loss_probability"],
            channel=self._channel(values["contention"], values["channel"], a, b),
            key=np.uint64(streams.node_key(key, np.uint64(streams.stable_hash(f"{a}\n{b}")))),
        )

    def _channel(self, contention: str, channel: str, a: str, b: str) -> simpy.Resource | _SharedChannel | None:
        if contention == "none":
            return None
        if channel == "link":
            a, b = sorted((a, b))
        if (a, b) not in self.channels:
            self.channels[a, b] = simpy.Resource(self.clock) if contention == "fifo" else _SharedChannel(self.clock)
        return self.channels[a, b]

    def _node(self, described: ManualNode, key: np.uint64, neighbours: list[int], *, decides: bool) -> _Node:
        assert isinstance(self.config.topology, Manual)
        cloud = self.config.cloud if described not in self.config.topology.nodes else None
        pooled = self.config.service == "pooled" and cloud is None
        core_speed = described.instructions_per_second * (described.cores if pooled else 1)
        servers = 1 if pooled else described.cores
        given = cloud or self.config
        at_once, cores, busy = servers, None, _Meter(self.clock)
        if given.service == "shared":
            at_once = None if given.tasks_per_core is None else servers * given.tasks_per_core
            cores = _SharedCores(self.clock, self.names.index(described.name), servers, core_speed, busy)
        return _Node(
            described=described,
            core_speed=core_speed,
            servers=servers,
            at_once=at_once,
            cores=cores,
            discipline=self.config.queue if cloud is None else cloud.queue,
            neighbours=neighbours,
            decides=decides,
            up=_Meter(self.clock, 1),
            busy=busy,
            sending=_Meter(self.clock),
            sending_bps=_Meter(self.clock),
            key=np.uint64(streams.node_key(key, np.uint64(streams.stable_hash(described.name)))),
        )

    def run(self) -> Episode:
        # Not `clock.run(until=...)`: that stops before the events at the very end, which still count.
        end_s = self.config.horizon_s if self.at_once else len(self.actions) * self.config.decisions.interval_s
        while self.clock.peek() <= end_s:
            self.clock.step()
        if self.clock.now < end_s:
            self.clock.run(until=end_s)  # what shares a channel is sent until then
        fates = [
            Fate(
                outcome=task.outcome,
                ended_s=end_s if task.outcome == OPEN else task.ended_s,
                hops=len(task.path),
                type=task.type,
                node=task.node,
                **{f"{stage}_s": seconds for stage, seconds in task.spent_s.items()},
            )
            for task in self.tasks
        ]
        return Episode(fates, self._energy(end_s))

    def _energy(self, end_s: float) -> dict[str, list[float]]:
        """Return what every node has used, by use, with one entry of `energy.devices` for all."""
        energy = self.config.energy
        if energy is None:
            return {}
        if isinstance(energy, PowerDraw):
            (power,) = energy.devices
            idle_w, core_w = power.idle_w, power.core_busy_w
            transmit_w, j_per_bit, j_per_result_bit = power.transmit_w, power.transmit_j_per_bit, 0.0
        else:
            idle_w = core_w = transmit_w = j_per_bit = 0.0
            j_per_result_bit = energy.cost / 8e6
        for node, link, message in self.shared:
            node.sending_bps.total += self._sent_bits(link, message)
        used: dict[str, list[float]] = {"idle": [], "compute": [], "transmit": []}
        for node in self.nodes:
            server_w = core_w * node.described.cores / node.servers
            if not isinstance(energy, PowerDraw):
                server_w = energy.cost * node.core_speed
            used["idle"].append(idle_w * node.up.until(end_s))
            used["compute"].append(server_w * node.busy.until(end_s))
            used["transmit"].append(
                transmit_w * node.sending.until(end_s)
                + j_per_bit * node.sending_bps.until(end_s)
                + j_per_result_bit * node.result_bits
            )
        return used

    def _uniform(self, node: _Node | _Link, purpose: int, index: int) -> float:
        return float(streams.uniform(np.uint64(streams.stream(node.key, purpose)), index))

    def _sample(self, distribution: Distribution, node: _Node, index: int, quantity: int, kind: int = 0) -> float:
        """Draw a quantity (0 work, 1 bits in, 2 bits out, 3 deadline) of a task of some type, by its quantile."""
        purpose = (streams.WORK, streams.BITS_IN, streams.BITS_OUT, streams.DEADLINE)[quantity]
        u = self._uniform(node, purpose, index)
        first = 3 * (4 * kind + quantity)
        given = [
            per_episode(value, self.key, streams.PARAMETER, first + i)
            for i, value in enumerate(distribution.parameters)
        ]
        if distribution.exponential is not None:
            return -given[0] * math.log(1 - u)
        if distribution.uniform is not None:
            return given[0] + (given[1] - given[0]) * u
        if distribution.lognormal is not None:
            return float(stats.lognorm.ppf(u, *lognormal(*given)))
        if distribution.pareto is not None:
            low, high, shape = given
            return float(stats.truncpareto.ppf(u, shape, high / low, scale=low))
        if distribution.choice is not None:
            values = distribution.choice.values
            total = list(accumulate(distribution.choice.weights or (1.0,) * len(values)))
            return values[bisect_right([weight / total[-1] for weight in total], u)]
        return given[0]

    def _duration_s(self, duration: Duration, stream: _Node | _Link, purpose: int, index: int) -> float:
        u = self._uniform(stream, purpose, index)
        if duration.lognormal is not None:
            angle = 2 * math.pi * self._uniform(stream, purpose + 1, index)
            normal = math.sqrt(-2 * math.log(1 - u)) * math.cos(angle)
            shape, loc, scale = lognormal(*duration.lognormal_numbers)
            return loc + scale * math.exp(shape * normal)
        if duration.exponential is not None:
            return -duration.exponential * math.log(1 - u)
        if duration.uniform is not None:
            low, high = duration.uniform
            return low + (high - low) * u
        return float(duration.constant or 0.0)

    def _failures(self, n: int) -> Life:
        """Take node `n` down and bring it up again."""
        assert self.config.failures is not None
        (law,) = self.config.failures.laws
        node = self.nodes[n]
        index = 0
        while True:
            up_s = self._duration_s(law.time_to_failure_s, node, streams.FAILURE_GAP, index)
            yield _Moment(self.clock, up_s, FAILURE, n)
            node.down = True
            node.up.change(-1)
            for task in list(node.inside):
                assert task.life is not None
                task.life.interrupt(FAILURE)
            down_s = self._duration_s(law.time_to_repair_s, node, streams.REPAIR_TIME, index)
            yield _Moment(self.clock, down_s, REPAIR, n)
            node.down = False
            node.up.change(1)
            index += 1

    def _moment_s(self, tick: int, drawn: float, fixed: float) -> float:
        """Return when something happens in a tick: before or after the decision, as it has drawn less or more.

        With a fixed order it happens that share of a tick after the decision.
        """
        assert self.config.tick_s is not None
        if self.config.tick_order == "fixed":
            return (tick + fixed) * self.config.tick_s
        decision = float(streams.uniform(np.uint64(streams.stream(self.key, streams.TICK_DECISION)), tick))
        share = drawn / decision - 1 if drawn < decision else (drawn - decision) / (1 - decision)
        return (tick + share / 2) * self.config.tick_s

    def _works(self, n: int) -> Life:
        """Let node `n` work once in every tick."""
        assert self.config.tick_s is not None
        node = self.nodes[n]
        left = 0.0
        for tick in range(1, len(self.actions) * 1000):
            time_s = self._moment_s(tick, self._uniform(node, streams.TICK_WORK, tick), -0.25)
            yield _Moment(self.clock, time_s - self.clock.now, TICK, n)
            budget = node.core_speed * self.config.tick_s
            while budget > 0 and (node.current or node.queue or node.received):
                if node.current is None:
                    if not node.queue:
                        node.join_queue()
                    node.current = node.take_next()
                    left = node.current.work
                    node.current.decision.succeed(None)
                    yield self.clock.timeout(0)  # let it begin
                done = min(left, budget)
                left -= done
                budget -= done
                node.busy.total += done / node.core_speed
                if left <= 0:
                    node.current.served.succeed()
                    yield self.clock.timeout(0)  # let it leave
            if self.config.deadlines.expiry == "queued":
                for task in list(node.queue):
                    expires_s = task.created_s + task.relative_deadline_s + self.config.deadlines.grace_s
                    if expires_s <= (tick + 1e-9) * self.config.tick_s:
                        assert task.life is not None
                        task.life.interrupt(EXPIRY)
                yield self.clock.timeout(0)  # let them leave
            if tick % 2 == 0 or not node.queue:
                node.join_queue()

    def _clients(self, clients: list[int]) -> None:
        """Let all clients make their tasks."""
        workload = self.config.workload
        names = [node.described.name for node in self.nodes]
        weights = workload.load.client_weights if workload.load is not None else {}
        weight = {n: weights.get(names[n], weights.get(self.nodes[n].described.type, 1.0)) for n in clients}
        mean = sum(weight.values()) / len(weight)
        for n in clients:
            if isinstance(workload.arrivals, Replay):
                rows = recorded_rows(self.config, self.key, names[n])
                for index, row in enumerate(rows):
                    self.clock.process(self._arrival(n, index, row.time_s, row))
            else:
                times = arrival_times(self.config, self.key, self.nodes[n].key, weight[n] / mean)
                for index, time_s in enumerate(times):
                    self.clock.process(self._arrival(n, index, time_s, None))

    def _arrival(self, n: int, index: int, time_s: float, row: Recorded | None) -> Life:
        yield _Moment(self.clock, time_s, ARRIVAL, n, index)
        self._make_task(n, index, row)

    def _make_task(self, n: int, index: int, row: Recorded | None) -> None:
        jobs, deadline_s = self.config.workload.jobs, self.config.workload.deadline_s
        node = self.nodes[n]
        which = 0
        if isinstance(jobs, TaskMix):
            total = list(accumulate(kind.weight for kind in jobs.types))
            shares = [weight / total[-1] for weight in total]
            which = bisect_right(shares, self._uniform(node, streams.TASK_TYPE, index))
            kind = jobs.types[which]
            deadline_s = kind.deadline_s or deadline_s
            work = self._sample(kind.instructions, node, index, 0, which) * kind.cycles_per_instruction
            bits_in, bits_out = (
                self._sample(size, node, index, 1 + i, which) for i, size in enumerate((kind.bits_in, kind.bits_out))
            )
        else:
            assert row is not None
            assert row.work is not None
            work, bits_in, bits_out = row.work, row.bits_in, row.bits_out
            which = row.type
        relative_s = math.inf if deadline_s is None else self._sample(deadline_s, node, index, 3, which)
        if row is not None and row.deadline_s is not None:
            relative_s = row.deadline_s
        task = _Task(
            number=len(self.tasks),
            origin=n,
            type=which,
            created_s=self.clock.now,
            relative_deadline_s=relative_s,
            work=work,
            bits_in=bits_in,
            bits_out=bits_out,
            decision=self.clock.event(),
            served=self.clock.event(),
            node=n if row is None else [other.described.name for other in self.nodes].index(row.node),
        )
        self.tasks.append(task)
        task.life = self.clock.process(self._live(task))
        if relative_s < math.inf and self.config.deadlines.expiry != "never":
            self.clock.process(self._watch(task))

    def _watch(self, task: _Task) -> Life:
        """Interrupt a task that is still inside when it expires."""
        yield self.clock.timeout(task.relative_deadline_s)
        yield _Moment(self.clock, self.config.deadlines.grace_s, EXPIRY, task.origin, task.number)
        assert task.life is not None
        anywhere = self.config.deadlines.expiry == "abort"
        # What waits at a node that works in ticks expires when the node has worked.
        stages = {"holding"} if task.node in self.in_ticks else {"holding", "waiting"}
        if task.life.is_alive and (anywhere or task.stage in stages):
            task.life.interrupt(EXPIRY)

    def _agents(self) -> Life:
        """Let every agent decide about the task on offer, once in a decision interval."""
        newest = self.config.decisions.offer == "newest"
        for step, actions in enumerate(self.actions):
            # The difference of successive multiples is exact, so that this comes at exactly `step` intervals.
            yield _Moment(self.clock, step * self.config.decisions.interval_s - self.clock.now, DECISION)
            for n, action in zip(self.agents, actions, strict=True):
                node = self.nodes[n]
                in_ticks = n in self.in_ticks
                if node.held or (newest and node.received):
                    valid = 1 <= action <= len(node.neighbours)
                    if newest and in_ticks:
                        if not valid:
                            node.keep_newest()
                            continue
                        node.join_queue()
                    task = node.held.pop(-1 if newest else 0)
                    if valid and newest:
                        node.queue.remove(task)
                    if valid or not newest:
                        task.decision.succeed(node.neighbours[action - 1] if valid else None)

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
            yield from self._get_served(task)
            served_s = self.clock.now
            for hops_left in reversed(range(len(task.path))):
                sender, receiver = task.path[hops_left]
                yield from self._return_result(task, receiver, sender, 32 + hops_left)
            task.spent_s["return"] = self.clock.now - served_s
            task.outcome = FINISHED
        except _Dropped as drop:
            task.outcome = drop.outcome
        except simpy.Interrupt:
            task.outcome = EXPIRED
        task.ended_s = self.clock.now

    def _return_result(self, task: _Task, here: int, there: int, turn: int) -> Life:
        for receiver, sender in reversed(self.routes[there, here]):
            self.nodes[sender].result_bits += task.bits_out
            yield from self._cross(task, sender, receiver, task.bits_out, RESULT, turn)
        if self.nodes[there].down:
            raise _Dropped(NODE_FAILED)

    def _get_served(self, task: _Task) -> Life:
        """Go from node to node until one of them has served the task."""
        here: int = task.node
        while True:
            try:
                there = yield from self._visit(task, here)
            except (simpy.Interrupt, _NodeDownError) as failed:
                if isinstance(failed, simpy.Interrupt) and failed.cause != FAILURE:
                    raise
                here = yield from self._go_back(task)
                continue
            if there is None:
                return
            with self._stage(task, "transfer"):
                task.path.append((here, there))
                for sender, receiver in self.routes[here, there]:
                    yield from self._cross(task, sender, receiver, task.bits_in, TRANSFER, len(task.path))
            here = there

    def _go_back(self, task: _Task) -> Generator[simpy.Event, Any, int]:
        """Leave a node that is down, for the one that sent the task there."""
        assert self.config.failures is not None
        if self.config.failures.tasks == "lost" or not task.path:
            raise _Dropped(NODE_FAILED)
        sender, failed = task.path.pop()
        way_back = [self.links[b, a] for a, b in self.routes[sender, failed]]
        bits = self.config.information.message_bits
        notice_s = sum(back.mean_latency_s + bits / back.rate_bps for back in way_back)
        if self.config.tick_s is not None:
            notice_s = self._whole_ticks_s(task, notice_s, 64 + len(task.path))
        with self._stage(task, "transfer"):
            yield _Moment(self.clock, notice_s, TRANSFER, sender, task.number)
        return sender

    def _cross(self, task: _Task, sender: int, receiver: int, bits: float, kind: int, turn: int) -> Life:
        """Travel a link; `turn` numbers the messages of a task."""
        link = self.links[sender, receiver]
        number = link.transfers
        link.transfers += 1
        tick_s = self.config.tick_s
        wait_s = 0.0
        if tick_s is None:
            with ExitStack() as stack:
                if isinstance(link.channel, simpy.Resource):
                    yield stack.enter_context(link.channel.request())
                if isinstance(link.channel, _SharedChannel):
                    yield from self._share(self.nodes[sender], link, task, bits)
                else:
                    yield from self._send(self.nodes[sender], link, bits, bits / link.rate_bps)
        else:
            # When it is sent is known at once, as it may arrive in its tick before all of it would have been sent.
            begins_s = self.clock.now if link.channel is None else max(self.clock.now, link.free_s)
            ends_s = begins_s + bits / link.rate_bps
            late_s = task.created_s + task.relative_deadline_s if self.config.deadlines.expiry == "abort" else math.inf
            link.free_s = max(begins_s, min(ends_s, late_s))
            wait_s = ends_s - self.clock.now
            self.clock.process(self._send(self.nodes[sender], link, bits, link.free_s - begins_s, after_s=begins_s))
        latency_s = self._duration_s(link.latency, link, streams.LATENCY, number)
        latency_s += self._duration_s(link.jitter, link, streams.JITTER, number)
        if tick_s is not None:
            latency_s = self._whole_ticks_s(task, latency_s + wait_s, turn)
        lost = self._uniform(link, streams.LOSS, number) < link.loss_probability
        yield _Moment(self.clock, latency_s, LOSS if lost else kind, receiver, task.number)
        if lost:
            raise _Dropped(LOST)

    def _whole_ticks_s(self, task: _Task, delay_s: float, turn: int) -> float:
        """Return how long a message of a task takes where time has ticks; `turn` numbers those of the task."""
        tick_s = self.config.tick_s
        assert tick_s is not None
        key = streams.stream(self.nodes[task.origin].key, streams.TICK_DELIVERY)
        drawn = float(streams.uniform(np.uint64(streams.stream(np.uint64(key), task.number)), turn))
        ticks = max(1, math.floor(delay_s / tick_s + 0.5 + 1e-9))
        tick = math.floor(self.clock.now / tick_s + 0.5) + ticks
        return self._moment_s(tick, drawn, -0.375) - self.clock.now

    def _send(self, node: _Node, link: _Link, bits: float, seconds: float, after_s: float = 0.0) -> Life:
        if after_s > self.clock.now:
            yield self.clock.timeout(after_s - self.clock.now)
        with node.sending.raised(1), node.sending_bps.raised(link.rate_bps if bits else 0.0):
            yield self.clock.timeout(seconds)

    def _share(self, node: _Node, link: _Link, task: _Task, bits: float) -> Life:
        assert isinstance(link.channel, _SharedChannel)
        message = _Message(task.number, bits / link.rate_bps)
        self.shared.append((node, link, message))
        with node.sending.raised(1):
            try:
                yield from link.channel.serve(message)  # pyright: ignore[reportArgumentType] - it has all that is read
            finally:
                self.shared.remove((node, link, message))
                node.sending_bps.total += self._sent_bits(link, message)

    @staticmethod
    def _sent_bits(link: _Link, message: _Message) -> float:
        """Return the bits that have been sent of a message on a shared channel, or that has just left it."""
        assert isinstance(link.channel, _SharedChannel)
        left_s = max(link.channel.left_s(message), 0.0)
        return link.rate_bps * (message.work - left_s)

    def _visit(self, task: _Task, n: int) -> Generator[simpy.Event, Any, int | None]:
        """Stay at node `n` until served there, or until sent on; return where to, or None."""
        node = self.nodes[n]
        task.node = n
        if node.down:
            raise _NodeDownError
        capacity = node.described.queue_capacity
        if capacity is not None and len(node.inside) >= capacity:
            raise _Dropped(QUEUE_FULL)
        capacity_bits = node.described.queue_capacity_bits
        if capacity_bits is not None and sum(other.bits_in for other in node.inside) + task.bits_in > capacity_bits:
            raise _Dropped(QUEUE_FULL)
        to_decide = node.decides and len(task.path) < self.config.decisions.max_hops
        newest = self.config.decisions.offer == "newest"
        deadlines = self.config.deadlines
        gives_up = n in self.in_ticks and deadlines.expiry == "queued" and (newest or not to_decide)
        if deadlines.expiry != "never" and not gives_up:
            # A late task is not let in, even where a server is idle, but by a node that gives it up itself.
            expires_s = task.created_s + task.relative_deadline_s + deadlines.grace_s
            if self.clock.now >= expires_s:
                raise _Dropped(EXPIRED)
        node.inside.append(task)
        try:
            if n in self.in_ticks and not task.path and (newest or not to_decide):
                return (yield from self._serve(task, n, offer=False, receive=True))
            if to_decide and not newest:
                destination = yield from self._hold(task, node)
                if destination is not None:
                    return destination
            return (yield from self._serve(task, n, offer=to_decide and newest))
        finally:
            node.inside.remove(task)

    def _hold(self, task: _Task, node: _Node) -> Generator[simpy.Event, Any, int | None]:
        if self.at_once:
            action = int(next(self.next_action))
            return node.neighbours[action - 1] if 1 <= action <= len(node.neighbours) else None
        task.decision = self.clock.event()
        node.held.append(task)
        with self._stage(task, "holding"):
            try:
                return (yield task.decision)
            except simpy.Interrupt:
                node.held.remove(task)
                raise

    def _serve(
        self, task: _Task, n: int, *, offer: bool, receive: bool = False
    ) -> Generator[simpy.Event, Any, int | None]:
        """Wait for a server and be served; a task that was on offer meanwhile may be sent on: return where to."""
        node = self.nodes[n]
        in_ticks = n in self.in_ticks
        if (node.at_once is None or node.serving < node.at_once) and not in_ticks:
            node.serving += 1
        else:
            task.decision = self.clock.event()
            (node.received if receive else node.queue).append(task)
            if offer:
                node.held.append(task)
            with self._stage(task, "waiting"):
                try:
                    destination = yield task.decision
                except simpy.Interrupt:
                    if task in node.queue or task in node.received:
                        node.leave_queue(task)
                    elif in_ticks:
                        node.current = None
                    else:
                        node.free_server()  # a failure has just freed it for this task, and takes this task too
                    raise
            if destination is not None:
                return destination
        if in_ticks:
            try:
                with self._stage(task, "service"):
                    yield task.served
            finally:
                node.current = None
            return None
        try:
            if node.cores is not None:
                with self._stage(task, "service"):
                    yield from node.cores.serve(task)
                return None
            with self._stage(task, "service"), node.busy.raised(1):
                yield _Moment(self.clock, task.work / node.core_speed, SERVICE_END, n, task.number)
        finally:
            node.free_server()
        return None


def described_cloud(cloud: Cloud) -> ManualNode:
    """Return the cloud as if it were a node of a manual topology."""
    return ManualNode(name="cloud", instructions_per_second=cloud.instructions_per_second, cores=cloud.vms)


LINK_KEYS = ("rate_bps", "latency_s", "jitter_s", "loss_probability", "contention", "channel")


def given(override: LinkOverride) -> dict[str, Any]:
    """Return what an override changes; another medium must be `fixed`."""
    values: dict[str, Any] = {}
    if override.medium is not None:
        assert isinstance(override.medium, Fixed)
        values |= {name: getattr(override.medium, name) for name in LINK_KEYS}
    return values | {name: getattr(override, name) for name in LINK_KEYS if getattr(override, name) is not None}


def reference_episode(config: EnvironmentConfig, key: int, actions: np.ndarray | Sequence[Sequence[int]]) -> Episode:
    """Run one episode.

    Args:
        config: a `manual` topology, `fixed` links with overrides by name, jobs of kind `mix`, load in tasks per second
            per client, no limit on destinations, and one law of failures and one power for all nodes.
        key: the episode's key.
        actions: [W, A] integers, row w applied at w decision intervals; with `decisions.when: arrival` [W], one for
            each decision in their order, at least as many as there are. One that is not valid acts as 0.

    Returns:
        What became of each task, in order of creation (then by node), times in seconds; and the energy of each node,
        without that of broadcasts.
    """
    return _Reference(config, key, np.asarray(actions)).run()
