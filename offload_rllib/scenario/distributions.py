"""From a distribution in words to the numbers that `simulator.streams.sample` takes."""

from __future__ import annotations

from offload_rllib.config.base import Distribution
from offload_rllib.simulator.streams import CONSTANT, EXPONENTIAL, UNIFORM


def parameters(distribution: Distribution, factor: float = 1.0) -> tuple[int, float, float]:
    """Return kind and parameters of `factor` times a distribution."""
    if distribution.exponential is not None:
        return EXPONENTIAL, distribution.exponential * factor, 0.0
    if distribution.uniform is not None:
        return UNIFORM, distribution.uniform[0] * factor, distribution.uniform[1] * factor
    return CONSTANT, (distribution.constant or 0.0) * factor, 0.0
