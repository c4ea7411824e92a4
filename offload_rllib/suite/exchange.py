"""Files that simulators exchange: nodes, links, tasks and responses as CSV, checked row by row.

`docs/suite.md` describes them. Each has a header, one row per item, and SI units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.evaluation import task_log
from offload_rllib.scenario.rows import rows_of
from offload_rllib.suite.exact import FINISHED, PARALLEL, POOLED, SHARED, Station, TaskList, Way

NODES = ("name", "cores", "instructions_per_second", "service", "capacity")
LINKS = ("from", "to", "latency_s", "rate_bps")
TASKS = ("task", "time_s", "origin", "destination", "work", "bits_in", "bits_out", "deadline_s")
RESPONSES = ("task", "response_s", "outcome")
SERVICES = (PARALLEL, POOLED, SHARED)
OUTCOMES = tuple(task_log.OUTCOMES.values())


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
