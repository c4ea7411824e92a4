"""What links contend for, and how their rates change: from their descriptions to the arrays of the simulator."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.links import RateSchedule
from offload_rllib.config.loading import find_data
from offload_rllib.scenario.links import Direction
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.rows import numbers_of_rows
from offload_rllib.simulator.changes.due import RATE_CHANGE
from offload_rllib.simulator.types import NONE, UNBOUNDED, Array

# Of all links in an episode; each is a change that the simulator makes.
MOST_CHANGES = 10_000_000

Directions = Mapping[tuple[int, int], Direction]


def write_channels(directions: Directions, network: Network, moving: frozenset[int], link: Array, law: Array) -> Array:
    """Write which links contend for the same channel, and how.

    Args:
        directions: of the links, in the order of the arrays.
        network: that they belong to.
        moving: nodes that move.
        link: [M] LINK, whose `plain` is written.
        law: [M] LINK_LAW.

    Returns:
        [P] float64, `Scenario.throughput`.

    Raises:
        ConfigError: links of one channel contend in different ways, or a link belongs to two cells.
    """
    members: dict[tuple[object, ...], list[int]] = {}
    ways = list(directions)
    for i, (pair, direction) in enumerate(directions.items()):
        if direction.contention == "none" and direction.rate_schedule is None and moving.isdisjoint(pair):
            continue  # nothing contends with it, and its rate is constant
        members.setdefault(_channel_of(pair, direction, network), []).append(i)
    tables: dict[tuple[float, ...], int] = {}
    law["queue"] = np.arange(len(law))
    law["channel"] = NONE
    law["at_once"] = UNBOUNDED
    for links in members.values():
        kinds = [directions[ways[i]] for i in links]
        _check_alike(links, kinds, ways, network)
        law["queue"][links] = links[0]
        contention = kinds[0].contention
        varies = any(of.rate_schedule is not None for of in kinds) or any(not moving.isdisjoint(ways[i]) for i in links)
        if contention != "shared" and not varies:
            continue
        law["channel"][links] = links[0]
        law["contention"][links] = 0
        link["plain"][links] = 0
        law["at_once"][links] = 1 if contention == "fifo" else UNBOUNDED
        if contention == "shared":
            table = kinds[0].throughput or (1.0,)
            law["first_throughput"][links] = tables.setdefault(table, sum(map(len, tables)))
            law["throughputs"][links] = len(table)
    return np.array([value for table in tables for value in table], float)


def _channel_of(pair: tuple[int, int], direction: Direction, network: Network) -> tuple[object, ...]:
    """Return what tells the channel of one direction of a link from others."""
    if direction.contention == "none" or direction.channel == "direction":
        return "direction", *pair
    if direction.channel == "link":
        return "link", *sorted(pair)
    if direction.cell_of is None:
        raise ConfigError(f"links: {_named(pair, network)}: channel: cell needs cell_of in links, or in its medium")
    centres = [n for n in pair if network.nodes[n].type in direction.cell_of]
    if len(centres) == 2:
        raise ConfigError(
            f"links.cell_of: the link {_named(pair, network)} would belong to two cells, for both of its nodes are of "
            "such a type; give it channel: direction or link in link_overrides"
        )
    return ("cell", centres[0]) if centres else ("direction", *pair)


def _named(pair: tuple[int, int], network: Network) -> str:
    return " - ".join(network.nodes[n].name for n in pair)


def _check_alike(links: list[int], kinds: list[Direction], ways: list[tuple[int, int]], network: Network) -> None:
    for i, kind in zip(links, kinds, strict=True):
        for key in ("contention", "throughput"):
            if getattr(kind, key) != getattr(kinds[0], key):
                raise ConfigError(
                    f"links: {_named(ways[links[0]], network)} and {_named(ways[i], network)} contend for one channel, "
                    f"with {key}: {getattr(kinds[0], key)} and {getattr(kind, key)}; it must be the same"
                )


def rate_changes(directions: Directions, network: Network, law: Array, horizon_s: float) -> Array:
    """Return the changes [P] RATE_CHANGE of all links in an episode, sorted by time, then by link.

    Raises:
        ConfigError: a file does not hold a schedule, a schedule is that of a rate which follows the bits of the
            message, or there are too many changes.
    """
    steps_of: dict[RateSchedule, Array] = {}
    parts = []
    for i, (pair, direction) in enumerate(directions.items()):
        schedule = direction.rate_schedule
        if schedule is None:
            continue
        if direction.message_noise_hz > 0:
            raise ConfigError(
                f"links.rate_schedule: the rate of {_named(pair, network)} follows the bits of a message (noise_over: "
                "message); accepted: noise_over: bandwidth"
            )
        if schedule not in steps_of:
            steps_of[schedule] = _repeated(np.array(_steps(schedule)), schedule.period_s, horizon_s)
        steps = steps_of[schedule]
        part = np.zeros(len(steps), RATE_CHANGE)
        part["time_s"], part["link"] = steps[:, 0], i
        with np.errstate(divide="ignore"):
            part["seconds_per_bit"] = law["seconds_per_bit"][i] / steps[:, 1]
        parts.append(part)
    if sum(map(len, parts)) > MOST_CHANGES:
        raise ConfigError(
            f"links.rate_schedule: {sum(map(len, parts)):,} changes of rates in an episode; at most {MOST_CHANGES:,}"
        )
    changes = np.concatenate(parts) if parts else np.zeros(0, RATE_CHANGE)
    return changes[np.lexsort((changes["link"], changes["time_s"]))]


def _repeated(steps: Array, period_s: float | None, horizon_s: float) -> Array:
    """Return the steps [P, 2] of an episode."""
    if period_s is None:
        return steps[steps[:, 0] <= horizon_s]
    periods = math.ceil(horizon_s / period_s) + 1
    if periods * len(steps) > MOST_CHANGES:
        raise ConfigError(
            f"links.rate_schedule: {periods * len(steps):,} changes of a link in an episode; at most {MOST_CHANGES:,}"
        )
    every = np.tile(steps, (periods, 1))
    every[:, 0] += np.repeat(np.arange(periods) * period_s, len(steps))
    return every[every[:, 0] <= horizon_s]


def _steps(schedule: RateSchedule) -> tuple[tuple[float, float], ...]:
    if schedule.steps is not None:
        return schedule.steps
    path = find_data(str(schedule.path))
    rows = [
        (row["time_s"], row["factor"]) for row in numbers_of_rows(path, ("time_s", "factor"), "a schedule of rates")
    ]
    try:
        schedule.check(tuple(rows))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return tuple(rows)
