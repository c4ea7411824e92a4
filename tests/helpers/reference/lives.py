"""The life of a task: holding, waiting, service, transfers and return, until its result is back or it is dropped."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import simpy

from helpers.reference.clock import EXPIRY, FAILURE, SERVICE_END, TRANSFER, Life, Moment
from helpers.reference.parts import Node, Task
from helpers.reference.transfers import Dropped, Transfers
from offload_rllib.simulator.types import EXPIRED, FINISHED, NODE_FAILED, QUEUE_FULL


class NodeDownError(Exception):
    pass


class Lives(Transfers):
    """A network in which tasks live."""

    @contextmanager
    def _stage(self, task: Task, name: str) -> Iterator[None]:
        """Book the time until the block is left, in whatever way, under a stage."""
        began_s = self.clock.now
        task.stage = name
        try:
            yield
        finally:
            task.spent_s[name] += self.clock.now - began_s
            task.stage = ""

    def _live(self, task: Task) -> Life:
        try:
            yield from self._get_served(task)
            served_s = self.clock.now
            for hops_left in reversed(range(len(task.path))):
                sender, receiver = task.path[hops_left]
                yield from self._return_result(task, receiver, sender, 32 + hops_left)
            task.spent_s["return"] = self.clock.now - served_s
            task.outcome = FINISHED
        except Dropped as drop:
            task.outcome = drop.outcome
        except simpy.Interrupt:
            task.outcome = EXPIRED
        task.ended_s = self.clock.now

    def _get_served(self, task: Task) -> Life:
        """Go from node to node until one of them has served the task."""
        here: int = task.node
        while True:
            try:
                there = yield from self._visit(task, here)
            except (simpy.Interrupt, NodeDownError) as failed:
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

    def _go_back(self, task: Task) -> Generator[simpy.Event, Any, int]:
        """Leave a node that is down, for the one that sent the task there."""
        assert self.config.failures is not None
        if self.config.failures.tasks == "lost" or not task.path:
            raise Dropped(NODE_FAILED)
        sender, failed = task.path.pop()
        way_back = [self.links[b, a] for a, b in self.routes[sender, failed]]
        bits = self.config.information.message_bits
        notice_s = sum(back.mean_latency_s + bits / back.rate_bps for back in way_back)
        if self.config.tick_s is not None:
            notice_s = self._whole_ticks_s(task, notice_s, 64 + len(task.path))
        with self._stage(task, "transfer"):
            yield Moment(self.clock, notice_s, TRANSFER, sender, task.number)
        return sender

    def _visit(self, task: Task, n: int) -> Generator[simpy.Event, Any, int | None]:
        """Stay at node `n` until served there, or until sent on; return where to, or None."""
        node = self.nodes[n]
        task.node = n
        if node.down:
            raise NodeDownError
        capacity = node.described.queue_capacity
        if capacity is not None and len(node.inside) >= capacity:
            raise Dropped(QUEUE_FULL)
        capacity_bits = node.described.queue_capacity_bits
        if capacity_bits is not None and sum(other.bits_in for other in node.inside) + task.bits_in > capacity_bits:
            raise Dropped(QUEUE_FULL)
        to_decide = node.decides and len(task.path) < self.config.decisions.max_hops
        newest = self.config.decisions.offer == "newest"
        deadlines = self.config.deadlines
        gives_up = n in self.in_ticks and deadlines.expiry == "queued" and (newest or not to_decide)
        if deadlines.expiry != "never" and not gives_up:
            # A late task is not let in, even where a server is idle, but by a node that gives it up itself.
            expires_s = task.created_s + task.relative_deadline_s + deadlines.grace_s
            if self.clock.now >= expires_s:
                raise Dropped(EXPIRED)
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

    def _hold(self, task: Task, node: Node) -> Generator[simpy.Event, Any, int | None]:
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
        self, task: Task, n: int, *, offer: bool, receive: bool = False
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
                yield Moment(self.clock, task.work / node.core_speed, SERVICE_END, n, task.number)
        finally:
            node.free_server()
        return None

    def _watch(self, task: Task) -> Life:
        """Interrupt a task that is still inside when it expires."""
        yield self.clock.timeout(task.relative_deadline_s)
        yield Moment(self.clock, self.config.deadlines.grace_s, EXPIRY, task.origin, task.number)
        assert task.life is not None
        anywhere = self.config.deadlines.expiry == "abort"
        # What waits at a node that works in ticks expires when the node has worked.
        stages = {"holding"} if task.node in self.in_ticks else {"holding", "waiting"}
        if task.life.is_alive and (anywhere or task.stage in stages):
            task.life.interrupt(EXPIRY)
