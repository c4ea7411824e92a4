"""A reward: 1 for a task that finishes, and a price for every second that a task is inside."""

from __future__ import annotations

import numpy as np

from offload_rllib.envs.extensions import AgentView

PRICE_PER_S = 0.1


def finished_less_delay(view: AgentView) -> np.ndarray:
    """Return the reward of every node [E, N] since the last decision."""
    node = view.state.node  # one record for each environment and node
    return node["own_finished"] - PRICE_PER_S * node["own_task_seconds"]
