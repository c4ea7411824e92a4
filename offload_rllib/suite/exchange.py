"""Files that simulators exchange: nodes, links, tasks and responses as CSV, checked row by row.

`docs/suite.md` describes them. Each has a header, one row per item, and SI units.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.config.base import LARGEST, SMALLEST
from offload_rllib.config.loading import nearest
from offload_rllib.scenario.text_files import opened_text
from offload_rllib.suite.exact import EXPIRED, FINISHED, PARALLEL, POOLED, QUEUE_FULL, SHARED, Station, TaskList, Way

NODES = ("name", "cores", "instructions_per_second", "service", "capacity")
LINKS = ("from", "to", "latency_s", "rate_bps")
TASKS = ("task", "time_s", "origin", "destination", "work", "bits_in", "bits_out", "deadline_s")
RESPONSES = ("task", "response_s", "outcome")
SERVICES = (PARALLEL, POOLED, SHARED)
UNFINISHED = "unfinished"
OUTCOMES = (FINISHED, UNFINISHED, EXPIRED, QUEUE_FULL, "lost", "node_failed")
POSITIVE = f"{SMALLEST:g} to {LARGEST:g}"
NON_NEGATIVE = f"0 to {LARGEST:g}"


@dataclass(frozen=True)
class Row:
    """One row of a file, by column."""

    path: Path
    number: int
    """From 1, without the header."""
    fields: Mapping[str, str]

    def wrong(self, column: str, accepted: str) -> ConfigError:
        """Return the error that a field is not what is accepted."""
        return ConfigError(
            f"{self.path}: row {self.number}: column '{column}': {self.fields[column]!r}; accepted: {accepted}"
        )

    def number_of(self, column: str, fits: Callable[[float], bool], accepted: str, empty: float | None = None) -> float:
        """Return a number; `empty` of an empty field.

        Raises:
            ConfigError: it is not a number, or does not fit.
        """
        text = self.fields[column]
        if text == "" and empty is not None:
            return empty
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not fits(value):
            raise self.wrong(column, accepted)
        return value

    def positive(self, column: str, empty: float | None = None) -> float:
        """Return a number above 0."""
        return self.number_of(column, lambda value: SMALLEST <= value <= LARGEST, POSITIVE, empty)

    def non_negative(self, column: str, empty: float | None = None) -> float:
        """Return a number from 0 up."""
        return self.number_of(column, lambda value: 0 <= value <= LARGEST, NON_NEGATIVE, empty)

    def whole(self, column: str, empty: float | None = None) -> float:
        """Return a whole number from 1 up."""
        accepted = "a whole number from 1 up"
        return self.number_of(column, lambda value: 1 <= value <= LARGEST and value == int(value), accepted, empty)

    def one_of(self, column: str, accepted: Sequence[str]) -> str:
        """Return one of some words."""
        if self.fields[column] not in accepted:
            raise self.wrong(column, ", ".join(accepted))
        return self.fields[column]

    def node(self, column: str, index: Mapping[str, int]) -> int:
        """Return the index of the node that a field names."""
        name = self.fields[column]
        if name not in index:
            raise ConfigError(
                f"{self.path}: row {self.number}: column '{column}': no node is named {name!r}.{nearest(name, index)}"
            )
        return index[name]


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file that has these columns, and maybe others.

    Raises:
        ConfigError: it cannot be read, is damaged, lacks a column, or has a row of another length.
    """
    with opened_text(path) as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        for column in columns:
            if header.count(column) != 1:
                why = "missing" if column not in header else "there more than once"
                raise ConfigError(
                    f"{path}: row 0 (the header): column '{column}': {why}; accepted: {','.join(columns)}"
                )
        for number, fields in enumerate(reader, 1):
            if len(fields) != len(header):
                raise ConfigError(
                    f"{path}: row {number}: {len(fields)} fields; accepted: {len(header)}, as in the header. The file "
                    "may be cut off"
                )
            yield Row(path, number, dict(zip(header, (field.strip() for field in fields), strict=True)))


def read_nodes(path: Path) -> list[Station]:
    """Return the nodes of a file.

    Raises:
        ConfigError: as `rows_of`; or a value is not valid, or a name is repeated.
    """
    found: dict[str, Station] = {}
    for row in rows_of(path, NODES):
        name = row.fields["name"]
        if not name or name in found:
            raise row.wrong("name", "a name of its own")
        found[name] = Station(
            name,
            int(row.whole("cores")),
            row.positive("instructions_per_second"),
            row.one_of("service", SERVICES),
            row.whole("capacity", empty=math.inf),
        )
    return list(found.values())


def read_links(path: Path, nodes: Sequence[Station]) -> dict[tuple[int, int], Way]:
    """Return the directions of links of a file; errors as `read_nodes`."""
    index = {node.name: i for i, node in enumerate(nodes)}
    ways: dict[tuple[int, int], Way] = {}
    for row in rows_of(path, LINKS):
        pair = row.node("from", index), row.node("to", index)
        if pair[0] == pair[1] or pair in ways:
            raise row.wrong("to", "another node than 'from', each direction once")
        ways[pair] = Way(row.non_negative("latency_s"), 1 / row.positive("rate_bps"))
    return ways


def read_tasks(path: Path, nodes: Sequence[Station]) -> TaskList:
    """Return the tasks of a file, numbered from 0 and in order of time; errors as `read_nodes`."""
    index = {node.name: i for i, node in enumerate(nodes)}
    columns: dict[str, list[Any]] = {name: [] for name in TASKS if name != "task"}
    last_s = 0.0
    for row in rows_of(path, TASKS):
        if row.fields["task"] != str(row.number - 1):
            raise row.wrong("task", f"{row.number - 1}: tasks are numbered from 0, in order of time")
        time_s = row.non_negative("time_s")
        if time_s < last_s:
            raise row.wrong("time_s", f"{last_s!r} or later: rows are in order of time")
        last_s = time_s
        columns["time_s"].append(time_s)
        columns["origin"].append(row.node("origin", index))
        columns["destination"].append(row.node("destination", index))
        columns["work"].append(row.positive("work"))
        columns["bits_in"].append(row.non_negative("bits_in"))
        columns["bits_out"].append(row.non_negative("bits_out"))
        columns["deadline_s"].append(row.positive("deadline_s", empty=math.inf))
    if not columns["time_s"]:
        raise ConfigError(f"{path}: holds no tasks")
    return TaskList(**{name: np.array(values) for name, values in columns.items()})


def read_responses(path: Path, count: int) -> tuple[np.ndarray, list[str]]:
    """Return the responses [T] of a file (NaN: not finished) and the outcomes, one row per task in any order.

    Args:
        path: the file.
        count: T.

    Raises:
        ConfigError: as `rows_of`; or a task is missing, repeated or unknown, or a value is not valid.
    """
    response_s, outcomes = np.full(count, np.nan), [""] * count
    rows = 0
    for row in rows_of(path, RESPONSES):
        text = row.fields["task"]
        if not text.isdecimal() or int(text) >= count:
            raise row.wrong("task", f"a number from 0 to {count - 1}")
        task = int(text)
        if outcomes[task]:
            raise row.wrong("task", "each task once")
        outcomes[task] = row.one_of("outcome", OUTCOMES)
        if outcomes[task] == FINISHED:
            response_s[task] = row.non_negative("response_s")
        elif row.fields["response_s"]:
            raise row.wrong("response_s", f"nothing, because the outcome is {outcomes[task]}")
        rows += 1
    if rows != count:
        missing = outcomes.index("")
        raise ConfigError(
            f"{path}: row {rows + 1}: column 'task': no row for task {missing}; accepted: one row for each of the "
            f"{count:,} tasks, and this file has {rows:,}. It may be cut off"
        )
    return response_s, outcomes
