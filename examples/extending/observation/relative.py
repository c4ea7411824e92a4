"""An observation: all that agents see, and for each action how much later than the best one the task would finish."""

from __future__ import annotations

import numpy as np

from offload_rllib.envs.extensions import AgentView


def with_relative_finish(view: AgentView) -> np.ndarray:
    """Return [E, A, F + R]: the full observation, then the finish of each action less the earliest, 1 if masked."""
    finish = view.observations[..., view.layout.columns("finish")]
    valid = view.masks == 1
    earliest = np.where(valid, finish, 1.0).min(-1, keepdims=True)
    later = np.where(valid, finish - earliest, 1.0)
    return np.concatenate([view.observations, later], axis=-1)
