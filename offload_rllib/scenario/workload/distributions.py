"""Distributions of a configuration: as records of the simulator, as samples, and their tails."""

from __future__ import annotations

import numpy as np
from scipy import special

from offload_rllib.config.base import Distribution, ends
from offload_rllib.simulator.streams import (
    CHOICE,
    CONSTANT,
    EXPONENTIAL,
    LOGNORMAL,
    PARETO,
    UNIFORM,
    fill_quantiles,
)
from offload_rllib.simulator.types import DISTRIBUTION

PARAMETERS = ("a", "b", "c")


def kind_of(distribution: Distribution) -> int:
    """Return the simulator's number of a distribution's kind."""
    kinds = {
        "constant": CONSTANT,
        "exponential": EXPONENTIAL,
        "uniform": UNIFORM,
        "lognormal": LOGNORMAL,
        "pareto": PARETO,
        "choice": CHOICE,
    }
    return next(kind for key, kind in kinds.items() if getattr(distribution, key) is not None)


class Distributions:
    """Collects the records of distributions, and the values of the empirical ones, which all share one array."""

    def __init__(self) -> None:
        """Start with no values."""
        self._choices: list[np.ndarray] = []
        self._rows = 0

    def record(self, distribution: Distribution, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the DISTRIBUTION records of `factor` times a quantity: lower and upper ends of the parameters."""
        low, high = np.zeros((), DISTRIBUTION), np.zeros((), DISTRIBUTION)
        low["kind"] = high["kind"] = kind_of(distribution)
        if distribution.choice is not None:
            values = np.array(distribution.choice.values) * factor
            weights = np.array(distribution.choice.weights or np.ones(len(values)))
            self._choices.append(np.column_stack([values, np.cumsum(weights) / weights.sum()]))
            for record in (low, high):
                record["a"], record["b"] = self._rows, self._rows + len(values)
            self._rows += len(values)
            return low, high
        # Of a lognormal the second parameter, of a Pareto distribution the third, is a shape and has no unit.
        without_unit = 1 if distribution.lognormal is not None else 2
        for i, (name, value) in enumerate(zip(PARAMETERS, distribution.parameters, strict=False)):
            scaled = 1.0 if i == without_unit else factor
            low[name], high[name] = (end * scaled for end in ends(value))
        return low, high

    @property
    def choices(self) -> np.ndarray:
        """Values and cumulative shares [C, 2] of all empirical distributions so far."""
        return np.concatenate([np.zeros((0, 2)), *self._choices])


def episode_parameters(distribution: Distribution, rng: np.random.Generator, count: int) -> np.ndarray:
    """Return the records [count] of `count` episodes, and the choices they refer to start at row 0."""
    low, high = Distributions().record(distribution)
    drawn = np.repeat(low[None], count)
    for name in PARAMETERS:
        if high[name] > low[name]:
            drawn[name] = rng.uniform(low[name], high[name], count)
    return drawn


def draw(distribution: Distribution, rng: np.random.Generator, count: int) -> np.ndarray:
    """Return `count` draws, each of another episode."""
    collected = Distributions()
    collected.record(distribution)
    values = np.empty(count)
    fill_quantiles(episode_parameters(distribution, rng, count), collected.choices, rng.random(count), values)
    return values


def survival(distribution: Distribution, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return P(X >= x) for each x [n].

    Where parameters differ between episodes, each x meets those of an episode of its own: right on the average.
    """
    given = episode_parameters(distribution, rng, len(x))
    a, b, c = given["a"], given["b"], given["c"]
    if distribution.choice is not None:
        values = np.array(distribution.choice.values)
        weights = np.array(distribution.choice.weights or np.ones(len(values)))
        return (values >= x[:, None]) @ (weights / weights.sum())
    if distribution.exponential is not None:
        return np.exp(-x / a)
    if distribution.uniform is not None:
        width = np.where(b > a, b - a, 1.0)
        return np.where(b > a, np.clip((b - x) / width, 0.0, 1.0), (a >= x).astype(float))
    if distribution.lognormal is not None:
        above = a - c  # c is the least value
        variance = np.log1p((b * (a / above)) ** 2)
        log_ratio = np.log(np.maximum(x - c, np.finfo(float).tiny) / above)
        return special.ndtr(-(log_ratio + 0.5 * variance) / np.sqrt(variance))
    if distribution.pareto is not None:
        inside = np.clip(x, a, b)
        return (inside**-c - b**-c) / (a**-c - b**-c)
    return (a >= x).astype(float)
