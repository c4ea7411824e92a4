"""Nodes that go down and up, and what happens to their tasks.

Times of failures and repairs are draws addressed by node and number: they do not depend on decisions or load.
A node's next failure is known to the simulator in advance, so that a service it will cut short gets no end.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.durations import draw_duration
from offload_rllib.simulator.events.service import stop_service
from offload_rllib.simulator.events.setups import forget_types
from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.queues import leave_queue
from offload_rllib.simulator.tasks import change_tasks, release, remove_held
from offload_rllib.simulator.ticks import NOTICES, delivery_moment
from offload_rllib.simulator.types import (
    EXPIRY_ABORT,
    FAILURE,
    HELD,
    NODE_FAILED,
    NONE,
    REPAIR,
    SENT_BACK,
    SERVED,
    TASKS_RETURNED,
    TRANSFER,
    WAITING,
)
from offload_rllib.simulator.variants import has_ticks
from offload_rllib.simulator.waits import clear


@kernel
def schedule_failure(scenario, environment, n, now_s):
    """Draw when node `n`, which is up, fails next."""
    law = scenario.failure_law[n]
    node = environment.node[n]
    up_s = draw_duration(law.up, node.key, streams.FAILURE_GAP, environment.usage[n].failures)
    node.failure_s = now_s + up_s
    if node.failure_s <= scenario.settings[0].horizon_s:
        push(environment, node.failure_s, event_key(FAILURE, n, 0), NONE)


@kernel
def send_back(scenario, environment, slot, now_s):
    """Let the node that sent a task to one that is down have it again, if there is such a node.

    The sender has kept a copy; what travels is a notice, and it takes as long as a broadcast.

    Returns:
        Whether there is: else the task was made at the node that is down, or failures lose tasks.
    """
    settings = scenario.settings[0]
    task = environment.task[slot]
    if settings.failures != TASKS_RETURNED or task.hops == 0:
        return False
    task.hops -= 1
    task.stage = SENT_BACK
    task.since_s = now_s
    # Summed again, so that no rounding error remains.
    task.return_latency_s = 0.0
    task.return_seconds_per_bit = 0.0
    for hop in range(task.hops):
        back = scenario.link[scenario.link[environment.path[slot, hop]].reverse]
        task.return_latency_s += back.latency_s
        task.return_seconds_per_bit += back.seconds_per_bit
    link = scenario.link[environment.path[slot, task.hops]]
    arrival_s = now_s + scenario.link[link.reverse].broadcast_delay_s
    if has_ticks(scenario):
        arrival_s = delivery_moment(scenario, environment, slot, NOTICES + task.hops, now_s, arrival_s - now_s)
    if settings.expiry != EXPIRY_ABORT or arrival_s < task.deadline_s:
        push(environment, arrival_s, event_key(TRANSFER, link.source, task.number), slot)
    return True


@kernel
def fail(scenario, environment, n, now_s):
    """Take node `n` down: every task held, waiting or served there leaves it."""
    law = scenario.failure_law[n]
    settings = scenario.settings[0]
    node = environment.node[n]
    usage = environment.usage[n]
    node.down = 1
    node.failure_s = np.inf
    usage.down_seconds -= now_s
    repair_s = now_s + draw_duration(law.down, node.key, streams.REPAIR_TIME, usage.failures)
    usage.failures += 1
    if repair_s <= settings.horizon_s:
        push(environment, repair_s, event_key(REPAIR, n, 0), NONE)
    change_tasks(scenario, environment, n, now_s, -node.tasks, -node.bits)
    candidate = 0  # the tasks in service are in no list
    while True:
        slot = node.held_head if node.held_head != NONE else node.queue_head
        if has_ticks(scenario) and slot == NONE:
            slot = node.received_head
        if slot == NONE:
            if node.busy == 0:
                break
            while environment.task[candidate].stage != SERVED or environment.task[candidate].node != n:
                candidate += 1
            slot = candidate
        task = environment.task[slot]
        stayed_s = now_s - task.since_s
        if task.stage == HELD:
            remove_held(environment, node, slot)
            task.holding_s += stayed_s
        elif task.stage == WAITING:
            leave_queue(scenario, environment, n, slot, now_s)
        else:
            stop_service(scenario, environment, n, slot, now_s)
        if not send_back(scenario, environment, slot, now_s):
            release(scenario, environment, slot, now_s, NODE_FAILED)
    clear(scenario, environment, n)
    forget_types(scenario, environment, n)


@kernel
def repair(scenario, environment, n, now_s):
    """Bring node `n` up again, empty."""
    environment.node[n].down = 0
    environment.usage[n].down_seconds += now_s
    schedule_failure(scenario, environment, n, now_s)
