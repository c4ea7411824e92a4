"""What a node does with its tasks: the events of `simulator.events`, as they happen to a real process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from offload_rllib.envs.node_view import Heard, NodeView, Resident
from offload_rllib.simulator.types import (
    EXPIRED,
    EXPIRY_ABORT,
    EXPIRY_NEVER,
    FINISHED,
    LOST,
    NODE_FAILED,
    NONE,
    OPEN,
    QUEUE_FULL,
    Array,
)
from offload_rllib.testbed.clock import ScenarioClock
from offload_rllib.testbed.compute import Compute, make_compute
from offload_rllib.testbed.decider import Decider
from offload_rllib.testbed.journal import Journal
from offload_rllib.testbed.outgoing import OutgoingLink, Shipment
from offload_rllib.testbed.setup import NAMESPACES, SHAPED, NodeOrder
from offload_rllib.testbed.station import Station
from offload_rllib.testbed.wire import RESULT, TASK, FrameReader, Task, WireError


def _as_resident(task: Task) -> Resident:
    return Resident(
        task.number,
        task.created_s,
        task.deadline_s,
        task.work,
        task.bits_in,
        task.bits_out,
        task.return_latency_s,
        task.return_seconds_per_bit,
        task.hops,
        NONE,
    )


class NodeTasks:
    """The tasks of one node, and what it knows.

    Attributes:
        n: index of the node.
        view: its knowledge.
        links: its links to neighbours, by their index.
        journal: what happened.
        decider: how it decides.
        open: whether the play is on.
        broadcasts: how many it has sent.
    """

    def __init__(
        self,
        order: NodeOrder,
        view: NodeView,
        clock: ScenarioClock,
        connections: Mapping[int, FrameReader],
    ) -> None:
        """Begin to play at the present time of a clock; the node is empty, and earlier arrivals have passed it by.

        Args:
            order: what the process was started with.
            view: of this node.
            clock: of this process.
            connections: to neighbours, by their index.
        """
        network, arrays = order.network, order.network.arrays
        self.n = order.n
        self.view = view
        self.journal = Journal()
        self.decider = Decider(view, network, order.brain)
        self.open = True
        self.broadcasts = 0
        self._clock = clock
        self._shaped = order.options.network == SHAPED
        self._interval_s = network.interval_s
        self._here = arrays.node[order.n]
        self._link = arrays.link
        settings = arrays.settings[0]
        self._expiry = int(settings["expiry"])
        self._grace_s = float(settings["expiry_grace_s"])
        self._horizon_s = float(settings["horizon_s"])
        self._max_hops = int(settings["max_hops"])
        self._awaited: dict[int, float] = {}
        self._expiries: dict[int, asyncio.TimerHandle] = {}
        self._station = Station(
            int(self._here["servers"]),
            float(self._here["core_speed"]),
            int(self._here["queue"]),
            lambda done: make_compute(order, clock, done),
            self._served,
        )
        first = int(self._here["first_link"])
        self.links = {
            index: OutgoingLink(
                index,
                self._link[index],
                view,
                clock,
                shaped=self._shaped,
                held_s=float(self._link[index]["latency_s"]) if order.options.network == NAMESPACES else 0.0,
                broadcast_delay_s=float(network.broadcast_delay_s[index]),
                expiry=self._expiry,
                dropped=self._not_delivered,
            )
            for index in range(first, first + int(self._here["degree"]))
        }
        for link in self.links.values():
            link.connection = connections.get(link.destination)
        now_s = clock.now()
        for row in order.arrivals[order.arrivals["created_s"] >= now_s]:
            clock.at(float(row["created_s"]), self._create, row)
        passed = max(-(-(now_s - view.phase_s) // self._interval_s), 0)
        self._schedule_broadcast(view.phase_s + passed * self._interval_s)

    @property
    def compute(self) -> Compute:
        """What keeps the servers busy."""
        return self._station.compute

    def _create(self, row: Array) -> None:
        """Let the client here make a task."""
        if not self.open:
            return
        task = Task(
            number=int(row["number"]),
            origin=int(row["origin"]),
            type=int(row["type"]),
            created_s=float(row["created_s"]),
            deadline_s=float(row["deadline_s"]),
            work=float(row["work"]),
            bits_in=float(row["bits_in"]),
            bits_out=float(row["bits_out"]),
        )
        task.since_s = task.created_s
        ends = self._expiry != EXPIRY_NEVER
        self._awaited[task.number] = task.deadline_s + self._grace_s if ends else float("inf")
        self._enter(task, max(self._clock.now(), task.created_s))

    def _enter(self, task: Task, now_s: float) -> None:
        """Let a task enter the node, as `events.entry.enter`."""
        task.node = self.n
        full = len(self._station) >= self._here["capacity"]
        if full or self._station.bits + task.bits_in > self._here["capacity_bits"]:
            self._end(task, now_s, QUEUE_FULL)
        elif self._expiry != EXPIRY_NEVER and now_s >= task.deadline_s + self._grace_s:
            self._end(task, now_s, EXPIRED)
        elif self.view.agent != NONE and task.hops < self._max_hops:
            self._decide(task, now_s)
        else:
            self._keep(task, now_s)

    def _write_tasks(self, now_s: float, held: Resident | None = None) -> None:
        """Write what the node knows of its own tasks."""
        aborts = self._expiry == EXPIRY_ABORT
        served = [
            (_as_resident(s.task), min(s.until_s, s.task.deadline_s) if aborts else s.until_s)
            for s in self._station.serving.values()
        ]
        self._awaited = {number: until_s for number, until_s in self._awaited.items() if until_s > now_s}
        self.view.write_tasks(served, [_as_resident(task) for task in self._station.waiting], held, len(self._awaited))

    def _decide(self, task: Task, now_s: float) -> None:
        began = time.perf_counter()
        self._write_tasks(now_s, _as_resident(task))
        link_index = self.decider(now_s)
        took = time.perf_counter() - began
        self.decider.wall_s.append(took)
        task.decision_s += took * self._clock.speed
        decided_s = max(self._clock.now(), now_s)
        if link_index == NONE:
            self._keep(task, decided_s)
            return
        task.holding_s += decided_s - task.since_s
        back = self._link[self._link[link_index]["reverse"]]
        task.path.append(link_index)
        task.return_latency_s += float(back["latency_s"])
        task.return_seconds_per_bit += float(back["seconds_per_bit"])
        task.since_s = decided_s
        self.view.sent(link_index, task.work)
        self.journal.moved(task, self.links[link_index].destination, decided_s)
        self.links[link_index].send(TASK, task, task.bits_in, decided_s)

    def _keep(self, task: Task, now_s: float) -> None:
        """Let this node process a task."""
        task.holding_s += now_s - task.since_s
        if self._expiry != EXPIRY_NEVER and task.deadline_s != float("inf"):
            self._expiries[task.number] = self._clock.at(task.deadline_s + self._grace_s, self._expire, task)
        self._station.add(task, now_s)

    def _expire(self, task: Task) -> None:
        """Let a task end at its deadline; with expiry ``queued`` only if it waits."""
        del self._expiries[task.number]
        if self._expiry == EXPIRY_ABORT or self._station.is_waiting(task):
            expires_s = task.deadline_s + self._grace_s
            self._station.remove(task, expires_s)
            self._end(task, expires_s, EXPIRED)

    def _served(self, task: Task, end_s: float) -> None:
        """Send the result of a task back the way it came."""
        timer = self._expiries.pop(task.number, None)
        if timer is not None:
            timer.cancel()
        task.service_end_s = end_s
        task.hops_left = task.hops
        self._return(task, end_s)

    def _return(self, task: Task, now_s: float) -> None:
        if task.hops_left == 0:
            self._end(task, now_s, FINISHED)
            return
        task.hops_left -= 1
        link_index = int(self._link[task.path[task.hops_left]]["reverse"])
        self.links[link_index].send(RESULT, task, task.bits_out, now_s)

    def _not_delivered(self, shipment: Shipment, why: str) -> None:
        """Let a task end that a link has not delivered."""
        task, now_s = shipment.task, self._clock.now()
        if shipment.kind == TASK:
            # A node knows what it has given up itself.
            self.view.sent(task.path[-1], task.work, -1)
        if why == "expired":
            now_s = min(now_s, max(task.deadline_s, task.since_s))
        if shipment.kind == TASK:
            task.transfer_s += now_s - task.since_s
        self._end(task, now_s, EXPIRED if why == "expired" else NODE_FAILED)

    def _end(self, task: Task, now_s: float, outcome: int) -> None:
        if task.origin == self.n:
            self._awaited.pop(task.number, None)
        self.journal.ended(task, now_s, outcome)

    def receive(self, kind: int, task: Task, sender: int) -> None:
        """Take a task or a result from a neighbour.

        Raises:
            WireError: it did not come over a link from that neighbour.
        """
        last = task.path[-1] if kind == TASK and task.path else None
        if kind == RESULT and task.hops_left < task.hops:
            last = int(self._link[task.path[task.hops_left]]["reverse"])
        if last is None or (self._link[last]["source"], self._link[last]["destination"]) != (sender, self.n):
            raise WireError("a task that came another way")
        # Clocks of two machines agree to half a round trip: what has come was sent before.
        now_s = max(self._clock.now(), task.since_s, task.service_end_s)
        if not self.open:
            self.journal.ended(task, self._horizon_s, OPEN)
        elif kind == TASK:
            self.view.arrived(last, task.work)
            task.transfer_s += now_s - task.since_s
            task.since_s = now_s
            self._enter(task, now_s)
        elif not self._shaped and self._expiry == EXPIRY_ABORT and now_s > task.deadline_s:
            self._end(task, now_s, EXPIRED)
        else:
            self._return(task, now_s)

    def lose(self, kind: int, task: Task) -> None:
        """Note that a link has lost a task or a result."""
        now_s = max(self._clock.now(), task.since_s, task.service_end_s)
        if kind == TASK and task.path:
            self.view.arrived(task.path[-1], task.work)
            task.transfer_s += now_s - task.since_s
        self._end(task, now_s, LOST)

    def miss(self, link_index: int) -> None:
        """Note that the neighbour at the end of a link has failed: it is gone, and as empty as it is silent."""
        self.links[link_index].forget()
        self.view.hear(link_index, Heard(self._clock.now(), 0, 0.0, 1, 0, 0.0))

    def _schedule_broadcast(self, time_s: float) -> None:
        if time_s <= self._horizon_s:
            self._clock.at(time_s, self._broadcast, time_s)

    def _broadcast(self, time_s: float) -> None:
        """Tell all neighbours the state of this node."""
        if not self.open:
            return
        now_s = self._clock.now()
        self._write_tasks(now_s)
        tasks, free_s = self.view.advertise(now_s)
        for link in self.links.values():
            arrived, work = self.view.counts(int(self._link[link.index]["reverse"]))
            link.tell(Heard(now_s, tasks, free_s, 0, arrived, work))
        self.broadcasts += 1
        self._schedule_broadcast(time_s + self._interval_s)

    def stop(self) -> None:
        """End the play: note what is unfinished."""
        self.open = False
        for timer in self._expiries.values():
            timer.cancel()
        self.compute.close()
        unfinished: list[Task] = list(self._station)
        for link in self.links.values():
            unfinished += [task for _, task in link.stop()]
        for task in unfinished:
            self.journal.ended(task, self._horizon_s, OPEN)
