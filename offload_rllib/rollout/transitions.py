"""From fragments to transitions between the choices of an agent, in a ring of columns.

Most steps of an agent offer no choice. Seen from its choices alone, its episode is a semi-Markov decision process
(Sutton, Precup, Singh, Artificial Intelligence 112, 1999): a choice at step t pays

    R = sum over k = t .. t' - 1 of gamma^(k - t) r_k        with discount gamma^(t' - t)

until the agent's n-th next choice, at step t'. Steps without a choice are passed through: their rewards count, but no
transition begins or ends there.

Where an episode is truncated before the n-th next choice, the transition ends at the last state with a choice that
the agent saw, which may be the one after the last step: it is an observation like any other, and the process would
have gone on from it. A choice with no such state behind it is dropped. Ending in the last state without a choice
instead would need its value, which nothing trains. What is dropped are choices with a long wait behind them, near the
end of an episode: the share of transitions so affected is n waits in an episode's length, and their values are not
shifted as long as rewards are paid at the same rate in long waits as in short ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offload_rllib.rollout.fragment import Fragment
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import Array

UNFINISHED = -1


class Columns(NamedTuple):
    """A ring of `capacity` states in which an agent had a choice; state i lies in slot i modulo capacity.

    A transition needs no copy of the state where it ends: that is a state of the ring as well, younger than its own,
    and therefore overwritten later.
    """

    observations: Array
    """[capacity, F] float32."""
    masks: Array
    """[capacity, R] int8."""
    actions: Array
    """[capacity] int64."""
    returns: Array
    """[capacity] float32: R."""
    discounts: Array
    """[capacity] float32: gamma^(t' - t)."""
    successors: Array
    """[capacity] int64: number of the state where the transition ends, `UNFINISHED` while (or if never) known."""
    counters: Array
    """[2] int64: states ever written, and finished transitions in the ring."""


class Pending(NamedTuple):
    """The transitions under way of E environments and A agents."""

    states: Array
    """[E, A, n] int64: numbers of the choices whose n-th next choice is to come, oldest first."""
    open: Array
    """[E, A] int64: how many of those there are."""
    returns: Array
    """[E, A, n] float64: discounted rewards until the latest choice."""
    discounts: Array
    """[E, A, n] float64: discount until the latest choice."""
    wait: Array
    """[E, A, 2] float64: discounted rewards since the latest choice, and the discount."""


def allocate_columns(capacity: int, observation_size: int, actions: int) -> Columns:
    """Return an empty ring of `column_bytes` bytes."""
    return Columns(
        observations=np.zeros((capacity, observation_size), np.float32),
        masks=np.zeros((capacity, actions), np.int8),
        actions=np.zeros(capacity, np.int64),
        returns=np.zeros(capacity, np.float32),
        discounts=np.zeros(capacity, np.float32),
        successors=np.full(capacity, UNFINISHED, np.int64),
        counters=np.zeros(2, np.int64),
    )


def column_bytes(capacity: int, observation_size: int, actions: int) -> int:
    """Return the memory of a ring."""
    return capacity * (4 * observation_size + actions + 8 + 4 + 4 + 8) + 16


def allocate_pending(environments: int, agents: int, n_step: int) -> Pending:
    """Return the state before any episode."""
    shape = (environments, agents)
    return Pending(
        states=np.zeros((*shape, n_step), np.int64),
        open=np.zeros(shape, np.int64),
        returns=np.zeros((*shape, n_step)),
        discounts=np.zeros((*shape, n_step)),
        wait=np.tile([0.0, 1.0], (*shape, 1)),
    )


@kernel
def _write(columns, observation, mask):
    """Write a state into the ring and return its number."""
    state = columns.counters[0]
    slot = state % columns.actions.shape[0]
    for feature in range(observation.shape[0]):
        columns.observations[slot, feature] = observation[feature]
    for action in range(mask.shape[0]):
        columns.masks[slot, action] = mask[action]
    if columns.successors[slot] != UNFINISHED:
        columns.counters[1] -= 1
    columns.successors[slot] = UNFINISHED
    columns.counters[0] += 1
    return state


@kernel
def _finish(columns, pending, e, a, i, successor, finished, count):
    """End the i-th pending transition unless it was overwritten; return the number of finished ones, `count` before."""
    state = pending.states[e, a, i]
    capacity = columns.actions.shape[0]
    if state < columns.counters[0] - capacity:
        return count
    slot = state % capacity
    columns.returns[slot] = pending.returns[e, a, i]
    columns.discounts[slot] = pending.discounts[e, a, i]
    columns.successors[slot] = successor
    columns.counters[1] += 1
    finished[count] = state
    return count + 1


@kernel
def _arrive(pending, e, a):
    """Add the wait since the latest choice to all pending transitions."""
    for i in range(pending.open[e, a]):
        pending.returns[e, a, i] += pending.discounts[e, a, i] * pending.wait[e, a, 0]
        pending.discounts[e, a, i] *= pending.wait[e, a, 1]
    pending.wait[e, a, 0] = 0.0
    pending.wait[e, a, 1] = 1.0


@kernel
def _has_choice(mask):
    valid = 0
    for action in range(mask.shape[0]):
        valid += mask[action]
    return valid > 1


@kernel
def _record(
    observations,
    masks,
    actions,
    rewards,
    truncated,
    final_observations,
    final_masks,
    gamma,
    columns,
    pending,
    finished,
):
    """Record a fragment in the order of time; return how many transitions `finished` holds."""
    count = 0
    ended = 0
    n_step = pending.states.shape[2]
    capacity = columns.actions.shape[0]
    for t in range(actions.shape[0]):
        for e in range(actions.shape[1]):
            for a in range(actions.shape[2]):
                if _has_choice(masks[t, e, a]):
                    _arrive(pending, e, a)
                    state = _write(columns, observations[t, e, a], masks[t, e, a])
                    columns.actions[state % capacity] = actions[t, e, a]
                    if pending.open[e, a] == n_step:
                        count = _finish(columns, pending, e, a, 0, state, finished, count)
                        for i in range(n_step - 1):
                            pending.states[e, a, i] = pending.states[e, a, i + 1]
                            pending.returns[e, a, i] = pending.returns[e, a, i + 1]
                            pending.discounts[e, a, i] = pending.discounts[e, a, i + 1]
                        pending.open[e, a] -= 1
                    last = pending.open[e, a]
                    pending.states[e, a, last] = state
                    pending.returns[e, a, last] = 0.0
                    pending.discounts[e, a, last] = 1.0
                    pending.open[e, a] += 1
                pending.wait[e, a, 0] += pending.wait[e, a, 1] * rewards[t, e, a]
                pending.wait[e, a, 1] *= gamma
            if truncated[t, e]:
                for a in range(actions.shape[2]):
                    waiting = pending.open[e, a]
                    if waiting > 0:
                        if _has_choice(final_masks[ended, a]):
                            _arrive(pending, e, a)
                            state = _write(columns, final_observations[ended, a], final_masks[ended, a])
                        else:
                            waiting -= 1  # the latest choice has no state with a choice behind it
                            state = pending.states[e, a, waiting]
                        for i in range(waiting):
                            count = _finish(columns, pending, e, a, i, state, finished, count)
                    pending.open[e, a] = 0
                    pending.wait[e, a, 0] = 0.0
                    pending.wait[e, a, 1] = 1.0
                ended += 1
    return count


def record(columns: Columns, pending: Pending, fragment: Fragment, gamma: float) -> Array:
    """Write the choices of a fragment into the ring and finish the transitions that end in it.

    Where a stream of steps is cut into fragments makes no difference to the ring.

    Args:
        columns: the ring, changed in place.
        pending: what the fragments before have left under way, changed in place.
        fragment: the next steps of the same environments.
        gamma: discount per step.

    Returns:
        Numbers [n] int64 of the states whose transitions were finished, those overwritten since among them.
    """
    ends = len(fragment.final_observations)
    agents = fragment.actions.shape[2]
    finished = np.empty(fragment.agent_steps + ends * agents + pending.states.size, np.int64)
    count = _record(
        np.ascontiguousarray(fragment.observations, np.float32),
        np.ascontiguousarray(fragment.masks, np.int8),
        np.ascontiguousarray(fragment.actions, np.int32),
        np.ascontiguousarray(fragment.rewards, np.float32),
        np.ascontiguousarray(fragment.truncated, np.bool_),
        np.ascontiguousarray(fragment.final_observations, np.float32),
        np.ascontiguousarray(fragment.final_masks, np.int8),
        gamma,
        columns,
        pending,
        finished,
    )
    return finished[:count]


@kernel
def _gather(
    columns,
    states,
    observations,
    masks,
    actions,
    returns,
    discounts,
    next_observations,
    next_masks,
):
    capacity = columns.actions.shape[0]
    for i in range(states.shape[0]):
        slot = states[i] % capacity
        successor = columns.successors[slot] % capacity
        for feature in range(observations.shape[1]):
            observations[i, feature] = columns.observations[slot, feature]
            next_observations[i, feature] = columns.observations[successor, feature]
        for action in range(masks.shape[1]):
            masks[i, action] = columns.masks[slot, action]
            next_masks[i, action] = columns.masks[successor, action]
        actions[i] = columns.actions[slot]
        returns[i] = columns.returns[slot]
        discounts[i] = columns.discounts[slot]


class Transitions(NamedTuple):
    """A batch of B finished transitions."""

    observations: Array
    """[B, F] float32."""
    masks: Array
    """[B, R] int8."""
    actions: Array
    """[B] int64."""
    returns: Array
    """[B] float32: R."""
    discounts: Array
    """[B] float32: gamma^(t' - t)."""
    next_observations: Array
    """[B, F] float32: where the transition ends."""
    next_masks: Array
    """[B, R] int8: always with a choice."""


def gather(columns: Columns, states: Array) -> Transitions:
    """Return copies of the transitions that begin in states [B] int64; each must be finished and in the ring."""
    size = len(states)
    features, actions = columns.observations.shape[1], columns.masks.shape[1]
    batch = Transitions(
        observations=np.empty((size, features), np.float32),
        masks=np.empty((size, actions), np.int8),
        actions=np.empty(size, np.int64),
        returns=np.empty(size, np.float32),
        discounts=np.empty(size, np.float32),
        next_observations=np.empty((size, features), np.float32),
        next_masks=np.empty((size, actions), np.int8),
    )
    _gather(columns, states, *batch)
    return batch
