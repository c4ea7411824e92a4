"""The servers of a node and the tasks that wait for them, in real time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from offload_rllib.simulator.types import EDF, LIFO, SJF
from offload_rllib.testbed.compute import Compute, Done
from offload_rllib.testbed.wire import Task


@dataclass(slots=True)
class Service:
    """A task in service."""

    task: Task
    until_s: float
    """When its service ends by work and speed."""


class Station:
    """Servers that take the waiting tasks one after the other.

    Attributes:
        compute: what keeps the servers busy.
        waiting: tasks that wait, in the order in which they came.
        serving: tasks in service, by number.
        bits: inputs of all of them.
    """

    def __init__(
        self,
        servers: int,
        core_speed: float,
        discipline: int,
        compute: Callable[[Done], Compute],
        done: Done,
    ) -> None:
        """Begin empty.

        Args:
            servers: how many tasks are served at once.
            core_speed: of each, instructions per second.
            discipline: a queue of `simulator.types`.
            compute: makes what keeps the servers busy, given what it is to call at the end of a service.
            done: called with each task whose service has ended, and when.
        """
        self.compute = compute(self._ended)
        self.waiting: list[Task] = []
        self.serving: dict[int, Service] = {}
        self.bits = 0.0
        self._core_speed = core_speed
        self._discipline = discipline
        self._done = done
        self._idle_from_s = [0.0] * servers

    def __len__(self) -> int:
        """Return how many tasks wait or are served."""
        return len(self.waiting) + len(self.serving)

    def __iter__(self) -> Iterator[Task]:
        """Iterate over all of them."""
        yield from self.waiting
        for service in self.serving.values():
            yield service.task

    def add(self, task: Task, now_s: float) -> None:
        """Let a task be served, or wait."""
        task.since_s = now_s
        self.bits += task.bits_in
        if self._idle_from_s:
            self._start(task, now_s)
        else:
            self.waiting.append(task)

    def _start(self, task: Task, ready_s: float) -> None:
        start_s = max(ready_s, self._idle_from_s.pop(0))
        task.waiting_s += start_s - task.since_s
        task.since_s = start_s
        service_s = task.work / self._core_speed
        self.serving[task.number] = Service(task, start_s + service_s)
        self.compute.begin(task, start_s, service_s)

    def _next(self) -> Task:
        if self._discipline == LIFO:
            return self.waiting.pop()
        place = 0
        if self._discipline in (EDF, SJF):

            def order(i: int) -> tuple[float, int]:
                task = self.waiting[i]
                return (task.deadline_s if self._discipline == EDF else task.work, task.number)

            place = min(range(len(self.waiting)), key=order)
        return self.waiting.pop(place)

    def _free(self, task: Task, now_s: float) -> None:
        del self.serving[task.number]
        self._forget(task)
        task.service_s += now_s - task.since_s
        self._idle_from_s.append(now_s)
        if self.waiting:
            following = self._next()
            self._start(following, following.since_s)

    def _forget(self, task: Task) -> None:
        self.bits = self.bits - task.bits_in if len(self) else 0.0

    def _ended(self, task: Task, end_s: float) -> None:
        """Note that a service has ended: the next task takes the server from that time on."""
        self._free(task, end_s)
        self._done(task, end_s)

    def is_waiting(self, task: Task) -> bool:
        """Return whether a task of this station waits."""
        return task.number not in self.serving

    def remove(self, task: Task, now_s: float) -> None:
        """Take a task out of queue or service."""
        if self.is_waiting(task):
            self.waiting.remove(task)
            self._forget(task)
            task.waiting_s += now_s - task.since_s
        else:
            self.compute.stop(task)
            self._free(task, now_s)
