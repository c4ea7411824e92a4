"""The minibatches of one policy, where learners have unequally many rows, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offload_rllib.simulator.types import Array


@dataclass(frozen=True)
class Plan:
    """What one of N learners does in each pass over its rows.

    A minibatch has its rows from all learners. Every learner gives as large a part of its own rows to each.
    """

    edges: Array
    """[K + 1] int64: where this learner's part of each minibatch begins, and the last one ends; parts may be empty."""
    shares: Array
    """[K] float64: this learner's share of the rows of each minibatch, if gradients are added; otherwise 1."""
    share: float
    """This learner's share of all rows; NaN if there are none."""
    longest: int
    """K of the learner with the most."""

    @classmethod
    def of(cls, sizes: Sequence[int] | Array, index: int, minibatch: int | None, *, together: bool) -> Plan:
        """Return the plan of one learner. What does not fill a minibatch is spread over the others.

        Args:
            sizes: [N] rows of each learner.
            index: of this one.
            minibatch: rows of all learners in a gradient step; None: all.
            together: whether learners take every step together. Then all have the same K.
        """
        rows = np.asarray(sizes, np.int64)
        total = int(rows.sum())
        share = rows[index] / total if total else float("nan")
        if together:
            count = max(total // minibatch, 1) if minibatch else 1
            parts = np.diff(np.linspace(0, rows, count + 1).astype(int), axis=0)
            parts = parts[parts.sum(1) > 0]
            edges = np.concatenate([[0], np.cumsum(parts[:, index])])
            return cls(edges, parts[:, index] / parts.sum(1), share, len(parts))
        counts = np.maximum(rows * len(rows) // minibatch, 1) if minibatch else np.ones_like(rows)
        edges = np.linspace(0, rows[index], counts[index] + 1).astype(int)
        return cls(edges, np.ones(counts[index]), share, int(counts.max()))
