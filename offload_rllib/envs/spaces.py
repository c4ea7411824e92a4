"""The spaces of one agent; every agent of an environment has the same, so that they can share a policy."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from gymnasium import spaces

# What others call the numbers of an observation: RLlib's masking modules and ours in the plural, PettingZoo's world
# (Tianshou, SuperSuit, AgileRL) in the singular.
OBSERVATIONS = "observations"
OBSERVATION = "observation"
ACTION_MASK = "action_mask"
# Key of the last info of an episode. Gymnasium and Stable-Baselines3 keep "episode" for what they count themselves.
FIGURES = "figures"
# Keys of infos where decisions have no clock: when it is, and how long after the same agent's previous decision.
TIME_S = "time_s"
ELAPSED_S = "elapsed_s"
# Key of every info of RLlib's environment where decisions come at intervals.
INTERVAL_S = "interval_s"


class Sizes(Protocol):
    """What spaces are made from: an environment of this process, or of a service."""

    @property
    def observation_bounds(self) -> tuple[float, float]:
        """Lowest and highest number of an observation."""
        ...

    @property
    def observation_size(self) -> int:
        """F."""
        ...

    @property
    def num_actions(self) -> int:
        """R."""
        ...

    @property
    def tasks_per_decision(self) -> int:
        """K."""
        ...


def observation_space(batch: Sizes, key: str = OBSERVATIONS) -> spaces.Dict:
    """Return `Dict(observations [F] float32, action_mask [R] int8)`; with k > 1 the mask is a tuple of k such.

    Args:
        batch: the environment.
        key: of the numbers, `OBSERVATIONS` or `OBSERVATION`.
    """
    low, high = batch.observation_bounds
    mask = spaces.Box(0, 1, (batch.num_actions,), np.int8)
    tasks = batch.tasks_per_decision
    return spaces.Dict(
        {
            key: spaces.Box(low, high, (batch.observation_size,), np.float32),
            ACTION_MASK: mask if tasks == 1 else spaces.Tuple([mask] * tasks),
        }
    )


def action_space(batch: Sizes) -> spaces.Discrete | spaces.MultiDiscrete:
    """Return `Discrete(R)`; with k > 1 tasks decided at a time `MultiDiscrete([R] * k)`."""
    tasks = batch.tasks_per_decision
    return spaces.Discrete(batch.num_actions) if tasks == 1 else spaces.MultiDiscrete([batch.num_actions] * tasks)
