"""From a configured duration to its record."""

from __future__ import annotations

import numpy as np

from offload_rllib.config.duration import Duration
from offload_rllib.simulator.streams import CONSTANT, EXPONENTIAL, LOGNORMAL, UNIFORM


def write_duration(record: np.void, duration: Duration) -> None:
    """Write a configured duration into a DURATION record."""
    if duration.lognormal is not None:
        values = LOGNORMAL, duration.lognormal.shape, duration.lognormal.loc, duration.lognormal.scale
    elif duration.exponential is not None:
        values = EXPONENTIAL, duration.exponential, 0.0, 0.0
    elif duration.uniform is not None:
        values = UNIFORM, *duration.uniform, 0.0
    else:
        values = CONSTANT, duration.constant or 0.0, 0.0, 0.0
    record["kind"], record["a"], record["b"], record["c"] = values
