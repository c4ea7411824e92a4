"""What servers do: they take tasks, and let them go."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.energy import charge_service, has_charges
from offload_rllib.simulator.events.setups import begin_use, end_use, has_setups
from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.queues import dequeue_first, enqueue
from offload_rllib.simulator.sharing.cores import can_start, share, shares_cores, stop_sharing
from offload_rllib.simulator.tasks import change_tasks
from offload_rllib.simulator.types import EXPIRY_ABORT, NONE, RETURNING, SERVED, SERVICE_END, WAITING
from offload_rllib.simulator.variants import has_extensions, has_ticks
from offload_rllib.simulator.waits import begin_service, join


@kernel
def _start_service(scenario, environment, n, slot, now_s):
    settings = scenario.settings[0]
    here = scenario.node[n]
    node = environment.node[n]
    task = environment.task[slot]
    task.stage = SERVED
    task.since_s = now_s
    if shares_cores(scenario, n):
        share(here, node, environment.sharing, environment.task, n, slot, now_s)
        return
    setup_s = 0.0
    if has_setups(scenario):
        setup_s = begin_use(scenario, environment, n, task, now_s)
        if setup_s > 0.0:  # which no wait has foreseen
            node.stale = 1
            node.advertised_from_s = -1.0
    end_s = now_s + setup_s + task.work / here.core_speed
    task.service_end_s = end_s
    node.busy += 1
    if has_ticks(scenario) and here.works_in_ticks:
        node.serving = slot
        node.work_left = task.work
        return
    last_s = task.deadline_s if settings.expiry == EXPIRY_ABORT else np.inf
    if has_extensions(scenario):
        node.busy_seconds -= now_s
        last_s = min(last_s, node.failure_s)
    begin_service(scenario, environment, n, task, setup_s, now_s)
    # An event that would come after the task's abortion, or the node's failure, is never scheduled, so none is stale.
    if end_s <= last_s:
        push(environment, end_s, event_key(SERVICE_END, n, task.number), slot)


@kernel
def stop_service(scenario, environment, n, slot, now_s):
    """Take a task out of service at node `n`."""
    here = scenario.node[n]
    node = environment.node[n]
    task = environment.task[slot]
    if shares_cores(scenario, n):
        stop_sharing(here, node, environment.sharing, environment.task, n, slot, now_s)
        if has_charges(scenario):
            left = max(task.work_end - environment.sharing[n].work_each, 0.0)
            charge_service(scenario, environment, n, task.origin, (task.work - left) / here.core_speed)
    else:
        node.busy -= 1
        if has_extensions(scenario) and not (has_ticks(scenario) and here.works_in_ticks):
            node.busy_seconds += now_s
            if has_charges(scenario):
                charge_service(scenario, environment, n, task.origin, now_s - task.since_s)
    task.service_s += now_s - task.since_s
    if has_setups(scenario):
        end_use(environment, n, task, now_s)


@kernel
def leave_service(scenario, environment, n, slot, now_s):
    """Free the server of a task and let the queue's head take it."""
    here = scenario.node[n]
    node = environment.node[n]
    in_ticks = has_ticks(scenario) and here.works_in_ticks
    stop_service(scenario, environment, n, slot, now_s)
    change_tasks(scenario, environment, n, now_s, -1, -environment.task[slot].bits_in)
    if node.queue_head != NONE and not in_ticks:
        serve_next(scenario, environment, n, now_s)


@kernel
def serve_next(scenario, environment, n, now_s):
    """Let an idle server of node `n` take the queue's head, which must not be NONE."""
    head = environment.node[n].queue_head
    dequeue_first(scenario, environment, n)
    task = environment.task[head]
    task.waiting_s += now_s - task.since_s
    _start_service(scenario, environment, n, head, now_s)


@kernel
def keep(scenario, environment, n, slot, now_s):
    """Let node `n` process a task: serve it if a server is idle, otherwise queue it."""
    task = environment.task[slot]
    join(scenario, environment, n, slot, now_s)
    if can_start(scenario, environment, n) and not (has_ticks(scenario) and scenario.node[n].works_in_ticks):
        _start_service(scenario, environment, n, slot, now_s)
    else:
        task.stage = WAITING
        task.since_s = now_s
        enqueue(scenario, environment, n, slot)


@kernel
def end_service(scenario, environment, slot, now_s):
    """Let a task leave its server; its result is to go back the way the task came."""
    task = environment.task[slot]
    leave_service(scenario, environment, task.node, slot, now_s)
    task.stage = RETURNING
    task.since_s = now_s
    if shares_cores(scenario, task.node):
        task.service_end_s = now_s
    task.hops_left = task.hops
