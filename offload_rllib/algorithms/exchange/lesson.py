"""What one policy learns in an update, whose advantages all learners standardise together."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from offload_rllib.algorithms.exchange.meeting import Meeting
from offload_rllib.algorithms.exchange.moments import Moments
from offload_rllib.algorithms.exchange.plan import Plan
from offload_rllib.algorithms.fused.actor_critic import HAS_CHOICE
from offload_rllib.simulator.types import Array

Rows = dict[str, Any]
MOMENT = "moment"


@dataclass
class Lesson:
    """What one policy learns in an update."""

    module_id: str
    config: Any
    """Of the policy."""
    rows: Rows
    """[n] as `OnPolicyLearner.rows_of` returns them; no columns if there are none."""
    passes: list[Tensor]
    """[n] each: the order of the rows in every pass."""
    joint: Tensor | None = None
    """Observations of all agents that `MOMENT` of the rows points into, for a central critic."""
    ready: list[Tensor] | None = None
    """The minibatches of all passes, where it is not a matter of order: for actors that remember, of one learner."""

    @property
    def size(self) -> int:
        """Return n."""
        return len(self.rows[HAS_CHOICE]) if self.rows else 0

    @property
    def moments(self) -> Moments:
        """Return those of the advantages."""
        if not self.rows:
            return Moments(0, 0.0, 0.0)
        return Moments.of(self.rows[Postprocessing.ADVANTAGES], self.rows[HAS_CHOICE])

    def minibatches(self, plan: Plan, end_s: float = math.inf) -> Iterator[tuple[Tensor, float]]:
        """Yield the places of each minibatch's rows and the minibatch's weight, pass after pass.

        Args:
            plan: says where the minibatches are.
            end_s: when no more are begun, on the clock `time.perf_counter`; at least one is.
        """
        if self.ready is not None:
            yield from ((order, 1.0) for order in self.ready)
            return
        begun = False
        for order in self.passes:
            for (first, last), share in zip(itertools.pairwise(plan.edges), plan.shares, strict=True):
                if begun and time.perf_counter() > end_s:
                    return
                begun = True
                yield order[first:last], float(share)


@dataclass(frozen=True)
class Met:
    """What N learners know of each other after they have met."""

    sizes: Array
    """[N, K] int64: the rows that each has for each policy."""
    env_steps: int
    """That all have sampled."""
    usual_s: float
    """What the median learner took for the last update, s."""

    def ends_s(self, own: Array, late_share: float | None) -> list[float]:
        """Return for each policy when a late learner stops learning it; all are cut by the same share.

        Args:
            own: [K] the rows of this learner.
            late_share: how much longer than usual a learner may take.
        """
        if late_share is None or self.usual_s == 0:
            return [math.inf] * len(own)
        may_take_s = (1 + late_share) * self.usual_s
        return (time.perf_counter() + may_take_s * np.cumsum(own) / max(own.sum(), 1)).tolist()


def meet(meeting: Meeting | None, lessons: Sequence[Lesson], env_steps: int, learned_s: float) -> Met:
    """Standardise the advantages of each policy over the rows with a choice of all N learners, at one meeting.

    Args:
        meeting: of the learners; None: there is one.
        lessons: [K], of this learner; all have the same policies.
        env_steps: that it has sampled.
        learned_s: what it took for the last update, s.
    """
    moments = [lesson.moments for lesson in lessons]
    own = [(lesson.size, one.count, one.mean, one.spread) for lesson, one in zip(lessons, moments, strict=True)]
    figures = np.array([env_steps, learned_s, *itertools.chain(*own)], np.float64)
    of_all = figures[None] if meeting is None else meeting.gather(figures)
    of_lessons = of_all[:, 2:].reshape(len(of_all), len(lessons), 4)
    for k, lesson in enumerate(lessons):
        if lesson.rows:
            both = Moments.of_all(Moments(*learner[k, 1:]) for learner in of_lessons)
            advantages = lesson.rows[Postprocessing.ADVANTAGES]
            lesson.rows[Postprocessing.ADVANTAGES] = both.standardised(advantages)
    return Met(of_lessons[:, :, 0].astype(np.int64), int(of_all[:, 0].sum()), float(np.median(of_all[:, 1])))


def assume(lessons: Sequence[Lesson], env_steps: int, size: int, usual_s: float) -> Met:
    """Standardise the advantages of each policy over this learner's own rows, and take all N learners for alike.

    Args:
        lessons: [K], of this learner.
        env_steps: that it has sampled.
        size: N.
        usual_s: what the median learner took for a batch before, s.
    """
    for lesson in lessons:
        if lesson.rows:
            advantages = lesson.rows[Postprocessing.ADVANTAGES]
            lesson.rows[Postprocessing.ADVANTAGES] = lesson.moments.standardised(advantages)
    sizes = np.tile(np.array([lesson.size for lesson in lessons], np.int64), (size, 1))
    return Met(sizes, size * env_steps, usual_s)


def take(rows: Rows, order: Tensor) -> Rows:
    """Return the rows at some places, in that order, of a dictionary of columns."""
    return {
        key: take(value, order) if isinstance(value, dict) else value.index_select(0, order)
        for key, value in rows.items()
    }
