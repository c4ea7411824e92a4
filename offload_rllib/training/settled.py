"""Keys of a policy file that leave it to the environment what they stand for."""

from __future__ import annotations

import numpy as np

from offload_rllib.algorithms.settings import DISCOUNT_S
from offload_rllib.config import PolicyConfig
from offload_rllib.config.algorithms import OnPolicy
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.rollout.hindsight import ANNEALED, DECISIONS, STEPS, hindsight_misfit

AUTO = "auto"
# In a mean deadline. With gamma 0.99 decisions look two thirds of a deadline ahead: what comes later is mostly noise.
UNITS = 150


def settled(policy: PolicyConfig, env: NativeEnv) -> PolicyConfig:
    """Return a policy with `algorithm.discount_s`, s, and `algorithm.credit` as they are in an environment.

    With credit by `decisions`, `algorithm.gamma` is 0: all that follows from a decision is in its own reward.
    """
    algorithm = policy.algorithm
    changes: dict[str, object] = {}
    if algorithm.discount_s is None:
        deadline_s = env.scenario.mean_deadline_s
        changes["discount_s"] = DISCOUNT_S if deadline_s is None else deadline_s / UNITS
    if isinstance(algorithm, OnPolicy) and algorithm.credit == AUTO:
        batched = policy.training.env_runner == "batched" and isinstance(env, ArrivalEnv)
        reward = env.scenario.config.reward
        # In a full memory one large task keeps many small ones out, and what that costs depends on how others respond.
        memories = bool(np.isfinite(env.scenario.arrays.node["capacity_bits"]).any())
        # Other rewards than delays may ask for something else than a low score.
        if not batched or reward.name != "delay" or memories or hindsight_misfit(env.scenario):
            changes["credit"] = STEPS
        elif reward.scope == "own" or algorithm.constraints:
            # Rewards of an agent's own tasks leave out what a decision costs others: there is nothing to move to.
            # With constraints there is, but drops at a price are much noise in rewards.
            changes |= {"credit": DECISIONS, "gamma": 0.0}
        else:
            changes["credit"] = ANNEALED
    return policy.model_copy(update={"algorithm": algorithm.model_copy(update=changes)})
