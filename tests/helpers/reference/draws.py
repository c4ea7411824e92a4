"""Random draws of the reference, by their addresses; the distributions are those of textbooks."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

import numpy as np
from scipy import stats

from helpers.distributions import lognormal
from helpers.reference.arrivals import draw, per_episode
from offload_rllib.config.base import Distribution
from offload_rllib.config.duration import Duration
from offload_rllib.simulator import streams


def sample(
    distribution: Distribution, episode: np.uint64, node: np.uint64, index: int, quantity: int, kind: int = 0
) -> float:
    """Draw a quantity (0 work, 1 bits in, 2 bits out, 3 deadline) of a task of some type, by its quantile.

    `episode` and `node` are their keys.
    """
    purpose = (streams.WORK, streams.BITS_IN, streams.BITS_OUT, streams.DEADLINE)[quantity]
    u = draw(node, purpose, index)
    first = 3 * (4 * kind + quantity)
    given = [
        per_episode(value, episode, streams.PARAMETER, first + i) for i, value in enumerate(distribution.parameters)
    ]
    if distribution.exponential is not None:
        return -given[0] * math.log(1 - u)
    if distribution.uniform is not None:
        return given[0] + (given[1] - given[0]) * u
    if distribution.lognormal is not None:
        return float(stats.lognorm.ppf(u, *lognormal(*given)))
    if distribution.pareto is not None:
        low, high, shape = given
        return float(stats.truncpareto.ppf(u, shape, high / low, scale=low))
    if distribution.choice is not None:
        values = distribution.choice.values
        total = list(accumulate(distribution.choice.weights or (1.0,) * len(values)))
        return values[bisect_right([weight / total[-1] for weight in total], u)]
    return given[0]


def duration_s(duration: Duration, key: np.uint64, purpose: int, index: int) -> float:
    """Draw a duration of what has a key: a node, or a direction of a link."""
    u = draw(key, purpose, index)
    if duration.lognormal is not None:
        angle = 2 * math.pi * draw(key, purpose + 1, index)
        normal = math.sqrt(-2 * math.log(1 - u)) * math.cos(angle)
        shape, loc, scale = lognormal(*duration.lognormal_numbers)
        return loc + scale * math.exp(shape * normal)
    if duration.exponential is not None:
        return -duration.exponential * math.log(1 - u)
    if duration.uniform is not None:
        low, high = duration.uniform
        return low + (high - low) * u
    return float(duration.constant or 0.0)
