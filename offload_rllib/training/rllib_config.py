"""From a policy file to RLlib's configuration of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from offload_rllib.algorithms.offload_algorithm import FINGERPRINT
from offload_rllib.algorithms.registry import ALGORITHMS
from offload_rllib.algorithms.settings import schedule
from offload_rllib.cluster.placement import NODE_SHARE, TRAINER_CPUS, cpus_per_runner
from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig
from offload_rllib.config.algorithms import Algorithm, constraints_of
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.layout import ObservationLayout
from offload_rllib.envs.rllib import register_environments
from offload_rllib.envs.vector import NativeEnv, batch_of
from offload_rllib.policies.network import OF_ROWS
from offload_rllib.policies.sharing import Assignment, PolicyMapping, assign_in, require_policies
from offload_rllib.rollout.callbacks import EpisodeMetrics, OffloadCallback
from offload_rllib.rollout.hindsight import STEPS
from offload_rllib.rollout.runner import COSTS, CREDIT, BatchedEnvRunner
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.functions import load_class
from offload_rllib.training.imitation import check_imitation
from offload_rllib.training.settled import settled
from offload_rllib.training.warm_start import source_folder, starting_weights

PROBE_S = 0.5
# Hyperparameters that move from `KEY` to `final_KEY`.
SCHEDULED = ("lr", "entropy_coeff")


def overrides_per_module(config: PolicyConfig, assignment: Assignment) -> dict[str, dict[str, Any]]:
    """Return RLlib's `algorithm_config_overrides_per_module`.

    Raises:
        ConfigError: `policies` names a policy that does not exist.
    """
    require_policies(config, assignment)
    env_steps = config.training.env_steps
    default: Any = ALGORITHMS[config.algorithm.name].get_default_config()
    found: dict[str, dict[str, Any]] = {}
    for name, overrides in config.policies.items():
        found[name] = {}
        own = config.algorithm.model_copy(update=overrides.given)
        for key, value in overrides.given.items():
            moving = key.removeprefix("final_")
            if moving in SCHEDULED:
                found[name][moving] = schedule(getattr(own, moving), getattr(own, f"final_{moving}"), env_steps)
            else:
                found[name][default.rllib_names.get(key, key)] = value
    return found


def _implementation(algorithm: Algorithm) -> AlgorithmConfig:
    """Return the configuration that the settings are put into: the user's subclass of the default, if one is named."""
    default = ALGORITHMS[algorithm.name].get_default_config()
    if algorithm.implementation is None:
        return default
    return load_class(algorithm.implementation, "algorithm.implementation", type(default))()


def _callbacks(paths: Sequence[str]) -> list[type[RLlibCallback]]:
    """Return the user's callbacks behind this package's, unless one of them is a subclass of it and does its work."""
    own = [load_class(path, "training.callbacks", RLlibCallback) for path in paths]
    return own if any(issubclass(callback, OffloadCallback) for callback in own) else [OffloadCallback, *own]


def _check_fit(environment: EnvironmentConfig, policy: PolicyConfig, layout: ObservationLayout) -> None:
    """Check that an algorithm and a network support an environment.

    Raises:
        ConfigError: several tasks per decision, shaping with another discount, or a network of rows without rows.
    """
    if environment.decisions.tasks_per_decision > 1:
        raise ConfigError(
            f"decisions.tasks_per_decision: {policy.algorithm.name} decides one task at a time and needs 1 "
            f"(given: {environment.decisions.tasks_per_decision})"
        )
    shaping = environment.reward.shaping
    if shaping is not None:
        for key in ("gamma", "discount_s"):
            mine, theirs = getattr(shaping, key), getattr(policy.algorithm, key)
            if mine != theirs:
                raise ConfigError(
                    f"reward.shaping.{key} ({mine:g}) must equal algorithm.{key} ({theirs:g}): otherwise shaping "
                    "changes which policy is best"
                )
    if policy.network.memory and environment.decisions.when != "arrival":
        raise ConfigError(
            f"network.memory ({policy.network.memory}): the environment has decisions.when: "
            f"{environment.decisions.when}; accepted: arrival, where a memory moves with every decision of its agent"
        )
    kind = policy.network.kind
    if kind in OF_ROWS and layout.row_size == 0:
        raise ConfigError(
            f"network.kind: {kind} reads one row per destination, and observe: {environment.observe} has none"
        )


def built(environment: EnvironmentConfig) -> NativeEnv:
    """Return the environment of a run, for one episode at a time.

    Its agents, sizes and layout decide on the run's policies and networks. It is built once and passed on, for a large
    network takes seconds.
    """
    return batch_of(build_scenario(environment), 1)


def algorithm_config(
    environment: EnvironmentConfig,
    policy: PolicyConfig,
    *,
    cpus: float,
    nodes: Sequence[float] = (),
    trainer_node: str | None = None,
    env: NativeEnv | None = None,
    start: Path | None = None,
) -> AlgorithmConfig:
    """Return RLlib's configuration of a run.

    Args:
        environment: what to train on.
        policy: how to train.
        cpus: what Ray may use.
        nodes: the same by node; one node if empty.
        trainer_node: Ray's resource that only the node has on which the trainer must be, e.g. ``node:10.0.0.1``.
        env: what `built` returned for `environment`; None: it is built here.
        start: folder with the policies whose weights it starts with; None: as `training.start_from` says. With
            `training.imitate` they are made before (`warm_start.keep_source`).

    Raises:
        ConfigError: environment and policy do not fit together, or not on so many CPUs, or what it starts from does
            not fit.
    """
    env = env or built(environment)
    policy = settled(policy, env)
    _check_fit(environment, policy, env.layout)
    register_environments()
    algorithm, training = policy.algorithm, policy.training
    config: Any = _implementation(algorithm)  # RLlib declares shares of CPUs and GPUs as whole numbers
    config.environment(
        "offload",
        env_config={
            "env": environment.model_dump(mode="json"),
            "seed": training.seed,
            FINGERPRINT: fingerprint(environment),
            CREDIT: getattr(algorithm, "credit", STEPS),
            COSTS: [constraint.figure for constraint in constraints_of(algorithm)],
        },
        disable_env_checking=True,
    )
    remote_learners = training.learners
    runners = 0 if policy.learners_sample else training.runners
    share = training.cpus_per_runner or cpus_per_runner(policy.processes, nodes or (cpus,))
    is_stock = training.env_runner == "stock"
    config.env_runners(
        env_runner_cls=MultiAgentEnvRunner if is_stock else BatchedEnvRunner,
        merge_env_runner_states="training_only" if is_stock else False,
        num_env_runners=runners,
        num_envs_per_env_runner=training.envs_per_runner,
        num_cpus_per_env_runner=share,
        rollout_fragment_length="auto",
        sample_timeout_s=training.sample_timeout_s,
    )
    trainer_cpus = TRAINER_CPUS if runners or remote_learners > 1 else 1
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
    config.apply(algorithm, training)
    assignment = assign_in(policy.sharing, env.scenario)
    shape = {"rows": env.layout.blocks, "agents": len(env.agents), "weights": env.layout.weights}
    model = policy.network.model_dump() | shape | config.model_settings(algorithm)
    config.adapt(algorithm, training, env, len(assignment.policies))
    spec: Any = ALGORITHMS[algorithm.name].get_default_config().get_default_rl_module_spec()
    module_class = spec.module_class
    config.multi_agent(
        policies=list(assignment.policies),  # in order: initial weights are drawn one policy after the other
        policy_mapping_fn=PolicyMapping(assignment),
        algorithm_config_overrides_per_module=overrides_per_module(policy, assignment),
    )
    if policy.network.module is not None:
        module_class = load_class(policy.network.module, "network.module", module_class)
    module = RLModuleSpec(module_class=module_class, model_config=model)
    config.rl_module(rl_module_spec=module)
    if training.imitate is not None:
        check_imitation(policy, env, reads=start is None)
    if start is None and training.start_from is not None:
        start = source_folder(training.start_from)
    if start is not None:
        config.starting_weights = starting_weights(start, policy, env, assignment, module)
    config.callbacks(
        _callbacks(training.callbacks), on_episode_end=EpisodeMetrics(training.metrics) if training.metrics else None
    )
    config.debugging(seed=training.seed, log_level="ERROR")
    return config
