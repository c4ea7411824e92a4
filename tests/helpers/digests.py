"""A hash of everything that an episode shows and logs."""

from __future__ import annotations

import hashlib

from helpers.environments import log_bytes, make_env, small_environment
from offload_rllib.envs.vector import VectorEnv


def digest(env: VectorEnv, heuristic: str, e: int) -> str:
    """Play an episode and return a hash of everything environment `e` shows and logs."""
    hashed = hashlib.sha256()
    done = False
    while not done:
        done = env.step(env.heuristic_actions(heuristic))
        for array in (env.observations, env.masks, env.rewards):
            hashed.update(array[e].tobytes())
    hashed.update(log_bytes(env, e))
    return hashed.hexdigest()


def digest_of_first(heuristic: str) -> str:
    """Return the digest of the first held-out episode, played alone."""
    return digest(make_env(small_environment(), log=True), heuristic, 0)
