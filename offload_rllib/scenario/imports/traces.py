"""Traces of clusters as recordings: Azure Functions 2021, and Google's cluster trace of 2011.

Both say how long something ran; its work is that time at a speed that the user states.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.config.loading import nearest
from offload_rllib.scenario.rows import Row, rows_of, rows_without_header

AZURE_COLUMNS = ("app", "func", "end_timestamp", "duration")
GOOGLE_COLUMNS = (
    "timestamp",
    "missing_info",
    "job_id",
    "task_index",
    "machine_id",
    "event_type",
    "user",
    "scheduling_class",
    "priority",
    "cpu_request",
    "memory_request",
    "disk_request",
    "different_machines",
)
# Types of events in Google's table, and what is made of each.
SUBMIT, SCHEDULE, FINISH = 0, 1, 4
FOR_GOOD = {5: "killed", 6: "lost"}
# Evictions and failures, after which a task may be submitted again; and updates of what it asks for.
AGAIN, UPDATES = (2, 3), (7, 8)
MICROSECONDS = 1e6
WRITTEN = ("time_s", "work", "name", "type")


class Arrival(NamedTuple):
    """One task of a trace."""

    time_s: float
    """On the trace's own clock."""
    busy_s: float
    """Seconds of one core."""
    name: str
    """What the trace calls its kind."""
    type: str
    """Name of its type here."""


@dataclass(frozen=True)
class Trace:
    """Tasks of a trace, in order of time, and how many of its rows or tasks were left out, by reason."""

    arrivals: list[Arrival]
    left_out: Counter[str]


def azure(path: Path) -> Trace:
    """Return the invocations of an Azure Functions trace of 2021: a header, and one row per invocation.

    A row states when the invocation ended and how long it ran, both in seconds; it arrives at the difference.

    Raises:
        ConfigError: a row is not valid.
    """
    found = []
    for row in rows_of(path, AZURE_COLUMNS):
        duration_s = row.non_negative("duration")
        end_s = row.non_negative("end_timestamp")
        found.append(Arrival(end_s - duration_s, duration_s, row.fields["app"][:12], "function"))
    return Trace(sorted(found), Counter())


def google(path: Path) -> Trace:
    """Return the tasks of a part of `task_events` of Google's cluster trace of 2011, which has no header.

    A task arrives when it is submitted first. It keeps its share of the CPU of a machine busy from when it is scheduled
    last until it finishes. Tasks without a submission, a start and a successful end in the file are left out.

    Raises:
        ConfigError: a row is not valid, or times go back.
    """
    trace = Trace([], Counter())
    submitted: dict[tuple[str, str], float] = {}
    scheduled: dict[tuple[str, str], float] = {}
    last_s = 0.0
    for row in rows_without_header(path, GOOGLE_COLUMNS):
        time_s = row.non_negative("timestamp") / MICROSECONDS
        if time_s < last_s:
            raise row.wrong("timestamp", f"{last_s * MICROSECONDS:.0f} or later: rows are in order of time")
        last_s = time_s
        task, event = (row.fields["job_id"], row.fields["task_index"]), _event(row)
        if event == SUBMIT:
            submitted.setdefault(task, time_s)
        elif event == SCHEDULE:
            scheduled[task] = time_s
        elif event not in UPDATES:
            began_s = scheduled.pop(task, None)
            arrived_s = None if event in AGAIN else submitted.pop(task, None)
            if event == FINISH:
                _finish(trace, row, arrived_s, began_s)
            elif event in FOR_GOOD:
                trace.left_out[FOR_GOOD[event]] += 1
    trace.left_out["did not finish in the file"] = len(submitted.keys() | scheduled.keys())
    return Trace(sorted(trace.arrivals), +trace.left_out)


def _finish(trace: Trace, row: Row, arrived_s: float | None, began_s: float | None) -> None:
    """Add a task that has finished, or count why it is left out."""
    share = row.non_negative("cpu_request", empty=0.0)
    if arrived_s is None or began_s is None:
        trace.left_out["finished, and began before the file"] += 1
    elif share == 0:
        trace.left_out["finished without a CPU request"] += 1
    else:
        busy_s = (row.non_negative("timestamp") / MICROSECONDS - began_s) * share
        kind = f"priority_{row.fields['priority']}"
        trace.arrivals.append(Arrival(arrived_s, busy_s, row.fields["job_id"], kind))


def _event(row: Row) -> int:
    text = row.fields["event_type"]
    if text not in {str(event) for event in (SUBMIT, SCHEDULE, FINISH, *AGAIN, *FOR_GOOD, *UPDATES)}:
        raise row.wrong("event_type", "a number from 0 to 8")
    if not row.fields["priority"].isdecimal():
        raise row.wrong("priority", "a whole number")
    return int(text)


KINDS: dict[str, Callable[[Path], Trace]] = {"azure": azure, "google": google}


def import_trace(kind: str, path: Path, instructions_per_second: float) -> tuple[str, Trace]:
    """Return a recording as CSV, whose first task arrives at 0 s, and what it was made of.

    Args:
        kind: one of `KINDS`.
        path: the file, compressed with gzip or not.
        instructions_per_second: of the core on which the tasks ran, with Google the whole machine.

    Raises:
        ConfigError: there is no such kind, a row is not valid, or no task is left.
    """
    if kind not in KINDS:
        raise ConfigError(f"'{kind}': not a kind of trace.{nearest(kind, KINDS)}")
    if not 0 < instructions_per_second < float("inf"):
        raise ConfigError(f"--instructions-per-second {instructions_per_second:g}: must be a finite number above 0")
    trace = KINDS[kind](path)
    if not trace.arrivals:
        raise ConfigError(f"{path}: no task is left; left out: {dict(trace.left_out)}")
    first_s = trace.arrivals[0].time_s
    rows = (
        (repr(one.time_s - first_s), repr(one.busy_s * instructions_per_second), one.name, one.type)
        for one in trace.arrivals
    )
    return as_csv(WRITTEN, rows), trace


def as_csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def write_recording(text: str, out: Path, *, force: bool) -> None:
    """Write a recording.

    Raises:
        ConfigError: the file exists and `force` is off.
    """
    if out.exists() and not force:
        raise ConfigError(f"{out}: exists and is not overwritten; choose another --out, or --force")
    with written_at_once(out) as partial:
        partial.write_text(text, encoding="utf-8")
