"""What a node does in each tick where time has ticks."""

from __future__ import annotations

from offload_rllib.simulator.energy import charge_service, has_charges
from offload_rllib.simulator.events.broadcasts import broadcast_in_tick
from offload_rllib.simulator.events.service import serve_next
from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.queues import first_overdue, join_queue, leave_queue
from offload_rllib.simulator.tasks import change_tasks, release
from offload_rllib.simulator.ticks import work_moment
from offload_rllib.simulator.types import EXPIRED, EXPIRY_QUEUED, NONE, SERVICE_END, TICK


@kernel
def schedule_work(scenario, environment, n, tick):
    """Let node `n` have its moment of tick number `tick`: for its work, if it works in ticks, and its broadcast."""
    node = environment.node[n]
    node.tick = tick
    node.tick_work = -1.0
    time_s = work_moment(scenario, environment, n, tick)
    if time_s <= scenario.settings[0].horizon_s:
        push(environment, time_s, event_key(TICK, n, 0), NONE)


@kernel
def _work(scenario, environment, n, now_s):
    """Let node `n` work on one task as long as its tick allows, or the task.

    Returns:
        Whether the task has ended: then the event comes again at the same instant, behind that end.
    """
    settings = scenario.settings[0]
    speed = scenario.node[n].core_speed
    node = environment.node[n]
    if node.tick_work < 0.0:
        node.tick_work = speed * settings.tick_s
    if node.tick_work <= 0.0:
        return False
    if node.busy == 0:
        if node.queue_head == NONE:
            join_queue(scenario, environment, n)
        if node.queue_head == NONE:
            return False
        serve_next(scenario, environment, n, now_s)
    done = min(node.work_left, node.tick_work)
    node.work_left -= done
    node.tick_work -= done
    node.busy_seconds += done / speed
    task = environment.task[node.serving]
    if has_charges(scenario):
        charge_service(scenario, environment, n, task.origin, done / speed)
    task.service_end_s = now_s + node.work_left / speed
    if node.work_left > 0.0:
        return False
    push(environment, now_s, event_key(SERVICE_END, n, task.number), node.serving)
    push(environment, now_s, event_key(TICK, n, 0), NONE)
    return True


@kernel
def _expire_overdue(scenario, environment, n, now_s):
    """End the tasks in node `n`'s queue whose deadline and grace have passed by this tick."""
    settings = scenario.settings[0]
    node = environment.node[n]
    # The sum of a creation time and a deadline may be rounded up.
    until_s = (node.tick + 1e-9) * settings.tick_s
    while node.overdue_s <= until_s:
        slot = first_overdue(environment.task, node, settings.expiry_grace_s, until_s)
        if slot == NONE:
            return
        node.overdue_s = until_s  # there may be more
        leave_queue(scenario, environment, n, slot, now_s)
        change_tasks(scenario, environment, n, now_s, -1, -environment.task[slot].bits_in)
        release(scenario, environment, slot, now_s, EXPIRED)


@kernel
def do_tick(scenario, environment, n, now_s):
    """Let node `n` do what it does once a tick: it works, gives up what is overdue, lets tasks join, and broadcasts."""
    settings = scenario.settings[0]
    node = environment.node[n]
    if scenario.node[n].works_in_ticks:
        if _work(scenario, environment, n, now_s):
            return
        if settings.expiry == EXPIRY_QUEUED:
            _expire_overdue(scenario, environment, n, now_s)
        if node.tick % 2 == 0 or node.queue_head == NONE:
            join_queue(scenario, environment, n)
    tick = node.tick
    schedule_work(scenario, environment, n, tick + 1)
    if settings.broadcast_interval_s > 0.0:
        broadcast_in_tick(scenario, environment, n, tick, now_s)
