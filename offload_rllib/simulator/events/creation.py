"""A client makes a task."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.arrivals import RECORDING, next_arrival
from offload_rllib.simulator.events.deadlines import watch_deadline
from offload_rllib.simulator.heap import event_key, pop, replace_first
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.streams import quantile, stream, uniform
from offload_rllib.simulator.tasks import change_unfinished
from offload_rllib.simulator.types import ARRIVAL, BITS_IN, BITS_OUT, DEADLINE, EXPIRY_NEVER, HELD, NONE, WORK
from offload_rllib.simulator.variants import has_extensions


@kernel
def _draw_type(scenario, environment, n, number):
    """Return the task type of a client's task number `number`; 0 where there is but one."""
    types = scenario.type_share.shape[0]
    if types == 1:
        return 0
    which = uniform(stream(environment.node[n].key, streams.TASK_TYPE), number)
    index = 0
    while index < types - 1 and which >= scenario.type_share[index]:
        index += 1
    return index


@kernel
def _fill(scenario, environment, n, slot, number, kind):
    """Draw work and sizes of a client's task number `number`, of task type `kind`."""
    key = environment.node[n].key
    task = environment.task[slot]
    jobs = scenario.job.shape[0]
    if jobs > 0:
        row = np.int64(uniform(stream(key, streams.TASK_TYPE), number) * jobs)
        task.work = scenario.job[row, 0]
        task.bits_in = scenario.job[row, 1]
        task.bits_out = scenario.job[row, 2]
        return
    drawn = environment.distribution[kind]
    task.work = quantile(drawn[WORK], scenario.choice, uniform(stream(key, streams.WORK), number))
    task.bits_in = quantile(drawn[BITS_IN], scenario.choice, uniform(stream(key, streams.BITS_IN), number))
    task.bits_out = quantile(drawn[BITS_OUT], scenario.choice, uniform(stream(key, streams.BITS_OUT), number))


@kernel
def node_entered(scenario, environment, n):
    """Return the node that the next task of the client at node `n` enters: its own, unless a recording says another."""
    if scenario.arrivals[0].kind == RECORDING:
        return np.int64(scenario.recording[environment.client[n].first_row + environment.node[n].arrivals].node)
    return np.int64(n)


@kernel
def create(scenario, environment, n, entered, now_s):
    """Let the client at node `n` make a task that is to enter a node; return its slot.

    The arrival is the first event, and its successor takes its place.
    """
    settings = scenario.settings[0]
    episode = environment.episode[0]
    node = environment.node[n]
    episode.free_slots -= 1
    slot = environment.free[episode.free_slots]
    task = environment.task[slot]
    number = node.arrivals
    node.arrivals += 1
    next_s = next_arrival(scenario, environment, n, now_s)
    if next_s <= settings.horizon_s:
        replace_first(environment, next_s, event_key(ARRIVAL, n, 0), NONE)
    else:
        pop(environment)
    kind = _draw_type(scenario, environment, n, number)
    arrivals = scenario.arrivals[0]
    task.destination = NONE
    if arrivals.kind == RECORDING:
        recorded = scenario.recording[environment.client[n].first_row + number]
        task.destination = recorded.destination
        task.work = recorded.work
        task.bits_in = recorded.bits_in
        task.bits_out = recorded.bits_out
        if arrivals.rows_have_types:
            kind = np.int64(recorded.type)
    if not arrivals.rows_have_sizes:
        _fill(scenario, environment, n, slot, number, kind)
    task.number = episode.tasks_made
    episode.tasks_made += 1
    task.created_s = now_s
    task.deadline_s = np.inf
    task.holding_s = 0.0
    task.waiting_s = 0.0
    task.service_s = 0.0
    task.transfer_s = 0.0
    task.return_latency_s = 0.0
    task.return_seconds_per_bit = 0.0
    task.origin = n
    task.type = kind
    if has_extensions(scenario):
        task.priority = scenario.type_priority[kind]
    task.node = entered
    task.hops = 0
    task.undecided = 0
    task.bucket = NONE
    task.stage = HELD
    task.awaited = 1
    node.own_awaited += 1
    change_unfinished(environment, node, now_s, 1, scenario.type_weight[kind])
    if settings.has_deadline:
        if arrivals.rows_have_deadlines:
            relative_s = scenario.recording[environment.client[n].first_row + number].deadline_s
        else:
            u = uniform(stream(node.key, streams.DEADLINE), number)
            relative_s = quantile(environment.distribution[kind, DEADLINE], scenario.choice, u)
        task.deadline_s = now_s + relative_s
        if settings.expiry != EXPIRY_NEVER:
            watch_deadline(scenario, environment, slot, task.deadline_s + settings.expiry_grace_s)
    return slot
