"""From a policy file to RLlib's configuration of a run."""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from offload_rllib.algorithms.a2c import A2CConfig
from offload_rllib.algorithms.appo import OffloadAPPOConfig
from offload_rllib.algorithms.ddqn import OWN_SETTINGS, DDQNConfig
from offload_rllib.algorithms.direct_learner import TORCH_THREADS
from offload_rllib.algorithms.offload_algorithm import FINGERPRINT
from offload_rllib.algorithms.on_policy import IDLE_PER_CHOICE
from offload_rllib.algorithms.ppo import OffloadPPOConfig
from offload_rllib.algorithms.sampling import SAMPLE_ATTEMPTS
from offload_rllib.cluster.placement import NODE_SHARE, TRAINER_CPUS, cpus_per_runner
from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig
from offload_rllib.config.algorithms import A2C, APPO, DDQN, PPO
from offload_rllib.config.base import AlgorithmSettings
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.layout import ObservationLayout
from offload_rllib.envs.rllib import register_environments
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.policies.module import MaskedActorCritic, MaskedAPPO, MaskedQ
from offload_rllib.policies.sharing import Assignment, PolicyMapping, assign_in, require_policies
from offload_rllib.rollout.callbacks import EpisodeMetrics, OffloadCallback
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner
from offload_rllib.rollout.hindsight import require_hindsight
from offload_rllib.rollout.replay import replay_bytes, require_memory
from offload_rllib.rollout.runner import CREDIT, DECISIONS, STEPS, BatchedEnvRunner
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.functions import load_class

PROBE_S = 0.5
# RLlib's names of hyperparameters that it calls differently, and those that move from `KEY` to `final_KEY`.
RLLIB_NAMES = {"clip": "clip_param"}
SCHEDULED = ("lr", "entropy_coeff")

Config = TypeVar("Config", bound=AlgorithmConfig)


def schedule(first: float, last: float | None, env_steps: int) -> Any:
    """Return RLlib's schedule from one value to another over a run, or the value alone."""
    return first if last is None else [[0, first], [env_steps, last]]


def overrides_per_module(config: PolicyConfig, assignment: Assignment) -> dict[str, dict[str, Any]]:
    """Return RLlib's `algorithm_config_overrides_per_module`.

    Raises:
        ConfigError: `policies` names a policy that does not exist.
    """
    require_policies(config, assignment)
    env_steps = config.training.env_steps
    found: dict[str, dict[str, Any]] = {}
    for name, overrides in config.policies.items():
        found[name] = {}
        own = config.algorithm.model_copy(update=overrides.given)
        for key, value in overrides.given.items():
            moving = key.removeprefix("final_")
            if moving in SCHEDULED:
                found[name][moving] = schedule(getattr(own, moving), getattr(own, f"final_{moving}"), env_steps)
            else:
                found[name][RLLIB_NAMES.get(key, key)] = value
    return found


def _divided(batch_env_steps: int, learners: int) -> int:
    """Return the steps of one learner; RLlib counts batches per learner."""
    return batch_env_steps // max(learners, 1)


def _implementation(algorithm: AlgorithmSettings, default: type[Config]) -> Config:
    """Return the configuration that the settings are put into: the user's subclass of the default, if one is named."""
    if algorithm.implementation is None:
        return default()
    return load_class(algorithm.implementation, "algorithm.implementation", default)()


def _ppo(algorithm: PPO, env_steps: int, learners: int) -> AlgorithmConfig:
    config = _implementation(algorithm, OffloadPPOConfig)
    config.training(
        lambda_=algorithm.lambda_,
        clip_param=algorithm.clip,
        entropy_coeff=schedule(algorithm.entropy_coeff, algorithm.final_entropy_coeff, env_steps),
        vf_loss_coeff=algorithm.vf_loss_coeff,
        num_epochs=algorithm.epochs,
        minibatch_size=algorithm.minibatch_steps,
        train_batch_size_per_learner=_divided(algorithm.batch_env_steps, learners),
    )
    return config


def _a2c(algorithm: A2C, env_steps: int, learners: int) -> AlgorithmConfig:
    config = _implementation(algorithm, A2CConfig)
    config.training(
        lambda_=algorithm.lambda_,
        entropy_coeff=schedule(algorithm.entropy_coeff, algorithm.final_entropy_coeff, env_steps),
        vf_loss_coeff=algorithm.vf_loss_coeff,
        minibatch_size=algorithm.minibatch_steps,
        train_batch_size_per_learner=_divided(algorithm.batch_env_steps, learners),
    )
    return config


def _appo(algorithm: APPO, env_steps: int) -> AlgorithmConfig:
    config = _implementation(algorithm, OffloadAPPOConfig)
    config.training(
        lambda_=algorithm.lambda_,
        minibatch_steps=algorithm.minibatch_steps,
        clip_param=algorithm.clip,
        entropy_coeff=schedule(algorithm.entropy_coeff, algorithm.final_entropy_coeff, env_steps),
        vf_loss_coeff=algorithm.vf_loss_coeff,
        train_batch_size_per_learner=algorithm.batch_env_steps,
        circular_buffer_num_batches=algorithm.buffer_batches,
        circular_buffer_iterations_per_batch=algorithm.uses_per_batch,
        target_update_every=algorithm.target_update_every,
        target_worker_clipping=algorithm.importance_clip,
        vtrace_clip_rho_threshold=algorithm.rho_clip,
        vtrace_clip_pg_rho_threshold=algorithm.pg_rho_clip,
    )
    config.reporting(min_sample_timesteps_per_iteration=algorithm.report_env_steps)
    return config


def _ddqn(algorithm: DDQN, env_steps: int) -> AlgorithmConfig:
    config = _implementation(algorithm, DDQNConfig)
    config.training(
        train_batch_size_per_learner=algorithm.batch_transitions,
        priority_beta=[[0, algorithm.priority_beta], [env_steps, 1.0]],
        **{name: getattr(algorithm, name) for name in OWN_SETTINGS if name != "priority_beta"},
    )
    config.reporting(min_sample_timesteps_per_iteration=algorithm.batch_env_steps)
    return config


def _callbacks(paths: Sequence[str]) -> list[type[RLlibCallback]]:
    """Return the user's callbacks behind this package's, unless one of them is a subclass of it and does its work."""
    own = [load_class(path, "training.callbacks", RLlibCallback) for path in paths]
    return own if any(issubclass(callback, OffloadCallback) for callback in own) else [OffloadCallback, *own]


def _require_replay(algorithm: DDQN, batch: VectorEnv, policies: int) -> None:
    """Reject replay memories that do not fit, before anything is made of a run."""
    size, actions, prioritised = batch.observation_size, batch.num_actions, algorithm.priority_alpha > 0
    require_memory(policies * replay_bytes(algorithm.replay_capacity, size, actions, prioritised=prioritised))


def _config_of(algorithm: PPO | A2C | APPO | DDQN, env_steps: int, learners: int) -> AlgorithmConfig:
    match algorithm:
        case PPO():
            return _ppo(algorithm, env_steps, learners)
        case A2C():
            return _a2c(algorithm, env_steps, learners)
        case APPO():
            return _appo(algorithm, env_steps)
        case DDQN():
            return _ddqn(algorithm, env_steps)


def _check_fit(environment: EnvironmentConfig, policy: PolicyConfig, layout: ObservationLayout) -> None:
    """Check that an algorithm and a network support an environment.

    Raises:
        ConfigError: several tasks per decision, shaping with another discount, or a pointer network without rows.
    """
    if environment.decisions.tasks_per_decision > 1:
        raise ConfigError(
            f"decisions.tasks_per_decision: {policy.algorithm.name} decides one task at a time and needs 1 "
            f"(given: {environment.decisions.tasks_per_decision})"
        )
    shaping = environment.reward.shaping
    if shaping is not None:
        gamma = policy.algorithm.gamma
        if shaping.gamma != gamma:
            raise ConfigError(
                f"reward.shaping.gamma ({shaping.gamma:g}) must equal algorithm.gamma ({gamma:g}): otherwise shaping "
                "changes which policy is best"
            )
    if policy.network.kind == "pointer" and layout.row_size == 0:
        raise ConfigError(
            f"network.kind: pointer reads one row per destination, and observe: {environment.observe} has none"
        )


def _check_hindsight(policy: PolicyConfig, algorithm: PPO | A2C, batch: VectorEnv) -> None:
    """Reject credit in hindsight where it is not exact, or would not be known within a batch."""
    require_hindsight(batch.scenario)
    if policy.training.env_runner != "batched":
        raise ConfigError("algorithm.credit: decisions needs training.env_runner: batched")
    whole = max(policy.training.runners, 1) * policy.training.envs_per_runner * batch.steps_per_episode
    if algorithm.batch_env_steps % whole:
        raise ConfigError(
            f"algorithm.batch_env_steps ({algorithm.batch_env_steps}) must be a multiple of runners x envs_per_runner "
            f"x steps of an episode ({whole}) with credit: decisions, which is known at the end of an episode"
        )


def algorithm_config(
    environment: EnvironmentConfig,
    policy: PolicyConfig,
    *,
    cpus: float,
    nodes: Sequence[float] = (),
    trainer_node: str | None = None,
) -> AlgorithmConfig:
    """Return RLlib's configuration of a run.

    Args:
        environment: what to train on.
        policy: how to train.
        cpus: what Ray may use.
        nodes: the same by node; one node if empty.
        trainer_node: Ray's resource that only the node has on which the trainer must be, e.g. ``node:10.0.0.1``.

    Raises:
        ConfigError: environment and policy do not fit together, or not on so many CPUs.
    """
    batch = VectorEnv(build_scenario(environment), 1)
    _check_fit(environment, policy, batch.layout)
    register_environments()
    algorithm, training = policy.algorithm, policy.training
    if isinstance(algorithm, PPO | A2C) and algorithm.credit == DECISIONS:
        _check_hindsight(policy, algorithm, batch)
    config = _config_of(algorithm, training.env_steps, training.learners)
    config.environment(
        "offload",
        env_config={
            "env": environment.model_dump(mode="json"),
            "seed": training.seed,
            FINGERPRINT: fingerprint(environment),
            CREDIT: getattr(algorithm, "credit", STEPS),
        },
        disable_env_checking=True,
    )
    remote_learners = training.learners
    share = training.cpus_per_runner or cpus_per_runner(training.runners + remote_learners, nodes or (cpus,))
    config.env_runners(
        env_runner_cls=BatchedEnvRunner if training.env_runner == "batched" else MultiAgentEnvRunner,
        num_env_runners=training.runners,
        num_envs_per_env_runner=training.envs_per_runner,
        num_cpus_per_env_runner=share,
        rollout_fragment_length="auto",
        sample_timeout_s=training.sample_timeout_s,
    )
    trainer_cpus = TRAINER_CPUS if training.runners else 1
    config.resources(num_cpus_for_main_process=trainer_cpus)
    if trainer_node is not None:
        config.custom_resources_for_main_process = {trainer_node: NODE_SHARE}
    # Without learners of their own, learning is in the trainer's process. RLlib's "auto" would reserve a whole core for
    # it, and on a machine with two the run would wait for a third indefinitely.
    config.learners(
        num_learners=remote_learners,
        num_cpus_per_learner=share if remote_learners else trainer_cpus,
        num_gpus_per_learner=training.gpus / max(remote_learners, 1),
    )
    # A lost runner is asked at every iteration whether it is back: RLlib would wait half a minute for the answer.
    config.fault_tolerance(
        restart_failed_env_runners=True,
        env_runner_health_probe_timeout_s=PROBE_S,
        env_runner_restore_timeout_s=training.sample_timeout_s,
        delay_between_env_runner_restarts_s=1.0,
    )
    config.training(
        lr=schedule(algorithm.lr, algorithm.final_lr, training.env_steps),
        gamma=algorithm.gamma,
        grad_clip=algorithm.grad_clip,
        grad_clip_by="global_norm",
    )
    assignment = assign_in(policy.sharing, batch.scenario)
    model = policy.network.model_dump() | {"rows": batch.layout.blocks}
    module_class: type = MaskedActorCritic
    settings: dict[str, Any] = {TORCH_THREADS: training.learner_threads, SAMPLE_ATTEMPTS: training.sample_attempts}
    if isinstance(algorithm, DDQN):
        module_class = MaskedQ
        _require_replay(algorithm, batch, len(assignment.policies))
        environments = max(training.runners, 1) * training.envs_per_runner
        config.env_runners(rollout_fragment_length=algorithm.sample_env_steps // environments)
        decay = [[0, algorithm.epsilon_initial], [algorithm.epsilon_decay_env_steps, algorithm.epsilon_final]]
        model |= {"dueling": algorithm.dueling, "epsilon": decay}
    elif isinstance(algorithm, APPO):
        module_class = MaskedAPPO
        config.env_runners(rollout_fragment_length=algorithm.fragment_steps)
        if training.env_runner == "batched":
            config.env_runners(env_runner_cls=EpisodesEnvRunner)
    else:
        model["critic"] = algorithm.critic
    if not isinstance(algorithm, DDQN):
        settings[IDLE_PER_CHOICE] = algorithm.idle_per_choice
    config.learners(learner_config_dict=settings)
    config.multi_agent(
        policies=list(assignment.policies),  # in order: initial weights are drawn one policy after the other
        policy_mapping_fn=PolicyMapping(assignment),
        algorithm_config_overrides_per_module=overrides_per_module(policy, assignment),
    )
    if policy.network.module is not None:
        module_class = load_class(policy.network.module, "network.module", module_class)
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=module_class, model_config=model))
    config.callbacks(
        _callbacks(training.callbacks), on_episode_end=EpisodeMetrics(training.metrics) if training.metrics else None
    )
    config.debugging(seed=training.seed, log_level="ERROR")
    return config
