"""What the reference consists of: links, nodes and tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import simpy

from helpers.reference.clock import Meter
from helpers.reference.sharing import SharedChannel, SharedCores
from offload_rllib.config.duration import Duration
from offload_rllib.config.topology import ManualNode
from offload_rllib.simulator.types import OPEN


@dataclass(eq=False)
class Link:
    """One direction of a link."""

    rate_bps: float
    latency: Duration
    jitter: Duration
    loss_probability: float
    channel: simpy.Resource | SharedChannel | None  # with contention
    key: np.uint64
    transfers: int = 0
    free_s: float = 0.0  # where time has ticks: when what was given to it has been sent

    @property
    def mean_latency_s(self) -> float:
        return self.latency.mean + self.jitter.mean


@dataclass(eq=False)
class Node:
    described: ManualNode
    core_speed: float
    servers: int
    at_once: int | None  # tasks in service at once; None: all of them
    cores: SharedCores | None  # where they are shared
    discipline: str
    neighbours: list[int]  # where the agent can send tasks, in the order of its actions
    decides: bool
    key: np.uint64
    up: Meter
    busy: Meter
    sending: Meter  # transfers at once
    sending_bps: Meter
    down: bool = False
    result_bits: float = 0.0  # given to links
    serving: int = 0
    inside: list[Task] = field(default_factory=list)  # held, waiting and served
    held: list[Task] = field(default_factory=list)  # what the agent has to decide, in order of entry
    queue: list[Task] = field(default_factory=list)  # in order of entry
    current: Task | None = None  # in service, where nodes work in ticks
    received: list[Task] = field(default_factory=list)  # and what waits to join the queue there

    def leave_queue(self, task: Task) -> None:
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

    def take_next(self) -> Task:
        """Take the next task to be served out of the queue."""
        if self.discipline == "edf":
            chosen = min(self.queue, key=lambda task: (task.created_s + task.relative_deadline_s, task.number))
        elif self.discipline == "sjf":
            chosen = min(self.queue, key=lambda task: (task.work, task.number))
        elif self.discipline == "priority":
            chosen = min(self.queue, key=lambda task: (-task.priority, task.number))
        else:
            chosen = self.queue[0 if self.discipline == "fifo" else -1]
        self.leave_queue(chosen)
        return chosen


@dataclass(eq=False)
class Task:
    number: int
    origin: int
    type: int
    priority: int
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
