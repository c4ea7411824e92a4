"""When clients make tasks, computed the slow way for the reference: by solving for the integral of the whole rate.

It shares with the simulator the addresses of random draws and nothing else.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import integrate, linalg, optimize

from offload_rllib.config.base import PerEpisode
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.workload.arrivals import (
    BurstyRate,
    Column,
    ConstantRate,
    DiurnalRate,
    JobTimes,
    LinearRate,
    Replay,
    TableRate,
    UniformRate,
    ZigzagRate,
)
from offload_rllib.simulator import streams


class Recorded(NamedTuple):
    """One row of a recording."""

    time_s: float
    work: float | None  # None: the row does not say what the task needs
    bits_in: float
    bits_out: float
    deadline_s: float | None  # relative; None: the row does not say
    node: str
    type: int  # its place among the names of types in alphabetical order


def draw(key: np.uint64, purpose: int, index: int) -> float:
    """Return a random draw by its address."""
    return float(streams.uniform(np.uint64(streams.stream(key, purpose)), index))


def per_episode(value: float | PerEpisode, key: np.uint64, purpose: int, index: int) -> float:
    """Return a number, or what an episode draws from its range."""
    if isinstance(value, PerEpisode):
        low, high = value.per_episode
        return low + (high - low) * draw(key, purpose, index)
    return float(value)


def recorded_rows(config: EnvironmentConfig, key: np.uint64, client: str) -> list[Recorded]:
    """Return what a client makes in an episode, by the file and the times of its rows."""
    arrivals = config.workload.arrivals
    assert isinstance(arrivals, Replay)
    columns = arrivals.columns
    with Path(arrivals.path).open() as file:
        rows = list(csv.DictReader(file))

    def number(row: dict[str, str], column: Column | None, missing: float) -> float:
        return missing if column is None or not row[column.column] else float(row[column.column]) * column.factor

    types = sorted({row[columns.type] for row in rows}) if columns.type else []
    speed = per_episode(arrivals.speed, key, streams.RATE_FACTOR, 0)
    times = [number(row, columns.time, 0.0) for row in rows]
    start_s = 0.0
    if arrivals.start == "random":
        start_s = draw(key, streams.RECORDING_START, 0) * (times[-1] - speed * config.horizon_s)
    assert columns.origin is not None
    return [
        Recorded(
            time_s=(time_s - start_s) / speed,
            work=None if columns.work is None else number(row, columns.work, 0.0),
            bits_in=number(row, columns.bits_in, 0.0),
            bits_out=number(row, columns.bits_out, 0.0),
            deadline_s=None if columns.deadline is None else number(row, columns.deadline, math.inf),
            node=(row[columns.node] if columns.node else "") or client,
            type=types.index(row[columns.type]) if columns.type else 0,
        )
        for time_s, row in zip(times, rows, strict=True)
        if row[columns.origin] == client and 0 <= (time_s - start_s) / speed <= config.horizon_s
    ]


def arrival_times(config: EnvironmentConfig, key: np.uint64, node_key: np.uint64, weight: float) -> list[float]:
    """Return when a client makes its tasks: where the integral of its rate reaches the sums of exponential draws."""
    load = config.workload.load
    assert load is not None
    assert load.tasks_per_second_per_client is not None
    rate = weight * per_episode(load.tasks_per_second_per_client, key, streams.RATE_FACTOR, 0)

    def gap(index: int) -> float:
        return float(streams.sample(streams.EXPONENTIAL, 1.0, 0.0, draw(node_key, streams.ARRIVAL_GAP, index)))

    times, reached, index = [], 0.0, 0
    if isinstance(config.workload.arrivals, ConstantRate):
        # To the last bit: tests let events fall together with arrivals.
        while (reached := reached + gap(len(times)) / rate) <= config.horizon_s:
            times.append(reached)
        return times
    area = _integral(config, key, node_key)
    total = rate * area(config.horizon_s)
    while True:
        reached += gap(index)
        if reached > total:
            return times
        wanted = reached
        times.append(
            optimize.brentq(lambda t, wanted=wanted: rate * area(t) - wanted, 0.0, config.horizon_s, xtol=1e-13)
        )
        index += 1


def _integral(config: EnvironmentConfig, key: np.uint64, node_key: np.uint64) -> Callable[[float], float]:
    """Return the integral from 0 of a client's level, whose mean is 1."""
    arrivals, horizon_s = config.workload.arrivals, config.horizon_s
    if isinstance(arrivals, DiurnalRate):
        phase = draw(node_key, streams.RATE_PHASE, 0) if arrivals.heterogeneous else arrivals.phase

        def level(t: float) -> float:
            return 1 + arrivals.amplitude * math.sin(2 * math.pi * (t / arrivals.period_s + phase))

        mean = 1.0
        if not arrivals.heterogeneous:
            mean = integrate.quad(level, 0, horizon_s, limit=1000, epsrel=1e-13)[0] / horizon_s
        turns = 2 * math.pi / arrivals.period_s
        start = math.cos(2 * math.pi * phase)
        return lambda t: (t + arrivals.amplitude / turns * (start - math.cos(turns * t + 2 * math.pi * phase))) / mean
    assert not isinstance(arrivals, ConstantRate | Replay | JobTimes)
    times, levels, known = _corners(arrivals, horizon_s, key, node_key)
    areas = np.concatenate([[0.0], np.cumsum((levels[:-1, 1] + levels[1:, 0]) / 2 * np.diff(times))])

    def integral(t: float) -> float:
        i = min(int(np.searchsorted(times, t, "right")) - 1, len(times) - 2)
        x = t - times[i]
        slope = (levels[i + 1, 0] - levels[i, 1]) / (times[i + 1] - times[i])
        return float(areas[i] + levels[i, 1] * x + slope * x * x / 2)

    mean = known or integral(horizon_s) / horizon_s
    return lambda t: integral(t) / mean


def _corners(
    arrivals: LinearRate | ZigzagRate | UniformRate | BurstyRate | TableRate,
    horizon_s: float,
    key: np.uint64,
    node_key: np.uint64,
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Return times, the levels before and after each, and the mean; None if it is that of this very episode."""
    if isinstance(arrivals, LinearRate):
        ramp_s = arrivals.ramp_s or horizon_s
        times = np.array([0.0, ramp_s, ramp_s + horizon_s])
        return times, np.array([[arrivals.first_level] * 2, [arrivals.last_level] * 2, [arrivals.last_level] * 2]), None
    if isinstance(arrivals, TableRate):
        with Path(arrivals.path).open() as file:
            rows = [(float(row["time_s"]), float(row["level"])) for row in csv.DictReader(file)]
        rows.append((rows[-1][0] + horizon_s, rows[-1][1]))
        after = [value for _, value in rows]
        before = after if arrivals.interpolation == "lines" else [after[0], *after[:-1]]
        return np.array([time for time, _ in rows]), np.column_stack([before, after]), None
    source = node_key if arrivals.heterogeneous else key
    if isinstance(arrivals, ZigzagRate):
        phase = draw(node_key, streams.RATE_PHASE, 0) if arrivals.heterogeneous else arrivals.phase
        halves = np.arange(-2, 2 * horizon_s / arrivals.period_s + 4)
        levels = np.where(halves % 2 == 0, arrivals.low_level, arrivals.high_level)
        times = (halves / 2 - phase) * arrivals.period_s
        at_start = float(np.interp(0.0, times, levels))
        kept = times > 0
        times, levels = np.append(0.0, times[kept]), np.append(at_start, levels[kept])
        mean = (arrivals.low_level + arrivals.high_level) / 2 if arrivals.heterogeneous else None
        return times, np.column_stack([levels, levels]), mean
    if isinstance(arrivals, UniformRate):
        slots = int(horizon_s / arrivals.slot_s) + 2
        drawn = [draw(source, streams.RATE_LEVEL, k) for k in range(slots)]
        levels = [arrivals.low_level + (arrivals.high_level - arrivals.low_level) * u for u in drawn]
        times = np.arange(slots + 1) * arrivals.slot_s
        mean = (arrivals.low_level + arrivals.high_level) / 2
        return times, np.column_stack([[levels[0], *levels], [*levels, levels[-1]]]), mean
    count = len(arrivals.states)
    jumps = np.array(arrivals.jumps or [[(i != j) / (count - 1) for j in range(count)] for i in range(count)])
    generator = (jumps - np.eye(count)) / np.array([[state.mean_s] for state in arrivals.states])
    stationary = linalg.null_space(generator.T)[:, 0]
    stationary /= stationary.sum()
    level = np.array([state.level for state in arrivals.states])
    times, levels = [0.0], []
    chances = stationary
    while times[-1] <= horizon_s:
        u = draw(source, streams.BURST_STATE, len(levels))
        state = min(int(np.searchsorted(np.cumsum(chances), u, "right")), count - 1)
        stay = -math.log(1 - draw(source, streams.BURST_TIME, len(levels))) * arrivals.states[state].mean_s
        levels.append(level[state])
        times.append(times[-1] + stay)
        chances = jumps[state]
    both = np.column_stack([[levels[0], *levels], [*levels, levels[-1]]])
    return np.array(times), both, float(stationary @ level)
