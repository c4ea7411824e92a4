"""The mathematics of double Q-learning, on tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# RLlib's form of a schedule: [environment steps, value], straight lines in between, constant outside.
Schedule = list[list[float]]


def double_q_targets(returns: Tensor, discounts: Tensor, online: Tensor, target: Tensor) -> Tensor:
    """Return R + discount x Q_target(s', argmax over a of Q_online(s', a)), [B].

    The network that is learned says which action is best, the target network what it is worth: a maximum over noisy
    values of one network overestimates (van Hasselt, Guez, Silver, arXiv 1509.06461, eq. 4).

    Args:
        returns: [B] discounted rewards until s'.
        discounts: [B] discount of the value of s'.
        online: [B, R] values of the actions in s', by the network that is learned, lower where an action is not valid
            than where one is.
        target: [B, R] the same by the target network.
    """
    best = online.argmax(-1, keepdim=True)
    return returns + discounts * target.gather(-1, best).squeeze(-1)


def weighted_huber(errors: Tensor, weights: Tensor, delta: float) -> Tensor:
    """Return the mean of weight x Huber loss: e^2 / 2 up to |e| = delta, and straight beyond, with slope delta.

    Args:
        errors: [B].
        weights: [B] importance weights.
        delta: where the loss becomes straight, in units of the return.
    """
    sizes = errors.abs()
    inner = sizes.clamp(max=delta)
    return (weights * inner * (sizes - 0.5 * inner)).mean()


@torch.no_grad()
def move_target(network: torch.nn.Module, target: torch.nn.Module, tau: float) -> None:
    """Set the target network's weights to tau x the network's + (1 - tau) x its own (Lillicrap et al., 1509.02971)."""
    for ours, theirs in zip(target.parameters(), network.parameters(), strict=True):
        ours.lerp_(theirs, tau)


def value_at(schedule: Schedule, env_steps: float) -> float:
    """Return a schedule's value after some environment steps."""
    times, values = zip(*schedule, strict=True)
    return float(np.interp(env_steps, times, values))
