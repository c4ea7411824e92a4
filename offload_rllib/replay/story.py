"""Where every task of a recorded episode was at every time: at a node, on a link, or dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np

from offload_rllib.replay.record import Recording
from offload_rllib.simulator.types import (
    FINISHED,
    HELD,
    NONE,
    OPEN,
    RETURNING,
    SENT_BACK,
    SERVED,
    TRANSFERRED,
    WAITING,
    Array,
)

# What travels over a link: a task, its result, or a task to a node that failed, from which it comes back.
TASK, RESULT, THERE_AND_BACK = range(3)

LEG = np.dtype([("task", "i8"), ("link", "i4"), ("what", "i4"), ("from_s", "f8"), ("to_s", "f8")], align=True)
STAY = np.dtype([("task", "i8"), ("node", "i4"), ("from_s", "f8"), ("served_s", "f8"), ("to_s", "f8")], align=True)
DROP = np.dtype([("task", "i8"), ("cause", "i4"), ("node", "i4"), ("link", "i4"), ("time_s", "f8")], align=True)
ROUNDING_S = 1e-9


@dataclass(frozen=True)
class Story:
    """What happened to the tasks of a recording. Stays and legs of a task follow each other without a gap."""

    legs: Array
    """[legs] LEG: each crossing of a link."""
    stays: Array
    """[stays] STAY: each time at a node, in queue until `served_s` (infinite: never served there), then in service."""
    drops: Array
    """[drops] DROP: with the node at which a task was, or the link on which it was; the other one is NONE."""
    guessed: int
    """Tasks of which no more than the ends of their way are known: they are taken along a shortest path."""


def tell(recording: Recording) -> Story:
    """Return the story of a recording.

    The times of the log are exact, and so are the times at which agents send. What lies between two of them is
    divided by what a link takes on the average: a result on its way over several links, and a task over several
    links where decisions are clocked.
    """
    return _Teller(recording).tell()


class _Teller:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        arrays = recording.scenario.arrays
        self.source, self.destination = arrays.link["source"].tolist(), arrays.link["destination"].tolist()
        self.reverse = arrays.link["reverse"].tolist()
        self.latency_s, self.per_bit = arrays.link["latency_s"].tolist(), arrays.link["seconds_per_bit"].tolist()
        self.links = 2 * len(recording.scenario.network.links)  # behind them there are paths
        ends = zip(self.source[: self.links], self.destination[: self.links], strict=True)
        self.link_of = {pair: k for k, pair in enumerate(ends)}
        self.at_once = recording.scenario.config.decisions.when == "arrival"
        self.legs: list[tuple[int, int, int, float, float]] = []
        self.stays: list[tuple[int, int, float, float, float]] = []
        self.drops: list[tuple[int, int, int, int, float]] = []
        self.guessed = 0

    def tell(self) -> Story:
        moves = self.recording.moves
        ends = np.searchsorted(moves["task"], np.arange(len(self.recording.log) + 1))
        sent = list(zip(moves["link"].tolist(), moves["sent_s"].tolist(), strict=True))
        for i, (first, end) in enumerate(pairwise(ends.tolist())):
            self._tell_task(i, self.recording.log[i], sent[first:end])
        legs, stays = np.array(self.legs, LEG), np.array(self.stays, STAY)
        return Story(legs, stays, np.array(self.drops, DROP), self.guessed)

    def _nominal_s(self, link: int, bits: float) -> float:
        return self.latency_s[link] + bits * self.per_bit[link]

    def _tell_task(self, i: int, row: np.void, moves: list[tuple[int, float]]) -> None:
        outcome, ended, node = int(row["outcome"]), float(row["ended_s"]), int(row["node"])
        stage = int(self.recording.last["stage"][i])
        here = self.source[moves[0][0]] if moves else node if row["hops"] == 0 else int(row["origin"])
        now, moved, stayed, path, place = float(row["created_s"]), 0.0, 0.0, [], NONE
        for k, (link, sent) in enumerate(moves):
            self._stay(i, here, now, sent)
            stayed += sent - now
            last = k == len(moves) - 1
            what, here, now = self._cross(row, link, sent, moved, None if last else moves[k + 1], stage)
            self._add(i, link, what, sent, now, row)
            moved += now - sent
            if what == TASK:
                path.append(link)
                place = link if last and node == self.source[link] else NONE
        if place == NONE and here != node:
            self.guessed += 1
            now = self._guess(i, row, here, now, float(row["transfer_s"]) - moved, path)
        if place == NONE:
            waited = max(float(row["holding_s"]) + float(row["waiting_s"]) - stayed, 0.0)
            left = self._stay_last(i, row, now, waited, stage)
            if left < ended - ROUNDING_S:
                place = self._return(i, row, path, left)
        if outcome not in (OPEN, FINISHED):
            self.drops.append((i, outcome, NONE if place != NONE else node, place, ended))

    def _cross(
        self, row: np.void, link: int, sent: float, moved: float, following: tuple[int, float] | None, stage: int
    ) -> tuple[int, int, float]:
        """Return what crosses a link, at which node it is then, and when."""
        source, destination, ended = self.source[link], self.destination[link], float(row["ended_s"])
        if following is not None:
            back = self.source[following[0]] == source
            arrives = following[1] if self.at_once or back else sent + self._nominal_s(link, float(row["bits_in"]))
            return (THERE_AND_BACK if back else TASK), (source if back else destination), min(arrives, following[1])
        if stage in (TRANSFERRED, SENT_BACK):
            return TASK, destination, ended
        arrives = min(max(sent + float(row["transfer_s"]) - moved, sent), ended)
        if int(row["node"]) == source and arrives < ended - ROUNDING_S:
            return THERE_AND_BACK, source, arrives
        return TASK, destination, arrives

    def _guess(self, i: int, row: np.void, here: int, now: float, takes: float, path: list[int]) -> float:
        """Take a task on to the node it was at last; return when it is there."""
        nodes = nx.shortest_path(self.recording.scenario.network.graph(), here, int(row["node"]))
        links = [self.link_of[pair] for pair in pairwise(nodes)]
        for link, begin, end in self._divided(links, float(row["bits_in"]), now, now + max(takes, 0.0)):
            self.legs.append((i, link, TASK, begin, end))
            now = end
        path += links
        return now

    def _add(self, i: int, link: int, what: int, begin: float, end: float, row: np.void) -> None:
        """Note what is on a link, or on the links of a path one after the other, between two times."""
        bits = float(row["bits_out" if what == RESULT else "bits_in"])
        way = [link] if link < self.links else self.recording.scenario.ways[link - self.links].tolist()
        for leg, first, last in self._divided(way, bits, begin, end):
            self.legs.append((i, leg, what, first, last))

    def _divided(self, links: list[int], bits: float, begin: float, end: float) -> Iterator[tuple[int, float, float]]:
        """Yield links with the times at which something is on them, which crosses all of them between two times."""
        takes = [self._nominal_s(link, bits) for link in links]
        total = sum(takes) or 1.0
        marks = begin + (end - begin) * np.cumsum([0.0, *takes]) / total
        marks[-1] = end
        yield from zip(links, marks[:-1].tolist(), marks[1:].tolist(), strict=True)

    def _stay(self, i: int, node: int, begin: float, end: float) -> None:
        if end > begin:
            self.stays.append((i, node, begin, np.inf, end))

    def _stay_last(self, i: int, row: np.void, begin: float, waited: float, stage: int) -> float:
        """Note a task's time at the last node it was at; return when it left."""
        ended, service = float(row["ended_s"]), float(row["service_s"])
        served, left = (begin + waited, begin + waited + service) if service > 0 else (np.inf, begin + waited)
        if row["outcome"] == FINISHED:
            left = ended - float(row["return_s"])
            served = min(max(left - service, begin), left)
        elif stage in (HELD, WAITING):
            served, left = np.inf, ended
        elif stage == SERVED:
            served, left = float(self.recording.last["since_s"][i]), ended
        elif stage == RETURNING:
            left = float(self.recording.last["since_s"][i])
            served = left - service
        elif abs(left - ended) <= ROUNDING_S * max(1.0, ended):
            left = ended
        if left > begin:
            self.stays.append((i, int(row["node"]), begin, served, left))
        return left

    def _return(self, i: int, row: np.void, path: list[int], left: float) -> int:
        """Take a result back; return the link it was on at its end, NONE if it came home."""
        ended, bits = float(row["ended_s"]), float(row["bits_out"])
        links = [self.reverse[link] for link in reversed(path)]
        if row["outcome"] == FINISHED:
            for link, begin, end in self._divided(links, bits, left, ended):
                self._add(i, link, RESULT, begin, end, row)
            return NONE
        for k, link in enumerate(links):
            end = left + self._nominal_s(link, bits)
            if end >= ended or k == len(links) - 1:
                self._add(i, link, RESULT, left, ended, row)
                return link
            self._add(i, link, RESULT, left, end, row)
            left = end
        return NONE
