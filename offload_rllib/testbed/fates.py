"""From what nodes wrote down to the fate of every task, of those included that ended with a process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from offload_rllib.simulator.types import LOG, LOST, NODE_FAILED, OPEN, Array
from offload_rllib.testbed.playing import Fault, Outcome

COPIED = ("created_s", "deadline_s", "work", "bits_in", "bits_out", "origin", "type")


@dataclass(frozen=True)
class Fates:
    """The fate of every task of a play.

    Attributes:
        log: [n] LOG, by number of the task.
        decision_s: [n] float64, scenario seconds spent deciding about it.
        problems: tasks that no node can account for, or that ended twice, in words; empty in a sound play.
    """

    log: Array
    decision_s: Array
    problems: tuple[str, ...]


def _custody(arriving: Array, moves: Array) -> dict[int, list[tuple[float, int, int]]]:
    """Return for each task where it has been: time, node and hops, in order."""
    places = {int(row["number"]): [(float(row["created_s"]), int(row["origin"]), 0)] for row in arriving}
    for move in moves:
        if int(move["number"]) in places:
            places[int(move["number"])].append((float(move["time_s"]), int(move["node"]), int(move["hops"])))
    return {number: sorted(stays, key=lambda stay: stay[2]) for number, stays in places.items()}


def _ended_with(stays: Sequence[tuple[float, int, int]], faults: Sequence[Fault]) -> float | None:
    """Return when a task ended with one of the nodes it has been at; None if none of them failed after that."""
    times = [
        max(since_s, fault.from_s)
        for since_s, n, _ in stays
        for fault in faults
        if fault.node == n and fault.until_s > since_s
    ]
    return min((time_s for time_s in times if time_s >= stays[-1][0]), default=None) if times else None


def fates(arriving: Array, outcome: Outcome) -> Fates:
    """Return the fate of every task.

    A task that no node has written down was at a process that was killed, on its way to it, or on a link that broke.

    Args:
        arriving: [n] ARRIVAL_ROW, numbered from 0.
        outcome: of the play.
    """
    log = np.zeros(len(arriving), LOG)
    decision_s = np.zeros(len(arriving))
    known = np.zeros(len(arriving), np.bool_)
    problems: list[str] = []
    for row in outcome.rows:
        number = int(row["number"])
        if not 0 <= number < len(arriving):
            problems.append(f"task {number}: no client has made it")
            continue
        if known[number]:
            problems.append(f"task {number}: has ended twice")
            continue
        log[number], decision_s[number], known[number] = row["row"], row["decision_s"], True
    custody = _custody(arriving[~known], outcome.moves)
    for number in np.flatnonzero(~known).tolist():
        row, stays = log[number], custody[number]
        for name in COPIED:
            row[name] = arriving[number][name]
        _, row["node"], row["hops"] = stays[-1]
        ended_s = _ended_with(stays, outcome.faults)
        if ended_s is not None:
            row["ended_s"], row["outcome"] = ended_s, NODE_FAILED
        elif any(frozenset((a[1], b[1])) in outcome.broken for a, b in pairwise(stays)):
            row["ended_s"], row["outcome"] = stays[-1][0], LOST
        else:
            row["ended_s"], row["outcome"] = stays[-1][0], OPEN
            problems.append(f"task {number}: no node knows what has become of it")
    return Fates(log, decision_s, tuple(problems))
