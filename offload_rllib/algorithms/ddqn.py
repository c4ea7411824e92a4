"""Double DQN on RLlib's new API stack, for agents that rarely have a choice; see `docs/algorithms/ddqn.md`.

Replay and learning see choices only: a transition leads from a choice of an agent to its n-th next one (see
`rollout.transitions`).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import (
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    TIMERS,
)

from offload_rllib.algorithms.ddqn_learner import DDQNLearner
from offload_rllib.algorithms.direct_learner import TORCH_THREADS
from offload_rllib.algorithms.double_q import Schedule, value_at
from offload_rllib.algorithms.fused.learner import GRADIENTS
from offload_rllib.algorithms.mixing import MixingLearner
from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm
from offload_rllib.algorithms.sampling import SAMPLE_ATTEMPTS
from offload_rllib.algorithms.settings import OffloadConfig
from offload_rllib.config import ddqn as schema
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.policy import Training
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.module import MIXER, MaskedQ
from offload_rllib.rollout.episodes import agent_steps_of
from offload_rllib.rollout.replay import ReplayBuffer, replay_bytes, require_memory
from offload_rllib.rollout.team import team_size

REPLAY_FILE = "replay_{}.npz"
# What `DDQNConfig` calls by the schema's own names.
OWN_SETTINGS = (
    "n_step",
    "mixer",
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


class DDQNConfig(OffloadConfig):
    """Settings of `DDQN`; names and meanings are those of `config.ddqn.DDQN`.

    The schedule of epsilon is the module's: `epsilon` of its `model_config`.
    """

    section = schema.DDQN

    def __init__(self, algo_class: Any = None) -> None:
        """Set the defaults."""
        super().__init__(algo_class=algo_class or DDQN)
        self.num_learners = 0
        self.n_step: int
        self.mixer: str | None
        self.sample_env_steps: int
        self.replay_capacity: int
        self.replay_ratio: float
        self.replay_in_checkpoints: bool
        self.learning_starts: int
        self.priority_alpha: float
        self.priority_beta: Schedule
        self.target_update_every: int
        self.target_tau: float
        self.huber_delta: float
        self.apply_defaults()

    def training(self, **settings: Any) -> DDQNConfig:
        """Change settings; those of this class by their names, all others as RLlib's.

        Raises:
            TypeError: there is no such setting.
        """
        for name in [name for name in settings if name in OWN_SETTINGS]:
            setattr(self, name, settings.pop(name))
        super().training(**settings)
        return self

    def validate(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: more than one learner was asked for.
        """
        super().validate()
        if self.num_learners > 1:
            raise ConfigError(
                f"num_learners: DDQN learns in one process, got {self.num_learners}; accepted: 0 or 1. A batch of "
                f"{self.train_batch_size_per_learner} transitions is too small to be worth splitting"
            )

    def get_default_learner_class(self) -> type[DDQNLearner]:
        """Return the learner."""
        return DDQNLearner if self.mixer is None else MixingLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the mask-aware module of action values."""
        return RLModuleSpec(module_class=MaskedQ, model_config=self.model_settings(self.default_section()))

    def apply(self, algorithm: schema.DDQN, training: Training) -> None:
        """Set what a policy file says; see `OffloadConfig.apply`."""
        super().apply(algorithm, training)
        self.reporting(min_sample_timesteps_per_iteration=algorithm.batch_env_steps)

    def translated(self, algorithm: schema.DDQN, training: Training) -> dict[str, Any]:
        """Return settings; see `OffloadConfig.translated`."""
        return {name: getattr(algorithm, name) for name in OWN_SETTINGS} | {
            "train_batch_size_per_learner": algorithm.batch_transitions,
            "priority_beta": [[0, algorithm.priority_beta], [training.env_steps, 1.0]],
        }

    def learner_settings(self, algorithm: schema.DDQN, training: Training) -> dict[str, Any]:
        """Return what learners and the sampling of the trainer need."""
        return {
            GRADIENTS: algorithm.learner,
            TORCH_THREADS: training.learner_threads,
            SAMPLE_ATTEMPTS: training.sample_attempts,
        }

    @classmethod
    def model_settings(cls, algorithm: schema.DDQN) -> dict[str, Any]:
        """Return the head of the network, what mixes its values, and the schedule of exploration."""
        decay = [[0, algorithm.epsilon_initial], [algorithm.epsilon_decay_env_steps, algorithm.epsilon_final]]
        mixer = {MIXER: algorithm.mixer, "mixing_units": algorithm.mixing_units}
        return {"dueling": algorithm.dueling, "epsilon": decay} | mixer

    def adapt(self, algorithm: schema.DDQN, training: Training, env: NativeEnv, policies: int) -> None:
        """Share the samples among the environments; see `OffloadConfig.adapt`.

        Raises:
            ConfigError: replay does not fit into memory, or a mixer is asked for where choices come at intervals.
        """
        prioritised = algorithm.priority_alpha > 0
        size, actions = env.observation_size, env.num_actions
        if algorithm.mixer is not None:
            if not isinstance(env, ArrivalEnv):
                raise ConfigError(
                    f"algorithm.mixer: {algorithm.mixer}: the environment has decisions.when: "
                    f"{env.scenario.config.decisions.when}; accepted: arrival, where one agent decides at a time"
                )
            size = team_size(len(env.agents), size)
            # Whatever agents receive without a mixer, the team receives the reward of all of them.
            self.env_config["overrides"] = (*self.env_config.get("overrides", ()), "reward.scope=team")
        require_memory(policies * replay_bytes(algorithm.replay_capacity, size, actions, prioritised=prioritised))
        environments = max(training.runners, 1) * training.envs_per_runner
        self.env_runners(rollout_fragment_length=algorithm.sample_env_steps // environments)


def _last(schedule: Any) -> float:
    """Return the last value of RLlib's schedule, or the number that stands for one."""
    return float(schedule[-1][1] if isinstance(schedule, list | tuple) else schedule)


class DDQN(OffloadAlgorithm):
    """Samples a little, replays `replay_ratio` transitions for every new one, and begins again."""

    policy_prefix = "q."

    @classmethod
    def get_default_config(cls) -> DDQNConfig:
        """Return the defaults."""
        return DDQNConfig()

    def setup(self, config: AlgorithmConfig) -> None:
        """Make runners and learner, and a replay memory for each policy that is trained.

        Raises:
            ConfigError: the memories do not fit (see `rollout.replay.require_memory`).
        """
        super().setup(config)
        names = self._learner(DDQNLearner.trained_modules)
        sizes = {}
        for name in names:
            module = self.network(name)
            size = module.observation_space["observations"].shape[0]
            if self.config.mixer is not None:
                size = team_size(module.model_config["agents"], size)
            sizes[name] = (size, int(module.action_space.n))
        alpha = self.config.priority_alpha or None
        require_memory(
            sum(
                replay_bytes(self.config.replay_capacity, *size, prioritised=alpha is not None)
                for size in sizes.values()
            )
        )
        seeds = np.random.SeedSequence(self.config.seed or 0).spawn(len(sizes))
        self._replay = {
            name: ReplayBuffer(
                self.config.replay_capacity,
                *size,
                gamma=self.config.gamma,
                discount_s=self.config.discount_s,
                n_step=self.config.n_step,
                alpha=alpha,
                seed=seed,
            )
            for (name, size), seed in zip(sizes.items(), seeds, strict=True)
        }
        self._updates_due = dict.fromkeys(sizes, 0.0)

    def _learner(self, function: Any) -> Any:
        """Return what a function of the learner gives: called directly in this process, or where the learner is."""
        result = next(iter(self.learner_group.foreach_learner(function)))
        if not result.ok:
            raise result.get()
        return result.get()

    def training_step(self) -> None:
        """Sample, add to replay, take the updates that are due, give the runners the new weights."""
        new = Counter()
        for steps in agent_steps_of(self.sample(self.config.sample_env_steps)):
            if steps.module_id in self._replay:
                new[steps.module_id] += self._replay[steps.module_id].add(steps)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            for module_id, replay in self._replay.items():
                if len(replay) >= self.config.learning_starts:
                    self._update(module_id, replay, new[module_id])
            transitions = {module_id: len(replay) for module_id, replay in self._replay.items()}
            finish = partial(DDQNLearner.finish_round, env_steps=self.env_steps, transitions=transitions)
            self.metrics.aggregate([self._learner(finish)], key=LEARNER_RESULTS)
        self.sync_weights()

    def _update(self, module_id: str, replay: ReplayBuffer, new: int) -> None:
        """Take `replay_ratio` x new transitions / batch size gradient steps; what is left of one is due next time."""
        size = self.config.train_batch_size_per_learner
        self._updates_due[module_id] += self.config.replay_ratio * new / size
        updates = int(self._updates_due[module_id])
        self._updates_due[module_id] -= updates
        beta = value_at(self.config.priority_beta, self.env_steps)
        if updates:
            self._learner(partial(DDQNLearner.begin_round, module_id=module_id))
        for _ in range(updates):
            sample = replay.sample(size, beta=beta)
            errors = self._learner(partial(DDQNLearner.learn, module_id=module_id, sample=sample))
            if self.config.priority_alpha:
                replay.update_priorities(sample.states, errors)

    def kept_as(self, model_config: dict[str, Any]) -> dict[str, Any]:
        """Describe networks of action values; drawn actions explore as much as at the end of the schedule."""
        return {
            "output": "values",
            "dueling": model_config.get("dueling", False),
            "epsilon": _last(model_config.get("epsilon", 0.0)),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> Any:
        """Save RLlib's checkpoint, the policy, and the replay memories if `replay_in_checkpoints` is set."""
        saved = super().save_checkpoint(checkpoint_dir)
        if self.config.replay_in_checkpoints:
            for module_id, replay in self._replay.items():
                replay.save(Path(checkpoint_dir) / REPLAY_FILE.format(module_id))
        return saved

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Restore a checkpoint, with the replay memories that it holds; without them, replay begins empty."""
        super().restore_from_path(path, *args, **kwargs)
        for module_id, replay in self._replay.items():
            file = Path(path) / REPLAY_FILE.format(module_id)
            if file.is_file():
                replay.restore(file)
