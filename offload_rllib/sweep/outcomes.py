"""The outcomes of a sweep's trials: states, figures, and their ranking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.tune.experiment import Trial

from offload_rllib.config.sweep import Metric
from offload_rllib.sweep.plan import SweepPlan
from offload_rllib.sweep.trial import BY_SEED, COST, ENV_STEPS, VALIDATION

FINISHED, STOPPED, FAILED, RUNNING, WAITING = "finished", "stopped", "failed", "running", "waiting"


@dataclass(frozen=True)
class TrialOutcome:
    """One trial, as far as it has come.

    Attributes:
        name: of its folder under `tune/`.
        values: of the space's keys.
        state: ``finished`` (it had the whole budget), ``stopped`` (by the scheduler or the time limit), ``failed``,
            ``running`` or ``waiting``.
        env_steps: of each training seed.
        figures: mean over training seeds of the latest validation episodes.
        by_seed: for each metric the value of each training seed; empty with one seed.
        cost: seconds, see `SweepTrial`.
        problem: why it failed, in one line.
    """

    name: str
    values: Mapping[str, Any]
    state: str
    env_steps: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    by_seed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""

    def figure(self, name: str) -> float:
        """Return a figure, NaN if there is none yet."""
        return float(self.figures.get(name, math.nan))


def outcome_of(plan: SweepPlan, trial: Trial, result: Mapping[str, Any] | None = None) -> TrialOutcome:
    """Return the outcome of one of Tune's trials, by its latest result unless another is given."""
    result = result or trial.last_result or {}
    env_steps = int(result.get(ENV_STEPS) or 0)
    whole = env_steps >= plan.config.budget.env_steps
    states = {
        Trial.TERMINATED: FINISHED if whole else STOPPED,
        Trial.ERROR: FAILED,
        Trial.RUNNING: RUNNING,
    }
    return TrialOutcome(
        name=trial.custom_dirname or trial.trial_id,
        values=plan.decoded(trial.config),
        state=states.get(trial.status, WAITING),
        env_steps=env_steps,
        figures=result.get(VALIDATION, {}),
        by_seed=result.get(BY_SEED, {}),
        cost=result.get(COST, {}),
        problem=_problem(trial) if trial.status == Trial.ERROR else "",
    )


def _problem(trial: Trial) -> str:
    lines = str(trial.get_error() or "").strip().splitlines()
    errors = [line for line in lines if "Error: " in line]
    return (errors or lines or ["unknown"])[-1].strip()


def is_better(metric: Metric, one: float, other: float) -> bool:
    """Return whether a value of a metric is better than another."""
    return one < other if metric.mode == "min" else one > other


def dominates(metrics: Sequence[Metric], one: TrialOutcome, other: TrialOutcome) -> bool:
    """Return whether a trial is nowhere worse than another, and somewhere better."""
    pairs = [(metric, one.figure(metric.name), other.figure(metric.name)) for metric in metrics]
    return any(is_better(*pair) for pair in pairs) and not any(is_better(m, b, a) for m, a, b in pairs)


def pareto_front(metrics: Sequence[Metric], outcomes: Iterable[TrialOutcome]) -> list[TrialOutcome]:
    """Return the finished trials that no finished trial dominates."""
    finished = [outcome for outcome in outcomes if outcome.state == FINISHED]
    return [one for one in finished if not any(dominates(metrics, other, one) for other in finished)]


def ranked(metrics: Sequence[Metric], outcomes: Iterable[TrialOutcome]) -> list[TrialOutcome]:
    """Return trials from best to worst: those with the whole budget, then the others with figures, then the rest.

    Within each by the first metric; with several metrics the Pareto front leads.
    """
    outcomes = list(outcomes)
    front = {outcome.name for outcome in pareto_front(metrics, outcomes)} if len(metrics) > 1 else set()
    sign = 1 if metrics[0].mode == "min" else -1

    def key(outcome: TrialOutcome) -> tuple[bool, bool, bool, bool, float, str]:
        value = outcome.figure(metrics[0].name)
        known = math.isfinite(value)
        failed = outcome.state == FAILED
        order = sign * value if known else 0.0
        return failed, not known, outcome.state != FINISHED, outcome.name not in front, order, outcome.name

    return sorted(outcomes, key=key)


def best_of(metrics: Sequence[Metric], outcomes: Iterable[TrialOutcome]) -> TrialOutcome | None:
    """Return the best trial by the first metric, None if no trial has figures.

    Of the trials that had the whole budget, or, if none had, of those that came furthest.
    """
    known = [o for o in outcomes if o.state != FAILED and math.isfinite(o.figure(metrics[0].name))]
    if not known:
        return None
    furthest = max(outcome.env_steps for outcome in known)
    equals = [o for o in known if o.state == FINISHED] or [o for o in known if o.env_steps == furthest]
    return ranked(metrics[:1], equals)[0]
