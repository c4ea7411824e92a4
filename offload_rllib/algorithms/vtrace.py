"""V-trace: values and advantages of a policy from what another one sampled, in one pass."""

from __future__ import annotations

import numpy as np

from offload_rllib.rollout.agent_steps import discounts
from offload_rllib.simulator.jit import kernel


@kernel
def _trace(rewards, values, ratios, real, discounts, traces, rho_clip, pg_rho_clip, targets, advantages):
    later = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        targets[t] = values[t]
        advantages[t] = 0.0
        if real[t]:
            ratio = float(ratios[t])
            delta = rewards[t] + discounts[t] * values[t + 1] - values[t]
            advantages[t] = min(ratio, pg_rho_clip) * (delta + traces[t] * later)
            # `later` is v - V of the step after, in double precision: rounding would add up over long pieces.
            later = min(ratio, rho_clip) * delta + traces[t] * min(ratio, 1.0) * later
            targets[t] += later
        else:
            later = 0.0


def vtrace(
    rewards: np.ndarray,
    values: np.ndarray,
    ratios: np.ndarray,
    real: np.ndarray,
    elapsed: np.ndarray,
    *,
    gamma: float,
    lambda_: float,
    rho_clip: float,
    pg_rho_clip: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the critic's targets [N] and the policy's advantages [N], float32 (Espeholt et al., arXiv 1802.01561).

    The rows are pieces of episodes, one after the other, each followed by a row that is not real: what was seen at
    the piece's end. Its value is bootstrapped from, and no correction crosses it. (RLlib's own V-trace lets minus that
    value into the recursion, so that most pieces end as if nothing followed.)

    Args:
        rewards: [N] float32.
        values: [N] float32, the critic's.
        ratios: [N] float32, the probability of the action under the policy to evaluate over that when it was taken.
        real: [N] bool, False for the row behind each piece; the last row is not real.
        elapsed: [N] float64, time from each row to the next, in units of `discount_s`; gamma and lambda stand to its
            power.
        gamma: discount per unit of time, in [0, 1].
        lambda_: factor of the traces c per unit of time, in [0, 1] (remark 2); 0 trusts the critic, 1 the returns. With
            all ratios 1 the advantages are those of generalised advantage estimation.
        rho_clip: largest ratio in the targets.
        pg_rho_clip: largest ratio in the advantages.
    """
    targets, advantages = np.empty(len(rewards), np.float32), np.empty(len(rewards), np.float32)
    of_values, of_traces = discounts(gamma, elapsed), discounts(gamma * lambda_, elapsed)
    _trace(rewards, values, ratios, real, of_values, of_traces, rho_clip, pg_rho_clip, targets, advantages)
    return targets, advantages
