"""The clock of the reference: events of one instant have an order, and levels are integrated over time.

Simpy runs events of one instant in the order they were made. The simulator promises an order by kind, then node,
then task, so each event here carries that rank; whatever simpy schedules for itself to carry on at the same instant
(starts and interruptions of processes, grants of servers) goes first, before any other event of the instant.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import simpy
from simpy.core import SimTime
from simpy.events import NORMAL, EventPriority

# Kinds of events, in their order at equal times.
RESULT, SERVICE_END, LOSS, EXPIRY, FAILURE, REPAIR, TRANSFER, ARRIVAL, TICK, DECISION = range(10)

Life = Generator[simpy.Event, Any, Any]


class Clock(simpy.Environment):
    """Runs events of one instant by rank; those without a rank are simpy's own and go first."""

    def schedule(self, event: simpy.Event, priority: EventPriority = NORMAL, delay: SimTime = 0) -> None:
        super().schedule(event, getattr(event, "rank", priority), delay)


class Moment(simpy.Timeout):
    """An event that has a place among those of the same instant."""

    def __init__(self, clock: simpy.Environment, delay_s: float, kind: int, node: int = 0, task: int = 0) -> None:
        # Above NORMAL, the larger of simpy's own two priorities.
        self.rank = EventPriority(NORMAL + 1 + (kind * 2**32 + node) * 2**32 + task)
        super().__init__(clock, delay_s)


class Meter:
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
