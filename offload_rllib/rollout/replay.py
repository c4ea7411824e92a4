"""Replay memory of one policy: transitions in columns, sampled uniformly or by priority."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.sum_tree import SumTree
from offload_rllib.rollout.transitions import (
    UNFINISHED,
    Columns,
    Pending,
    Transitions,
    allocate_columns,
    allocate_pending,
    column_bytes,
    gather,
    record,
)
from offload_rllib.simulator.types import Array

# The other half is for the networks, the runners and their environments, and the rest of the machine.
LARGEST_SHARE_OF_MEMORY = 0.5
# Added to errors before they become priorities, so that every transition can be drawn again.
SMALLEST_ERROR = 1e-6
FORMAT = 2


class Sample(NamedTuple):
    """What `ReplayBuffer.sample` returns."""

    transitions: Transitions
    weights: Array
    """[B] float32 importance weights, at most 1; all 1 if sampling is uniform."""
    states: Array
    """[B] int64: for `ReplayBuffer.update_priorities`."""


def replay_bytes(capacity: int, observation_size: int, actions: int, *, prioritised: bool) -> int:
    """Return the memory of a buffer: states are stored once, though each is begin and end of transitions."""
    tree = SumTree.bytes_for(capacity) if prioritised else 0
    return column_bytes(capacity, observation_size, actions) + tree


def require_memory(size_bytes: int, available_bytes: int | None = None) -> None:
    """Reject buffers that do not fit: together they may take half of the memory that is available.

    Args:
        size_bytes: of all buffers, `replay_bytes`.
        available_bytes: by default what the operating system could give now without swapping.

    Raises:
        ConfigError: they do not fit; says which capacity would be accepted in proportion.
    """
    available = psutil.virtual_memory().available if available_bytes is None else available_bytes
    if size_bytes > LARGEST_SHARE_OF_MEMORY * available:
        raise ConfigError(
            f"algorithm.replay_capacity: the replay memory would take {size_bytes / 2**20:,.0f} MiB, and at most half "
            f"of the {available / 2**20:,.0f} MiB of available memory is given to it; a capacity "
            f"{size_bytes / (LARGEST_SHARE_OF_MEMORY * available):.2g} times smaller would fit"
        )


class ReplayBuffer:
    """The latest transitions of the agents of one policy (see `transitions`), and how they are drawn.

    With `alpha` the probability of a transition is in proportion to (|TD error| + `SMALLEST_ERROR`)^alpha (Schaul,
    Quan, Antonoglou, Silver, "Prioritized experience replay", arXiv 1511.05952, eq. 1, proportional variant). A new
    transition gets the largest priority ever given, so that it is soon drawn.

    Attributes:
        capacity: states held. A little less than as many transitions: those not finished yet hold states too.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        actions: int,
        *,
        gamma: float,
        discount_s: float = 1.0,
        n_step: int = 1,
        alpha: float | None = None,
        seed: int | np.random.SeedSequence = 0,
    ) -> None:
        """Allocate the memory at once.

        Args:
            capacity: states with a choice to hold.
            observation_size: F.
            actions: R.
            gamma: discount per `discount_s`, in [0, 1].
            discount_s: s.
            n_step: a transition ends at the n-th next choice.
            alpha: exponent of priorities; None: uniform sampling.
            seed: of the draws.

        Raises:
            ConfigError: the memory does not fit (see `require_memory`).
        """
        require_memory(replay_bytes(capacity, observation_size, actions, prioritised=alpha is not None))
        self.capacity = capacity
        self._gamma = gamma
        self._discount_s = discount_s
        self._n_step = n_step
        self._alpha = alpha
        self._columns = allocate_columns(capacity, observation_size, actions)
        self._tree = None if alpha is None else SumTree(capacity)
        self._largest_priority = 1.0
        self._pending: dict[str, Pending] = {}
        self._next_start: dict[str, int | None] = {}
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Return how many transitions can be drawn."""
        return int(self._columns.counters[1])

    @property
    def nbytes(self) -> int:
        """Memory of the buffer, without what is under way."""
        prioritised = self._tree is not None
        return replay_bytes(self.capacity, *self._sizes, prioritised=prioritised)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self._columns.observations.shape[1], self._columns.masks.shape[1]

    def add(self, steps: AgentSteps) -> int:
        """Add the next steps of a source.

        What the source had under way continues, unless the steps do not begin where the previous ones ended: then the
        source was restarted, or a sample was lost.

        Returns:
            How many transitions were finished.

        Raises:
            ValueError: the steps have other sizes than the buffer, or than the source's steps before.
        """
        sizes = (steps.observations.shape[-1], steps.masks.shape[-1])
        if sizes != self._sizes:
            raise ValueError(f"the buffer takes {self._sizes} (features, actions), the steps have {sizes}")
        pending = self._pending_of(steps)
        before = int(self._columns.counters[0])
        finished = record(self._columns, pending, steps, self._gamma, self._discount_s)
        if not pending.open.any():
            self._pending.pop(steps.source, None)  # nothing is under way; sources that never return leave no trace
        else:
            self._pending[steps.source] = pending
            self._next_start[steps.source] = None if steps.start is None else steps.start + steps.steps
        if self._tree is not None:
            after = int(self._columns.counters[0])
            written = np.arange(max(before, after - self.capacity), after)
            self._tree.set(written % self.capacity, np.zeros(len(written)))
            kept = finished[finished >= after - self.capacity]
            self._tree.set(kept % self.capacity, np.full(len(kept), self._largest_priority))
        return len(finished)

    def _pending_of(self, steps: AgentSteps) -> Pending:
        """Return what the source of a sample has under way."""
        shape = (steps.environments, len(steps.agents))
        pending = self._pending.get(steps.source)
        if pending is None or steps.start != self._next_start[steps.source]:
            return allocate_pending(*shape, self._n_step)
        if pending.open.shape != shape:
            raise ValueError(
                f"source '{steps.source}' had {pending.open.shape} (environments, agents), now has {shape}"
            )
        return pending

    def sample(self, size: int, *, beta: float = 1.0) -> Sample:
        """Draw transitions, with replacement.

        With priorities, one from each of `size` equal ranges of the total; the weights are (N P(i))^-beta, scaled so
        that the largest of the batch is 1 (Schaul et al., section 3.4). Uniform sampling needs none.

        Args:
            size: B.
            beta: how far the weights make up for the priorities, in [0, 1].

        Raises:
            ValueError: there is no finished transition yet.
        """
        if not len(self):
            raise ValueError("the buffer holds no finished transition yet")
        if self._tree is None:
            states = self._draw(size)
            weights = np.ones(size, np.float32)
        else:
            fractions = (np.arange(size) + self._rng.random(size)) / size
            slots, priorities = self._tree.find(fractions)
            states = self._state_in(slots)
            weights = (priorities.min() / priorities) ** beta
        return Sample(gather(self._columns, states), weights.astype(np.float32), states)

    def _draw(self, size: int) -> Array:
        """Return finished states [size], uniformly: those drawn that are not finished are drawn again."""
        written = int(self._columns.counters[0])
        oldest = max(0, written - self.capacity)
        states = self._rng.integers(oldest, written, size)
        while True:
            unfinished = np.flatnonzero(self._columns.successors[states % self.capacity] == UNFINISHED)
            if not len(unfinished):
                return states
            states[unfinished] = self._rng.integers(oldest, written, len(unfinished))

    def _state_in(self, slots: Array) -> Array:
        """Return the numbers of the states that lie in slots now."""
        latest = int(self._columns.counters[0]) - 1
        return latest - (latest - slots) % self.capacity

    def update_priorities(self, states: Array, errors: Array) -> None:
        """Set priorities by new TD errors; transitions overwritten since they were drawn are passed over.

        Args:
            states: [n] int64 of a sample.
            errors: [n] of either sign, finite.

        Raises:
            ValueError: the buffer samples uniformly, or an error is not finite.
        """
        if self._tree is None or self._alpha is None:
            raise ValueError("the buffer samples uniformly: there are no priorities")
        if not np.isfinite(errors).all():
            raise ValueError("a TD error is not finite")
        kept = states >= int(self._columns.counters[0]) - self.capacity
        priorities = (np.abs(errors[kept]).astype(np.float64) + SMALLEST_ERROR) ** self._alpha
        if len(priorities):
            self._largest_priority = max(self._largest_priority, float(priorities.max()))
        self._tree.set(states[kept] % self.capacity, priorities)

    def save(self, path: Path) -> None:
        """Write everything, as arrays in an npz file, at once.

        Raises:
            OSError: the file cannot be written.
        """
        used = min(int(self._columns.counters[0]), self.capacity)
        arrays = {
            name: column if name == "counters" else column[:used] for name, column in self._columns._asdict().items()
        }
        for i, pending in enumerate(self._pending.values()):
            arrays |= {f"pending/{i}/{name}": values for name, values in pending._asdict().items()}
        if self._tree is not None:
            arrays["priorities"] = self._tree.priorities[:used]
        description = self._description() | {
            "largest_priority": self._largest_priority,
            "generator": self._rng.bit_generator.state,
            "sources": [[source, self._next_start[source]] for source in self._pending],
        }
        arrays["description"] = np.array(json.dumps(description))
        with written_at_once(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def restore(self, path: Path) -> None:
        """Read what `save` wrote into a buffer made with the same arguments; sampling continues where it was.

        Raises:
            ConfigError: the file cannot be read, or is of a buffer of another make.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            description = json.loads(str(arrays.pop("description")))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: not a replay buffer ({error})") from error
        for key, value in self._description().items():
            if description.get(key) != value:
                raise ConfigError(f"{path}: has {key} {description.get(key)!r}; this buffer needs {value!r}")
        used = len(arrays["actions"])
        self._columns.successors[:] = UNFINISHED
        for name in Columns._fields:
            getattr(self._columns, name)[: len(arrays[name])] = arrays[name]
        if self._tree is not None:
            priorities = np.zeros(self.capacity)
            priorities[:used] = arrays["priorities"]
            self._tree.set_all(priorities)
        self._next_start = dict(description["sources"])
        self._pending = {
            source: Pending(**{name: arrays[f"pending/{i}/{name}"] for name in Pending._fields})
            for i, source in enumerate(self._next_start)
        }
        self._largest_priority = float(description["largest_priority"])
        self._rng.bit_generator.state = description["generator"]

    def _description(self) -> dict[str, int | float | None]:
        features, actions = self._sizes
        return {
            "format": FORMAT,
            "capacity": self.capacity,
            "observation_size": features,
            "actions": actions,
            "gamma": self._gamma,
            "discount_s": self._discount_s,
            "n_step": self._n_step,
            "alpha": self._alpha,
        }
