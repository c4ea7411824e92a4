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
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from rich.console import Console

from offload_rllib.algorithms.ppo import FINGERPRINT, IDLE_PER_CHOICE, PPO, OffloadPPOConfig
from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.rllib import register_environments
from offload_rllib.experiment.callbacks import OffloadCallback
from offload_rllib.experiment.progress import TrainingProgress
from offload_rllib.experiment.run_folder import TUNE, RunFolder
from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.sharing import PolicyMapping, assign_in, overrides_per_module
from offload_rllib.scenario import build_scenario

ENV_STEPS = f"{ENV_RUNNER_RESULTS}/{NUM_ENV_STEPS_SAMPLED_LIFETIME}"
# The trainer sleeps while runners sample, so it is not given a core of its own.
TRAINER_CPUS = 0.5
SMALLEST_RUNNER_CPUS = 0.1
TRIAL = "trial"
# A checkpoint of the presets' networks takes well under this.
ENOUGH_FREE_BYTES = 20 * 2**20


class TrainingError(RuntimeError):
    """The trial ended with an error; the message says which, and where its full text is."""


def cpus_per_runner(runners: int, available: float) -> float:
    """Return the share of the machine's cores that each runner reserves.

    Raises:
        ConfigError: there are more runners than the machine can hold.
    """
    if runners == 0:
        return 1.0
    share = int((available - TRAINER_CPUS) / runners * 100) / 100
    if share < SMALLEST_RUNNER_CPUS:
        raise ConfigError(f"training.runners: {runners} runners do not fit on {available:g} CPUs")
    return min(share, 1.0)


def algorithm_config(environment: EnvironmentConfig, policy: PolicyConfig, *, cpus: float) -> OffloadPPOConfig:
    """Return RLlib's configuration of a run.

    Args:
        environment: what to train on.
        policy: how to train.
        cpus: what Ray may use.

    Raises:
        ConfigError: the environment cannot be built, or the policy cannot be trained on it.
    """
    algorithm, training = policy.algorithm, policy.training
    if algorithm.critic == "central":
        raise ConfigError("algorithm.critic: central needs the observations of all agents, which no runner gives yet")
    config = OffloadPPOConfig()
    config.environment(
        "offload",
        env_config={
            "env": environment.model_dump(mode="json"),
            "seed": training.seed,
            FINGERPRINT: fingerprint(environment),
        },
        disable_env_checking=True,
    )
    config.env_runners(
        num_env_runners=training.runners,
        num_envs_per_env_runner=training.envs_per_runner,
        num_cpus_per_env_runner=cpus_per_runner(training.runners, cpus),
        rollout_fragment_length="auto",
    )
    trainer_cpus = TRAINER_CPUS if training.runners else 1
    config.resources(num_cpus_for_main_process=trainer_cpus)
    # The learner works in the trainer's process. RLlib's "auto" would reserve a whole core for it, and on a machine
    # with two the run would wait for a third for ever.
    config.learners(num_learners=0, num_cpus_per_learner=trainer_cpus)
    config.training(
        lr=algorithm.lr,
        gamma=algorithm.gamma,
        lambda_=algorithm.lambda_,
        clip_param=algorithm.clip,
        entropy_coeff=algorithm.entropy_coeff,
        vf_loss_coeff=algorithm.vf_loss_coeff,
        num_epochs=algorithm.epochs,
        minibatch_size=algorithm.minibatch_steps,
        train_batch_size_per_learner=algorithm.batch_env_steps,
        grad_clip=algorithm.grad_clip,
        grad_clip_by="global_norm",
        learner_config_dict={IDLE_PER_CHOICE: algorithm.idle_per_choice},
    )
    assignment = assign_in(policy.sharing, build_scenario(environment))
    config.multi_agent(
        policies=set(assignment.policies),
        policy_mapping_fn=PolicyMapping(assignment),
        algorithm_config_overrides_per_module=overrides_per_module(policy, assignment),
    )
    config.rl_module(
        rl_module_spec=RLModuleSpec(module_class=MaskedActorCritic, model_config=policy.network.model_dump())
    )
    config.callbacks(OffloadCallback)
    config.debugging(seed=training.seed, log_level="ERROR")
    return config


def local_cpus() -> int:
    """Return how many CPUs a Ray of this machine is given."""
    return max(os.cpu_count() or 1, 2)


def available_cpus() -> float:
    """Return how many CPUs this process's Ray has, or would be given."""
    return float(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else local_cpus()


def check(environment: EnvironmentConfig, policy: PolicyConfig) -> None:
    """Find what is wrong with a run before anything is made of it.

    Raises:
        ConfigError: environment and policy cannot be trained here.
    """
    try:
        algorithm_config(environment, policy, cpus=available_cpus()).validate()
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
        Whether the run is finished; False after an interruption (Ctrl-C), with the state saved.

    Raises:
        TrainingError: the trial ended with an error.
        ConfigError: there is nothing to resume.
    """
    environment, policy = run.environment, run.policy_config
    _quieten()
    register_environments()
    experiment = run.path.resolve() / TUNE
    with local_ray(), TrainingProgress(policy.training.env_steps, console) as progress:
        config = algorithm_config(environment, policy, cpus=available_cpus())
        if resume:
            if not tune.Tuner.can_restore(experiment):
                raise ConfigError(f"{run.path}: nothing to resume: the run had not begun; start it anew")
            tuner = tune.Tuner.restore(
                str(experiment), trainable=PPO, param_space=config, resume_unfinished=True, resume_errored=True
            )
        else:
            tuner = tune.Tuner(
                PPO,
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
                    callbacks=[progress],
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


def _quieten() -> None:
    """Silence what Ray prints about itself; errors of ours are raised and shown."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("ray.rllib", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
