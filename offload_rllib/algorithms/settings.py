"""From an algorithm's schema to RLlib's settings. Without a policy file the schema's defaults take the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from offload_rllib.algorithms.direct_learner import TORCH_THREADS
from offload_rllib.algorithms.offload_algorithm import OffloadConfig
from offload_rllib.algorithms.on_policy import GRADIENTS, IDLE_PER_CHOICE
from offload_rllib.algorithms.sampling import SAMPLE_ATTEMPTS
from offload_rllib.config.algorithms import A2C, APPO, DDQN, PPO, Algorithm
from offload_rllib.config.policy import Training

SCHEMAS: dict[str, type[PPO | A2C | APPO | DDQN]] = {"PPO": PPO, "A2C": A2C, "APPO": APPO, "DDQN": DDQN}


def schedule(first: float, last: float | None, env_steps: int) -> Any:
    """Return RLlib's schedule from one value to another over a run, or the value alone."""
    return first if last is None else [[0, first], [env_steps, last]]


def default_settings(name: str) -> Algorithm:
    """Return the section `algorithm` of a policy file that says nothing but the algorithm's name."""
    return SCHEMAS[name].model_validate({"name": name})


def apply_defaults(config: OffloadConfig, name: str) -> None:
    """Set in RLlib's configuration what a policy file without any other key stands for."""
    apply_settings(config, default_settings(name), Training())


def apply_settings(config: OffloadConfig, algorithm: Algorithm, training: Training) -> None:
    """Set in RLlib's configuration what the section `algorithm` of a policy file says.

    Args:
        config: of the algorithm's kind.
        algorithm: the section.
        training: the section `training`: schedules last as long as it, learners divide a batch, and more.
    """
    config.training(
        lr=schedule(algorithm.lr, algorithm.final_lr, training.env_steps),
        gamma=algorithm.gamma,
        discount_s=algorithm.discount_s,
        grad_clip=algorithm.grad_clip,
        grad_clip_by="global_norm",
        **TRANSLATIONS[algorithm.name](algorithm, training),
    )
    learner = {TORCH_THREADS: training.learner_threads, SAMPLE_ATTEMPTS: training.sample_attempts}
    if isinstance(algorithm, DDQN):
        config.reporting(min_sample_timesteps_per_iteration=algorithm.batch_env_steps)
    else:
        learner |= {IDLE_PER_CHOICE: algorithm.idle_per_choice}
    if isinstance(algorithm, PPO | A2C):
        learner |= {GRADIENTS: algorithm.learner}
    if isinstance(algorithm, APPO):
        config.reporting(min_sample_timesteps_per_iteration=algorithm.report_env_steps)
        config.env_runners(rollout_fragment_length=algorithm.fragment_steps)
    config.learners(learner_config_dict=learner)


def model_settings(algorithm: Algorithm) -> dict[str, Any]:
    """Return the keys of a module's `model_config` that the section `algorithm` of a policy file stands for."""
    if isinstance(algorithm, DDQN):
        decay = [[0, algorithm.epsilon_initial], [algorithm.epsilon_decay_env_steps, algorithm.epsilon_final]]
        return {"dueling": algorithm.dueling, "epsilon": decay}
    return {"critic": algorithm.critic} if isinstance(algorithm, PPO | A2C) else {}


def _actor_critic(algorithm: PPO | A2C | APPO, training: Training) -> dict[str, Any]:
    return {
        "lambda_": algorithm.lambda_,
        "entropy_coeff": schedule(algorithm.entropy_coeff, algorithm.final_entropy_coeff, training.env_steps),
        "vf_loss_coeff": algorithm.vf_loss_coeff,
    }


def _on_policy(algorithm: PPO | A2C, training: Training) -> dict[str, Any]:
    return _actor_critic(algorithm, training) | {
        "minibatch_size": algorithm.minibatch_steps,
        # RLlib counts batches per learner.
        "train_batch_size_per_learner": algorithm.batch_env_steps // max(training.learners, 1),
    }


def _ppo(algorithm: PPO, training: Training) -> dict[str, Any]:
    return _on_policy(algorithm, training) | {"clip_param": algorithm.clip, "num_epochs": algorithm.epochs}


def _appo(algorithm: APPO, training: Training) -> dict[str, Any]:
    return _actor_critic(algorithm, training) | {
        "minibatch_steps": algorithm.minibatch_steps,
        "clip_param": algorithm.clip,
        "train_batch_size_per_learner": algorithm.batch_env_steps,
        "circular_buffer_num_batches": algorithm.buffer_batches,
        "circular_buffer_iterations_per_batch": algorithm.uses_per_batch,
        "target_update_every": algorithm.target_update_every,
        "target_worker_clipping": algorithm.importance_clip,
        "vtrace_clip_rho_threshold": algorithm.rho_clip,
        "vtrace_clip_pg_rho_threshold": algorithm.pg_rho_clip,
    }


# What `DDQNConfig` calls by the schema's own names.
OWN_SETTINGS = (
    "n_step",
    "sample_env_steps",
    "replay_capacity",
    "replay_ratio",
    "replay_in_checkpoints",
    "learning_starts",
    "priority_alpha",
    "priority_beta",
    "target_update_every",
    "target_tau",
    "huber_delta",
)


def _ddqn(algorithm: DDQN, training: Training) -> dict[str, Any]:
    return {name: getattr(algorithm, name) for name in OWN_SETTINGS} | {
        "train_batch_size_per_learner": algorithm.batch_transitions,
        "priority_beta": [[0, algorithm.priority_beta], [training.env_steps, 1.0]],
    }


TRANSLATIONS: Mapping[str, Callable[[Any, Training], dict[str, Any]]] = {
    "PPO": _ppo,
    "A2C": _on_policy,
    "APPO": _appo,
    "DDQN": _ddqn,
}
