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
    """A meeting of processes, which RLlib has put into one process group of torch."""

    def __init__(self, device: Any) -> None:
        """Find the group; figures travel on a device."""
        self.size, self.index = distributed.get_world_size(), distributed.get_rank()
        self._device = device

    def gather(self, figures: Array) -> Array:
        """Return the figures of all; see `Meeting.gather`."""
        mine = torch.from_numpy(np.asarray(figures, np.float64)).to(self._device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        _together(lambda: distributed.all_gather(every, mine))
        return torch.stack(every).cpu().numpy()

    def add(self, vector: Tensor) -> None:
        """Sum over all; see `Meeting.add`."""
        _together(lambda: distributed.all_reduce(vector))


def _together(work: Callable[[], Done]) -> Done:
    try:
        return work()
    except RuntimeError as error:
        raise LearnerLostError(f"another learner is gone: {' '.join(str(error).split())[:200]}") from error
