"""One decision interval: apply the agents' actions, then run the events up to the next decision."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.deadlines import schedule_expiries
from offload_rllib.simulator.information import is_valid, offered
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.loop import run_until
from offload_rllib.simulator.prefetch import prefetch
from offload_rllib.simulator.queues import join_queue, leave_queue
from offload_rllib.simulator.service import keep
from offload_rllib.simulator.tasks import close_episode, integrate_unfinished, remove_held
from offload_rllib.simulator.transfers import send
from offload_rllib.simulator.types import HELD, LIFO, NONE
from offload_rllib.simulator.variants import has_extensions, has_ticks, is_large

ACTIONS_PENDING = 0
EVENTS_RUNNING = 1

DONE = 0
UNFINISHED = 1


@kernel
def apply_action(scenario, environment, agent, action):
    """Let a deciding node decide the task it has held longest. An action that is not valid acts as 0 and is counted."""
    now_s = environment.episode[0].now_s
    slot = offered(scenario, environment, agent)
    if not is_valid(scenario, agent, action, slot):
        environment.episode[0].masked_actions += 1
        action = 0
    if slot == NONE:
        return
    n = scenario.agent_node[agent]
    node = environment.node[n]
    task = environment.task[slot]
    node.choices += 1
    environment.episode[0].choices += 1
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
def begin_step(environment):
    """Open the account of a step: what happens from now on is this step's."""
    now_s = environment.episode[0].now_s
    for n in range(environment.node.shape[0]):
        node = environment.node[n]
        node.own_changed_s = now_s
        node.own_task_seconds = 0.0
        node.own_drop_cost_s = 0.0
        node.own_finished = 0.0
        node.own_dropped = 0.0


@kernel
def advance(scenario, environment, actions):
    """Advance one environment by one decision interval.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis, changed in place.
        actions: [D, k] int32: of each deciding node, for the tasks it has held longest, in that order.

    Returns:
        DONE, or UNFINISHED: the same call goes on where it stopped, after the arrays have grown (`state.grow`) if they
        are full (`state.lacks_room`).
    """
    settings = scenario.settings[0]
    episode = environment.episode[0]
    end_s = (episode.step + 1) * settings.decision_interval_s
    if episode.stage == ACTIONS_PENDING:
        if episode.step > 0:  # what happened at the very start belongs to the first step
            begin_step(environment)
        for agent in range(actions.shape[0]):
            if is_large(scenario) and agent + 4 < actions.shape[0]:
                slot = offered(scenario, environment, agent + 4)
                if slot != NONE:
                    prefetch(environment.task, np.int64(slot))
            for turn in range(actions.shape[1]):
                apply_action(scenario, environment, agent, actions[agent, turn])
        schedule_expiries(scenario, environment)
        episode.stage = EVENTS_RUNNING
    if not run_until(scenario, environment, end_s):
        return UNFINISHED
    for n in range(environment.node.shape[0]):
        integrate_unfinished(environment.node[n], end_s)
    episode.stage = ACTIONS_PENDING
    episode.step += 1
    if episode.step == environment.bucket.shape[0]:
        close_episode(scenario, environment)
    return DONE
