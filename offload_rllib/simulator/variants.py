"""Variants of the kernels: without what most scenarios do not use, with it, with time in ticks; and for large networks.

Even a branch that is never taken costs speed where it restricts the compiler. The code for links that are not plain,
failures and energy slowed all scenarios by a sixth, other queues by a twentieth, hints for large networks (see
`prefetch`) small ones by a fifth. The number of dimensions of an array is part of its type, so a test of it is decided
when a kernel is compiled, and the branch that is not taken leaves no code behind.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import Array

# One dimension for the plain variant, one more with everything, one more with ticks; three more for large networks.
_FULL = 1
_TICKS = 2
_LARGE = 3
# From how many nodes on a network is large: it outgrows the caches of a core.
LARGE_NODES = 4096


def variant(*, full: bool, ticks: bool = False, nodes: int = 0) -> Array:
    """Return the array without elements that chooses a variant, for `Scenario.variant`; the one with ticks is full."""
    dimensions = 1 + (_TICKS if ticks else _FULL if full else 0) + (_LARGE if nodes >= LARGE_NODES else 0)
    return np.zeros((0,) * dimensions, np.uint8)


@kernel
def has_extensions(scenario):
    """Return whether failures, energy, links that are not plain, other queues and other offers are compiled in."""
    return (scenario.variant.ndim - 1) % _LARGE >= _FULL


@kernel
def has_ticks(scenario):
    """Return whether time in ticks is compiled in."""
    return (scenario.variant.ndim - 1) % _LARGE == _TICKS


@kernel
def is_large(scenario):
    """Return whether hints for networks that outgrow the caches are compiled in."""
    return scenario.variant.ndim > _LARGE
