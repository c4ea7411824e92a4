"""Jobs of the Alibaba cluster trace v2018: its own table, or the sample hour that the PyPI package `spar` installs.

The trace is free to use for research or study (Alibaba cluster data, cluster-trace-v2018) and is not part of this
project. It is read from the user's copy, and what the simulator needs of it is kept in a cache file.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from offload_rllib.config.base import LARGEST
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.config.loading import find_data
from offload_rllib.config.workload import AlibabaJobs
from offload_rllib.scenario.text_files import opened, opened_text
from offload_rllib.simulator.jit import user_cache

CACHE_VERSION = 2
COLUMNS = ("max_cpu_percent", "max_memory_percent", "total_duration_s", "arrival_s")
# Of the trace's own table, in order; it has no header.
TRACE_COLUMNS = (
    "task_name",
    "instance_num",
    "job_name",
    "task_type",
    "status",
    "start_time",
    "end_time",
    "plan_cpu",
    "plan_mem",
)
GENERATED_COLUMNS = 7
BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Trace:
    """Jobs of a trace."""

    jobs: np.ndarray
    """[J, 3] float64: instructions, bits in, bits out."""
    arrival_s: np.ndarray
    """[J] when each arrived, on the trace's own clock."""
    notes: tuple[str, ...]
    """What was left out."""


def sample_path() -> Path:
    """Return the trace's task table in the installed package.

    Raises:
        ConfigError: `spar` is not installed, or its sample is missing.
    """
    found = importlib.util.find_spec("spar")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "workload.jobs.kind: alibaba: the Alibaba sample is read from the Python package 'spar', which is not "
            "installed; install it with: pip install 'offload-rllib[alibaba]', give the path of a batch_task.csv, or "
            "use kind: mix"
        )
    path = Path(found.submodule_search_locations[0]) / "data" / "samples" / "sample_tasks.csv"
    if not path.is_file():
        raise ConfigError(f"{path}: the installed package 'spar' lacks this file; reinstall spar==0.0.7")
    return path


def summarise_jobs(path: Path) -> np.ndarray:
    """Return one row per job: largest CPU request, largest memory request, summed duration of its tasks, arrival.

    Args:
        path: CSV without header: arrival s, job, task, duration s, CPU (100 = one core), memory (% of a machine),
            instances. An empty number counts as 0.

    Raises:
        ConfigError: a row has not seven columns, or text where a number belongs.
    """
    jobs: dict[str, list[float]] = {}
    with opened_text(path) as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                arrival, job, _task, duration, cpu, memory, _instances = row
                values = float(cpu or 0), float(memory or 0), float(duration or 0), float(arrival or 0)
            except ValueError as error:
                raise ConfigError(
                    f"{path}: line {number}: expected arrival,job,task,duration,cpu,memory,instances: {row}"
                ) from error
            if not all(0 <= value < math.inf for value in values):
                raise ConfigError(f"{path}: line {number}: accepted are finite numbers from 0 up: {row}")
            known = jobs.setdefault(job, [0.0, 0.0, 0.0, math.inf])
            known[0] = max(known[0], values[0])
            known[1] = max(known[1], values[1])
            known[2] += values[2]
            known[3] = min(known[3], values[3])
    return np.array(list(jobs.values()))


def summarise_trace(path: Path) -> tuple[np.ndarray, dict[str, int]]:
    """Return one row per job of the trace's own table, as `summarise_jobs`, and how many rows were left out, by reason.

    A task counts if it is `Terminated`, has a start above 0 and an end that is not before it, and requests CPU and
    memory; the arrival of a job is the first start of its tasks that count. The table is read in blocks, and each block
    is summarised before the next is read.

    Args:
        path: CSV without header, with the columns `TRACE_COLUMNS`.

    Raises:
        ConfigError: a row has not nine columns, or text where a number belongs; or no task counts.
    """
    numbers = ("start_time", "end_time", "plan_cpu", "plan_mem")
    left_out: dict[str, int] = {}
    blocks: list[pa.Table] = []
    rows = 0
    with opened(path) as file, _named(path):
        reader = pyarrow.csv.open_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(column_names=list(TRACE_COLUMNS), block_size=BLOCK_BYTES),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=["job_name", "status", *numbers],
                column_types={"job_name": pa.string(), "status": pa.string(), **dict.fromkeys(numbers, pa.float64())},
            ),
        )
        for batch in reader:
            columns = (batch.column(name).to_numpy(zero_copy_only=False) for name in numbers)
            # A missing number has become NaN, which no comparison accepts.
            start_s, end_s, cpu, memory = columns
            endless = np.isinf(np.column_stack([start_s, end_s, cpu, memory]))
            if endless.any():
                row, column = (int(index[0]) for index in np.nonzero(endless))
                raise ConfigError(
                    f"{path}: line {rows + row + 1}: {numbers[column]} is infinite; accepted are finite numbers"
                )
            rows += batch.num_rows
            counts = np.ones(batch.num_rows, bool)
            for reason, accepted in (
                ("not terminated", batch.column("status").to_numpy(zero_copy_only=False) == "Terminated"),
                ("no start or no end", (start_s > 0) & (end_s > 0)),
                ("end before start", end_s >= start_s),
                ("no CPU or no memory request", (cpu > 0) & (memory > 0)),
            ):
                left_out[reason] = left_out.get(reason, 0) + int((counts & ~accepted).sum())
                counts &= accepted
            blocks.append(
                _by_job(
                    pa.table(
                        {
                            "job": batch.column("job_name").filter(pa.array(counts)),
                            "cpu": cpu[counts],
                            "memory": memory[counts],
                            "duration": (end_s - start_s)[counts],
                            "arrival": start_s[counts],
                        }
                    )
                )
            )
    jobs = _by_job(pa.concat_tables(blocks)).sort_by("job")  # grouping guarantees no order
    if jobs.num_rows == 0:
        raise ConfigError(f"{path}: no task counts: {left_out}")
    return np.column_stack([jobs.column(name).to_numpy() for name in jobs.column_names[1:]]), left_out


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in what Arrow says of its rows."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path}: expected {', '.join(TRACE_COLUMNS)}: {' '.join(str(error).split())}") from error


def _by_job(tasks: pa.Table) -> pa.Table:
    """Return one row per job, in any order; summaries can be summarised again."""
    how = {"cpu": "max", "memory": "max", "duration": "sum", "arrival": "min"}
    summed = tasks.group_by("job", use_threads=False).aggregate(list(how.items()))
    return summed.select(["job", *(f"{name}_{function}" for name, function in how.items())]).rename_columns(
        ["job", *how]
    )


def cache_path(source: Path) -> Path:
    """Return the cache file of a source file; another size or version of it gets another name."""
    stamp = f"{CACHE_VERSION} {source.stat().st_size} {source.stat().st_mtime_ns}"
    return user_cache() / "alibaba" / f"{source.stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}.npz"


def _summarise(source: Path) -> tuple[np.ndarray, dict[str, int]]:
    with opened_text(source) as file:
        columns = len(next(csv.reader(file), []))
    if columns == len(TRACE_COLUMNS):
        return summarise_trace(source)
    if columns == GENERATED_COLUMNS:
        return summarise_jobs(source), {}
    raise ConfigError(
        f"{source}: its first row has {columns} columns; accepted: {GENERATED_COLUMNS} (written by spar) or "
        f"{len(TRACE_COLUMNS)} (batch_task.csv of cluster-trace-v2018)"
    )


def load_jobs(source: Path) -> tuple[np.ndarray, dict[str, int]]:
    """Return the summarised jobs [J, 4] (columns: `COLUMNS`) and the rows left out, converted once and then cached.

    An unreadable cache file is written again; if it cannot be written, the trace is read without a cache.

    Raises:
        ConfigError: the file is not such a table.
    """
    cached = cache_path(source)
    try:
        with np.load(cached, allow_pickle=False) as content:
            jobs, reasons, counts = content["jobs"], content["reasons"], content["counts"]
        if jobs.ndim == 2 and jobs.shape[1] == len(COLUMNS) and np.isfinite(jobs).all():
            return jobs, dict(zip(reasons.tolist(), counts.tolist(), strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, or damaged
    jobs, left_out = _summarise(source)
    if not np.isfinite(jobs).all():
        raise ConfigError(f"{source}: the durations of a job's tasks add up to more than a number can hold")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with written_at_once(cached) as partial, partial.open("wb") as file:
            reasons, counts = np.array(list(left_out), str), np.array(list(left_out.values()), np.int64)
            np.savez(file, jobs=jobs, reasons=reasons, counts=counts)
    except OSError as error:
        warnings.warn(
            f"{cached}: cannot be written ({error.strerror}); the trace is read again by every process. Set "
            "OFFLOAD_RLLIB_CACHE to a folder that can.",
            stacklevel=2,
        )
    return jobs, left_out


def job_table(config: AlibabaJobs) -> Trace:
    """Return the jobs of a trace.

    Jobs without a recorded duration need no instructions; they are kept, as PeersimGym keeps them.

    Raises:
        ConfigError: no such file, or it cannot be read.
    """
    source = sample_path() if config.path is None else find_data(config.path)
    summarised, left_out = load_jobs(source)
    cpu, memory, duration, arrival_s = summarised.T
    instructions = cpu / 100 * duration * config.time_scale * config.reference_instructions_per_second
    bits = memory * config.megabytes_per_memory_unit * 8e6
    if not max(instructions.max(), bits.max()) <= LARGEST:
        raise ConfigError(
            f"workload.jobs: with these factors, a job of {source} needs more than {LARGEST:g} instructions or bits"
        )
    notes = tuple(f"{source.name}: {count:,} rows left out: {reason}" for reason, count in left_out.items() if count)
    return Trace(np.column_stack([instructions, bits, bits]), arrival_s, notes)
