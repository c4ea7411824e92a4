"""Speeds of devices, rates and latencies of links, as a log of tasks has them.

Everything is fitted relative to the model: the time that a task took, over the time that the simulator would have
given it. So nodes of one type may differ in speed, and links of one kind in rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize, sparse, stats

from offload_rllib.config.errors import ConfigError
from offload_rllib.scenario import BuiltScenario
from offload_rllib.scenario.links import Direction, link_directions
from offload_rllib.simulator.types import Array
from offload_rllib.testbed.analysis.log import DONE, LOAD, SIDE, TESTBED, Table

# With fewer tasks a type of device or link keeps the values of the model.
FEWEST = 20
# Sizes must spread so much, relative to their mean, to tell a latency from a rate.
LEAST_SPREAD = 0.05
# P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35, 1964: residuals beyond
# so many standard deviations count by their size alone. Of normal ones it is 95 % as efficient as least squares.
HUBER = 1.345
# Where transfers wait for each other, those that did not wait are the fastest of their size.
QUANTILE = 0.05
MOST_POINTS = 2000
MAD_OF_NORMAL = float(stats.norm.ppf(0.75))
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Fit:
    """What a log says of one type of device, or of one kind of link."""

    group: str
    """A type of device, or two types with a dash between them."""
    tasks: int
    """How many times it was fitted to."""
    factor: float = 1.0
    """Measured over modelled time: of a service, or of the bits of a transfer."""
    error: float = float("nan")
    """Half of the 95 % interval of `factor`; NaN where there is none."""
    shift_s: float = 0.0
    """Measured minus modelled latency in seconds."""
    kept: str = ""
    """Why the values of the model stay; empty if they were fitted."""
    latency_kept: str = ""
    """Why the latency stays."""


@dataclass(frozen=True)
class Calibration:
    """What a log says of an environment."""

    devices: tuple[Fit, ...]
    """Of each type of device, by name."""
    links: tuple[Fit, ...]
    """Of each pair of types that are linked, by name."""

    def of_device(self, kind: str) -> Fit:
        """Return what was found of a type of device."""
        return next(fit for fit in self.devices if fit.group == kind)

    def of_link(self, one: str, other: str) -> Fit:
        """Return what was found of the links between two types of devices."""
        return next(fit for fit in self.links if fit.group == link_kind(one, other))


def link_kind(one: str, other: str) -> str:
    """Return what links between two types of devices are called."""
    return " - ".join(sorted((one, other)))


def calibrate(tasks: Table, scenario: BuiltScenario, *, load: float | None = None) -> Calibration:
    """Return the speeds, rates and latencies that a testbed's log of one load has.

    Only tasks that finished are looked at, whether they count or not: where they were served, and, if they crossed one
    link, how long they and their results took on it. Service times are fitted through the origin with residuals over
    the square root of the modelled time, so that without outliers the total of the service times is that of the log.

    Args:
        tasks: from `log.read_log`, with names of nodes of the scenario.
        scenario: of the environment.
        load: which load of the log; None: it has but one.

    Raises:
        ConfigError: the log has no row of a testbed, no such load, several and none was named, or nothing can be
            fitted.
    """
    if scenario.config.tick_s is not None:
        raise ConfigError(f"tick_s: {scenario.config.tick_s:g}: times in ticks cannot be calibrated; accepted: null")
    tasks = tasks[(tasks[SIDE] == TESTBED) & (tasks["outcome"] == DONE)]
    loads = sorted(set(tasks[LOAD].tolist()))
    if not loads:
        raise ConfigError(f"the log has no finished task with {SIDE} '{TESTBED}' to calibrate with")
    accepted = ", ".join(f"{each:g}" for each in loads)
    if load is None and len(loads) > 1:
        raise ConfigError(f"--load: missing: the log has several. Accepted: {accepted}")
    if load is not None and load not in loads:
        raise ConfigError(f"--load {load:g}: the log has no finished task of a testbed at it. Accepted: {accepted}")
    tasks = tasks[tasks[LOAD] == (loads[0] if load is None else load)]
    calibration = Calibration(_devices(tasks, scenario), _links(tasks, scenario))
    fits = (*calibration.devices, *calibration.links)
    if all(fit.kept for fit in fits):
        raise ConfigError(f"nothing to calibrate: {'; '.join(f'{fit.group}: {fit.kept}' for fit in fits)}")
    return calibration


def _devices(tasks: Table, scenario: BuiltScenario) -> tuple[Fit, ...]:
    nodes, arrays = scenario.network.nodes, scenario.arrays
    index = {node.name: i for i, node in enumerate(nodes)}
    at = tasks["node"].map(index).to_numpy()
    taken_s = tasks["service_s"].to_numpy() if "service_s" in tasks else np.full(len(tasks), np.nan)
    model_s = tasks["work"].to_numpy() * arrays.node["seconds_per_instruction"][at]
    usable = np.isfinite(taken_s) & (model_s > 0)
    types = np.array([node.type for node in nodes], dtype=object)
    shared = {node.type for node in nodes if _is_shared(scenario, cloud=node.cloud)}
    fits = []
    for kind in sorted(set(types)):
        chosen = usable & (types[at] == kind)
        fit = Fit(kind, int(chosen.sum()))
        if kind in shared:
            fits.append(replace(fit, kept="tasks share the cores, so their times say nothing of one alone"))
        elif fit.tasks < FEWEST:
            fits.append(replace(fit, kept=_too_few(fit.tasks, "with a service time")))
        else:
            root = np.sqrt(model_s[chosen])
            (factor,), (error,) = _robust(root[:, None], taken_s[chosen] / root, [1e-12])
            fits.append(replace(fit, factor=factor, error=error))
    return tuple(fits)


def _is_shared(scenario: BuiltScenario, *, cloud: bool) -> bool:
    config = scenario.config
    return (config.cloud.service if cloud and config.cloud is not None else config.service) == "shared"


def _too_few(count: int, what: str) -> str:
    return f"{count} finished tasks {what}; at least {FEWEST} are needed"


def _links(tasks: Table, scenario: BuiltScenario) -> tuple[Fit, ...]:
    network = scenario.network
    directions = link_directions(scenario.config, network)
    points = _crossings(tasks, scenario, directions)
    kinds: dict[str, list[Direction]] = {}
    for (a, b), direction in directions.items():
        kinds.setdefault(link_kind(network.nodes[a].type, network.nodes[b].type), []).append(direction)
    return tuple(_link_fit(kind, kinds[kind], points.get(kind, np.zeros((0, 3)))) for kind in sorted(kinds))


def _crossings(tasks: Table, scenario: BuiltScenario, directions: dict[tuple[int, int], Direction]) -> dict[str, Array]:
    """Return by kind of link [n, 3]: modelled seconds of the bits, modelled latency, measured seconds.

    Of tasks that crossed one link: that is the one from their origin to where they were served.
    """
    nodes = scenario.network.nodes
    index = {node.name: i for i, node in enumerate(nodes)}
    found: dict[str, list[tuple[float, float, float]]] = {}
    for bits, taken, there in (("bits_in", "transfer_s", True), ("bits_out", "return_s", False)):
        if taken not in tasks:
            continue
        alone = tasks[(tasks["hops"] == 1) & np.isfinite(tasks[taken])]
        columns = (alone[name].tolist() for name in ("origin", "node", bits, taken))
        for origin, node, size, taken_s in zip(*columns, strict=True):
            a, b = index[origin], index[node]
            direction = directions.get((a, b) if there else (b, a))
            if direction is not None:
                kind = link_kind(nodes[a].type, nodes[b].type)
                point = size / direction.rate_bps, direction.mean_latency_s, taken_s
                found.setdefault(kind, []).append(point)
    return {kind: np.array(points) for kind, points in found.items()}


def _link_fit(kind: str, directions: list[Direction], points: Array) -> Fit:
    fit = Fit(kind, len(points))
    if len(points) < FEWEST:
        return replace(fit, kept=_too_few(len(points), "or results that crossed one such link"))
    if any(direction.message_noise_hz for direction in directions):
        return replace(fit, kept="the rate depends on the size of each message (links.noise_over: message)")
    sending_s, latency_s, taken_s = points.T
    if float(np.mean(sending_s)) <= 0:
        return replace(fit, kept="no message had any bits")
    beyond_s = taken_s - latency_s
    fitted = _fastest if any(direction.contention != "none" for direction in directions) else _robust
    if any(direction.latency.constant is None for direction in directions):
        fit = replace(fit, latency_kept="it is drawn from a distribution")
    elif float(np.std(sending_s)) < LEAST_SPREAD * float(np.mean(sending_s)):
        fit = replace(fit, latency_kept="sizes are too alike to tell it from the rate")
    # A latency cannot be negative; what is kept apart is drawn, or all of it is the rate's.
    least_s = -float(min(direction.propagation_s + direction.latency.mean for direction in directions))
    drawn = any(direction.latency.constant is None for direction in directions)
    if fit.latency_kept and not drawn:
        (factor,), (error,) = fitted(sending_s[:, None], beyond_s, [1e-12])
        return replace(fit, factor=factor, error=error)
    both = np.stack([sending_s, np.ones_like(sending_s)], axis=1)
    (factor, shift_s), (error, _) = fitted(both, beyond_s, [1e-12, least_s])
    return replace(fit, factor=factor, error=error, shift_s=0.0 if drawn else shift_s)


Fitter = Callable[[Array, Array, list[float]], tuple[Array, Array]]


def _robust(of: Array, values: Array, least: list[float]) -> tuple[Array, Array]:
    """Return the coefficients [k] of a linear model, with half-widths of their 95 % intervals, by Huber's loss.

    Args:
        of: [n, k], what each coefficient multiplies.
        values: [n].
        least: [k] smallest values of the coefficients.
    """
    begin = np.maximum(np.linalg.lstsq(of, values, rcond=None)[0], least)
    scale = _spread(values - of @ begin)
    for _ in range(3):  # the spread of the residuals is that about the fit
        found: Any = optimize.least_squares(
            lambda x: of @ x - values,
            np.maximum(begin, np.array(least) + 1e-15),
            jac=lambda _: of,  # pyright: ignore[reportArgumentType] - a function will do
            bounds=(least, np.inf),
            loss="huber",
            f_scale=max(HUBER * scale, 1e-15),
            x_scale="jac",
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
        )
        begin, scale = found.x, _spread(values - of @ found.x)
    freedom = len(values) - of.shape[1]
    errors = scale * np.sqrt(np.diag(np.linalg.inv(of.T @ of))) * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    return begin, errors


def _spread(residuals: Array) -> float:
    """Return the standard deviation of normal values with this median absolute deviation from 0."""
    return float(np.median(np.abs(residuals))) / MAD_OF_NORMAL


def _fastest(of: Array, values: Array, least: list[float]) -> tuple[Array, Array]:
    """Return the coefficients of a linear model that `QUANTILE` of the values are below; their intervals are unknown.

    Quantile regression as a linear program (R. Koenker and G. Bassett, "Regression quantiles", Econometrica 46, 1978).
    Arguments as `_robust`.
    """
    if len(values) > MOST_POINTS:
        kept = np.linspace(0, len(values) - 1, MOST_POINTS).astype(int)
        of, values = of[kept], values[kept]
    count, width = of.shape
    price = np.concatenate([np.zeros(width), np.full(count, QUANTILE), np.full(count, 1 - QUANTILE)])
    equal = sparse.hstack([sparse.csr_array(of), sparse.eye_array(count), -sparse.eye_array(count)])
    bounds = [*((low, None) for low in least), *[(0, None)] * (2 * count)]
    found: Any = optimize.linprog(price, A_eq=equal, b_eq=values, bounds=bounds, method="highs")
    return found.x[:width], np.full(width, np.nan)
