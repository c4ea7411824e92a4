"""A sweep: many trials of one policy, as a Ray Tune experiment."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console

from offload_rllib.cluster.connection import connect
from offload_rllib.config import ConfigError
from offload_rllib.envs.vector import compile_kernels
from offload_rllib.runs.lock import locked
from offload_rllib.runs.training_run import TUNE
from offload_rllib.scenario import build_scenario
from offload_rllib.sweep.folder import SweepFolder
from offload_rllib.sweep.hparams import HParamsLogger, write_experiment
from offload_rllib.sweep.leaderboard import SweepTable
from offload_rllib.sweep.outcomes import TrialOutcome
from offload_rllib.sweep.plan import SweepPlan
from offload_rllib.sweep.search import param_space, scheduler, search_algorithm
from offload_rllib.sweep.trial import ENV_STEPS, SweepTrial, trial_resources
from offload_rllib.training.interruption import ended_early, interruptible, loggers
from offload_rllib.training.process_callback import PresentCallback
from offload_rllib.training.recovery import collect_staged, mend_trials
from offload_rllib.training.staging import stage_apart
from offload_rllib.training.trackers import trackers
from offload_rllib.training.train import TrainingError, available_cpus, quieten


def _trial_name(trial: Trial) -> str:
    """Return `trial_0001`, ...: Tune's tag of a trial begins with its number, counted from 0 or from 1."""
    number, _, _ = str(trial.experiment_tag).partition("_")
    return f"trial_{int(number):04d}"


def concurrent_trials(plan: SweepPlan, cpus: float) -> int:
    """Return how many trials run at the same time."""
    if plan.config.concurrent_trials is not None:
        return plan.config.concurrent_trials
    ends = ({key: domain.corners[i] for key, domain in plan.config.space.items()} for i in (0, -1))
    needed = min(trial_resources(plan, values, cpus).required_resources["CPU"] for values in ends)
    return max(int(cpus / needed + 1e-9), 1)


def sweep(folder: SweepFolder, console: Console, *, resume: bool = False) -> tuple[bool, list[TrialOutcome]]:
    """Run a sweep, or resume it.

    Args:
        folder: its files say what to do.
        console: where trials are shown.
        resume: continue an interrupted sweep: finished trials stay as they are, interrupted ones continue from their
            last checkpoint, failed ones are not tried again.

    Returns:
        Whether the sweep is finished (False after an interruption), and the outcomes of its trials.

    Raises:
        TrainingError: Tune itself failed.
        ConfigError: there is nothing to resume, or another process works on the sweep.
    """
    plan = folder.plan
    quieten()
    with locked(folder.path, functools.partial(console.print, soft_wrap=True, highlight=False)):
        return _sweep(folder, plan, console, resume=resume)


def _sweep(folder: SweepFolder, plan: SweepPlan, console: Console, *, resume: bool) -> tuple[bool, list[TrialOutcome]]:
    with console.status("loading the simulator's kernels (a new installation compiles them, for about a minute)"):
        compile_kernels(build_scenario(plan.environment))  # once, before every trial would compile them for itself
    with connect(), SweepTable(plan, console) as table, NotedLogs(folder) as logs, interruptible(console):
        tuner = _tuner(folder, plan, table, logs, resume=resume)
        folder.record(state="training")
        try:
            tuner.fit()
        except Exception as error:
            folder.record(state="failed")
            raise TrainingError(f"the sweep failed: {error}\ncontinue with: {folder.resume_command}") from error
    finished = not ended_early()
    folder.record(state="finished" if finished else "interrupted")
    return finished, table.outcomes


class NotedLogs(PresentCallback):
    """Notes where trials write their logs before Tune copies them: after a kill the latest rows are only there."""

    def __init__(self, folder: SweepFolder) -> None:
        """Note it in the record of a sweep."""
        self._folder = folder

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note the folder that has one for each trial."""
        self._folder.record(logs=trial.storage.experiment_driver_staging_path)

    def collect(self) -> None:
        """Copy what an earlier process had written there."""
        noted = self._folder.entries().get("logs")
        for staged in Path(noted).glob("*/") if noted else ():
            if (self._folder.experiment / staged.name).is_dir():
                collect_staged(self._folder.experiment, staged.name, staged)


def _tuner(folder: SweepFolder, plan: SweepPlan, table: SweepTable, logs: NotedLogs, *, resume: bool) -> tune.Tuner:
    stage_apart()
    cpus = available_cpus()
    trainable = tune.with_resources(
        tune.with_parameters(SweepTrial, plan=plan, cpus=cpus),
        functools.partial(_resources, plan, cpus),
    )
    if resume:
        logs.collect()
        mend_trials(folder.experiment)
        if not tune.Tuner.can_restore(folder.experiment):
            raise ConfigError(f"{folder.path}: nothing to resume: the sweep had not started; start it again")
        return tune.Tuner.restore(str(folder.experiment), trainable=trainable, resume_unfinished=True)
    write_experiment(folder.path, plan)
    grid = plan.config.search.kind == "grid"
    return tune.Tuner(
        trainable,
        # Optuna has the space itself.
        param_space={} if plan.config.search.kind == "optuna" else param_space(plan),
        tune_config=tune.TuneConfig(
            num_samples=1 if grid else plan.trials,
            search_alg=search_algorithm(plan, concurrent_trials(plan, cpus)),
            scheduler=scheduler(plan),
            time_budget_s=plan.config.budget.time_s,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(folder.path.resolve()),
            stop={ENV_STEPS: plan.config.budget.env_steps},
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=1, checkpoint_at_end=True),
            callbacks=[
                table,
                logs,
                *loggers(HParamsLogger(plan)),
                *trackers(plan.policy.training.tracking, folder.name),
            ],
            verbose=0,
        ),
    )


def _resources(plan: SweepPlan, cpus: float, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    return trial_resources(plan, plan.decoded(config), cpus)
