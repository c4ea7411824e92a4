"""One link out of a node: what is sent over it, when it leaves, and what has not left yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from offload_rllib.envs.node_view import Heard, NodeView
from offload_rllib.simulator.types import EXPIRY_ABORT
from offload_rllib.testbed.clock import ScenarioClock
from offload_rllib.testbed.wire import GAP, PAYLOAD, TASK, FrameReader, Task, frame, pack_broadcast, pack_task

# Bytes of a payload are sent in parts, so that the last one leaves when the model says that the message arrives.
PART_BYTES = 2**16
MOST_PARTS = 16
MOST_PART_BYTES = 2**19
_BYTES = memoryview(bytes(MOST_PART_BYTES))


@dataclass(slots=True, eq=False)
class Shipment:
    """A task or a result that has been given to a link."""

    kind: int
    task: Task
    arrives_s: float
    lost: bool
    timer: asyncio.TimerHandle | None = None


class OutgoingLink:
    """A link of this node to a neighbour.

    A shaped link delivers each message at the time that the scenario's model gives it (`simulator.links`), with its
    real bytes sent at an even pace until then. A link left to itself sends all of them at once, or after its latency.

    Attributes:
        index: of the link.
        destination: index of the neighbour.
        connection: to it; None while there is none.
        on_the_way: what has been given to the link and has not left.
        sent_bytes: payload written to the connection.
    """

    def __init__(
        self,
        index: int,
        record: Any,
        view: NodeView,
        clock: ScenarioClock,
        *,
        shaped: bool,
        held_s: float,
        broadcast_delay_s: float,
        expiry: int,
        dropped: Callable[[Shipment, str], None],
    ) -> None:
        """Begin without a connection.

        Args:
            index: of the link.
            record: its LINK.
            view: of this node, which knows its own links.
            clock: of this process.
            shaped: keep to the model.
            held_s: otherwise, for so long is a message kept before it is sent.
            broadcast_delay_s: of a broadcast, when shaped.
            expiry: what a deadline does, of `simulator.types`.
            dropped: called with what ends here, ``expired`` or ``unreachable``.
        """
        self.index = index
        self.destination = int(record["destination"])
        self.connection: FrameReader | None = None
        self.on_the_way: set[Shipment] = set()
        self.sent_bytes = 0
        self._seconds_per_bit = float(record["seconds_per_bit"])
        self._view = view
        self._clock = clock
        self._shaped = shaped
        self._held_s = held_s
        self._delay_s = broadcast_delay_s
        self._aborts = expiry == EXPIRY_ABORT
        self._dropped = dropped

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self.connection is not None

    def send(self, kind: int, task: Task, bits: float, now_s: float) -> None:
        """Send a task or a result with its bits, divided by the speed: a second of the link is one of the scenario."""
        size = int(bits / 8 / self._clock.speed)
        if not self._shaped:
            shipment = Shipment(kind, task, now_s, lost=False)
            self.on_the_way.add(shipment)
            if self._held_s > 0:
                shipment.timer = self._clock.at(now_s + self._held_s, self._send_all, shipment, size)
            else:
                self._send_all(shipment, size)
            return
        arrives_s, lost = self._view.give_to_link(self.index, bits, task.deadline_s, now_s)
        shipment = Shipment(kind, task, arrives_s, lost)
        self.on_the_way.add(shipment)
        late = arrives_s >= task.deadline_s if kind == TASK else arrives_s > task.deadline_s
        if self._aborts and late:
            shipment.timer = self._clock.at(max(task.deadline_s, now_s), self._drop, shipment, "expired")
            return
        parts = max(1, -(-size // min(max(PART_BYTES, size // MOST_PARTS), MOST_PART_BYTES)))
        begins_s = max(now_s, arrives_s - bits * self._seconds_per_bit)
        self._pace(shipment, begins_s, size, 0, parts)

    def _send_all(self, shipment: Shipment, size: int) -> None:
        """Write a message at once: the link takes what time it takes."""
        while size > PART_BYTES:
            self._write_part(PART_BYTES)
            size -= PART_BYTES
        self._arrive(shipment, size)

    def _pace(self, shipment: Shipment, begins_s: float, size: int, part: int, parts: int) -> None:
        """Send part number `part` at its time, and the one behind it then."""
        if part == parts - 1:
            last = size - part * (size // parts)
            shipment.timer = self._clock.at(shipment.arrives_s, self._arrive, shipment, last)
            return
        time_s = begins_s + (part + 1) / parts * (shipment.arrives_s - begins_s)

        def write() -> None:
            self._write_part(size // parts)
            self._pace(shipment, begins_s, size, part + 1, parts)

        shipment.timer = self._clock.at(time_s, write)

    def _write_part(self, size: int) -> None:
        if self.connection is not None:
            self.sent_bytes += size
            self.connection.write(frame(PAYLOAD, _BYTES[:size]))

    def _arrive(self, shipment: Shipment, size: int) -> None:
        if self.connection is None:
            self._drop(shipment, "unreachable")
            return
        while size > MOST_PART_BYTES:
            self._write_part(MOST_PART_BYTES)
            size -= MOST_PART_BYTES
        self.on_the_way.discard(shipment)
        self.sent_bytes += size
        if shipment.lost:
            self.connection.write(frame(GAP, bytes([shipment.kind]), pack_task(shipment.task)))
        else:
            self.connection.write(frame(shipment.kind, pack_task(shipment.task), _BYTES[:size]))

    def _drop(self, shipment: Shipment, why: str) -> None:
        self.on_the_way.discard(shipment)
        self._dropped(shipment, why)

    def tell(self, heard: Heard) -> None:
        """Send a broadcast."""
        data = pack_broadcast(heard)
        delay_s = self._delay_s if self._shaped else self._held_s
        if delay_s > 0:
            self._clock.at(heard.stamp_s + delay_s, self._tell, data)
        else:
            self._tell(data)

    def _tell(self, data: bytes) -> None:
        if self.connection is not None:
            self.connection.write(data)

    def forget(self) -> None:
        """Count again from the start what was sent: the neighbour has failed, and knows of nothing that reached it."""
        sending = [shipment.task.work for shipment in self.on_the_way if shipment.kind == TASK]
        self._view.forget(self.index, len(sending), sum(sending))

    def stop(self) -> list[tuple[int, Task]]:
        """Send nothing more; return what has not left, with its kind."""
        for shipment in self.on_the_way:
            if shipment.timer is not None:
                shipment.timer.cancel()
        left = [(shipment.kind, shipment.task) for shipment in self.on_the_way]
        self.on_the_way.clear()
        return left
