"""From networks' outputs to actions: which agents have a choice, and what they take.

Draws are addressed by episode, agent and step, like every other draw of the simulator: actions do not depend on how
many environments a runner steps, nor on how many runners there are.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.choice import best_action, draw_action
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.streams import mix, stream, uniform

# Separates the streams of actions from those that the simulator derives from the same episode's key.
_ACTION = np.uint64(0xA0761D6478BD642F)


@kernel
def find_choices(masks, owner, rows, ends):
    """Find the agents that have a choice, policy by policy.

    Args:
        masks: [E, A, R] int8.
        owner: [A] int64, which of M policies acts for each agent.
        rows: [E * A] int64, overwritten: e * A + agent for each agent with more than one valid action; those of the
            first policy first.
        ends: [M] int64, overwritten: where the rows of each policy end.
    """
    agents = masks.shape[1]
    ends[:] = 0
    for e in range(masks.shape[0]):
        for agent in range(agents):
            valid = 0
            for action in range(masks.shape[2]):
                valid += masks[e, agent, action]
            if valid > 1:
                ends[owner[agent]] += 1
    first = 0
    for policy in range(ends.shape[0]):
        count = ends[policy]
        ends[policy] = first
        first += count
    for e in range(masks.shape[0]):
        for agent in range(agents):
            valid = 0
            for action in range(masks.shape[2]):
                valid += masks[e, agent, action]
            if valid > 1:
                rows[ends[owner[agent]]] = e * agents + agent
                ends[owner[agent]] += 1


@kernel
def gather(observations, masks, rows, count, seen, valid):
    """Copy the rows [count] of observations [E * A, F] and masks [E * A, R] to the heads of `seen` and `valid`."""
    for i in range(count):
        row = rows[i]
        for feature in range(observations.shape[1]):
            seen[i, feature] = observations[row, feature]
        for action in range(masks.shape[1]):
            valid[i, action] = masks[row, action]


@kernel
def draw_uniform(keys, e, agent, step):
    """Return the uniform draw in [0, 1) of an agent of environment `e` for its action of a step."""
    return uniform(stream(mix(keys[e] ^ _ACTION), agent), step)


@kernel
def choose_categorical(logits, masks, keys, steps, rows, agents_per_environment, actions, log_probabilities):
    """Draw actions from the softmax of the logits.

    Args:
        logits: [n, R] float32; those of actions that are not valid are not read.
        masks: [n, R] int8.
        keys: [E] uint64 of the episodes.
        steps: [E] int64, decisions taken in each episode so far.
        rows: [n] int64 from `find_choices`.
        agents_per_environment: A.
        actions: [E * A] int32; those at `rows` are written.
        log_probabilities: [E * A] float32; those at `rows` are written.
    """
    for i in range(logits.shape[0]):
        e = rows[i] // agents_per_environment
        u = draw_uniform(keys, e, rows[i] - e * agents_per_environment, steps[e])
        actions[rows[i]], log_probabilities[rows[i]] = draw_action(logits[i], masks[i], u)


@kernel
def choose_greedy(scores, masks, rows, actions):
    """Take the valid action of the highest score, the first among equals; arguments as `choose_categorical`."""
    for i in range(scores.shape[0]):
        actions[rows[i]] = best_action(scores[i], masks[i])


@kernel
def choose_at_arrivals(logits, masks, keys, decisions, deciding, order, draws, actions, log_probabilities):
    """Choose for the pending decision of every environment.

    Args:
        logits: [E, R] float32; those of actions that are not valid are not read.
        masks: [E, R] int8.
        keys: [E] uint64 of the episodes.
        decisions: [E] int64, decisions taken in each episode so far.
        deciding: [E] int64, which agent decides in each environment.
        order: [E] int64, the environment of each row of `logits` and `masks`.
        draws: whether to draw from the softmax of the logits; otherwise the best action is taken.
        actions: [E] int32, overwritten.
        log_probabilities: [E] float32, overwritten; 0 where nothing is drawn.
    """
    for i in range(order.shape[0]):
        e = order[i]
        if draws:
            u = draw_uniform(keys, e, deciding[e], decisions[e])
            actions[e], log_probabilities[e] = draw_action(logits[i], masks[i], u)
        else:
            actions[e] = best_action(logits[i], masks[i])
            log_probabilities[e] = 0.0
