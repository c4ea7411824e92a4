"""How messages of tasks travel: over links, alone, one after the other, or sharing a channel; and in ticks."""

from __future__ import annotations

import math
from contextlib import ExitStack

import numpy as np
import simpy

from helpers.reference.arrivals import draw
from helpers.reference.clock import LOSS, RESULT, Life, Moment
from helpers.reference.draws import duration_s
from helpers.reference.parts import Link, Node, Task
from helpers.reference.sharing import Message, SharedChannel
from helpers.reference.ticks import Ticks
from offload_rllib.simulator import streams
from offload_rllib.simulator.types import LOST, NODE_FAILED


class Dropped(Exception):  # noqa: N818  # not an error: one of the ways a task ends
    def __init__(self, outcome: int) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Transfers(Ticks):
    """A network over whose links tasks and results travel."""

    def _return_result(self, task: Task, here: int, there: int, turn: int) -> Life:
        for receiver, sender in reversed(self.routes[there, here]):
            self.nodes[sender].result_bits += task.bits_out
            yield from self._cross(task, sender, receiver, task.bits_out, RESULT, turn)
        if self.nodes[there].down:
            raise Dropped(NODE_FAILED)

    def _cross(self, task: Task, sender: int, receiver: int, bits: float, kind: int, turn: int) -> Life:
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
                if isinstance(link.channel, SharedChannel):
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
        latency_s = duration_s(link.latency, link.key, streams.LATENCY, number)
        latency_s += duration_s(link.jitter, link.key, streams.JITTER, number)
        if tick_s is not None:
            latency_s = self._whole_ticks_s(task, latency_s + wait_s, turn)
        lost = draw(link.key, streams.LOSS, number) < link.loss_probability
        yield Moment(self.clock, latency_s, LOSS if lost else kind, receiver, task.number)
        if lost:
            raise Dropped(LOST)

    def _whole_ticks_s(self, task: Task, delay_s: float, turn: int) -> float:
        """Return how long a message of a task takes where time has ticks; `turn` numbers those of the task."""
        tick_s = self.config.tick_s
        assert tick_s is not None
        key = streams.stream(self.nodes[task.origin].key, streams.TICK_DELIVERY)
        drawn = float(streams.uniform(np.uint64(streams.stream(np.uint64(key), task.number)), turn))
        ticks = max(1, math.floor(delay_s / tick_s + 0.5 + 1e-9))
        tick = math.floor(self.clock.now / tick_s + 0.5) + ticks
        return self._moment_s(tick, drawn, -0.375) - self.clock.now

    def _send(self, node: Node, link: Link, bits: float, seconds: float, after_s: float = 0.0) -> Life:
        if after_s > self.clock.now:
            yield self.clock.timeout(after_s - self.clock.now)
        with node.sending.raised(1), node.sending_bps.raised(link.rate_bps if bits else 0.0):
            yield self.clock.timeout(seconds)

    def _share(self, node: Node, link: Link, task: Task, bits: float) -> Life:
        assert isinstance(link.channel, SharedChannel)
        message = Message(task.number, bits / link.rate_bps)
        self.shared.append((node, link, message))
        with node.sending.raised(1):
            try:
                yield from link.channel.serve(message)  # pyright: ignore[reportArgumentType] - it has all that is read
            finally:
                self.shared.remove((node, link, message))
                node.sending_bps.total += self._sent_bits(link, message)

    @staticmethod
    def _sent_bits(link: Link, message: Message) -> float:
        """Return the bits that have been sent of a message on a shared channel, or that has just left it."""
        assert isinstance(link.channel, SharedChannel)
        left_s = max(link.channel.left_s(message), 0.0)
        return link.rate_bps * (message.work - left_s)
