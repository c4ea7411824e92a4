"""Counts the tasks that ended while a sample was taken: what the constraints are measured by."""

from __future__ import annotations

import numpy as np

from offload_rllib.envs.vector import NativeEnv
from offload_rllib.simulator.types import Array


class Tally:
    """Sums `EnvBatch.counted` over a sample, across the ends of episodes."""

    def __init__(self, batch: NativeEnv) -> None:
        """Begin with nothing counted."""
        self._batch = batch
        self.restart()

    def restart(self) -> None:
        """Notice that all environments are reset."""
        self._before = self._ended = np.zeros((self._batch.costs.shape[-1], 2))

    def close(self, which: Array) -> None:
        """Take what the episodes of some environments have come to, before they are reset."""
        if len(self._before):
            self._ended = self._ended + self._batch.counted()[which].sum(0)

    def take(self) -> Array:
        """Return [C, 2] float64: what was counted since the last call."""
        if not len(self._before):
            return self._before
        present = self._batch.counted().sum(0)
        found = self._ended + present - self._before
        self._before, self._ended = present, np.zeros_like(present)
        return found
