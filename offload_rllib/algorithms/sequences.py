"""Decisions of one agent that follow each other: what a gradient through a memory is passed back along."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from offload_rllib.simulator.types import Array

MEMORY_STEPS = "memory_steps"


def sequences_of(following: Array, longest: int) -> tuple[Array, Array]:
    """Return rows in the order of their sequences, and the sequence of each.

    Args:
        following: [N] int64: the row behind each, N or more where none is.
        longest: rows of a sequence at most; what follows begins the next one.

    Returns:
        [N] int64 places of the rows, one sequence after the other; and [N] int64 numbers of the sequences, from 0.
    """
    rows = len(following)
    begins = np.ones(rows, np.bool_)
    begins[following[following < rows]] = False
    behind = following.tolist()
    order: list[int] = []
    lengths: list[int] = []
    for first in np.flatnonzero(begins).tolist():
        row, steps = first, 0
        while row < rows:
            order.append(row)
            row, steps = behind[row], steps + 1
        whole, rest = divmod(steps, longest)
        lengths += [longest] * whole + [rest] * (rest > 0)
    return np.array(order, np.int64), np.repeat(np.arange(len(lengths)), lengths)


def sequence_orders(sequences: Tensor, minibatches: int, epochs: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield the places of each minibatch's rows: whole sequences, in a new random order for every pass.

    Args:
        sequences: [N] int64 from `sequences_of`, or several of them, numbered one after the other.
        minibatches: of a pass, at most.
        epochs: passes.
        rng: draws the order.
    """
    lengths = torch.unique_consecutive(sequences, return_counts=True)[1].cpu().numpy()
    starts, rows = np.cumsum(lengths) - lengths, int(lengths.sum())
    for _ in range(epochs):
        drawn = rng.permutation(len(lengths))
        begins = np.cumsum(lengths[drawn]) - lengths[drawn]
        of_minibatch = begins * minibatches // rows
        for number in np.unique(of_minibatch):
            taken = drawn[of_minibatch == number]
            places = np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in taken])
            yield torch.from_numpy(places).to(sequences.device)
