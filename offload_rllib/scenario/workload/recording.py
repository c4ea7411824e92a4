"""Recorded arrivals: CSV and Parquet files, checked row by row, as the records that the simulator replays."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from offload_rllib.config.base import LARGEST, ends
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import find_data, nearest
from offload_rllib.config.score import TYPE_NAME
from offload_rllib.config.workload.arrivals import Column, Recorded, Replay
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.text_files import opened, opened_text
from offload_rllib.simulator.arrivals import RECORDED
from offload_rllib.simulator.streams import RECORDING_ORIGIN, fill_uniforms, stable_hash, stream
from offload_rllib.simulator.types import NONE

# Speeds that represent all between two ends, where each episode draws its own.
SPEEDS = 33


@dataclass(frozen=True)
class Destinations:
    """Where a file names the nodes that are to process its tasks."""

    path: Path
    column: str
    file_row: np.ndarray
    """[P] numbers of the recording's rows in the file, from 1."""


@dataclass(frozen=True)
class Recording:
    """Arrivals as recorded."""

    rows: np.ndarray
    """[P] RECORDED, sorted by origin, then time."""
    origin: np.ndarray
    """[P] index of the node whose client creates the task."""
    duration_s: float
    """Time of the last arrival."""
    has_sizes: bool
    """Whether the rows state what a task needs."""
    has_deadlines: bool
    """Whether the rows state deadlines."""
    types: tuple[str, ...] = ()
    """Names of the types that rows refer to by index; empty: they name none."""
    destinations: Destinations | None = None
    """Where rows name the nodes that are to process the tasks."""

    def check_destinations(self, network: Network, links: np.ndarray) -> None:
        """Check that each task can be sent to its recorded destination from the node that it enters.

        Args:
            network: whose nodes the rows name.
            links: [M] LINK, those that nodes may send tasks over.

        Raises:
            ConfigError: one cannot; the message names file, row and column.
        """
        if self.destinations is None:
            return
        count = len(network.nodes)
        there = self.rows["node"].astype(np.int64) * count + self.rows["destination"]
        kept = np.arange(count) * (count + 1)
        ways = np.concatenate([links["source"].astype(np.int64) * count + links["destination"], kept])
        stray = np.flatnonzero(~np.isin(there, ways))
        if len(stray):
            at = self.destinations
            i = stray[np.argmin(at.file_row[stray])]
            entered, wanted = (network.nodes[self.rows[i][key]].name for key in ("node", "destination"))
            raise ConfigError(
                f"{at.path}: row {at.file_row[i]}: column '{at.column}': '{wanted}' is no destination of '{entered}', "
                "which the task enters. Accepted: that node itself, and neighbours that it may send tasks to"
            )

    def plays(self, config: Recorded, horizon_s: float) -> np.ndarray:
        """Return for each row [P] the probability that an episode plays it.

        Raises:
            ConfigError: an episode that starts anywhere would not fit into the recording.
        """
        low, high = ends(config.speed)
        longest_s = high * horizon_s
        if config.start == "random" and self.duration_s < longest_s:
            raise ConfigError(
                f"workload.arrivals.start: random: an episode plays {longest_s:g} s of the recording (horizon_s x "
                f"speed), which lasts {self.duration_s:g} s; use start: beginning, or a lower speed"
            )
        speeds = low + (high - low) * (np.arange(SPEEDS) + 0.5) / SPEEDS if high > low else np.array([low])
        time_s = self.rows["time_s"]
        total = np.zeros(len(time_s))
        for speed in speeds:
            window_s = speed * horizon_s
            latest_s = max(self.duration_s - window_s, 0.0) if config.start == "random" else 0.0
            if latest_s > 0:
                from_s = np.maximum(time_s - window_s, 0.0)
                total += np.clip(np.minimum(time_s, latest_s) - from_s, 0.0, None) / latest_s
            else:
                total += time_s <= window_s
        return total / len(speeds)


def of_jobs(jobs: np.ndarray, arrival_s: np.ndarray, network: Network) -> Recording:
    """Return jobs [J, 3] at the times [J] of their arrival, counted from the first, each at a client drawn for it."""
    order = np.argsort(arrival_s, kind="stable")
    rows = np.zeros(len(jobs), RECORDED)
    rows["time_s"] = arrival_s[order] - arrival_s[order[0]]
    rows["work"], rows["bits_in"], rows["bits_out"] = jobs[order].T
    origin = drawn_origins(len(rows), network)
    rows["node"] = origin
    rows["destination"] = NONE
    return _sorted(rows, origin, has_sizes=True, has_deadlines=False)


def read_recording(config: Replay, network: Network) -> Recording:
    """Return the arrivals of a file.

    Raises:
        ConfigError: no such file, a column is missing, times are negative or out of order, a number is none or not
            finite, or a name is not that of a node (of a node with a client, for the origin).
    """
    path = find_data(config.path)
    columns = config.columns
    named = {
        "time": columns.time.column,
        **{
            key: column.column if isinstance(column, Column) else column
            for key in ("origin", "work", "bits_in", "bits_out", "deadline", "node", "destination", "type")
            if (column := getattr(columns, key)) is not None
        },
    }
    table = _read(path, list(dict.fromkeys(named.values())))
    if table.num_rows == 0:
        raise ConfigError(f"{path}: holds no arrivals")
    rows = np.zeros(table.num_rows, RECORDED)
    rows["time_s"] = _numbers(path, table, columns.time)
    earlier = np.flatnonzero(np.diff(rows["time_s"]) < 0)
    if len(earlier):
        i = int(earlier[0]) + 1
        raise ConfigError(
            f"{path}: row {i + 1}: column '{columns.time.column}': {rows['time_s'][i]:g} s comes after "
            f"{rows['time_s'][i - 1]:g} s; rows must be in order of time"
        )
    for key in ("work", "bits_in", "bits_out"):
        column = getattr(columns, key)
        if column is not None:
            rows[key] = _numbers(path, table, column)
    rows["deadline_s"] = np.inf
    if columns.deadline is not None:
        rows["deadline_s"] = _numbers(path, table, columns.deadline, empty=np.inf)
    names = [node.name for node in network.nodes]
    origin = _origins(path, table, columns.origin, network)
    rows["node"] = origin if columns.node is None else _indices(path, table, columns.node, names, empty=origin)
    rows["destination"] = NONE
    destinations = None
    if columns.destination is not None:
        rows["destination"] = _indices(path, table, columns.destination, names, empty=rows["node"])
        destinations = Destinations(path, columns.destination, _order(rows, origin) + 1)
    types: tuple[str, ...] = ()
    if columns.type is not None:
        types, rows["type"] = _types(path, table, columns.type)
    has_deadlines = columns.deadline is not None
    recording = _sorted(rows, origin, has_sizes=columns.work is not None, has_deadlines=has_deadlines, types=types)
    return replace(recording, destinations=destinations)


def _origins(path: Path, table: pa.Table, column: str | None, network: Network) -> np.ndarray:
    """Return the node [P] whose client creates each task."""
    if column is None:
        return drawn_origins(table.num_rows, network)
    names = [node.name for node in network.nodes]
    origin = _indices(path, table, column, names)
    strangers = np.flatnonzero(~np.array([node.client for node in network.nodes])[origin])
    if len(strangers):
        i = int(strangers[0])
        raise ConfigError(
            f"{path}: row {i + 1}: column '{column}': node '{names[origin[i]]}' has no client. Accepted: "
            f"{', '.join(node.name for node in network.nodes if node.client)}"
        )
    return origin


def drawn_origins(count: int, network: Network) -> np.ndarray:
    """Return a client [count] for each row: that whose draw for the row is the highest.

    Draws depend on the client's name and the row alone, so that another client takes rows from the others and leaves
    the rest (rendezvous hashing: Thaler, Ravishankar, "Using name-based mappings to increase hit rates", 1998).
    """
    best, origin = np.full(count, -1.0), np.zeros(count, np.int64)
    drawn = np.empty(count)
    for n, node in enumerate(network.nodes):
        if node.client:
            fill_uniforms(np.uint64(stream(np.uint64(stable_hash(node.name)), RECORDING_ORIGIN)), drawn)
            higher = drawn > best
            best[higher], origin[higher] = drawn[higher], n
    return origin


def _order(rows: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return the rows [P] by origin, then time; stable: those of one client at one time stay in the file's order."""
    return np.lexsort((rows["time_s"], origin))


def _sorted(
    rows: np.ndarray, origin: np.ndarray, *, has_sizes: bool, has_deadlines: bool, types: tuple[str, ...] = ()
) -> Recording:
    order = _order(rows, origin)
    return Recording(rows[order], origin[order], float(rows["time_s"].max()), has_sizes, has_deadlines, types)


def _read(path: Path, wanted: list[str]) -> pa.Table:
    """Read columns; those of a CSV file as text, so that a bad value can be named."""
    try:
        if path.suffix == ".parquet":
            there = pyarrow.parquet.read_schema(path).names
        elif path.name.removesuffix(".gz").endswith(".csv"):
            with opened_text(path) as file:
                there = next(csv.reader(file), [])
        else:
            raise ConfigError(f"{path}: a recording ends in .csv, .csv.gz or .parquet")
        for name in wanted:
            if there.count(name) != 1:
                problem = "is missing" if name not in there else "is there more than once"
                raise ConfigError(f"{path}: column '{name}' {problem}.{nearest(name, there)}")
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path, columns=wanted)
        as_text = pyarrow.csv.ConvertOptions(
            include_columns=wanted,
            column_types=dict.fromkeys(wanted, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        )
        with opened(path) as file:
            return pyarrow.csv.read_csv(file, convert_options=as_text)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _column(table: pa.Table, name: str) -> pa.Array:
    """Return a column; text without blanks around it, none where it is empty."""
    given = table.column(name).combine_chunks()
    if pa.types.is_string(given.type) or pa.types.is_large_string(given.type):
        given = pc.call_function("utf8_trim_whitespace", [given])
        return pc.call_function("if_else", [pc.call_function("equal", [given, ""]), pa.scalar(None, given.type), given])
    return given


def _numbers(path: Path, table: pa.Table, column: Column, empty: float | None = None) -> np.ndarray:
    """Return a column [P] times its factor: finite numbers from 0 up; `empty` where there is none."""
    given = _column(table, column.column)
    where = f"{path}: row {{}}: column '{column.column}'"
    try:
        values = pc.cast(given, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for i, value in enumerate(given.to_pylist()):
            try:
                float(value if value is not None else 0)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{where.format(i + 1)}: {value!r} is not a number") from error
        values = pa.array([None if value is None else float(value) for value in given.to_pylist()], pa.float64())
    missing = np.asarray(values.is_null())
    numbers = values.to_numpy(zero_copy_only=False).astype(float) * column.factor
    bad = np.flatnonzero(~((numbers >= 0) & (numbers <= LARGEST)) & ~missing)
    if len(bad):
        i = int(bad[0])
        raise ConfigError(
            f"{where.format(i + 1)}: {given[i].as_py()!r}; accepted: finite numbers from 0 up to {LARGEST:g}"
        )
    if missing.any():
        if empty is None:
            raise ConfigError(f"{where.format(int(np.flatnonzero(missing)[0]) + 1)}: no value")
        numbers[missing] = empty
    return numbers


def _indices(
    path: Path, table: pa.Table, column: str, names: Sequence[str], empty: np.ndarray | None = None
) -> np.ndarray:
    """Return the nodes [P] that a column names; those of `empty` where it names none."""
    index = {name: i for i, name in enumerate(names)}
    given = _column(table, column)
    try:
        encoded = pc.cast(given, pa.string()).dictionary_encode()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{path}: column '{column}': holds {given.type}; accepted: names of nodes") from error
    values = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    missing = np.asarray(encoded.is_null())
    codes = np.where(missing, 0, codes).astype(np.int64)
    known = np.array([index.get(value, -1) for value in values], np.int64)
    found = np.where(missing, -1, known[codes] if len(known) else -1)
    bad = np.flatnonzero(~missing & (found < 0))
    if empty is None and missing.any():
        bad = np.concatenate([np.flatnonzero(missing), bad])
    if len(bad):
        i = int(bad.min())
        value = given[i].as_py()
        shown = "no name" if value is None else f"no node is named '{value}'"
        raise ConfigError(f"{path}: row {i + 1}: column '{column}': {shown}.{nearest(str(value), names)}")
    return found if empty is None else np.where(missing, empty, found)


def _types(path: Path, table: pa.Table, column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the types that a column names, in alphabetical order, and the type [P] of each row."""
    given = _column(table, column)
    try:
        named = pc.cast(given, pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{path}: column '{column}': holds {given.type}; accepted: names of types") from error
    for i, name in enumerate(named):
        if name is None or re.fullmatch(TYPE_NAME, name) is None:
            shown = "no name" if name is None else repr(name)
            raise ConfigError(
                f"{path}: row {i + 1}: column '{column}': {shown}; accepted: names of letters, digits, - and _"
            )
    names, index = np.unique(np.array(named), return_inverse=True)
    return tuple(names.tolist()), index
