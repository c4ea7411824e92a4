"""The series of episodes that an environment plays, one after the other."""

from __future__ import annotations

import itertools
import multiprocessing

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.envs.batch import EnvBatch
from offload_rllib.envs.episode_keys import training_key

# Environments without a seed are numbered from here, away from the seeds that people and RLlib give.
UNSEEDED = 2**40
# Episodes in a row without any decision, after which none is expected any more.
MOST_EMPTY = 1000
_instances = itertools.count()


def unseeded_environment() -> int:
    """Return the number of one more environment of this process without a seed."""
    return UNSEEDED + next(_instances)


def process_number() -> int:
    """Return 0 in a program's main process, and another number in each that `multiprocessing` has started.

    The numbers follow from the order in which processes are started, and are the same in every run of a program.
    """
    number = 0
    # The only name of a process that is unique and does not change from run to run; a pid does.
    for part in getattr(multiprocessing.current_process(), "_identity", ()):
        number = number * 2**16 + part
    return number


class EpisodeSeries:
    """Which episodes come next: those of an address (seed, worker, environment), numbered from 0.

    A series without a seed is numbered when its first episode begins: by process and by environment, so that no two
    environments play the same episodes. Copies made before that are numbered on their own; copies made later continue
    the same series.
    """

    def __init__(self) -> None:
        """Wait to be started."""
        self._address: tuple[int, int, int] | None = None
        self._next_episode = 0

    def start(self, seed: int, worker: int = 0, environment: int = 0, first_episode: int = 0) -> None:
        """Begin a series; arguments as `OffloadParallelEnv.start_series`."""
        self._address = (seed, worker, environment)
        self._next_episode = first_episode

    def next_key(self) -> int:
        """Return the key of the next episode."""
        if self._address is None:
            self._address = (0, process_number(), unseeded_environment())
        key = training_key(*self._address, self._next_episode)
        self._next_episode += 1
        return key

    def begin_episode(self, batch: EnvBatch) -> None:
        """Start the next episode in a batch of one; where decisions have no clock, the next that has a decision.

        Raises:
            ConfigError: no episode has.
        """
        for _ in range(MOST_EMPTY):
            batch.reset(np.array([self.next_key()], np.uint64))
            if not batch.truncated[0]:
                return
        raise ConfigError(
            f"workload: {MOST_EMPTY:,} episodes without a single decision; raise workload.load or horizon_s"
        )
