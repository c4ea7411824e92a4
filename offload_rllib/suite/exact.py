"""Exact responses of tasks with fixed destinations, by the recursions of queueing theory, in plain Python.

Nothing of the simulator is used here: these functions are what it is compared with.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from offload_rllib.config import ConfigError

# Outcomes, as in the logs of tasks.
FINISHED, EXPIRED, QUEUE_FULL = "finished", "expired", "queue_full"
# What happens to a task, in the order of events at one instant.
ENTERS, ARRIVES = range(2)
# How nodes serve tasks.
PARALLEL, POOLED, SHARED = "parallel", "pooled", "shared"


@dataclass(frozen=True)
class Station:
    """A node that serves tasks."""

    name: str
    cores: int
    """How many."""
    speed: float
    """Instructions per second of one core."""
    service: str = PARALLEL
    """`parallel`: one task per core; `pooled`: all cores on one task; `shared`: all tasks at once."""
    capacity: float = math.inf
    """Tasks waiting and in service."""

    @property
    def servers(self) -> int:
        """Tasks that are served at once in order of arrival."""
        return 1 if self.service == POOLED else self.cores

    @property
    def server_speed(self) -> float:
        """Instructions per second of one of them."""
        return self.speed * (self.cores if self.service == POOLED else 1)


class Way(NamedTuple):
    """One direction of a link."""

    latency_s: float
    seconds_per_bit: float


@dataclass(frozen=True)
class TaskList:
    """T tasks in order of time.

    Attributes:
        time_s: [T] creation.
        origin: [T] index of the node whose client creates the task.
        destination: [T] index of the node that is to process it.
        work: [T] instructions.
        bits_in: [T] size of the task.
        bits_out: [T] size of its result.
        deadline_s: [T] seconds from the creation; infinite: none.
    """

    time_s: np.ndarray
    origin: np.ndarray
    destination: np.ndarray
    work: np.ndarray
    bits_in: np.ndarray
    bits_out: np.ndarray
    deadline_s: np.ndarray

    def __len__(self) -> int:
        """Return T."""
        return len(self.time_s)


@dataclass(frozen=True)
class Exact:
    """The fates of T tasks.

    Attributes:
        response_s: [T] from the creation until the result is back; NaN if the task does not finish.
        outcome: [T] `finished`, `expired` or `queue_full`.
        last_s: time of the last event.
    """

    response_s: np.ndarray
    outcome: list[str]
    last_s: float


class Line:
    """A node that serves in order of arrival.

    Lindley's recursion for several servers (J. Kiefer, J. Wolfowitz, "On the theory of queues with many servers",
    Transactions of the AMS 78, 1955), with tasks that give up at a time of their own, and a bounded number of places.
    """

    def __init__(self, station: Station) -> None:
        """Begin with an empty node."""
        self.station = station
        self._free_s = [0.0] * station.servers
        self._leave_s: list[float] = []

    def is_full(self, now_s: float) -> bool:
        """Return whether all places are taken; times must not go back from one call to the next."""
        while self._leave_s and self._leave_s[0] <= now_s:
            heapq.heappop(self._leave_s)
        return len(self._leave_s) >= self.station.capacity

    def take(self, now_s: float, work: float, until_s: float) -> tuple[float, str]:
        """Return when a task leaves that arrives now, and why.

        Args:
            now_s: the time.
            work: instructions.
            until_s: when it gives up, waiting or in service; infinite: never.
        """
        if now_s >= until_s:
            return until_s, EXPIRED
        if self.is_full(now_s):
            return now_s, QUEUE_FULL
        start_s = max(now_s, self._free_s[0])
        end_s = start_s + work / self.station.server_speed if start_s < until_s else math.inf
        if start_s < until_s:
            heapq.heapreplace(self._free_s, min(end_s, until_s))
        left = (end_s, FINISHED) if end_s <= until_s else (until_s, EXPIRED)
        heapq.heappush(self._leave_s, left[0])
        return left


def with_shared_cores(
    station: Station, arrival_s: Sequence[float], work: Sequence[float], until_s: Sequence[float]
) -> list[tuple[float, str]]:
    """Return when each task leaves a node whose cores are shared equally, a task using one core at most.

    By definition: what is left of every task, from one event to the next (L. Kleinrock, "Time-shared systems: a
    theoretical treatment", Journal of the ACM 14, 1967).

    Args:
        station: the node, with places for all.
        arrival_s: [T] in order.
        work: [T] instructions.
        until_s: [T] when a task gives up; infinite: never.
    """
    left: list[tuple[float, str]] = [(math.nan, FINISHED)] * len(work)
    there: list[int] = []
    # Of each task there: what is left, on a core of its own, and when it gives up.
    remaining_s, patient_s = np.empty(0), np.empty(0)
    now, coming = 0.0, 0
    while coming < len(work) or there:
        share = min(1.0, station.cores / len(there)) if there else 1.0
        first, given_up = (int(remaining_s.argmin()), int(patient_s.argmin())) if there else (-1, -1)
        end = now + remaining_s[first] / share if there else math.inf
        expiry = patient_s[given_up] if there else math.inf
        arrival = arrival_s[coming] if coming < len(work) else math.inf
        until = min(end, expiry, arrival)
        remaining_s = remaining_s - share * (until - now)
        now = until
        if there and until < arrival:
            leaves, why = (first, FINISHED) if end <= expiry else (given_up, EXPIRED)
            left[there.pop(leaves)] = (float(now), why)
            remaining_s, patient_s = np.delete(remaining_s, leaves), np.delete(patient_s, leaves)
            continue
        if arrival >= until_s[coming]:
            left[coming] = (until_s[coming], EXPIRED)
        else:
            there.append(coming)
            remaining_s = np.append(remaining_s, work[coming] / station.speed)
            patient_s = np.append(patient_s, until_s[coming])
        coming += 1
    return left


def exact_responses(stations: Sequence[Station], ways: dict[tuple[int, int], Way], tasks: TaskList) -> Exact:
    """Return the exact response of every task.

    A task enters at its origin, where it needs a place even if it leaves at once. It travels to its destination in
    latency + bits / rate, whatever else is on the link, and so does its result. A late task is dropped wherever it is.

    Args:
        stations: the nodes, by index.
        ways: latency and rate from a node to another one.
        tasks: what they need.

    Raises:
        ConfigError: there is no way from an origin to a destination, or back; or shared cores have bounded places.
    """
    for station in stations:
        if station.service == SHARED and station.capacity < math.inf:
            raise ConfigError(f"node '{station.name}': capacity {station.capacity:g}; with shared cores accepted: none")
    sent_s, back_s = _travel(stations, ways, tasks)
    until_s = tasks.time_s + tasks.deadline_s
    lines = {i: Line(station) for i, station in enumerate(stations) if station.service != SHARED}
    shared: dict[int, list[tuple[float, int]]] = {i: [] for i in range(len(stations)) if i not in lines}
    left: list[tuple[float, str]] = [(math.nan, FINISHED)] * len(tasks)
    # Tasks that enter, and those that arrive elsewhere later, in order of time.
    coming = [(float(now_s), ENTERS, i) for i, now_s in enumerate(tasks.time_s)]
    while coming:
        now_s, what, i = heapq.heappop(coming)
        origin, there = int(tasks.origin[i]), int(tasks.destination[i])
        if what == ENTERS and origin != there:
            if origin in lines and lines[origin].is_full(now_s):
                left[i] = (now_s, QUEUE_FULL)
            else:
                heapq.heappush(coming, (now_s + float(sent_s[i]), ARRIVES, i))
        elif there in lines:
            left[i] = lines[there].take(now_s, float(tasks.work[i]), float(until_s[i]))
        else:
            shared[there].append((now_s, i))
    for there, arrivals in shared.items():
        here = [i for _, i in arrivals]
        given = ([now_s for now_s, _ in arrivals], tasks.work[here].tolist(), until_s[here].tolist())
        for i, one in zip(here, with_shared_cores(stations[there], *given), strict=True):
            left[i] = one
    done_s = np.array([leave_s for leave_s, _ in left]) + back_s
    in_time = done_s <= until_s
    outcome = [EXPIRED if why == FINISHED and not in_time[i] else why for i, (_, why) in enumerate(left)]
    finished = np.array([why == FINISHED for why in outcome])
    response_s = np.where(finished, done_s - tasks.time_s, np.nan)
    return Exact(response_s, outcome, float(np.minimum(done_s, until_s).max()))


def _travel(
    stations: Sequence[Station], ways: dict[tuple[int, int], Way], tasks: TaskList
) -> tuple[np.ndarray, np.ndarray]:
    """Return how long each task [T] and its result [T] travel."""
    sent_s, back_s = np.zeros(len(tasks)), np.zeros(len(tasks))
    for i in np.flatnonzero(tasks.origin != tasks.destination):
        pair = int(tasks.origin[i]), int(tasks.destination[i])
        for bits, (a, b), spent_s in ((tasks.bits_in, pair, sent_s), (tasks.bits_out, pair[::-1], back_s)):
            if (a, b) not in ways:
                raise ConfigError(f"task {i}: no link from '{stations[a].name}' to '{stations[b].name}'")
            spent_s[i] = ways[a, b].latency_s + bits[i] * ways[a, b].seconds_per_bit
    return sent_s, back_s
