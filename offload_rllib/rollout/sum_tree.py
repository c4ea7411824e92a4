"""A binary tree of sums: draws indices in proportion to their priorities in O(log n)."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import Array

# Kernels of this package call none of another file: the cache of compiled code does not follow edits across files here.


@kernel
def _set(nodes, leaves, slots, priorities):
    """Write priorities into leaves and renew the sums above them, always from both children: no error accumulates."""
    for i in range(slots.shape[0]):
        node = leaves + slots[i]
        nodes[node] = priorities[i]
        node >>= 1
        while node >= 1:
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
            node >>= 1


@kernel
def _rebuild(nodes, leaves):
    for node in range(leaves - 1, 0, -1):
        nodes[node] = nodes[2 * node] + nodes[2 * node + 1]


@kernel
def _find(nodes, leaves, fractions, slots, priorities):
    for i in range(fractions.shape[0]):
        rest = fractions[i] * nodes[1]
        node = 1
        while node < leaves:
            node *= 2
            # Rounding must never lead to a leaf of priority 0: an empty side is not entered.
            if rest >= nodes[node] and nodes[node + 1] > 0.0:
                rest -= nodes[node]
                node += 1
        slots[i] = node - leaves
        priorities[i] = nodes[node]


class SumTree:
    """Priorities of `size` slots, 0 at first."""

    def __init__(self, size: int) -> None:
        """Allocate the tree: `bytes_for(size)`."""
        self.size = size
        self._leaves = _leaves(size)
        # Node k has children 2k and 2k + 1; node 1 is the root, node 0 is not used.
        self._nodes = np.zeros(2 * self._leaves)

    @staticmethod
    def bytes_for(size: int) -> int:
        """Return the memory of a tree."""
        return 16 * _leaves(size)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._nodes[1])

    @property
    def priorities(self) -> Array:
        """[size] float64, a view."""
        return self._nodes[self._leaves : self._leaves + self.size]

    def set(self, slots: Array, priorities: Array) -> None:
        """Set priorities [n] float64, none negative, of slots [n] int64; of a slot given twice the last counts."""
        _set(self._nodes, self._leaves, slots, priorities)

    def set_all(self, priorities: Array) -> None:
        """Set all priorities [size] float64."""
        self.priorities[:] = priorities
        _rebuild(self._nodes, self._leaves)

    def find(self, fractions: Array) -> tuple[Array, Array]:
        """Return, for fractions [n] float64 of the total in [0, 1), slots [n] int64 and their priorities [n] float64.

        A slot is found by a share of the fractions that equals its share of the total; the total must not be 0.
        """
        slots = np.empty(len(fractions), np.int64)
        priorities = np.empty(len(fractions))
        _find(self._nodes, self._leaves, fractions, slots, priorities)
        return slots, priorities


def _leaves(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
