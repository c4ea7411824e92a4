"""Constraints on shares of the tasks: Lagrange multipliers that training learns, and rewards that they reduce.

The multiplier of a constraint follows the excess of the measured share over its bound, by the PID rule of A. Stooke, J.
Achiam, P. Abbeel, "Responsive safety in reinforcement learning by PID Lagrangian methods" (ICML 2020, arXiv 2007.03964,
algorithm 2). What is learned from is the reward minus the multipliers times the costs, or the same of what decisions
have cost in hindsight (`docs/constraints.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm
from offload_rllib.config.algorithms import Constraint
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.simulator.types import Array

# Key of results and checkpoints, and of the settings of a run's configuration.
CONSTRAINTS = "constraints"
# Key of those settings: factor on every reward of the environment.
REWARD_SCALE = "reward_scale"

Samples = Sequence[Fragment | AgentSteps]


class Multiplier:
    """The multiplier of one constraint, in the unit of the reward per task that its figure counts.

    Attributes:
        value: at present; at least 0.
        share: last measured; NaN before the first measurement.
        excess: of the measured shares over the bound, smoothed; NaN before.
    """

    def __init__(self, constraint: Constraint) -> None:
        """Begin with the initial value."""
        self.constraint = constraint
        self.share = self.excess = float("nan")
        self.value = self._integral = constraint.initial

    def measure(self, share: float) -> None:
        """Set the value after a batch.

        The value is the sum of the proportional, the integral and the derivative term. As in the reference, the
        integral and the sum are not below 0, and only a rise of the excess counts. They are not above `largest`
        either, so that an unreachable bound leaves no sum behind that later batches must undo.

        Args:
            share: of the tasks that ended in the batch, those that the figure counts.
        """
        rule, before = self.constraint, self.excess
        excess = min(share - rule.at_most, rule.largest_excess)
        first = math.isnan(before)
        self.share = share
        self.excess = excess if first else rule.smoothing * before + (1 - rule.smoothing) * excess
        rise = 0.0 if first else max(self.excess - before, 0.0)
        self._integral = min(max(self._integral + rule.integral * excess, 0.0), rule.largest)
        total = rule.proportional * self.excess + self._integral + rule.derivative * rise
        self.value = min(max(total, 0.0), rule.largest)

    def report(self) -> dict[str, float]:
        """Return what the result of an iteration says."""
        return {
            "multiplier": self.value,
            "share": self.share,
            "excess": self.excess,
            "at_most": self.constraint.at_most,
        }

    def get_state(self) -> dict[str, float]:
        """Return all that changes."""
        return {"value": self.value, "share": self.share, "excess": self.excess, "integral": self._integral}

    def set_state(self, state: dict[str, float]) -> None:
        """Continue from a state of `get_state`."""
        self.value, self.share = state["value"], state["share"]
        self.excess, self._integral = state["excess"], state["integral"]


def measured(samples: Samples) -> Array:
    """Return [C, 2] float64: of the tasks that ended in the samples, those each figure counts, and those it is of."""
    # The samples that one runner gives for several policies count the same tasks.
    by_source = {(sample.source, sample.start): sample.counted for sample in samples}
    return np.sum(list(by_source.values()), axis=0)


def priced(samples: Samples, multipliers: Array) -> list[Fragment | AgentSteps]:
    """Return samples whose rewards, and costs in hindsight, are reduced by what constraints cost.

    Args:
        samples: with costs for C constraints.
        multipliers: [C] float64, in the unit of the rewards.
    """
    return [_priced(sample, multipliers) for sample in samples]


def _priced(sample: Fragment | AgentSteps, multipliers: Array) -> Fragment | AgentSteps:
    rewards = (sample.rewards - sample.costs @ multipliers).astype(np.float32)
    if isinstance(sample, Fragment) or sample.hindsight is None or sample.hindsight_costs is None:
        return replace(sample, rewards=rewards)
    hindsight = (sample.hindsight - sample.hindsight_costs @ multipliers).astype(np.float32)
    return replace(sample, rewards=rewards, hindsight=hindsight)


class ConstrainedAlgorithm(OffloadAlgorithm):
    """Learns from what is reduced by what constraints cost; without constraints as `OffloadAlgorithm`."""

    def setup(self, config: Any) -> None:
        """Make multipliers beside all else."""
        given = config.learner_config_dict.get(CONSTRAINTS, ())
        self.multipliers = [Multiplier(Constraint(**settings)) for settings in given]
        super().setup(config)

    def learn(self, samples: list[Fragment | AgentSteps], **how: Any) -> None:
        """Measure the constraints, set the multipliers, and learn at the prices that they stand for."""
        if self.multipliers:
            samples = self._priced(samples)
        super().learn(samples, **how)

    def _priced(self, samples: Samples) -> list[Fragment | AgentSteps]:
        for multiplier, (events, tasks) in zip(self.multipliers, measured(samples), strict=True):
            if tasks > 0:
                multiplier.measure(float(events / tasks))
        scale = self.config.learner_config_dict[REWARD_SCALE]
        return priced(samples, scale * np.array([multiplier.value for multiplier in self.multipliers]))

    def step(self) -> dict[str, Any]:
        """Run one iteration; the result says how the constraints are."""
        result = super().step()
        if self.multipliers:
            result[CONSTRAINTS] = {one.constraint.figure: one.report() for one in self.multipliers}
        return result

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return RLlib's state, and that of every multiplier by its figure."""
        own = {one.constraint.figure: one.get_state() for one in self.multipliers}
        return super().get_state(*args, **kwargs) | ({CONSTRAINTS: own} if own else {})

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore `get_state`; a multiplier that is not in it keeps its initial value."""
        super().set_state(state)
        kept = state.get(CONSTRAINTS, {})
        for multiplier in self.multipliers:
            if multiplier.constraint.figure in kept:
                multiplier.set_state(kept[multiplier.constraint.figure])
