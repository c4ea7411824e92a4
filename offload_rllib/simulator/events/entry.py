"""A task enters a node, from its client or from a neighbour."""

from __future__ import annotations

from offload_rllib.simulator.events.failures import send_back
from offload_rllib.simulator.events.service import keep
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.queues import receive
from offload_rllib.simulator.tasks import append_held, change_tasks, insert_held
from offload_rllib.simulator.types import (
    EXPIRED,
    EXPIRY_NEVER,
    EXPIRY_QUEUED,
    HELD,
    NODE_FAILED,
    NONE,
    OFFER_ARRIVAL,
    OPEN,
    QUEUE_FULL,
    WAITING,
)
from offload_rllib.simulator.variants import has_extensions, has_ticks


@kernel
def enter(scenario, environment, n, slot, now_s):
    """Let a task enter node `n`, from its client or from a neighbour.

    Returns:
        The cause of its drop; OPEN if it is there, or on its way back to its sender.
    """
    settings = scenario.settings[0]
    here = scenario.node[n]
    node = environment.node[n]
    task = environment.task[slot]
    task.node = n
    if has_extensions(scenario) and node.down:
        return OPEN if send_back(scenario, environment, slot, now_s) else NODE_FAILED
    if node.tasks >= here.capacity or (has_extensions(scenario) and node.bits + task.bits_in > here.capacity_bits):
        return QUEUE_FULL
    to_decide = here.agent != NONE and task.hops < settings.max_hops
    held = to_decide and (not has_extensions(scenario) or settings.offer == OFFER_ARRIVAL)
    in_ticks = has_ticks(scenario) and here.works_in_ticks and not held
    # In ticks a late task is accepted: it may be served before the node drops overdue tasks.
    if (
        settings.expiry != EXPIRY_NEVER
        and now_s >= task.deadline_s + settings.expiry_grace_s
        and not (in_ticks and settings.expiry == EXPIRY_QUEUED)
    ):
        return EXPIRED
    change_tasks(scenario, environment, n, now_s, 1, task.bits_in)
    if held:
        task.stage = HELD
        task.since_s = now_s
        append_held(environment, node, slot)
        if settings.decision_interval_s <= 0.0:
            environment.episode[0].deciding = here.agent
    elif in_ticks and task.hops == 0:
        task.stage = WAITING
        task.since_s = now_s
        receive(scenario, environment, n, slot)
        if to_decide:
            append_held(environment, node, slot)
    else:
        keep(scenario, environment, n, slot, now_s)
        if has_extensions(scenario) and to_decide and task.stage == WAITING:
            # What has been received joins the queue later, as what is newer.
            insert_held(environment, node, slot, node.received_head if has_ticks(scenario) else NONE)
    return OPEN
