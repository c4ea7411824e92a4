"""The log of tasks of a testbed, or of a user's own hardware: what each column holds, and a reader that checks it.

One Parquet file has a row for every task of every policy, load and episode, on one side or on both: that of the
machines, and that of the simulator. It is the table of `evaluation.task_log.task_table` with a few more columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import nearest
from offload_rllib.evaluation.results import EPISODE, POLICY
from offload_rllib.evaluation.task_log import OUTCOMES
from offload_rllib.simulator.types import FINISHED, LOG

# A pandas table, of which the type checker knows no more.
Table = Any

TASKS = "tasks.parquet"
SIDE, LOAD, TASK = "side", "load", "task"
TESTBED, SIMULATOR = "testbed", "simulator"
DONE = OUTCOMES[FINISHED]
# Parts of a response time, in the order in which a task goes through them.
PARTS = ("decision_s", "holding_s", "waiting_s", "service_s", "transfer_s", "return_s")
# Times of different columns are differences of one clock's readings: less than this below 0 is rounding.
ROUNDING_S = 1e-6


@dataclass(frozen=True)
class Column:
    """What a column of a log holds."""

    kind: str
    """``text``, ``number``, ``whole`` or ``flag``."""
    about: str
    """Meaning and unit, for the documentation."""
    required: bool = True
    """Whether a log must have it."""
    least: float | None = None
    """Smallest value."""
    blank: bool = False
    """Whether a row may lack the value."""


def _part(about: str) -> Column:
    return Column("number", f"{about}, in seconds; empty: not measured", required=False, least=0.0, blank=True)


COLUMNS = {
    SIDE: Column("text", "`testbed` or `simulator`"),
    POLICY: Column("text", "name of the policy that decided"),
    LOAD: Column(
        "number",
        "the load that was played, e.g. rho; without the column all rows are of one load, 0",
        required=False,
        least=0.0,
    ),
    EPISODE: Column("whole", "number of the episode", least=0),
    TASK: Column("whole", "number of the task in its episode; the same task has the same number everywhere", least=0),
    "created_s": Column("number", "when the task was created, in seconds since the episode began", least=0.0),
    "ended_s": Column("number", "when its result was back at its origin, or when it was dropped", least=0.0),
    "outcome": Column("text", f"how it ended: {', '.join(f'`{name}`' for name in OUTCOMES.values())}"),
    "work": Column("number", "instructions that it needs", least=0.0),
    "bits_in": Column("number", "size of its input in bits", least=0.0),
    "bits_out": Column("number", "size of its result in bits", least=0.0),
    "origin": Column("text", "name of the node that created it"),
    "node": Column("text", "name of the node where it was served, or where it was last"),
    "hops": Column("whole", "links that its input crossed", least=0),
    "deadline_s": Column(
        "number", "its deadline, in seconds since the episode began; empty: it has none", required=False, blank=True
    ),
    "counts": Column("flag", "whether it is in the figures; without the column all are", required=False),
    "decision_s": _part("time that decisions about it took, part of `holding_s`"),
    "holding_s": _part("time from its arrival at nodes to their decisions"),
    "waiting_s": _part("time in queues"),
    "service_s": _part("time in service"),
    "transfer_s": _part("time that its input was on links"),
    "return_s": _part("time that its result took back"),
}
# Of these every task has one row.
KEY = [SIDE, LOAD, POLICY, EPISODE, TASK]
assert {name for name in LOG.names or () if name.endswith("_s")} <= COLUMNS.keys()  # noqa: S101 - one schema, two places


def read_logs(paths: Iterable[Path], *, nodes: Iterable[str] | None = None) -> Table:
    """Return several logs as one table, such as those of several loads; arguments and errors as `read_log`.

    Raises:
        ConfigError: also if a task is in two of them.
    """
    tables = {path: read_log(path, nodes=nodes) for path in dict.fromkeys(paths)}
    tasks: Table = pd.concat(tables.values(), ignore_index=True)
    again = tasks.duplicated(KEY).to_numpy()
    if again.any():
        row = tasks[KEY].iloc[int(again.argmax())]
        shown = ", ".join(f"{name} {row[name]}" for name in KEY)
        raise ConfigError(f"{', '.join(map(str, tables))}: two of them have the same task ({shown})")
    return tasks


def read_log(path: Path, *, nodes: Iterable[str] | None = None) -> Table:
    """Return a log of tasks, checked row by row.

    Columns: those of `COLUMNS` that the file has, `counts` and `response_s`. The latter is the time from creation to
    the end in seconds, NaN unless the task finished. Missing numbers are NaN, except that a missing deadline is
    infinite. Other columns of the file are left out.

    Args:
        path: a Parquet file, or a folder with `tasks.parquet`.
        nodes: names of the environment's nodes; None: any name is accepted.

    Raises:
        ConfigError: the file cannot be read, a column is missing, or a value does not fit. The message names file,
            row (from 0), column and value.
    """
    file = path / TASKS if path.is_dir() else path
    table = _table(file)
    columns = {name: _values(table, name, file) for name in COLUMNS if name in table.column_names}
    tasks: Table = pd.DataFrame(columns)
    if tasks.empty:
        raise ConfigError(f"{file}: no row, so there is nothing to compare")
    for name, accepted in (
        (SIDE, (TESTBED, SIMULATOR)),
        ("outcome", tuple(OUTCOMES.values())),
        *(() if nodes is None else (("origin", tuple(nodes)), ("node", tuple(nodes)))),
    ):
        _refuse(tasks, ~tasks[name].isin(accepted), name, file, f"is not known.{nearest('', accepted).strip()}")
    tasks["deadline_s"] = tasks["deadline_s"].fillna(np.inf) if "deadline_s" in tasks else np.inf
    tasks[LOAD] = tasks.get(LOAD, 0.0)
    tasks["counts"] = tasks.get("counts", True)
    age_s = tasks["ended_s"] - tasks["created_s"]
    _refuse(tasks, age_s < -ROUNDING_S, "ended_s", file, "is before created_s")
    again = tasks.duplicated(KEY)
    _refuse(tasks, again, TASK, file, "stands twice for this side, load, policy and episode")
    tasks["response_s"] = age_s.clip(lower=0.0).where(tasks["outcome"] == DONE)
    return tasks


def _table(file: Path) -> pa.Table:
    """Return the columns of a file that a log has."""
    try:
        there = pyarrow.parquet.read_schema(file).names
        missing = [name for name, column in COLUMNS.items() if column.required and name not in there]
        if missing:
            raise ConfigError(
                f"{file}: column '{missing[0]}' is missing: {COLUMNS[missing[0]].about}.{nearest(missing[0], there)}"
            )
        return pyarrow.parquet.read_table(file, columns=[name for name in COLUMNS if name in there])
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise ConfigError(f"{file}: not a whole Parquet file: {' '.join(str(error).split())}") from error


def _values(table: pa.Table, name: str, file: Path) -> np.ndarray | pd.Series:
    """Return a column in the type that its kind says."""
    column, values = COLUMNS[name], table[name].combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    fits = {
        "text": pa.types.is_string(values.type) or pa.types.is_large_string(values.type),
        "number": is_number or pa.types.is_null(values.type),
        "whole": is_number,
        "flag": pa.types.is_boolean(values.type),
    }
    if len(values) and not fits[column.kind]:
        words = {"text": "texts", "number": "numbers", "whole": "whole numbers", "flag": "true or false"}
        raise ConfigError(f"{file}: column '{name}' must hold {words[column.kind]}, holds {values.type}")
    empty = values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if empty.any() and not column.blank:
        raise ConfigError(f"{file}: row {int(empty.argmax())}, column '{name}': is empty; {column.about}")
    if column.kind == "text":
        return pd.Series(values.to_numpy(zero_copy_only=False), dtype=object)
    if column.kind == "flag":
        return values.to_numpy(zero_copy_only=False).astype(bool)
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    least = -np.inf if column.least is None else column.least
    too_little = numbers < (least - ROUNDING_S if name.endswith("_s") else least)
    if too_little.any():
        row = int(too_little.argmax())
        raise ConfigError(f"{file}: row {row}, column '{name}': {numbers[row]:g} is below {least:g}; {column.about}")
    unbounded = np.isinf(numbers) if name != "deadline_s" else np.isneginf(numbers)
    broken = unbounded | (numbers != np.rint(numbers)) if column.kind == "whole" else unbounded
    if broken.any():
        row = int(broken.argmax())
        accepted = "whole numbers" if column.kind == "whole" else "finite numbers"
        raise ConfigError(f"{file}: row {row}, column '{name}': {numbers[row]:g}; accepted: {accepted}")
    return numbers.astype(np.int64) if column.kind == "whole" else np.maximum(numbers, least)


def _refuse(tasks: pd.DataFrame, wrong: Any, name: str, file: Path, why: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise ConfigError(f"{file}: row {row}, column '{name}': '{tasks[name].iloc[row]}' {why}")
