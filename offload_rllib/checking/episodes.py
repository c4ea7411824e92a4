"""Episodes for checks: played by a rule, up to a bound on the number of steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from offload_rllib.config import EnvironmentConfig
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import NativeEnv, batch_of
from offload_rllib.scenario import build_scenario

# Episodes of large networks have more decisions than a check has time for.
MOST_STEPS = 4000

Digest = dict[str, str]


def begin(config: EnvironmentConfig, keys: np.ndarray, *, log: bool = False) -> NativeEnv:
    """Return a native environment of a newly built scenario, reset to the episodes of some keys."""
    env = batch_of(build_scenario(config), len(keys), log=log)
    env.reset(keys)
    return env


def steps_of(env: NativeEnv) -> Iterator[int]:
    """Count the steps that are still to be taken: until all episodes have ended, or `MOST_STEPS` are done."""
    for step in range(MOST_STEPS):
        if env.truncated.all():
            return
        yield step


def digests(env: NativeEnv, rule: str) -> list[Digest]:
    """Play under a rule; return for each environment a hash of its observations, masks, rewards and times."""
    hashes = [{name: hashlib.sha256() for name in _shown(env)} for _ in range(env.num_envs)]
    for _ in steps_of(env):
        live = np.flatnonzero(~env.truncated)
        shown = _shown(env)
        for e in live:
            for name, array in shown.items():
                hashes[e][name].update(array[e].tobytes())
        env.step(env.heuristic_actions(rule))
        for e in live:
            hashes[e]["rewards"].update(env.rewards[e].tobytes())
    return [{name: found.hexdigest() for name, found in each.items()} for each in hashes]


def _shown(env: NativeEnv) -> dict[str, np.ndarray]:
    shown = {"observations": env.observations, "masks": env.masks, "rewards": env.rewards}
    if isinstance(env, ArrivalEnv):
        shown |= {"times": env.time_s, "agents": env.deciding}
    return shown


def earned(env: NativeEnv) -> Iterator[np.ndarray]:
    """Play the first environment at random; yield what its agents earn [A] at each step, and at the end of an episode.

    The sum over a whole episode is the return of each agent.
    """
    for _ in steps_of(env):
        rewards = np.zeros(len(env.agents))
        if isinstance(env, ArrivalEnv):
            rewards[env.deciding[0]] = env.rewards[0]
            env.step(env.heuristic_actions("random"))
        else:
            env.step(env.heuristic_actions("random"))
            rewards += env.rewards[0]
        yield rewards
    if isinstance(env, ArrivalEnv) and env.truncated[0]:
        yield env.closing(0)[2].astype(float)
