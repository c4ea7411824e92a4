"""What happens between two decisions, in exact time.

Every function takes the `Scenario` and one environment: a `State` without its leading axis.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.changes.due import make_change, next_change
from offload_rllib.simulator.events.broadcasts import save_broadcasts
from offload_rllib.simulator.events.creation import create, node_entered
from offload_rllib.simulator.events.deadlines import open_bucket
from offload_rllib.simulator.events.entry import enter
from offload_rllib.simulator.events.expiry import expire
from offload_rllib.simulator.events.failures import fail, repair
from offload_rllib.simulator.events.routing import has_legs, is_on_the_way, path_of
from offload_rllib.simulator.events.service import end_service
from offload_rllib.simulator.events.tick_work import do_tick
from offload_rllib.simulator.events.transfers import leave_link, lose, pass_on, return_result
from offload_rllib.simulator.heap import KIND_SHIFT, NODE_MASK, NODE_SHIFT, NUMBER_MASK, event_key, pop
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.prefetch import prefetch
from offload_rllib.simulator.sharing.channels import end_sending, has_channels
from offload_rllib.simulator.sharing.clock import first_to_end
from offload_rllib.simulator.tasks import release
from offload_rllib.simulator.types import (
    ARRIVAL,
    EXPIRE,
    FAILURE,
    FREE,
    LOSS,
    LOST,
    NODE_FAILED,
    NONE,
    OPEN,
    OVERDUE,
    REPAIR,
    RESULT,
    SERVICE_END,
    TICK,
    TRANSFER,
    TRANSFERRED,
)
from offload_rllib.simulator.variants import has_extensions, has_ticks, is_large

# A kernel returns after so many events, some tenths of a second, so that Ctrl-C finds Python listening.
EVENTS_PER_CALL = 2**18

# Why `run_until` returns: the time is reached; it must be called again; a task that arrived is to be decided.
DONE = 0
UNFINISHED = 1
DECISION = 2


@kernel
def has_room(environment):
    """Return whether one more task fits into the task slots, the heap and the log."""
    episode = environment.episode[0]
    slots = environment.task.shape[0]
    # Before the next check every task may expire, or be dropped.
    if episode.free_slots == 0 or episode.expiries_in_heap >= 2 * slots or episode.overdue_in_heap >= slots:
        return False
    rows = environment.log.shape[0]
    return rows == 0 or episode.tasks_made < rows


@kernel
def _foresee_event(environment, place):
    """Ask for the node and the task of the event in a place of the heap."""
    if place < environment.episode[0].heap_size:
        event = environment.heap[place]
        prefetch(environment.node, np.int64((event.key >> NODE_SHIFT) & NODE_MASK))
        if event.slot != NONE:
            prefetch(environment.task, np.int64(event.slot))


@kernel
def _changed_node(scenario, environment, kind, key, slot):
    """Return the node whose broadcasts tell of an event, or NONE."""
    n = np.int64((key >> NODE_SHIFT) & NODE_MASK)
    if kind == ARRIVAL:
        return node_entered(scenario, environment, n)
    if kind in (RESULT, OVERDUE):
        return np.int64(NONE)
    if kind == EXPIRE:
        task = environment.task[slot]
        if task.stage == TRANSFERRED:
            return np.int64(scenario.link[environment.path[slot, task.hops - 1]].destination)
        return np.int64(task.node)
    if kind == LOSS and has_legs(scenario):
        return np.int64(scenario.link[path_of(scenario, environment, slot)].destination)
    return n


@kernel
def run_until(scenario, environment, end_s):
    """Run all events up to and including `end_s`.

    Returns:
        DONE; or UNFINISHED: the arrays must grow before the next arrival (`has_room`), or many events have been run and
        the caller may want to stop; or DECISION: the task that has just entered `episode.deciding` is to be decided.
        Unless it is done, the environment is left between two events, and the call can be repeated.
    """
    episode = environment.episode[0]
    heap = environment.heap
    left = EVENTS_PER_CALL
    while True:
        if left == 0:
            return UNFINISHED
        left -= 1
        if is_large(scenario):
            _foresee_event(environment, 1)
            _foresee_event(environment, 2)
        time_s = heap[0].time_s if episode.heap_size > 0 else np.inf
        key = heap[0].key
        slot = heap[0].slot
        in_heap = True
        if has_extensions(scenario) and environment.sharing.shape[0] > 0:
            node = first_to_end(environment.sharing)
            shared = environment.sharing[node]
            if shared.end_s <= time_s and shared.first != NONE:
                first_key = event_key(SERVICE_END, node, environment.task[shared.first].number)
                if shared.end_s < time_s or first_key < key:
                    time_s = shared.end_s
                    key = first_key
                    slot = shared.first
                    in_heap = False
        changes_s = np.inf
        sent_s = np.inf
        if has_channels(scenario, environment):
            changes_s = next_change(scenario, environment)
            sent_s = environment.channel[first_to_end(environment.channel)].end_s
            time_s = min(time_s, changes_s, sent_s)
        if min(time_s, end_s) > episode.bucket_end_s:
            open_bucket(scenario, environment)
            continue
        if time_s > end_s:
            break
        if has_channels(scenario, environment):
            # No node changes by them, and no task enters one.
            if changes_s == time_s:
                make_change(scenario, environment, time_s)
                continue
            if sent_s == time_s:
                end_sending(scenario, environment, first_to_end(environment.channel), time_s)
                episode.events += 1
                continue
        kind = np.int64(key >> KIND_SHIFT)
        if kind == ARRIVAL and not has_room(environment):
            return UNFINISHED
        changed = _changed_node(scenario, environment, kind, key, slot)
        if changed != NONE:
            save_broadcasts(scenario, environment, changed, time_s)
        n = np.int64((key >> NODE_SHIFT) & NODE_MASK)
        # What several kinds of events end with is done behind them: code that is there once is compiled once.
        enters = False
        returns = False
        outcome = OPEN
        if kind == ARRIVAL:
            slot = create(scenario, environment, n, changed, time_s)
            n = changed
            enters = True
        else:
            if in_heap:
                pop(environment)
            if kind in (RESULT, TRANSFER) and is_on_the_way(scenario, environment, slot):
                pass_on(scenario, environment, slot, time_s)
            elif kind == SERVICE_END:
                end_service(scenario, environment, slot, time_s)
                returns = True
            elif kind == RESULT:
                returns = True
                if has_extensions(scenario) and environment.node[n].down:
                    returns = False
                    outcome = NODE_FAILED
            elif kind == TRANSFER:
                task = environment.task[slot]
                if not has_extensions(scenario) or task.stage == TRANSFERRED:
                    leave_link(scenario, environment, slot)
                task.transfer_s += time_s - task.since_s
                enters = True
            elif kind == EXPIRE:
                episode.expiries_in_heap -= 1
                task = environment.task[slot]
                # The task may have ended before, and its slot may hold another one already.
                if task.stage != FREE and np.uint64(task.number) & NUMBER_MASK == key & NUMBER_MASK:
                    outcome = expire(scenario, environment, slot, time_s)
            elif kind == OVERDUE:
                episode.overdue_in_heap -= 1
                environment.node[n].own_awaited -= 1
            elif has_extensions(scenario):
                if kind == LOSS:
                    lose(scenario, environment, slot, time_s)
                    outcome = LOST
                elif kind == FAILURE:
                    fail(scenario, environment, n, time_s)
                elif kind == REPAIR:
                    repair(scenario, environment, n, time_s)
                elif has_ticks(scenario) and kind == TICK:
                    do_tick(scenario, environment, n, time_s)
        if enters:
            outcome = enter(scenario, environment, n, slot, time_s)
        elif returns:
            outcome = return_result(scenario, environment, slot, time_s)
        if outcome != OPEN:
            release(scenario, environment, slot, time_s, outcome)
        episode.events += 1
        if episode.deciding != NONE:
            episode.now_s = time_s
            return DECISION
    episode.now_s = end_s
    return DONE
