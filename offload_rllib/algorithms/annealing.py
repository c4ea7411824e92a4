"""Credit that moves, over a training, from what a decision cost in hindsight to the rewards that followed it.

In hindsight there is little noise, but all other decisions are held as they were. Rewards contain how others respond,
and the noise of all that they do. So the first teaches quickly, and the second corrects what it leaves out.
"""

from __future__ import annotations

import numpy as np
import torch

from offload_rllib.algorithms.exchange.moments import standardised
from offload_rllib.simulator.types import Array

# Of the squares of the coefficients, per row: features that do not vary get none.
RIDGE = 1e-4


def residuals(observations: Array, gains: Array) -> torch.Tensor:
    """Return what a linear function of the observation does not explain of gains, [n] float64.

    It stands for a critic: what any decision would have cost there says nothing about this one (the linear baseline of
    Duan, Chen, Houthooft, Schulman, Abbeel, arXiv 1604.06778, on the observation alone).

    Args:
        observations: [n, F] float32.
        gains: [n] float32.
    """
    seen = torch.from_numpy(np.concatenate([observations, np.ones((len(observations), 1), np.float32)], 1)).double()
    values = torch.from_numpy(gains).double()
    squares = seen.T @ seen + RIDGE * len(seen) * torch.eye(seen.shape[1], dtype=torch.float64)
    return values - seen @ torch.linalg.solve(squares, seen.T @ values)


def annealed(advantages: Array, gains: Array, observations: Array, choices: Array, weight: float) -> Array:
    """Return the advantages [N] float32 of steps, partly by their rewards and partly in hindsight, each standardised.

    Args:
        advantages: [N] float32, by rewards.
        gains: [N] float32, in hindsight; NaN where they are not known.
        observations: [N, F] float32.
        choices: [N] bool, which steps had a choice.
        weight: of hindsight, 0 to 1.
    """
    credited = choices & np.isfinite(gains)
    found = (1.0 - weight) * standardised(torch.from_numpy(advantages).double(), torch.from_numpy(choices))
    if weight > 0 and credited.any():
        own = residuals(observations[credited], gains[credited])
        found[torch.from_numpy(credited)] += weight * standardised(own, torch.ones(len(own), dtype=torch.bool))
    return found.float().numpy()
