"""Several learners as threads of one process, for tests and studies: they compute what processes would."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offload_rllib.simulator.types import Array

# A machine may be busy with other work.
TIMEOUT_S = 600.0


class Room:
    """Where the threads of N learners meet; one that fails lets no other wait."""

    def __init__(self, size: int) -> None:
        """Make room for N.

        Attributes:
            meetings: how often all have met.
        """
        self.size = size
        self.meetings = 0
        self._given: list[Any] = [None] * size
        self._barrier = threading.Barrier(size)

    def exchange(self, index: int, given: Any) -> list[Any]:
        """Return what all have given."""
        self._given[index] = given
        if self._barrier.wait(TIMEOUT_S) == 0:
            self.meetings += 1
        found = list(self._given)
        self._barrier.wait(TIMEOUT_S)
        return found

    def leave(self) -> None:
        """Let those that wait fail."""
        self._barrier.abort()


class ThreadMeeting:
    """A `Meeting` of threads."""

    def __init__(self, room: Room, index: int) -> None:
        """Take a place in a room."""
        self.size, self.index, self._room = room.size, index, room

    def gather(self, figures: Array) -> Array:
        """Return the figures of all."""
        return np.stack(self._room.exchange(self.index, figures))

    def add(self, vector: Tensor) -> None:
        """Sum over all."""
        vector.copy_(torch.stack(self._room.exchange(self.index, vector.clone())).sum(0))


def together(learners: Sequence[Any], work: Callable[[Any, int], Any]) -> list[Any]:
    """Let learners, each in a thread, do a work that meets.

    Args:
        learners: whose `meeting` is set for that time.
        work: called with learner and index.

    Returns:
        What each has returned.

    Raises:
        Exception: what one has raised; the others do not wait for it.
        TimeoutError: a learner waits for another in vain.
    """
    room = Room(len(learners))
    done: list[Any] = [None] * len(learners)
    errors: list[Exception] = []

    def run(index: int) -> None:
        try:
            done[index] = work(learners[index], index)
        except Exception as error:  # noqa: BLE001 - raised in the caller's thread
            errors.append(error)
            room.leave()

    for index, learner in enumerate(learners):
        learner.meeting = ThreadMeeting(room, index)
    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(learners))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT_S)
    for learner in learners:
        learner.meeting = None
    if errors:
        own = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
        raise (own or errors)[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError("a learner waits for another in vain")
    return done
