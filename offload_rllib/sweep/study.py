"""A sweep as a study of Optuna: what its dashboard shows, and what its measure of importance reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from offload_rllib.config.files import written_at_once
from offload_rllib.config.sweep import Domain, Metric
from offload_rllib.sweep.outcomes import FAILED, FINISHED, STOPPED, TrialOutcome
from offload_rllib.sweep.plan import SweepPlan, token_of

STUDY = "study.db"
ENDED = (FINISHED, STOPPED, FAILED)


def write_study(path: Path, plan: SweepPlan, outcomes: Sequence[TrialOutcome], name: str) -> Path:
    """Write all trials that have ended into an SQLite file, as a study, in one step; return the path.

    Trials with the whole budget are complete, those that ended early are pruned and hold what they reached last. All
    figures of the validation episodes are attributes of the trial.

    Args:
        path: of the file, which is replaced.
        plan: of the sweep.
        outcomes: of its trials.
        name: of the study.
    """
    import optuna  # noqa: PLC0415 - takes a second, and only the end of a sweep needs it
    from sqlalchemy import URL  # noqa: PLC0415 - as above

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metrics = plan.config.metrics
    with written_at_once(path) as partial:
        storage = optuna.storages.RDBStorage(URL.create("sqlite", database=str(partial)).render_as_string())
        study = optuna.create_study(storage=storage, study_name=name, directions=directions(metrics))
        study.set_metric_names([metric.name for metric in metrics])
        study.add_trials(
            [_trial(plan, outcome) for outcome in outcomes if outcome.state in (FINISHED, STOPPED, FAILED)]
        )
        storage.remove_session()
        storage.engine.dispose()
    return path


def directions(metrics: Sequence[Metric]) -> list[Literal["minimize", "maximize"]]:
    """Return Optuna's word for where each metric is to go."""
    return ["minimize" if metric.mode == "min" else "maximize" for metric in metrics]


def parameters(plan: SweepPlan, outcome: TrialOutcome) -> dict[str, Any]:
    """Return the values of a trial, and what they were drawn from, as `optuna.trial.create_trial` takes them."""
    return {
        "params": {key: token_of(outcome.values[key]) for key in plan.config.space},
        "distributions": {key: _distribution(domain) for key, domain in plan.config.space.items()},
    }


def _trial(plan: SweepPlan, outcome: TrialOutcome) -> Any:
    from optuna.trial import TrialState, create_trial  # noqa: PLC0415 - as above

    values = [outcome.figure(metric.name) for metric in plan.config.metrics]
    known = all(math.isfinite(value) for value in values)
    state = TrialState.COMPLETE if outcome.state == FINISHED and known else TrialState.PRUNED
    if outcome.state == FAILED:
        state = TrialState.FAIL
    figures = {name: value for name, value in outcome.figures.items() if math.isfinite(value)}
    return create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        # With several metrics Optuna knows no intermediate values.
        intermediate_values={outcome.env_steps: values[0]} if known and len(values) == 1 else None,
        user_attrs=figures | {"trial": outcome.name, "state": outcome.state, "env_steps": outcome.env_steps},
        **parameters(plan, outcome),
    )


def _distribution(domain: Domain) -> Any:
    from optuna import distributions  # noqa: PLC0415 - as above

    if domain.choice is not None:
        return distributions.CategoricalDistribution([token_of(option) for option in domain.choice])
    low, high = domain.bounds
    if domain.whole:
        return distributions.IntDistribution(int(low), int(high), log=domain.logarithmic)
    return distributions.FloatDistribution(low, high, log=domain.logarithmic)
