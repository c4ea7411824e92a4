"""Parameters of distributions as scipy takes them."""

from __future__ import annotations

import math


def lognormal(mean: float, cv: float, least: float = 0.0) -> tuple[float, float, float]:
    """Return shape, loc and scale of `scipy.stats.lognorm` with this mean, coefficient of variation and least value."""
    spread = mean * cv
    shape = math.sqrt(math.log(1 + (spread / (mean - least)) ** 2))
    return shape, least, (mean - least) / math.exp(shape**2 / 2)
