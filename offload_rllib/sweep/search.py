"""A sweep's search and scheduler as Ray Tune's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ray import tune
from ray.air.constants import EXPR_RESULT_FILE
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.utils.util import flatten_dict  # pyright: ignore[reportPrivateImportUsage]

from offload_rllib.config.files import read_text
from offload_rllib.config.sweep import Domain
from offload_rllib.sweep.plan import SweepPlan, token_of
from offload_rllib.sweep.trial import ENV_STEPS, VALIDATION


def tune_domain(domain: Domain, *, grid: bool) -> Any:
    """Return Tune's domain of the values, or rather tokens, of a key."""
    if domain.choice is not None:
        tokens = [token_of(option) for option in domain.choice]
        return tune.grid_search(tokens) if grid else tune.choice(tokens)
    low, high = domain.bounds
    if domain.whole:
        whole = tune.lograndint if domain.logarithmic else tune.randint
        return whole(int(low), int(high) + 1)
    return (tune.loguniform if domain.logarithmic else tune.uniform)(low, high)


def param_space(plan: SweepPlan) -> dict[str, Any]:
    """Return Tune's search space: one entry per key of the sweep's."""
    grid = plan.config.search.kind == "grid"
    return {key: tune_domain(domain, grid=grid) for key, domain in plan.config.space.items()}


def metric_path(name: str) -> str:
    """Return where a metric is in a trial's result."""
    return f"{VALIDATION}/{name}"


def search_algorithm(plan: SweepPlan, concurrent: int) -> Searcher | SearchAlgorithm:
    """Return the searcher that chooses the trials' values, at most so many at a time."""
    search = plan.config.search
    if search.kind != "optuna":
        return BasicVariantGenerator(random_state=search.seed, max_concurrent=concurrent)
    import optuna  # noqa: PLC0415 - takes a second, and only sweeps that ask for it need it
    from ray.tune.search import ConcurrencyLimiter  # noqa: PLC0415 - as above
    from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415 - imports optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metrics = list(plan.config.metrics)
    several = len(metrics) > 1
    searcher = OptunaSearch(
        space=OptunaSearch.convert_search_space(param_space(plan)),
        metric=[metric_path(metric.name) for metric in metrics] if several else metric_path(metrics[0].name),
        mode=[metric.mode for metric in metrics] if several else metrics[0].mode,
        sampler=optuna.samplers.TPESampler(
            seed=search.seed, n_startup_trials=search.startup_trials, multivariate=True, constant_liar=True
        ),
    )
    return ConcurrencyLimiter(searcher, max_concurrent=concurrent)


def scheduler(plan: SweepPlan) -> TrialScheduler:
    """Return the scheduler, which ends trials early."""
    chosen, metric = plan.config.scheduler, plan.config.metrics[0]
    judged: dict[str, Any] = {"time_attr": ENV_STEPS, "metric": metric_path(metric.name), "mode": metric.mode}
    if chosen.kind == "asha":
        return RestoredASHA(
            max_t=plan.config.budget.env_steps,
            grace_period=plan.config.grace_env_steps,
            reduction_factor=chosen.reduction_factor,
            **judged,
        )
    if chosen.kind == "median":
        return RestoredMedian(
            grace_period=plan.config.grace_env_steps,
            min_samples_required=chosen.min_trials,
            # By default trials yield their place to others until there are enough to compare with, and each time their
            # process would restart.
            min_time_slice=math.inf,  # pyright: ignore[reportArgumentType] - any number will do
            **judged,
        )
    return FIFOScheduler()


def earlier_results(trial: Trial) -> list[dict[str, Any]]:
    """Return the results that a trial had before the sweep was resumed, oldest first; none of a new trial."""
    if not trial.has_reported_at_least_once or trial.storage is None:
        return []
    path = Path(trial.storage.trial_fs_path) / EXPR_RESULT_FILE
    if not path.is_file():
        return []
    return [flatten_dict(json.loads(line)) for line in read_text(path).splitlines()]


class RestoredASHA(ASHAScheduler):
    """ASHA that compares with the trials before an interruption, too; Tune does not save schedulers."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take up a trial; a restored one with what it had reported."""
        super().on_trial_add(tune_controller, trial)
        for result in earlier_results(trial):
            super().on_trial_result(tune_controller, trial, result)


class RestoredMedian(MedianStoppingRule):
    """The median rule over the trials before an interruption, too; Tune does not save schedulers."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take up a trial; a restored one with what it had reported."""
        super().on_trial_add(tune_controller, trial)
        for result in earlier_results(trial):
            self._results[trial].append(result)
