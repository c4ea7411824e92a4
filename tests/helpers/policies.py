"""Policies that train in seconds, and policies on disk that nobody trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from offload_rllib.config import PolicyConfig, load_policy_config
from offload_rllib.config.policy import Network, Sharing
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.policies.saved import PolicyDescription, SavedPolicy, load_saved_policy, save_policies
from offload_rllib.policies.sharing import Assignment, assign_in

PPO = {"algorithm": {"name": "PPO"}}


def policy_config(**training: Any) -> PolicyConfig:
    """Return a policy that is trained in seconds."""
    return load_policy_config(
        {
            "algorithm": {"name": "PPO", "batch_env_steps": 160, "minibatch_steps": 64, "epochs": 2},
            "network": {"hidden": [16, 16]},
            "training": {"runners": 0, "envs_per_runner": 4, "env_steps": 480, "seed": 3} | training,
        }
    )


def sharing(value: Any) -> Sharing:
    """Return how agents share policies, as YAML names it."""
    return load_policy_config(PPO | {"sharing": value}).sharing


def description(env: NativeEnv, assignment: Assignment, **changes: Any) -> PolicyDescription:
    """Return what would be kept of untrained policies for an environment."""
    return PolicyDescription(
        **{
            "algorithm": "PPO",
            "observation_size": env.observation_size,
            "actions": env.num_actions,
            "network": Network(hidden=(8,)),
            "environment": "",
            "env_steps": 0,
            "sharing": assignment.kind,
            "serves": assignment.serves,
            "agents": assignment.agents,
            "policy_of": assignment.policy_of,
        }
        | changes
    )


def kept(folder: Path, env: NativeEnv, rule: Any = "shared", *, draw: int = 0, **changes: Any) -> SavedPolicy:
    """Return policies with random weights, others for each `draw`, after they were on disk."""
    described = description(env, assign_in(sharing(rule), env.scenario), **changes)
    torch.manual_seed(len(described.serves) + 1000 * draw)
    weights: dict[str, Mapping[str, torch.Tensor]] = {}
    for name in described.serves:
        network = described.make_network()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
        weights[name] = network.state_dict()
    save_policies(folder, described, weights)
    return load_saved_policy(folder)
