"""Generalised advantage estimation over fragments, in one pass."""

from __future__ import annotations

import numpy as np

from offload_rllib.rollout.fragment import Fragment
from offload_rllib.simulator.jit import kernel


@kernel
def _estimate(rewards, values, truncated, final_values, gamma, lambda_, later, advantages):
    steps, environments, agents = rewards.shape
    # `later` holds the advantage of the step after, in double precision: rounding would add up over long episodes.
    k = final_values.shape[0]
    for t in range(steps - 1, -1, -1):
        # The episodes that end with this step are the last of those not met yet, in the order of environments.
        for e in range(environments):
            if truncated[t, e]:
                k -= 1
        ended = k
        for e in range(environments):
            if truncated[t, e]:
                for a in range(agents):
                    later[e, a] = rewards[t, e, a] + gamma * final_values[ended, a] - values[t, e, a]
                    advantages[t, e, a] = later[e, a]
                ended += 1
            else:
                for a in range(agents):
                    delta = rewards[t, e, a] + gamma * values[t + 1, e, a] - values[t, e, a]
                    later[e, a] = delta + gamma * lambda_ * later[e, a]
                    advantages[t, e, a] = later[e, a]


def generalised_advantages(
    fragment: Fragment, values: np.ndarray, final_values: np.ndarray, gamma: float, lambda_: float
) -> np.ndarray:
    """Return the advantages [T, E, A] float32 of a fragment (Schulman et al., arXiv 1506.02438, eq. 16).

    Both the end of an episode, which is a truncation, and the end of the fragment bootstrap from the critic's value of
    what was seen there.

    Args:
        fragment: T steps of E environments and A agents.
        values: [T + 1, E, A] float32, of `fragment.observations`.
        final_values: [K, A] float32, of `fragment.final_observations`.
        gamma: discount per step, in [0, 1].
        lambda_: 0 trusts the critic, 1 the returns.
    """
    advantages = np.empty(fragment.rewards.shape, np.float32)
    later = np.zeros(fragment.rewards.shape[1:])
    _estimate(fragment.rewards, values, fragment.truncated, final_values, gamma, lambda_, later, advantages)
    return advantages
