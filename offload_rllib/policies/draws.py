"""Random draws of sampled actions, addressed by seed, call and row; they do not depend on the process.

A policy that is loaded and the same policy behind a service draw alike, however rows are grouped on the way.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.streams import episode_key
from offload_rllib.simulator.types import Array


class CallSeeds:
    """A seed for every call of a policy, addressed by a seed and the number of the call."""

    def __init__(self) -> None:
        """Begin with seed 0."""
        self.restart(0)

    def restart(self, seed: int) -> None:
        """Begin again, with another seed."""
        self._seed, self._call = seed, 0

    def next_call(self) -> int:
        """Return the seed of the next call, 64 bits."""
        self._call += 1
        return episode_key(self._seed, self._call)


def row_draws(seed: int, rows: Array) -> Array:
    """Return the draws [n] float64 in [0, 1) of rows of a call: each depends on seed and row alone.

    Args:
        seed: of the call.
        rows: [n] int64, 0 or more; up to the largest of them is drawn.
    """
    return np.random.default_rng(seed).random(int(rows.max(initial=-1)) + 1)[rows]
