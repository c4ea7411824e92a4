"""One training run, as a Ray Tune experiment of one trial."""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from rich.console import Console

from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig
from offload_rllib.envs.vector import compile_kernels
from offload_rllib.experiment.algorithm_config import algorithm_config
from offload_rllib.experiment.interruption import interruptible, loggers
from offload_rllib.experiment.model_card import write_model_card
from offload_rllib.experiment.progress import TrainingProgress
from offload_rllib.experiment.run_folder import TUNE, RunFolder
from offload_rllib.experiment.trackers import require_trackers, trackers
from offload_rllib.scenario import build_scenario

ENV_STEPS = f"{ENV_RUNNER_RESULTS}/{NUM_ENV_STEPS_SAMPLED_LIFETIME}"
TRIAL = "trial"
# A checkpoint of the presets' networks takes well under this.
ENOUGH_FREE_BYTES = 20 * 2**20


class TrainingError(RuntimeError):
    """The trial ended with an error; the message says which, and where its full text is."""


def local_cpus() -> int:
    """Return how many CPUs a Ray of this machine is given."""
    return max(os.cpu_count() or 1, 2)


def available_cpus() -> float:
    """Return how many CPUs this process's Ray has, or would be given."""
    return float(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else local_cpus()


def check(environment: EnvironmentConfig, policy: PolicyConfig, *, cpus: float | None = None) -> None:
    """Find what is wrong with a run before anything is made of it.

    Args:
        environment: what is trained on.
        policy: how it is trained.
        cpus: that it may use; None: all.

    Raises:
        ConfigError: environment and policy cannot be trained here.
    """
    quieten()
    require_trackers(policy.training.tracking)
    try:
        algorithm_config(environment, policy, cpus=cpus or available_cpus()).validate()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"policy: RLlib refuses it: {' '.join(str(error).split())}") from error


@contextmanager
def local_ray() -> Iterator[None]:
    """Start a Ray of its own on this machine unless this process has one, and stop what was started."""
    if ray.is_initialized():
        yield
        return
    # A busy machine needs longer than Ray's default to start; it says "node timed out during startup" otherwise.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    ray.init(
        address="local",
        num_cpus=local_cpus(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _trial_name(trial: Any) -> str:
    return TRIAL


def train(run: RunFolder, console: Console, *, resume: bool = False) -> bool:
    """Train a run's policy, or go on with it, and keep the final policy.

    Args:
        run: the folder; its `environment.yaml` and `policy.yaml` say what to do.
        console: where progress is shown.
        resume: go on from the last checkpoint.

    Returns:
        Whether the run is finished; False after an interruption (Ctrl-C, SIGTERM), with the state saved.

    Raises:
        TrainingError: the trial ended with an error.
        ConfigError: there is nothing to resume.
    """
    environment, policy = run.environment, run.policy_config
    quieten()
    experiment = run.path.resolve() / TUNE
    with console.status("loading the simulator's kernels (a new installation compiles them, for about a minute)"):
        compile_kernels(build_scenario(environment))  # once, before every runner would compile them for itself
    with (
        local_ray(),
        TrainingProgress(policy.training.env_steps, console) as progress,
        interruptible(console),
    ):
        config = algorithm_config(environment, policy, cpus=available_cpus())
        if resume:
            if not tune.Tuner.can_restore(experiment):
                raise ConfigError(f"{run.path}: nothing to resume: the run had not begun; start it anew")
            tuner = tune.Tuner.restore(
                str(experiment),
                trainable=config.algo_class,
                param_space=config,
                resume_unfinished=True,
                resume_errored=True,
            )
        else:
            tuner = tune.Tuner(
                config.algo_class,
                param_space=config,
                tune_config=tune.TuneConfig(
                    num_samples=1, trial_dirname_creator=_trial_name, trial_name_creator=_trial_name
                ),
                run_config=tune.RunConfig(
                    name=TUNE,
                    storage_path=str(run.path.resolve()),
                    stop={ENV_STEPS: policy.training.env_steps},
                    checkpoint_config=tune.CheckpointConfig(
                        checkpoint_frequency=policy.training.checkpoint_every,
                        num_to_keep=policy.training.keep_checkpoints,
                        checkpoint_at_end=True,
                    ),
                    callbacks=[progress, *loggers(), *trackers(policy.training.tracking, run.name)],
                    verbose=0,
                ),
            )
        run.record(state="training")
        result = _fit(run, tuner)
    metrics = result.metrics or {}
    steps = int(metrics.get(ENV_RUNNER_RESULTS, {}).get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))
    if steps < policy.training.env_steps:
        run.record(state="interrupted", env_steps=steps)
        return False
    run.keep_final_policy()
    run.record(state="finished", env_steps=steps, seconds=round(float(metrics["time_total_s"]), 1))
    write_model_card(run)
    return True


def _fit(run: RunFolder, tuner: tune.Tuner) -> tune.Result:
    """Run the trial and return its result.

    Raises:
        TrainingError: it ended with an error, or Tune itself failed (on a full disk it cannot read its own state).
    """
    try:
        result = tuner.fit()[0]
        error: Exception | None = result.error
    except Exception as failure:  # noqa: BLE001 - whatever it is, the user gets one message and a way to go on
        result, error = None, failure
    if result is not None and error is None:
        return result
    reason = [f"training failed: {_last_line(error)}"]
    free_bytes = shutil.disk_usage(run.path).free
    if free_bytes < ENOUGH_FREE_BYTES:
        reason.append(f"the disk that holds {run.path} is full: {free_bytes / 2**20:.1f} MB are free")
    try:
        run.record(state="failed")
    except OSError as failure:
        reason.append(f"nor could the state be written: {failure.strerror}")
    reason.append(f"the whole error is in {run.path / TUNE / TRIAL / 'error.txt'}")
    reason.append(f"go on from the last checkpoint: offload-rllib train --resume {run.path}")
    raise TrainingError("\n".join(reason)) from error


def _last_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def quieten() -> None:
    """Silence what Ray prints about itself; errors of ours are raised and shown."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # `loggers` says which there are
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("ray.rllib", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
