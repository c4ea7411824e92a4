"""Runners that are made by hand, for each way to share policies."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.environments import small_environment
from offload_rllib.algorithms.ppo import OffloadPPOConfig
from offload_rllib.envs.rllib import register_environments
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.runner import BatchedEnvRunner

HIDDEN = {"hidden": (16, 16), "activation": "tanh"}


def to_shared(_agent_id: Any, _episode: Any, **_: Any) -> str:
    return "shared"


def to_own(agent_id: Any, _episode: Any, **_: Any) -> str:
    return f"node_{agent_id}"


def to_pair(agent_id: Any, _episode: Any, **_: Any) -> str:
    return "edge" if agent_id in "ac" else "relay"


# Policies in order: initial weights are drawn one policy after the other.
SHARING = {
    "shared": (to_shared, ["shared"]),
    "per_node": (to_own, ["node_a", "node_b", "node_c", "node_d"]),
    "mapping": (to_pair, ["edge", "relay"]),
}


def runner_config(sharing: str = "shared", *, envs: int = 3, seed: int = 7, **env_config: Any) -> OffloadPPOConfig:
    """Return a configuration for runners that are made by hand."""
    register_environments()
    mapping, policies = SHARING[sharing]
    config = OffloadPPOConfig()
    config.environment("offload", env_config={"env": small_environment(), "seed": 5} | env_config)
    config.environment(disable_env_checking=True)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=envs)
    config.multi_agent(policies=policies, policy_mapping_fn=mapping)
    config.rl_module(model_config=HIDDEN)
    config.debugging(seed=seed, log_level="ERROR")
    return config


def make_runner(config: OffloadPPOConfig, *, worker: int = 0) -> BatchedEnvRunner:
    """Return a batched runner in this process."""
    return BatchedEnvRunner(config=config, worker_index=worker)


def by_agent(fragments: list[Fragment], environment: int, agent: str) -> Fragment:
    """Return the part of one agent of one environment; the stock runner's fragments have one environment each."""
    fragment = next(f for f in fragments if agent in f.agents)
    e, i = slice(environment, environment + 1), fragment.agents.index(agent)
    one = slice(i, i + 1)
    finals = np.argwhere(fragment.truncated)[:, 1] == environment
    return Fragment(
        fragment.module_id,
        (agent,),
        fragment.observations[:, e, one],
        fragment.masks[:, e, one],
        fragment.actions[:, e, one],
        fragment.log_probabilities[:, e, one],
        fragment.rewards[:, e, one],
        fragment.truncated[:, e],
        fragment.final_observations[finals][:, one],
        fragment.final_masks[finals][:, one],
    )


def finished(figures: dict[str, float]) -> float:
    """Return a figure of an episode, as a function of a user does."""
    return figures["tasks_finished"]
