"""Three variants of the kernels: without what most scenarios do not use, with it, and with time in ticks besides.

Even a branch that is never taken costs speed where it stands in the way of the compiler: the code for links that are
not plain, failures and energy slowed all scenarios by a sixth, other queues by a twentieth. The number of dimensions
of an array is part of its type, so a test of it is decided when a kernel is compiled, and the branch that is not taken
leaves no code behind.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import Array

_BASIC_DIMENSIONS = 1
_FULL_DIMENSIONS = 2
_TICKS_DIMENSIONS = 3


def variant(*, full: bool, ticks: bool = False) -> Array:
    """Return the array without elements that chooses a variant, for `Scenario.variant`; the one with ticks is full."""
    dimensions = _FULL_DIMENSIONS if full else _BASIC_DIMENSIONS
    return np.zeros((0,) * (_TICKS_DIMENSIONS if ticks else dimensions), np.uint8)


@kernel
def is_full(scenario):
    """Return whether failures, energy, links that are not plain, other queues and other offers are compiled in."""
    return scenario.variant.ndim >= _FULL_DIMENSIONS


@kernel
def has_ticks(scenario):
    """Return whether time in ticks is compiled in."""
    return scenario.variant.ndim == _TICKS_DIMENSIONS
