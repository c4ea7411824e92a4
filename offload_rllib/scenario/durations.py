"""From a configured duration to its record."""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.config.duration import Duration
from offload_rllib.simulator.streams import CONSTANT, EXPONENTIAL, LOGNORMAL, UNIFORM


def write_duration(record: np.void, duration: Duration) -> None:
    """Write a configured duration into a DURATION record.

    Of a lognormal one with mean m, standard deviation d and least value l, the part above l has ln of variance
    s^2 = ln(1 + (d / (m - l))^2) and median (m - l) exp(-s^2 / 2).
    """
    if duration.lognormal is not None:
        mean, cv, least = duration.lognormal_numbers
        variance = math.log1p((cv * mean / (mean - least)) ** 2)
        values = LOGNORMAL, math.sqrt(variance), least, (mean - least) * math.exp(-variance / 2)
    elif duration.exponential is not None:
        values = EXPONENTIAL, duration.exponential, 0.0, 0.0
    elif duration.uniform is not None:
        values = UNIFORM, *duration.uniform, 0.0
    else:
        values = CONSTANT, duration.constant or 0.0, 0.0, 0.0
    record["kind"], record["a"], record["b"], record["c"] = values
