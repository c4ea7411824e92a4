"""One training run, as a Ray Tune experiment of one trial."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayActorError
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from rich.console import Console

from offload_rllib.algorithms.exchange.answers import LearnersHangError
from offload_rllib.algorithms.offload_algorithm import RUN_NAME
from offload_rllib.cluster.connection import Cluster, check_shared, connect, found_or_local
from offload_rllib.cluster.placement import places
from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig
from offload_rllib.config.errors import input_problem
from offload_rllib.config.imitation import BEST
from offload_rllib.config.loading import load_policy_config
from offload_rllib.envs.vector import NativeEnv, compile_kernels
from offload_rllib.rollout.runner import CREDIT
from offload_rllib.runs.lock import locked
from offload_rllib.runs.training_run import POLICY_FOLDER, TUNE, RunFolder, is_uri
from offload_rllib.training.interruption import ended_early, interruptible, loggers
from offload_rllib.training.model_card import write_model_card
from offload_rllib.training.progress import TrainingProgress
from offload_rllib.training.recovery import collect_staged, mend
from offload_rllib.training.rllib_config import algorithm_config, built
from offload_rllib.training.selection import selected
from offload_rllib.training.settled import AUTO
from offload_rllib.training.staging import stage_apart
from offload_rllib.training.status import RunWatch, last_status
from offload_rllib.training.trackers import require_trackers, trackers
from offload_rllib.training.warm_start import START, keep_source

ENV_STEPS = f"{ENV_RUNNER_RESULTS}/{NUM_ENV_STEPS_SAMPLED_LIFETIME}"
TRIAL = "trial"
# In the text of an error of the trainer: a process that it needs is lost, or learners hang.
LOST = ("ActorDiedError", "ActorUnavailableError", LearnersHangError.__name__)
# Trainers that may be lost one after the other without a single result.
LOST_TRAINERS = 3
# A checkpoint of the presets' networks takes well under this.
ENOUGH_FREE_BYTES = 20 * 2**20


class TrainingError(RuntimeError):
    """The trial ended with an error; the message says which, and where its full text is."""


class TrainerLostError(TrainingError):
    """The trainer's process or node is lost, without an error of its work."""


def available_cpus() -> float:
    """Return how many CPUs this process's Ray has, or would be given."""
    return found_or_local().cpus


def check(environment: EnvironmentConfig, policy: PolicyConfig, *, cpus: float | None = None) -> NativeEnv:
    """Check a run before anything is created; return its environment, built, for `train`.

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
        cluster = found_or_local()
        nodes = cluster.cpus_by_node if cpus is None else ()
        env = built(environment)
        algorithm_config(environment, policy, cpus=cpus or cluster.cpus, nodes=nodes, env=env).validate()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"policy: RLlib refuses it: {' '.join(str(error).split())}") from error
    return env


def with_all_runners(policy: PolicyConfig) -> PolicyConfig:
    """Return a policy with as many runners of one CPU as the cluster has room for, and its batches divide among.

    Raises:
        ConfigError: there is room for none.
    """
    learners = policy.training.learners
    if policy.learners_sample:
        raise ConfigError(f"--runners all: each of {learners} learners samples by itself; accepted: --learners")
    nodes = found_or_local().cpus_by_node
    room = places(policy.training.cpus_per_runner or 1.0, nodes) - learners
    content = policy.model_dump(mode="json", by_alias=True)
    for runners in range(room, 0, -1):
        content["training"]["runners"] = runners
        try:
            return load_policy_config(content)
        except ConfigError:
            continue
    raise ConfigError(f"--runners all: no room for a runner on nodes with {', '.join(f'{n:g}' for n in nodes)} CPUs")


def _trial_name(trial: Any) -> str:
    return TRIAL


def train(run: RunFolder, console: Console, *, resume: bool = False, env: NativeEnv | None = None) -> bool:
    """Train a run's policy, or resume it, and save the final policy.

    A trainer whose process or node is lost is started again from the last checkpoint.

    Args:
        run: the folder; its `environment.yaml` and `policy.yaml` say what to do.
        console: where progress is shown.
        resume: continue from the last checkpoint.
        env: the run's environment, if `check` built it already.

    Returns:
        Whether the run is finished; False after an interruption (Ctrl-C, SIGTERM), with the state saved.

    Raises:
        TrainingError: the trial ended with an error.
        ClusterError: the cluster's nodes cannot work on this run.
        ConfigError: there is nothing to resume, another process works on the run, or what the user gave is invalid.
    """
    environment, policy = run.environment, run.policy_config
    quieten()
    with locked(run.path, functools.partial(console.print, soft_wrap=True, highlight=False)):
        return _train(run, env or built(environment), policy, console, resume=resume)


def _train(run: RunFolder, env: NativeEnv, policy: PolicyConfig, console: Console, *, resume: bool) -> bool:
    with console.status("loading the simulator's kernels (a new installation compiles them, for about a minute)"):
        compile_kernels(env.scenario)  # once, before every runner would compile them for itself
    _clone(run, env, policy, console)
    with (
        connect() as cluster,
        TrainingProgress(policy.training.env_steps, console) as progress,
        RunWatch(run, policy.training) as watch,
        interruptible(console),
    ):
        storage = run.storage
        if storage is not None and not is_uri(storage):
            check_shared(run.path, cluster)
        watch.log.info("%s on %d nodes, %g CPUs", "resumed" if resume else "begun", len(cluster.nodes), cluster.cpus)
        lost = 0
        while True:
            callbacks = [progress, watch, *loggers(), *trackers(policy.training.tracking, run.name)]
            tuner = _tuner(run, env, policy, cluster, callbacks, resume=resume)
            run.record(state="training")
            before = watch.env_steps
            try:
                result = _fit(run, tuner)
                break
            except TrainerLostError as error:
                lost = lost + 1 if watch.env_steps == before else 1
                if lost > LOST_TRAINERS or ended_early():
                    raise
                watch.log.warning("the trainer was lost (%s); continuing from the last checkpoint", error.__cause__)
                console.print("the trainer was lost; continuing from the last checkpoint", highlight=False)
                resume = tune.Tuner.can_restore(run.experiment)
            except (TrainingError, ConfigError) as error:
                watch.log.exception("training failed", exc_info=error.__cause__)
                raise
    steps = _env_steps(result)
    if steps < policy.training.env_steps:
        run.record(state="interrupted", env_steps=steps)
        return False
    with ExitStack() as stack:
        checkpoint = result.checkpoint
        folder = run.checkpoints()[-1] if checkpoint is None else Path(stack.enter_context(checkpoint.as_directory()))
        last = folder / POLICY_FOLDER
        weights = selected(run, last, env) if policy.training.final_policy == "selected" else None
        run.keep_final_policy(last, weights)
    run.record(state="finished", env_steps=steps, seconds=round(float((result.metrics or {})["time_total_s"]), 1))
    write_model_card(run)
    return True


def _clone(run: RunFolder, env: NativeEnv, policy: PolicyConfig, console: Console) -> None:
    """Clone the rule or the decisions that training starts from, unless that was done before an interruption."""
    wanted = policy.training.imitate
    if wanted is None or (run.path / START).is_dir():
        return
    with console.status(f"cloning {'the best rule' if wanted.rule == BEST else wanted.teacher}"):
        keep_source(run, env)
    cloned = run.entries()["imitated"]
    teacher = cloned.get("rule", wanted.teacher)
    console.print(
        f"cloned {teacher}: agrees with it in {cloned['agreement']:.1%} of held-out decisions", highlight=False
    )


def _tuner(
    run: RunFolder,
    env: NativeEnv,
    policy: PolicyConfig,
    cluster: Cluster,
    callbacks: list[tune.Callback],
    *,
    resume: bool,
) -> tune.Tuner:
    stage_apart()
    storage = run.storage
    config: Any = algorithm_config(  # Tune takes it, but declares a dictionary
        env.scenario.config,
        policy,
        cpus=cluster.cpus,
        nodes=cluster.cpus_by_node,
        trainer_node=cluster.trainer_node(shared_storage=storage is not None),
        env=env,
        start=keep_source(run, env),
    )
    if config.starting_weights is not None:
        source = policy.training.start_from or f"{run.path}/{START}"
        run.record(started_from=config.starting_weights.about | {"folder": source})
    config.env_config[RUN_NAME] = run.name
    if getattr(policy.algorithm, "credit", "") == AUTO:
        run.record(credit=config.env_config[CREDIT])
    if resume:
        if not is_uri(run.experiment):
            staged = last_status(run).get("logs")
            if staged:
                collect_staged(Path(run.experiment), TRIAL, Path(staged))
            mend(Path(run.experiment), TRIAL)
        if not tune.Tuner.can_restore(run.experiment):
            raise ConfigError(f"{run.path}: nothing to resume: the run had not started; start it again")
        return tune.Tuner.restore(
            run.experiment,
            trainable=config.algo_class,
            param_space=config,
            resume_unfinished=True,
            resume_errored=True,
        )
    return tune.Tuner(
        config.algo_class,
        param_space=config,
        tune_config=tune.TuneConfig(num_samples=1, trial_dirname_creator=_trial_name, trial_name_creator=_trial_name),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=run.experiment.removesuffix(f"/{TUNE}"),
            stop={ENV_STEPS: policy.training.env_steps},
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=policy.training.checkpoint_every,
                num_to_keep=policy.training.keep_checkpoints,
                checkpoint_at_end=True,
            ),
            callbacks=callbacks,
            verbose=0,
        ),
    )


def _env_steps(result: tune.Result) -> int:
    return int((result.metrics or {}).get(ENV_RUNNER_RESULTS, {}).get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))


def _fit(run: RunFolder, tuner: tune.Tuner) -> tune.Result:
    """Run the trial and return its result.

    Raises:
        TrainingError: it ended with an error, or Tune itself failed (on a full disk it cannot read its own state), or
            ended it too early and does not say why (so where the storage cannot be written any more).
        ConfigError: what the user gave is invalid, as the trainer or a runner found.
    """
    try:
        result = tuner.fit()[0]
        error: Exception | None = result.error
    except Exception as failure:  # noqa: BLE001 - whatever it is, the user gets one message and a way to continue
        result, error = None, failure
    if result is not None and error is None:
        wanted = run.policy_config.training.env_steps
        if _env_steps(result) >= wanted or ended_early():
            return result
        error = RuntimeError(
            f"it ended after {_env_steps(result):,} of {wanted:,} environment steps without an error: "
            f"is {run.experiment} there, and can it be written?"
        )
    problem = input_problem(error)
    if problem is not None:
        run.record(state="failed")
        raise ConfigError(f"{run.path}: training failed: {problem}") from error
    reason = [f"training failed: {_last_line(error)}"]
    free_bytes = shutil.disk_usage(run.path).free
    if free_bytes < ENOUGH_FREE_BYTES:
        reason.append(f"the disk that holds {run.path} is full: {free_bytes / 2**20:.1f} MB are free")
    try:
        run.record(state="failed")
    except OSError as failure:
        reason.append(f"nor could the state be written: {failure.strerror}")
    if not isinstance(error, RuntimeError):
        reason.append(f"the whole error is in {run.experiment}/{TRIAL}/error.txt")
    reason.append(f"continue from the last checkpoint: {run.resume_command}")
    lost = isinstance(error, RayActorError) or any(name in str(error) for name in LOST)
    cause = error if isinstance(error, BaseException) else None
    raise (TrainerLostError if lost else TrainingError)("\n".join(reason)) from cause


def _last_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def quieten() -> None:
    """Silence Ray's own messages; errors of this package are raised and shown."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # `loggers` says which there are
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("ray.rllib", "ray.tune", "ray.train", "ray._common.deprecation"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
