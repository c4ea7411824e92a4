"""The spaces of one agent; every agent of an environment has the same, so that they can share a policy."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from offload_rllib.envs.vector import VectorEnv


def observation_space(batch: VectorEnv) -> spaces.Dict:
    """Return `Dict(observations [F] float32 in [-1, 1], action_mask [R] int8)`."""
    return spaces.Dict(
        {
            "observations": spaces.Box(-1.0, 1.0, (batch.observation_size,), np.float32),
            "action_mask": spaces.Box(0, 1, (batch.num_actions,), np.int8),
        }
    )


def action_space(batch: VectorEnv) -> spaces.Discrete:
    """Return `Discrete(R)`."""
    return spaces.Discrete(batch.num_actions)
