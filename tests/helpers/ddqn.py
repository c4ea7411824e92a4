"""DDQN's learner in a small environment, and transitions for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.environments import make_env, small_environment
from offload_rllib.algorithms.ddqn_learner import DDQNLearner
from offload_rllib.config import PolicyConfig, load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.replay import Sample
from offload_rllib.rollout.transitions import Transitions
from offload_rllib.training.rllib_config import algorithm_config


def policy_config(
    algorithm: dict[str, Any] | None = None, network: dict[str, Any] | None = None, **training: Any
) -> PolicyConfig:
    """Return a policy that is trained in seconds."""
    return load_policy_config(
        {
            "algorithm": {
                "name": "DDQN",
                "sample_env_steps": 80,
                "batch_env_steps": 160,
                "batch_transitions": 32,
                "learning_starts": 50,
                "replay_capacity": 400,
                "target_update_every": 3,
            }
            | (algorithm or {}),
            "network": network or {"hidden": [16, 16]},
            "training": {"runners": 0, "envs_per_runner": 4, "env_steps": 480, "seed": 3} | training,
        }
    )


def make_learner(network: dict[str, Any] | None = None, *, when: str = "interval", **algorithm: Any) -> DDQNLearner:
    """Return a learner of the small environment; those of one network have the same weights."""
    environment = small_environment(decisions={"when": when})
    env = make_env(environment)
    config = algorithm_config(load_environment(environment), policy_config(algorithm, network), cpus=2)
    spaces = {SHARED: (observation_space(env), action_space(env))}
    learner = config.build_learner(env=None, spaces=spaces)
    assert isinstance(learner, DDQNLearner)
    return learner


def make_sample(learner: DDQNLearner, rows: int = 24, seed: int = 0) -> Sample:
    """Return random transitions of the learner's sizes, with any masks that leave a choice."""
    rng = np.random.default_rng(seed)
    module = learner.module[SHARED].unwrapped()
    features, actions = module.observation_space["observations"].shape[0], int(module.action_space.n)

    def masks() -> np.ndarray:
        drawn = (rng.random((rows, actions)) < 0.5).astype(np.int8)
        drawn[:, 0] = 1
        drawn[np.arange(rows), rng.integers(1, actions, rows)] = 1
        return drawn

    valid = masks()
    return Sample(
        Transitions(
            observations=rng.uniform(-1, 1, (rows, features)).astype(np.float32),
            masks=valid,
            actions=np.array([rng.choice(np.flatnonzero(mask)) for mask in valid]),
            returns=rng.normal(0, 2, rows).astype(np.float32),
            discounts=rng.uniform(0.3, 1, rows).astype(np.float32),
            next_observations=rng.uniform(-1, 1, (rows, features)).astype(np.float32),
            next_masks=masks(),
        ),
        weights=rng.uniform(0.1, 1, rows).astype(np.float32),
        states=np.arange(rows),
    )
