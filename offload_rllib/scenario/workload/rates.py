"""The rate of a client over time: from the configuration to the simulator's levels, whose mean is 1."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offload_rllib.config.base import LARGEST
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import find_data, nearest
from offload_rllib.config.workload.arrivals import (
    Arrivals,
    BurstyRate,
    ConstantRate,
    DiurnalRate,
    LinearRate,
    Recorded,
    TableRate,
    UniformRate,
    ZigzagRate,
)
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.text_files import opened_text
from offload_rllib.simulator import arrivals as kinds
from offload_rllib.simulator.arrivals import ARRIVALS, BURST_STATE, CLIENT, RATE_PIECE


@dataclass(frozen=True)
class RateShape:
    """The rates of all clients over time, relative to each client's mean over the episode (and over all episodes)."""

    record: np.ndarray
    """[1] ARRIVALS; levels have mean 1."""
    client: np.ndarray
    """[N] CLIENT: the rate pieces of each client."""
    pieces: np.ndarray
    """[P] RATE_PIECE."""
    burst_state: np.ndarray
    """[B] BURST_STATE."""
    burst_jump: np.ndarray
    """[B, B] cumulative probabilities of jumps."""
    mean: np.ndarray
    """[N] mean level before it was made 1: relative, or tasks per second where a table gives rates."""


def rate_shape(config: Arrivals, network: Network, horizon_s: float) -> RateShape:
    """Return the shape of the rates.

    Raises:
        ConfigError: a table is missing or invalid, or no task would ever arrive.
    """
    record = np.zeros(1, ARRIVALS)
    count = len(network.nodes)
    client = np.zeros(count, CLIENT)
    pieces, states, jumps = np.zeros(0, RATE_PIECE), np.zeros(0, BURST_STATE), np.zeros((0, 0))
    mean = np.ones(count)
    arrivals = record[0]
    if isinstance(config, ConstantRate):
        arrivals["kind"] = kinds.CONSTANT
    elif isinstance(config, Recorded):
        arrivals["kind"] = kinds.RECORDING
    elif isinstance(config, TableRate):
        arrivals["kind"] = kinds.TABLE
        client, pieces, mean = _table(config, network, horizon_s)
    elif isinstance(config, BurstyRate):
        arrivals["kind"] = kinds.BURSTY
        arrivals["heterogeneous"] = config.heterogeneous
        states, jumps, level = _chain(config)
        mean[:] = level
    else:
        low, high, level = _levels(config, record, horizon_s)
        arrivals["low"], arrivals["high"] = low / level, high / level
        mean[:] = level
    return RateShape(record, client, pieces, states, jumps, mean)


def _levels(
    config: LinearRate | ZigzagRate | UniformRate | DiurnalRate, record: np.ndarray, horizon_s: float
) -> tuple[float, float, float]:
    """Set the other fields of a rate with two levels; return the levels and their mean over the episode."""
    arrivals = record[0]
    if isinstance(config, LinearRate):
        arrivals["kind"] = kinds.LINEAR
        ramp_s = arrivals["period_s"] = config.ramp_s if config.ramp_s is not None else horizon_s
        low, high = config.first_level, config.last_level
        inside_s = min(ramp_s, horizon_s)
        reached = low + (high - low) * inside_s / ramp_s
        mean = (0.5 * (low + reached) * inside_s + high * (horizon_s - inside_s)) / horizon_s
        return low, high, mean
    arrivals["heterogeneous"] = config.heterogeneous
    if isinstance(config, UniformRate):
        arrivals["kind"] = kinds.UNIFORM_LEVELS
        arrivals["period_s"] = config.slot_s
        return config.low_level, config.high_level, 0.5 * (config.low_level + config.high_level)
    arrivals["period_s"], arrivals["phase"] = config.period_s, config.phase
    if isinstance(config, ZigzagRate):
        arrivals["kind"] = kinds.ZIGZAG
        low, high = config.low_level, config.high_level
        periods = _triangle_integral(config.phase + horizon_s / config.period_s) - _triangle_integral(config.phase)
        share = periods * config.period_s / horizon_s
    else:
        arrivals["kind"] = kinds.DIURNAL
        low, high = 1 - config.amplitude, 1 + config.amplitude
        start, end = (2 * math.pi * (config.phase + t / config.period_s) for t in (0.0, horizon_s))
        share = 0.5 + 0.5 * (math.cos(start) - math.cos(end)) / (end - start)
    if config.heterogeneous:
        share = 0.5  # phases are uniform, so that every moment has the mean of a whole period
    return low, high, low + (high - low) * share


def clock_of(arrivals: np.ndarray, horizon_s: float) -> tuple[float, float]:
    """Return the period of the time of day and its phase at time 0, in periods; a period of 0 if load has no such time.

    Where rates do not repeat, an episode is half a period: every time of it looks different then.

    Args:
        arrivals: an ARRIVALS record.
        horizon_s: length of an episode.
    """
    if arrivals["kind"] in (kinds.DIURNAL, kinds.ZIGZAG) and not arrivals["heterogeneous"]:
        return float(arrivals["period_s"]), float(arrivals["phase"])
    if arrivals["kind"] in (kinds.LINEAR, kinds.TABLE):
        return 2.0 * horizon_s, 0.0
    return 0.0, 0.0


def _triangle_integral(periods: float) -> float:
    """Return the integral from 0, in periods, of the triangle wave that starts at 0 and has its height of 1 at 1/2."""
    whole, part = divmod(periods, 1.0)
    return 0.5 * whole + (part * part if part <= 0.5 else 0.5 - (1 - part) ** 2)


def _chain(config: BurstyRate) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the states, the jumps, and the mean level of a Markov-modulated rate whose mean is made 1.

    The share of time in state i is proportional to v_i x mean time, v being the stationary distribution of the jumps.

    Raises:
        ConfigError: the chain falls into parts, so that its share of time is not defined.
    """
    count = len(config.states)
    if config.jumps is None:
        jumps = (1 - np.eye(count)) / (count - 1)
    else:
        jumps = np.array(config.jumps) / np.sum(config.jumps, axis=1, keepdims=True)
    # v (P - I) = 0 and sum v = 1; of rank B if one class of states is reached from all.
    equations = np.vstack([jumps.T - np.eye(count), np.ones(count)])
    if np.linalg.matrix_rank(equations) < count:
        raise ConfigError(
            "workload.arrivals.jumps: the states fall into parts that never reach each other, so the mean rate would "
            "depend on where an episode starts; connect them"
        )
    visits = np.linalg.lstsq(equations, np.append(np.zeros(count), 1.0), rcond=None)[0]
    time = np.clip(visits, 0.0, None) * np.array([state.mean_s for state in config.states])
    time /= time.sum()
    levels = np.array([state.level for state in config.states])
    mean = float(time @ levels)
    if not mean > 0:
        raise ConfigError("workload.arrivals.states: no state with a level above 0 is ever reached")
    states = np.zeros(count, BURST_STATE)
    states["level"] = levels / mean
    states["mean_s"] = [state.mean_s for state in config.states]
    states["cumulative_start"] = np.cumsum(time)
    return states, np.cumsum(jumps, axis=1), mean


def _table(config: TableRate, network: Network, horizon_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the range of pieces of each client [N], the pieces, and each client's mean over the episode [N]."""
    path = find_data(config.path)
    value_name, by_client = _read_table(path, network)
    client = np.zeros(len(network.nodes), CLIENT)
    mean = np.zeros(len(network.nodes))
    made: dict[str | None, tuple[int, int, float]] = {}
    pieces: list[np.ndarray] = []
    rows = 0
    for n, node in enumerate(network.nodes):
        if not node.client:
            continue
        whose = None if None in by_client else node.name
        if whose not in by_client:
            raise ConfigError(f"{path}: no rows for client '{node.name}'; a level of 0 keeps it silent")
        if whose not in made:
            own, level = _pieces(by_client[whose], config.interpolation, horizon_s)
            made[whose] = rows, rows + len(own), level
            pieces.append(own)
            rows += len(own)
        client[n]["first_row"], client[n]["end_row"], mean[n] = made[whose]
    if not mean.max() > 0:
        raise ConfigError(f"{path}: {value_name} is 0 until horizon_s ({horizon_s:g}): no task would ever arrive")
    return client, np.concatenate(pieces), mean


def table_gives_rates(config: TableRate) -> bool:
    """Return whether a table says tasks per second, not relative levels.

    Raises:
        ConfigError: there is no such file, or it lacks the columns.
    """
    path = find_data(config.path)
    with opened_text(path) as file:
        return _header(path, next(csv.reader(file), [])) == "rate"


def _header(path: Path, header: list[str]) -> str:
    """Return the name of the column that holds values."""
    names = [name for name in ("rate", "level") if name in header]
    unknown = set(header) - {"time_s", "rate", "level", "client"}
    if unknown:
        name = min(unknown)
        raise ConfigError(
            f"{path}: column '{name}' is not known.{nearest(name, ('time_s', 'rate', 'level', 'client'))}"
        )
    if len(names) != 1 or "time_s" not in header or len(set(header)) != len(header):
        raise ConfigError(
            f"{path}: a table of rates has the columns time_s, one of rate and level, and optionally client; "
            f"has {', '.join(header) or 'none'}"
        )
    return names[0]


def _read_table(path: Path, network: Network) -> tuple[str, dict[str | None, np.ndarray]]:
    """Return the name of the column with values, and the rows [P, 2] of each client, or of all under None."""
    rows: dict[str | None, list[tuple[float, float]]] = {}
    clients = [node.name for node in network.nodes if node.client]
    with opened_text(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        value_name = _header(path, header)
        for number, row in enumerate(reader, start=1):
            if len(row) != len(header):
                raise ConfigError(f"{path}: row {number}: has {len(row)} values for {len(header)} columns")
            given = dict(zip(header, row, strict=True))
            values = []
            for name in ("time_s", value_name):
                try:
                    value = float(given[name])
                except ValueError:
                    value = math.nan
                if not 0 <= value <= LARGEST:
                    raise ConfigError(
                        f"{path}: row {number}: column '{name}': {given[name]!r}; accepted: finite numbers from 0 up "
                        f"to {LARGEST:g}"
                    )
                values.append(value)
            whose = given.get("client")
            if whose is not None and whose not in clients:
                raise ConfigError(
                    f"{path}: row {number}: column 'client': no client is named '{whose}'.{nearest(whose, clients)}"
                )
            own = rows.setdefault(whose, [])
            if own and not values[0] > own[-1][0]:
                raise ConfigError(
                    f"{path}: row {number}: column 'time_s': {values[0]:g} s is not after {own[-1][0]:g} s"
                )
            if not own and values[0] != 0:
                raise ConfigError(f"{path}: row {number}: column 'time_s': the first row of a client must be at 0 s")
            own.append((values[0], values[1]))
    if not rows:
        raise ConfigError(f"{path}: holds no rows")
    return value_name, {whose: np.array(own) for whose, own in rows.items()}


def _pieces(rows: np.ndarray, interpolation: str, horizon_s: float) -> tuple[np.ndarray, float]:
    """Return the pieces of a table, scaled to mean 1 over the episode, and the mean before."""
    time_s, level = rows.T
    pieces = np.zeros(len(rows), RATE_PIECE)
    pieces["time_s"], pieces["level"] = time_s, level
    if interpolation == "lines":
        pieces["slope"][:-1] = np.diff(level) / np.diff(time_s)
    length_s = np.clip(np.append(time_s[1:], np.inf), 0.0, horizon_s) - np.clip(time_s, 0.0, horizon_s)
    mean = float(((pieces["level"] + 0.5 * pieces["slope"] * length_s) * length_s).sum() / horizon_s)
    if mean > 0:
        pieces["level"] /= mean
        pieces["slope"] /= mean
    return pieces, mean
