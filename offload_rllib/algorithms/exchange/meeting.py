"""Where several learners meet: sums and lists over all of them, by torch's process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

from offload_rllib.simulator.types import Array

# Key of a learner's settings, and what it may be (see `config.algorithms.OnPolicy.exchange`).
EXCHANGE = "exchange"
WEIGHTS, GRADIENTS = "weights", "gradients"
# Keys of those settings: after how many batches learners meet to exchange weights, and when the run ends.
EXCHANGE_BATCHES, BUDGET = "exchange_batches", "budget_env_steps"
# The same of APPO: after how many uses of a batch.
EXCHANGE_USES = "exchange_uses"
# Key of those settings: by what share of the median time a learner may learn longer; None: as long as it takes.
LATE_SHARE = "late_share"

Done = TypeVar("Done")


class LearnerLostError(RuntimeError):
    """Another learner did not come to a meeting."""


class Meeting(Protocol):
    """What N learners do together. Each waits for all others, so all must call the same methods in the same order."""

    size: int
    """N."""
    index: int
    """Of this learner, from 0."""

    def gather(self, figures: Array) -> Array:
        """Return [N, K] float64: the figures [K] of every learner."""
        ...

    def add(self, vector: Tensor) -> None:
        """Put into a vector the sum of all learners' vectors; all get the same bits."""
        ...


class ProcessMeeting:
    """A meeting of processes, which RLlib has put into one process group of torch.

    Over gloo torch goes through a ring, with 2 (N - 1) messages one after the other for a sum. Here they are 2 log2 N,
    rounded up, and as many bytes: in every round a learner hands on half of the blocks that it has left (Träff,
    arXiv 2410.14234, algorithms 1 and 2). Each block is added up at one learner, so that all get the same bits.
    """

    def __init__(self, device: Any) -> None:
        """Find the group; figures travel on a device."""
        self.size, self.index = distributed.get_world_size(), distributed.get_rank()
        self._device = device
        self._by_halves = torch.device(device).type == "cpu" and distributed.get_backend() == "gloo"
        self._rounds = halves(self.size)

    def gather(self, figures: Array) -> Array:
        """Return the figures of all; see `Meeting.gather`."""
        mine = torch.from_numpy(np.asarray(figures, np.float64)).to(self._device)
        if self._by_halves:
            blocks = mine.new_empty(self.size, len(mine))
            blocks[0] = mine
            _together(lambda: self._spread(blocks))
            return blocks.roll(self.index, 0).numpy()
        every = [torch.empty_like(mine) for _ in range(self.size)]
        _together(lambda: distributed.all_gather(every, mine))
        return torch.stack(every).cpu().numpy()

    def add(self, vector: Tensor) -> None:
        """Sum over all; see `Meeting.add`."""
        if not self._by_halves:
            _together(lambda: distributed.all_reduce(vector))
            return
        width = -(-vector.numel() // self.size)
        blocks = vector.new_zeros(self.size, width)
        blocks.view(-1)[: vector.numel()] = vector
        # Block j is then the one that the learner j places further adds up.
        blocks = blocks.roll(-self.index, 0)
        _together(lambda: self._add_up(blocks))
        _together(lambda: self._spread(blocks))
        vector.copy_(blocks.roll(self.index, 0).view(-1)[: vector.numel()])

    def _add_up(self, blocks: Tensor) -> None:
        """Put into this learner's first block [N, W] the sum of all learners' blocks for it."""
        taken = torch.empty_like(blocks[: self.size // 2])
        for first, last in self._rounds:
            count = last - first
            self._swap(blocks[first:last], self.index + first, taken[:count], self.index - first)
            blocks[:count] += taken[:count]

    def _spread(self, blocks: Tensor) -> None:
        """Put into block j [N, W] the first block of the learner j places further."""
        for first, last in reversed(self._rounds):
            self._swap(blocks[: last - first], self.index - first, blocks[first:last], self.index + first)

    def _swap(self, given: Tensor, to: int, taken: Tensor, source: int) -> None:
        sent: Any = distributed.isend(given, to % self.size)
        distributed.recv(taken, source % self.size)
        sent.wait()


def halves(size: int) -> list[tuple[int, int]]:
    """Return the rounds in which so many blocks become one: the first and last block that is handed on in each."""
    rounds, last = [], size
    while last > 1:
        first = -(-last // 2)
        rounds.append((first, last))
        last = first
    return rounds


def _together(work: Callable[[], Done]) -> Done:
    try:
        return work()
    except RuntimeError as error:
        raise LearnerLostError(f"another learner is gone: {' '.join(str(error).split())[:200]}") from error
