"""Learners of one run, in one process, samples for them, and learners that somebody has changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from helpers.environments import small_environment
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.envs.vector import vector_env
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.training.rllib_config import algorithm_config

Weights = dict[str, dict[str, np.ndarray]]


def config_of(env: Any = None, sharing: Any = "shared", name: str = "PPO", learners: int = 0, **algorithm: Any) -> Any:
    """Return RLlib's configuration of a small training."""
    policy = load_policy_config(
        {
            "algorithm": {"name": name, "batch_env_steps": 96, "minibatch_steps": 16, "lr": 0.01} | algorithm,
            "sharing": sharing,
            "network": {"hidden": [8]},
            "training": {"runners": 0, "envs_per_runner": 4, "seed": 3, "learners": learners},
        }
    )
    return algorithm_config(load_environment(env or small_environment()), policy, cpus=12)


def make_learners(count: int, env: Any = None, **how: Any) -> list[Any]:
    """Return learners with the same weights, as those of one run have."""
    config = config_of(env, **how)
    env = vector_env(env or small_environment(), 1)
    spaces: Any = {module_id: (observation_space(env), action_space(env)) for module_id in config.policies}
    return [config.build_learner(env=None, spaces=spaces) for _ in range(count)]


def draw_steps(learner: Any, module_id: str, rows: int, seed: int) -> AgentSteps:
    """Return so many decisions of a policy, three in four of them with a choice."""
    rng = np.random.default_rng(seed)
    space = learner.network(module_id).observation_space
    features, actions = space["observations"].shape[0], space["action_mask"].shape[0]
    masks = np.ones((rows, actions), np.int8)
    masks[rng.random(rows) < 0.25, 1:] = 0
    return AgentSteps(
        module_id=module_id,
        agents=("a",),
        agent=np.zeros(rows + 1, np.int64),
        environment=np.zeros(rows + 1, np.int64),
        observations=rng.uniform(-1, 1, (rows, features)).astype(np.float32),
        masks=masks,
        actions=np.where(masks[:, 1] > 0, rng.integers(0, actions, rows), 0).astype(np.int32),
        log_probabilities=np.full(rows, -1.0, np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        elapsed_s=rng.random(rows),
        following=np.arange(1, rows + 1),
        closing_observations=rng.uniform(-1, 1, (1, features)).astype(np.float32),
        closing_masks=np.ones((1, actions), np.int8),
        ended=np.ones(1, np.bool_),
        env_steps=rows,
        source=f"runner {seed}",
        start=0,
        steps=rows,
    )


def weights_of(learner: Any) -> Weights:
    """Return copies of all weights and of what Adam remembers, by policy."""
    found: Weights = {}
    for module_id in list(learner.module.keys()):
        optimizer = learner.get_optimizer(module_id)
        named = list(learner.network(module_id).named_parameters())
        found[module_id] = {name: value.detach().numpy().copy() for name, value in named}
        for name, value in named:
            for key, kept in optimizer.state.get(value, {}).items():
                found[module_id][f"{name} {key}"] = kept.numpy().copy()
    return found


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Return whether both have the same bits."""
    return one.keys() == other.keys() and all(np.array_equal(value, other[key]) for key, value in one.items())


def slow_down(learner: Any) -> list[None]:
    """Let every gradient step of a learner take 20 ms longer; return a list that grows by one with each."""
    taken: list[None] = []
    original = learner.check_finite

    def count(*given: Any) -> None:
        taken.append(time.sleep(0.02))
        original(*given)

    learner.check_finite = count
    return taken


def give_loss_without_gradient(learner: Any) -> None:
    """Make a learner one of a subclass that has a loss of its own; its gradient is zero."""
    original = type(learner)

    class Own(original):
        def compute_loss_for_module(self, **arguments: Any) -> Any:
            return 0.0 * super().compute_loss_for_module(**arguments)

    learner.__class__ = Own
