"""Keys of a policy file that leave it to the environment what they stand for."""

from __future__ import annotations

from offload_rllib.algorithms.settings import DISCOUNT_S
from offload_rllib.config import PolicyConfig
from offload_rllib.config.algorithms import OnPolicy
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.rollout.hindsight import ANNEALED, STEPS, hindsight_misfit

AUTO = "auto"
# In a mean deadline. With gamma 0.99 decisions look two thirds of a deadline ahead: what comes later is mostly noise.
UNITS = 150


def settled(policy: PolicyConfig, env: NativeEnv) -> PolicyConfig:
    """Return a policy with `algorithm.discount_s`, s, and `algorithm.credit` as they are in an environment."""
    algorithm = policy.algorithm
    changes: dict[str, object] = {}
    if algorithm.discount_s is None:
        deadline_s = env.scenario.mean_deadline_s
        changes["discount_s"] = DISCOUNT_S if deadline_s is None else deadline_s / UNITS
    if isinstance(algorithm, OnPolicy) and algorithm.credit == AUTO:
        batched = policy.training.env_runner == "batched" and isinstance(env, ArrivalEnv)
        # Other rewards than delays may ask for something else than a low score.
        delays = env.scenario.config.reward.name == "delay"
        changes["credit"] = ANNEALED if batched and delays and not hindsight_misfit(env.scenario) else STEPS
    return policy.model_copy(update={"algorithm": algorithm.model_copy(update=changes)})
