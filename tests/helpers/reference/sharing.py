"""Cores, and channels of links, that are shared equally by those that use them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import simpy

from helpers.reference.clock import SERVICE_END, Life, Meter, Moment


class Served(Protocol):
    """What shares something: a task on cores, a message on a channel."""

    number: int  # of the task
    work: float  # instructions, or seconds of airtime
    served: simpy.Event | None


class SharedCores:
    """The cores of one node, shared equally by the tasks in service; each of them uses one core at most."""

    def __init__(self, clock: simpy.Environment, n: int, cores: int, core_speed: float, busy: Meter) -> None:
        self.clock, self.n, self.cores, self.core_speed, self.busy = clock, n, cores, core_speed, busy
        self.work_left: dict[Served, float] = {}
        self.changed_s = 0.0
        self.changes = 0
        self.left_over = 0.0  # of the task that left last

    def serve(self, task: Served) -> Life:
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

    def _end(self, left_s: float, task: Served) -> simpy.Event:
        return Moment(self.clock, left_s, SERVICE_END, self.n, task.number)


class SharedChannel(SharedCores):
    """A channel of links, shared equally by the messages on it, whose work is their airtime."""

    def __init__(self, clock: simpy.Environment) -> None:
        super().__init__(clock, 0, 1, 1.0, Meter(clock))

    def left_s(self, message: Served) -> float:
        """Return the airtime that is left of a message, also of the one that left last."""
        self._advance()
        return self.work_left.get(message, self.left_over)

    def _end(self, left_s: float, task: Served) -> simpy.Event:  # noqa: ARG002 - as in its base class
        return self.clock.timeout(left_s)  # a message is sent before anything else happens


@dataclass(eq=False)
class Message:
    """What a shared channel serves."""

    number: int  # of its task
    work: float  # airtime in seconds
    served: simpy.Event | None = None
