"""What happens to a task when a node decides it."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.events.broadcasts import save_broadcasts
from offload_rllib.simulator.events.service import keep
from offload_rllib.simulator.events.transfers import send
from offload_rllib.simulator.information import is_valid, offered, rejects, valid_action
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.queues import join_queue, leave_queue
from offload_rllib.simulator.tasks import change_tasks, release, remove_held
from offload_rllib.simulator.types import HELD, LIFO, NONE, REJECTED
from offload_rllib.simulator.variants import has_extensions, has_ticks


@kernel
def apply_action(scenario, environment, agent, action):
    """Let a deciding node decide the task it has held longest.

    An action that is not valid acts as the first that is (0, where the node has a processor), and is counted.
    """
    now_s = environment.episode[0].now_s
    slot = offered(scenario, environment, agent)
    if not is_valid(scenario, environment, agent, action, slot):
        environment.episode[0].masked_actions += 1
        action = valid_action(scenario, environment, agent, action, slot)
    if slot == NONE:
        return
    n = scenario.agent_node[agent]
    node = environment.node[n]
    task = environment.task[slot]
    save_broadcasts(scenario, environment, n, now_s)
    node.choices += 1
    environment.episode[0].choices += 1
    if rejects(scenario, action):
        remove_held(environment, node, slot)
        task.holding_s += now_s - task.since_s
        change_tasks(scenario, environment, n, now_s, -1, -task.bits_in)
        release(scenario, environment, slot, now_s, REJECTED)
        return
    if not has_extensions(scenario) or task.stage == HELD:
        remove_held(environment, node, slot)
        task.holding_s += now_s - task.since_s
        if action == 0:
            keep(scenario, environment, n, slot, now_s)
    elif action == 0:
        if has_ticks(scenario):
            if node.queue_head == NONE:
                join_queue(scenario, environment, n)
            slot = _newest_queued(scenario, environment, n)
        if slot != NONE:
            remove_held(environment, node, slot)  # it waits on, and is not offered again
    else:
        if has_ticks(scenario):
            join_queue(scenario, environment, n)
        leave_queue(scenario, environment, n, slot, now_s)
        node.stale = 1
    if action > 0:
        send(scenario, environment, n, slot, scenario.destination[agent, action], now_s)


@kernel
def _newest_queued(scenario, environment, n):
    """Return the task that PeersimGym keeps at node `n`: the newest in the queue, if it is still on offer; or NONE.

    What has been received is on offer too, but has not joined the queue: it will be offered again.
    """
    node = environment.node[n]
    slot = node.held_tail
    if node.received_head != NONE:
        slot = environment.task[node.received_head].held_previous
    if scenario.node[n].queue == LIFO and slot != node.queue_head:
        return np.int64(NONE)
    return np.int64(slot)


@kernel
def apply_decision(scenario, environment, action):
    """Carry out the decision that is due about a task that has just arrived."""
    episode = environment.episode[0]
    agent = np.int64(episode.deciding)
    episode.deciding = NONE
    apply_action(scenario, environment, agent, action)
