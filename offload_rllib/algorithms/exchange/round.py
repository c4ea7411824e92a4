"""What a learner does between two meetings, where they are several batches apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from offload_rllib.algorithms.exchange.averaging import average, steps_of
from offload_rllib.algorithms.exchange.meeting import Meeting


class Taught(NamedTuple):
    """What a policy has learned from a batch."""

    module_id: str
    rows: int
    """Of this learner."""
    share: float
    """This learner's share of the rows of all."""
    steps: int
    """How many steps the Adam of the learner with the most has then taken."""


def average_taught(meeting: Meeting, optimizers: Mapping[str, Any], taught: Iterable[Taught]) -> None:
    """Average the policies that have learned over all learners (see `averaging.average`); nothing if none has."""
    parts = [(optimizers[one.module_id], one.share, one.steps) for one in taught]
    if parts:
        average(meeting, *zip(*parts, strict=True))


@dataclass
class Round:
    """What a learner has learned of K policies since it last met the others."""

    optimizers: Mapping[str, Any]
    """An Adam for each policy; all learners have the same policies in the same order."""
    began: int
    """Environment steps of the run, all learners together, when they met."""
    batches: int = 0
    """Since then."""
    env_steps: int = 0
    """That this learner has sampled."""
    learned_s: float = 0.0
    """Time that it has learned for."""
    _rows: dict[str, int] = field(init=False)
    _steps: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self._rows = dict.fromkeys(self.optimizers, 0)
        self._steps = {module_id: steps_of(optimizer) for module_id, optimizer in self.optimizers.items()}

    def add(self, taught: Iterable[Taught], env_steps: int, learned_s: float) -> None:
        """Count a batch: what was learned from it, the environment steps in it, and the time for learning."""
        for one in taught:
            self._rows[one.module_id] += one.rows
            self._steps[one.module_id] = one.steps
        self.batches += 1
        self.env_steps += env_steps
        self.learned_s += learned_s

    def end(self, meeting: Meeting, at_rest: AbstractContextManager[Any] | None = None) -> tuple[int, float]:
        """Average over all learners, with the rows of the whole round as weights, at two meetings.

        Args:
            meeting: of the learners.
            at_rest: held while weights change, and not while the others are waited for.

        Returns:
            The environment steps of the run, and what the median learner took to learn from a batch, s.
        """
        counts = itertools.chain(*zip(self._rows.values(), self._steps.values(), strict=True))
        of_all = meeting.gather(np.array([self.env_steps, self.learned_s, *counts], np.float64))
        of_policies = of_all[:, 2:].T.reshape(len(self.optimizers), 2, len(of_all))
        taught = []
        for module_id, (rows, steps) in zip(self.optimizers, of_policies, strict=True):
            own = rows[meeting.index]
            if rows.any():
                taught.append(Taught(module_id, int(own), float(own / rows.sum()), int(steps.max())))
        with at_rest or nullcontext():
            average_taught(meeting, self.optimizers, taught)
        return self.began + int(of_all[:, 0].sum()), float(np.median(of_all[:, 1])) / self.batches
