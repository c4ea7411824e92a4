"""RLlib's configuration of an algorithm, and how the section `algorithm` of a policy file becomes its settings.

Each algorithm has a subclass in its own file. Without a policy file the schema's defaults take the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.from_config import NotProvided

from offload_rllib.algorithms.constraints import CONSTRAINTS, REWARD_SCALE
from offload_rllib.algorithms.direct_learner import TORCH_THREADS
from offload_rllib.algorithms.exchange.meeting import BUDGET, EXCHANGE, EXCHANGE_BATCHES, LATE_SHARE
from offload_rllib.algorithms.fused.learner import GRADIENTS
from offload_rllib.algorithms.on_policy import IDLE_PER_CHOICE
from offload_rllib.algorithms.pull import PULL
from offload_rllib.algorithms.sampling import SAMPLE_ATTEMPTS
from offload_rllib.algorithms.sequences import MEMORY_STEPS
from offload_rllib.config.algorithms import A2C, APPO, PPO, OnPolicy
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.policy import Training
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.costs import cost_table
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.warm_start import WarmStart
from offload_rllib.rollout.callbacks import OffloadCallback
from offload_rllib.rollout.hindsight import ANNEALED, STEPS, require_hindsight
from offload_rllib.rollout.runner import BatchedEnvRunner
from offload_rllib.simulator.metrics import OF_TYPE

# RLlib's mark of an argument that is not given.
UNSET: Any = NotProvided
# Where no environment is known, or its tasks have no deadlines that it could follow.
DISCOUNT_S = 1.0
REJECTED_SHARE = "dropped_rejected_share"


def schedule(first: float, last: float | None, env_steps: int) -> Any:
    """Return RLlib's schedule from one value to another over a run, or the value alone."""
    return first if last is None else [[0, first], [env_steps, last]]


class OffloadConfig(AlgorithmConfig):
    """RLlib's configuration with this project's runner and module as defaults."""

    section: ClassVar[type[Any]]
    """The schema of `algorithm` in a policy file."""
    rllib_names: ClassVar[Mapping[str, str]] = {}
    """RLlib's names of keys that it calls differently, for the exceptions of single policies."""
    starting_weights: WarmStart | None = None
    """What training starts with in place of random weights."""

    def __init__(self, algo_class: Any = None) -> None:
        """Set the defaults that differ from RLlib's."""
        super().__init__(algo_class=algo_class)
        self.env_runner_cls = BatchedEnvRunner
        # It runs no connectors: RLlib would ask all runners for their states in every iteration, and wait for them.
        self.merge_env_runner_states = False
        self.callbacks_class = OffloadCallback
        self.discount_s = DISCOUNT_S

    def training(self, *, discount_s: float = UNSET, **settings: Any) -> Self:
        """Set hyperparameters.

        Args:
            discount_s: time in which gamma and lambda apply once, s; 1 by default, for here no environment is known.
            settings: as `AlgorithmConfig.training`.
        """
        super().training(**settings)
        if discount_s is not UNSET:
            self.discount_s = discount_s
        return self

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the mask-aware module; RLlib's own fails on Dict observations."""
        return RLModuleSpec(module_class=MaskedActorCritic)

    @classmethod
    def default_section(cls) -> Any:
        """Return the section `algorithm` of a policy file that says nothing but the algorithm's name."""
        return cls.section(name=cls.section.__name__)

    def apply_defaults(self) -> None:
        """Set what a policy file without any other key stands for."""
        self.apply(self.default_section(), Training())

    def apply(self, algorithm: Any, training: Training) -> None:
        """Set what a policy file says of the algorithm.

        Args:
            algorithm: the section `algorithm`, a `section`.
            training: the section `training`: schedules last as long as it, learners divide a batch, and more.
        """
        self.training(
            lr=schedule(algorithm.lr, algorithm.final_lr, training.env_steps),
            gamma=algorithm.gamma,
            discount_s=DISCOUNT_S if algorithm.discount_s is None else algorithm.discount_s,
            grad_clip=algorithm.grad_clip,
            grad_clip_by="global_norm",
            **self.translated(algorithm, training),
        )
        self.learners(learner_config_dict=self.learner_settings(algorithm, training))

    def translated(self, algorithm: Any, training: Training) -> dict[str, Any]:
        """Return the arguments of `training` that the sections stand for, beside those of every algorithm."""
        raise NotImplementedError

    def learner_settings(self, algorithm: Any, training: Training) -> dict[str, Any]:
        """Return RLlib's `learner_config_dict`."""
        return {
            TORCH_THREADS: training.learner_threads,
            SAMPLE_ATTEMPTS: training.sample_attempts,
            IDLE_PER_CHOICE: algorithm.idle_per_choice,
        }

    @classmethod
    def model_settings(cls, algorithm: Any) -> dict[str, Any]:  # noqa: ARG003 - subclasses read it
        """Return the keys of a module's `model_config` that the section stands for."""
        return {}

    def adapt(self, algorithm: Any, training: Training, env: NativeEnv, policies: int) -> None:
        """Set what follows from the environment, after all else but policies and modules.

        Args:
            algorithm: the section `algorithm`.
            training: the section `training`.
            env: the environment.
            policies: how many there are.

        Raises:
            ConfigError: the algorithm cannot learn there.
        """


def actor_critic_settings(algorithm: PPO | A2C | APPO, training: Training) -> dict[str, Any]:
    """Return what PPO, A2C and APPO have in common, as `OffloadConfig.translated`."""
    return {
        "lambda_": algorithm.lambda_,
        "entropy_coeff": schedule(algorithm.entropy_coeff, algorithm.final_entropy_coeff, training.env_steps),
        "vf_loss_coeff": algorithm.vf_loss_coeff,
    }


class OnPolicyConfig(OffloadConfig):
    """What PPO and A2C have in common."""

    def translated(self, algorithm: Any, training: Training) -> dict[str, Any]:
        """Return settings; see `OffloadConfig.translated`."""
        return actor_critic_settings(algorithm, training) | {
            "minibatch_size": algorithm.minibatch_steps,
            # RLlib counts batches per learner.
            "train_batch_size_per_learner": algorithm.batch_env_steps // max(training.learners, 1),
        }

    def learner_settings(self, algorithm: OnPolicy, training: Training) -> dict[str, Any]:
        """Return what learners and the sampling of the trainer need."""
        own = {
            GRADIENTS: algorithm.learner,
            EXCHANGE: algorithm.exchange,
            EXCHANGE_BATCHES: algorithm.exchange_batches,
            BUDGET: training.env_steps,
            LATE_SHARE: algorithm.late_share,
            PULL: algorithm.pull_coeff,
            MEMORY_STEPS: algorithm.memory_steps,
        }
        if algorithm.constraints:
            own[CONSTRAINTS] = [constraint.model_dump() for constraint in algorithm.constraints]
        return super().learner_settings(algorithm, training) | own

    @classmethod
    def model_settings(cls, algorithm: OnPolicy) -> dict[str, Any]:
        """Return which critic there is."""
        return {"critic": algorithm.critic}

    def adapt(self, algorithm: OnPolicy, training: Training, env: NativeEnv, policies: int) -> None:
        """Check the environment; see `OffloadConfig.adapt`."""
        if algorithm.critic == "central":
            refuse_stock("critic", "central", training, env)
        if algorithm.credit != STEPS:
            _check_hindsight(algorithm, training, env)
        if algorithm.constraints:
            _check_constraints(algorithm, training, env)
            self.learner_config_dict[REWARD_SCALE] = env.scenario.config.reward.scale


def refuse_stock(key: str, value: str, training: Training, env: NativeEnv) -> None:
    """Reject RLlib's own runner where decisions are taken at arrivals.

    RLlib's episodes hold what the deciding agent sees alone, and their batches know no time.

    Args:
        key: of `algorithm`, with which it cannot be used.
        value: of the key.
        training: says which runner there is.
        env: says when decisions are taken.

    Raises:
        ConfigError: RLlib's runner is asked for.
    """
    if isinstance(env, ArrivalEnv) and training.env_runner == "stock":
        raise ConfigError(
            f"training.env_runner: stock cannot be used with algorithm.{key}: {value} where decisions.when is "
            "arrival; accepted: batched"
        )


def _check_constraints(algorithm: OnPolicy, training: Training, env: NativeEnv) -> None:
    """Reject figures that have no cost or are not of the environment, and a runner that does not sample costs."""
    figures = [constraint.figure for constraint in algorithm.constraints]
    cost_table(figures, env.scenario.arriving.types)
    if not env.scenario.config.decisions.reject and any(figure.startswith(REJECTED_SHARE) for figure in figures):
        raise ConfigError(
            f"algorithm.constraints: {REJECTED_SHARE} is of tasks that agents reject, and here they cannot; accepted: "
            "another figure, or decisions.reject: true in the environment"
        )
    if len(env.scenario.arriving.types) == 1 and any(OF_TYPE in figure for figure in figures):
        raise ConfigError(
            f"algorithm.constraints: {', '.join(figures)}: there is one type of task; accepted: figures without "
            f"{OF_TYPE} and its name"
        )
    reward = env.scenario.config.reward.name
    if algorithm.credit == ANNEALED and reward != "delay":
        raise ConfigError(
            f"algorithm.credit: annealed with constraints needs reward.name: delay (given: {reward}): a price has one "
            "unit, and costs in hindsight are in seconds; accepted: decisions or steps"
        )
    if training.env_runner == "stock":
        raise ConfigError(
            "training.env_runner: stock cannot be used with algorithm.constraints, whose costs RLlib's "
            "episodes do not hold; accepted: batched"
        )


def _check_hindsight(algorithm: OnPolicy, training: Training, env: NativeEnv) -> None:
    """Reject credit in hindsight where it is not known, or not within a batch."""
    require_hindsight(env.scenario, algorithm.credit)
    if training.env_runner != "batched":
        raise ConfigError(f"algorithm.credit: {algorithm.credit} needs training.env_runner: batched")
    if isinstance(env, ArrivalEnv):
        return  # decisions wait for their credit
    whole = training.samplers * training.envs_per_runner * env.steps_per_episode
    if algorithm.batch_env_steps % whole:
        raise ConfigError(
            f"algorithm.batch_env_steps ({algorithm.batch_env_steps}) must be a multiple of runners x envs_per_runner "
            f"x steps of an episode ({whole}) with credit: decisions, which is known at the end of an episode"
        )
