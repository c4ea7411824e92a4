"""From the scores of a node's actions to the one that is taken: the best, or a draw."""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator.jit import kernel


@kernel
def best_action(scores, mask):
    """Return the valid action of the highest score [R], the first among equals; `mask` [R] is 0 where not valid."""
    chosen = 0
    best = -np.inf
    for action in range(scores.shape[0]):
        if mask[action] != 0 and scores[action] > best:
            best = scores[action]
            chosen = action
    return chosen


@kernel
def draw_action(logits, mask, u):
    """Draw a valid action from the softmax of logits, by inverse transform.

    Args:
        logits: [R] float32; those of actions that are not valid are not read.
        mask: [R], 0 where an action is not valid.
        u: a uniform draw in [0, 1).

    Returns:
        The action, and the logarithm of its probability.
    """
    largest = -np.inf
    for action in range(logits.shape[0]):
        if mask[action] != 0 and logits[action] > largest:
            largest = logits[action]
    total = 0.0
    for action in range(logits.shape[0]):
        if mask[action] != 0:
            total += math.exp(logits[action] - largest)
    threshold = u * total
    reached = 0.0
    chosen = 0
    for action in range(logits.shape[0]):
        if mask[action] != 0:
            chosen = action  # the last valid one, should rounding leave `reached` below the threshold
            reached += math.exp(logits[action] - largest)
            if reached > threshold:
                break
    return chosen, logits[chosen] - largest - math.log(total)


@kernel
def choose_rows(scores, logits, masks, draws, actions):
    """Take the best action of some rows, and draw those of others.

    Args:
        scores: [n, R] float32, whose highest is best.
        logits: [n, R] float32, from whose softmax is drawn.
        masks: [n, R], 0 where an action is not valid.
        draws: [n] float64 in [0, 1), uniform draws; NaN takes the best action.
        actions: [n] int64, overwritten.
    """
    for i in range(actions.shape[0]):
        if math.isnan(draws[i]):
            actions[i] = best_action(scores[i], masks[i])
        else:
            actions[i], _ = draw_action(logits[i], masks[i], draws[i])
