"""Generalised advantage estimation over the steps of agents, in one pass."""

from __future__ import annotations

import numpy as np

from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.simulator.jit import kernel


@kernel
def _estimate(rewards, values, following, discounts, traces, later, advantages):
    # `later` holds the advantages in double precision: rounding would add up over long episodes.
    rows = rewards.shape[0]
    for i in range(rows - 1, -1, -1):
        successor = following[i]
        later[i] = rewards[i] + discounts[i] * values[successor] - values[i]
        if successor < rows:
            later[i] += traces[i] * later[successor]
        advantages[i] = later[i]


def generalised_advantages(
    steps: AgentSteps, values: np.ndarray, *, gamma: float, lambda_: float, discount_s: float
) -> np.ndarray:
    """Return the advantages [N] float32 of agents' steps (Schulman et al., arXiv 1506.02438, eq. 16).

    With an unequal time dt between a step and its successor, gamma and lambda stand to the power of dt / `discount_s`.
    At a closing state, the end of an episode (a truncation) or of the sample, the critic's value is bootstrapped from.

    Args:
        steps: N rows and C closing states.
        values: [N + C] float32, the critic's.
        gamma: discount per `discount_s`, in [0, 1].
        lambda_: per `discount_s`: 0 trusts the critic, 1 the returns.
        discount_s: s.
    """
    rows = len(steps)
    discounts = steps.discounts(gamma, discount_s)
    traces = steps.discounts(gamma * lambda_, discount_s)
    advantages = np.empty(rows, np.float32)
    _estimate(steps.rewards, values, steps.following, discounts, traces, np.zeros(rows), advantages)
    return advantages
