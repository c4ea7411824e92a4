"""The end of a task at its deadline."""

from __future__ import annotations

from offload_rllib.simulator.events.service import leave_service
from offload_rllib.simulator.events.transfers import leave_link
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.queues import leave_queue
from offload_rllib.simulator.sharing.channels import has_channels, withdraw_message
from offload_rllib.simulator.tasks import change_tasks, remove_held, stop_awaiting
from offload_rllib.simulator.types import (
    EXPIRED,
    EXPIRY_ABORT,
    EXPIRY_QUEUED,
    HELD,
    OPEN,
    RETURNING,
    SENT_BACK,
    SERVED,
    TRANSFERRED,
    WAITING,
)
from offload_rllib.simulator.variants import has_ticks


@kernel
def expire(scenario, environment, slot, now_s):
    """Take a task out of where it is at its deadline, wherever that is; with expiry ``queued`` only where it waits.

    Returns:
        EXPIRED; OPEN if the task continues.
    """
    settings = scenario.settings[0]
    task = environment.task[slot]
    n = task.node
    node = environment.node[n]
    if task.stage == HELD:
        remove_held(environment, node, slot)
        task.holding_s += now_s - task.since_s
        change_tasks(scenario, environment, n, now_s, -1, -task.bits_in)
    elif task.stage == WAITING:
        if has_ticks(scenario) and settings.expiry == EXPIRY_QUEUED and scenario.node[n].works_in_ticks:
            stop_awaiting(environment.node[task.origin], task)
            return OPEN  # the node gives it up when it has worked
        leave_queue(scenario, environment, n, slot, now_s)
        change_tasks(scenario, environment, n, now_s, -1, -task.bits_in)
    elif settings.expiry != EXPIRY_ABORT:
        stop_awaiting(environment.node[task.origin], task)
        return OPEN
    elif task.stage == SERVED:
        leave_service(scenario, environment, n, slot, now_s)
    elif task.stage == TRANSFERRED:
        if has_channels(scenario, environment):
            withdraw_message(scenario, environment, slot, now_s)
        leave_link(scenario, environment, slot)
        task.transfer_s += now_s - task.since_s
    elif task.stage == SENT_BACK:
        task.transfer_s += now_s - task.since_s
    elif has_channels(scenario, environment) and task.stage == RETURNING:
        withdraw_message(scenario, environment, slot, now_s)
    return EXPIRED
