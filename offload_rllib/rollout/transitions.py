"""From agents' steps to transitions between the choices of an agent, in a ring of columns.

An agent's choices come at unequal times. Its episode is a semi-Markov decision process (Sutton, Precup, Singh,
Artificial Intelligence 112, 1999): a choice at time t pays

    R = sum over its steps k from t until t' of gamma^(t_k - t) r_k        with discount gamma^(t' - t)

until the agent's n-th next choice, at time t', with times in units of `discount_s`. Steps without a choice, which there
are with decisions at intervals, are passed through: their rewards count, but no transition begins or ends there.

Where an episode is truncated before the n-th next choice, the transition ends at the last state with a choice that
the agent saw, which may be the one after the last step. That is an observation like any other, and the process would
have continued from it. A choice with no such state behind it is dropped. Ending in the last state without a choice
instead would need its value, which nothing trains. The dropped choices are those with a long wait after them, near the
end of an episode. The share of transitions so affected is n waits in an episode's length. Values are not biased as long
as rewards come at the same rate in long waits as in short ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offload_rllib.rollout.agent_steps import AgentSteps
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
def _record(steps, discounts, columns, pending, finished):
    """Record steps in the order of time; return how many transitions `finished` holds."""
    count = 0
    n_step = pending.states.shape[2]
    capacity = columns.actions.shape[0]
    rows = steps.actions.shape[0]
    for i in range(rows):
        e, a = steps.environment[i], steps.agent[i]
        if _has_choice(steps.masks[i]):
            _arrive(pending, e, a)
            state = _write(columns, steps.observations[i], steps.masks[i])
            columns.actions[state % capacity] = steps.actions[i]
            if pending.open[e, a] == n_step:
                count = _finish(columns, pending, e, a, 0, state, finished, count)
                for k in range(n_step - 1):
                    pending.states[e, a, k] = pending.states[e, a, k + 1]
                    pending.returns[e, a, k] = pending.returns[e, a, k + 1]
                    pending.discounts[e, a, k] = pending.discounts[e, a, k + 1]
                pending.open[e, a] -= 1
            last = pending.open[e, a]
            pending.states[e, a, last] = state
            pending.returns[e, a, last] = 0.0
            pending.discounts[e, a, last] = 1.0
            pending.open[e, a] += 1
        pending.wait[e, a, 0] += pending.wait[e, a, 1] * steps.rewards[i]
        pending.wait[e, a, 1] *= discounts[i]
        closing = steps.following[i] - rows
        if closing < 0 or not steps.ended[closing]:
            continue
        waiting = pending.open[e, a]
        if waiting > 0:
            if _has_choice(steps.closing_masks[closing]):
                _arrive(pending, e, a)
                state = _write(columns, steps.closing_observations[closing], steps.closing_masks[closing])
            else:
                waiting -= 1  # the latest choice has no state with a choice behind it
                state = pending.states[e, a, waiting]
            for k in range(waiting):
                count = _finish(columns, pending, e, a, k, state, finished, count)
        pending.open[e, a] = 0
        pending.wait[e, a, 0] = 0.0
        pending.wait[e, a, 1] = 1.0
    return count


class _Arrays(NamedTuple):
    """The columns of `AgentSteps` that are recorded, in the types that the kernel is compiled for."""

    agent: Array
    environment: Array
    observations: Array
    masks: Array
    actions: Array
    rewards: Array
    following: Array
    closing_observations: Array
    closing_masks: Array
    ended: Array


def record(columns: Columns, pending: Pending, steps: AgentSteps, gamma: float, discount_s: float) -> Array:
    """Write the choices among steps into the ring and finish the transitions that end in them.

    Where a stream of steps is cut into samples makes no difference to the ring.

    Args:
        columns: the ring, changed in place.
        pending: what the samples before have left under way, changed in place.
        steps: the next ones of the same environments.
        gamma: discount per `discount_s`.
        discount_s: s.

    Returns:
        Numbers [n] int64 of the states whose transitions were finished, those overwritten since among them.
    """
    finished = np.empty(len(steps) + len(steps.ended) + pending.states.size, np.int64)
    arrays = _Arrays(
        *(
            np.ascontiguousarray(getattr(steps, name), kind)
            for name, kind in zip(
                _Arrays._fields,
                ("i8", "i8", "f4", "i1", "i4", "f4", "i8", "f4", "i1", np.bool_),
                strict=True,
            )
        )
    )
    count = _record(arrays, steps.discounts(gamma, discount_s), columns, pending, finished)
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
