"""Tasks and results on their way over links."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.changes.movement import link_to_origin
from offload_rllib.simulator.energy import charge_result, has_charges
from offload_rllib.simulator.events.broadcasts import save_counts
from offload_rllib.simulator.events.routing import begin_path, next_on_path
from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.links import cross
from offload_rllib.simulator.sharing.channels import give, has_channels
from offload_rllib.simulator.tasks import change_tasks
from offload_rllib.simulator.ticks import RESULTS, delivery_moment
from offload_rllib.simulator.types import (
    EXPIRY_ABORT,
    FINISHED,
    LOSS,
    NONE,
    OPEN,
    RESULT,
    RETURNING,
    TRANSFER,
    TRANSFERRED,
)
from offload_rllib.simulator.variants import has_extensions, has_ticks


@kernel
def send(scenario, environment, n, slot, link_index, now_s):
    """Send a task that has left the held ones, or the queue, of node `n` over one of its links."""
    link = scenario.link[link_index]
    back = scenario.link[link.reverse]
    sent = environment.link[link_index]
    task = environment.task[slot]
    environment.path[slot, task.hops] = link_index
    task.hops += 1
    task.return_latency_s += back.latency_s
    task.return_seconds_per_bit += back.seconds_per_bit
    task.stage = TRANSFERRED
    task.since_s = now_s
    sent.sent += 1
    sent.sent_work += task.work
    change_tasks(scenario, environment, n, now_s, -1, -task.bits_in)
    if has_channels(scenario, environment):
        environment.message[slot].at = NONE
    _send_over(scenario, environment, slot, begin_path(scenario, environment, slot, link_index), now_s)


@kernel
def _send_over(scenario, environment, slot, link_index, now_s):
    """Give a task to a link."""
    settings = scenario.settings[0]
    link = scenario.link[link_index]
    task = environment.task[slot]
    arrival_s = now_s + link.latency_s + task.bits_in * link.seconds_per_bit
    kind = TRANSFER
    if has_extensions(scenario) and not link.plain:
        if has_channels(scenario, environment) and scenario.link_law[link_index].channel != NONE:
            give(scenario, environment, link_index, slot, task.bits_in, now_s)
            return
        arrival_s, lost = cross(scenario, environment, link_index, task.bits_in, task.origin, task.deadline_s, now_s)
        if lost:
            kind = LOSS
    if has_ticks(scenario):
        arrival_s = delivery_moment(scenario, environment, slot, task.hops, now_s, arrival_s - now_s)
    if settings.expiry != EXPIRY_ABORT or arrival_s < task.deadline_s:
        push(environment, arrival_s, event_key(kind, link.destination, task.number), slot)


@kernel
def pass_on(scenario, environment, slot, now_s):
    """Give a task, or its result, that has crossed a link of its path to the next one."""
    link_index = next_on_path(scenario, environment, slot)
    if environment.task[slot].stage == RETURNING:
        _return_over(scenario, environment, slot, link_index, now_s)
    else:
        _send_over(scenario, environment, slot, link_index, now_s)


@kernel
def leave_link(scenario, environment, slot):
    """Note that a task is no more on the link it was sent over."""
    task = environment.task[slot]
    link_index = environment.path[slot, task.hops - 1]
    save_counts(scenario, environment, link_index)
    link = environment.link[link_index]
    link.arrived += 1
    link.arrived_work += task.work


@kernel
def _after_handover(scenario, environment, slot, link_index):
    """Return the link of a result's last hop; if its origin has moved on, the next link to where it is now."""
    if scenario.moving.shape[0] == 0:
        return link_index
    task = environment.task[slot]
    closer = link_to_origin(scenario, environment, slot)
    if closer == NONE:
        return link_index
    there = scenario.link[closer].destination
    if there != task.origin:
        environment.message[slot].at = there
        task.hops_left = 1
    return closer


@kernel
def return_result(scenario, environment, slot, now_s):
    """Send a result one hop back along the path of its task.

    Returns:
        FINISHED if it is at its origin already, otherwise OPEN.
    """
    task = environment.task[slot]
    if task.hops_left == 0:
        return FINISHED
    task.hops_left -= 1
    link_index = np.int64(scenario.link[environment.path[slot, task.hops_left]].reverse)
    if has_channels(scenario, environment) and task.hops_left == 0:
        link_index = _after_handover(scenario, environment, slot, link_index)
    _return_over(scenario, environment, slot, begin_path(scenario, environment, slot, link_index), now_s)
    return OPEN


@kernel
def _return_over(scenario, environment, slot, link_index, now_s):
    """Give a result to a link."""
    settings = scenario.settings[0]
    link = scenario.link[link_index]
    task = environment.task[slot]
    arrival_s = now_s + link.latency_s + task.bits_out * link.seconds_per_bit
    kind = RESULT
    if has_extensions(scenario) and not link.plain:
        environment.usage[link.source].sent_result_bits += task.bits_out
        if has_charges(scenario):
            charge_result(scenario, environment, link.source, task.origin, task.bits_out)
        if has_channels(scenario, environment) and scenario.link_law[link_index].channel != NONE:
            give(scenario, environment, link_index, slot, task.bits_out, now_s)
            return
        arrival_s, lost = cross(scenario, environment, link_index, task.bits_out, task.origin, task.deadline_s, now_s)
        if lost:
            kind = LOSS
    if has_ticks(scenario):
        arrival_s = delivery_moment(scenario, environment, slot, RESULTS + task.hops_left, now_s, arrival_s - now_s)
    if settings.expiry != EXPIRY_ABORT or arrival_s <= task.deadline_s:
        push(environment, arrival_s, event_key(kind, link.destination, task.number), slot)


@kernel
def lose(scenario, environment, slot, now_s):
    """Take a task off the link that has lost it, or its result: at the moment at which it would have arrived."""
    task = environment.task[slot]
    if task.stage == TRANSFERRED:
        # The receiver notices the gap, and its next broadcast says so.
        leave_link(scenario, environment, slot)
        task.transfer_s += now_s - task.since_s
