"""A rule: send a task only where it finishes clearly earlier than here.

Information about other nodes is old by the time a task arrives there, and agents that see the same numbers choose the
same node. A margin keeps tasks here that would gain little.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.envs.extensions import AgentView

# Differences below this, in the scaled time of an observation, are not worth a transfer.
MARGIN = 0.05


def worth_the_transfer(view: AgentView) -> np.ndarray:
    """Return actions [E, A]: the destination of the earliest finish, or 0 where it gains less than `MARGIN`."""
    finish = view.observations[..., view.layout.columns("finish")]  # [E, A, R], action 0 first
    finish = np.where(view.masks == 1, finish, np.inf)
    earliest = finish.argmin(-1)
    gain = finish[..., 0] - finish.min(-1)
    return np.where(gain > MARGIN, earliest, 0)
