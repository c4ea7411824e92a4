"""When a node will be free: the wait of one more task, net of work that will expire before it is served.

The tasks at a node are placed on its servers in the order of service. One that could only start after it has expired
takes no time; one that is aborted in service takes time until its deadline. What follows is a time on the clock, and
it stays right while tasks are served and expire, because it has foreseen that. It changes only when a task joins:
first come, first served, the newcomer is placed behind the others in constant time (logarithmic in the servers). Where
the order is another, or a task has left the queue to be sent on, the node is marked, and walked again when its waits
are read. Where tasks share the cores, a server is free when one more task would have a whole core. That is played
through (see `sharing`). With one core and nothing given up it is not: the work is done as soon as in any other order.

The newcomer counts as the last to be served, whatever the order. That is an upper bound for LIFO, for a short task
with SJF, and for an urgent one with EDF or priorities. In ticks the node is taken to work all the time between its
moments, and what it has received counts as if it were queued already. A failure that is still to come is not foreseen,
nor a set-up that has not begun.
"""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.queues import in_order_of_service
from offload_rllib.simulator.sharing.cores import drains_alike, shared_free_at, shares_cores
from offload_rllib.simulator.types import EXPIRY_ABORT, EXPIRY_QUEUED, FIFO, NONE, OFFER_NEWEST
from offload_rllib.simulator.variants import has_extensions, has_ticks

# First axis of `State.server`: when servers have done what is in service, what waits too, and scratch.
SERVING = 0
QUEUED = 1
SCRATCH = 2


@kernel
def _served_until(settings, here, task, service_s, start_s):
    """Return when a task leaves a server that is free for it at `start_s`; at once if it has expired by then."""
    if settings.expiry == EXPIRY_ABORT:
        return max(min(start_s + service_s, task.deadline_s), start_s)
    if settings.expiry == EXPIRY_QUEUED:
        expires_s = task.deadline_s + settings.expiry_grace_s
        if here.works_in_ticks:
            # What is overdue is given up once a tick, behind the work.
            if expires_s <= math.floor(start_s / settings.tick_s + 1e-9) * settings.tick_s:
                return start_s
        elif start_s > expires_s:
            return start_s
    return start_s + service_s


@called_kernel
def _occupy(server, row, first, count, until_s):
    """Keep the server of a node that is free first busy until a later time; return the new first time.

    The times of the node's servers are a heap: `server[row, first : first + count]`.
    """
    place = 0
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and server[row, first + child + 1] < server[row, first + child]:
            child += 1
        if server[row, first + child] >= until_s:
            break
        server[row, first + place] = server[row, first + child]
        place = child
    server[row, first + place] = until_s
    return server[row, first]


@kernel
def _place(settings, here, server, row, free_s, task, now_s):
    """Place a task on the server that is free first, at `free_s`; return when the first one is free then."""
    return _place_for(settings, here, server, row, free_s, task, task.work / here.core_speed, now_s)


@kernel
def _place_for(settings, here, server, row, free_s, task, service_s, now_s):
    """Do the same for a service of so many seconds."""
    until_s = _served_until(settings, here, task, service_s, max(free_s, now_s))
    return until_s if here.servers == 1 else _occupy(server, row, here.first_server, here.servers, until_s)


@kernel
def begin_service(scenario, environment, n, task, setup_s, now_s):
    """Note that a task is in service at node `n` from now on, with a set-up of so many seconds at first."""
    if not has_extensions(scenario):
        return  # no one will walk
    here = scenario.node[n]
    service_s = setup_s + task.work / here.core_speed
    environment.node[n].busy_until_s = _place_for(
        scenario.settings[0], here, environment.server, SERVING, now_s, task, service_s, now_s
    )


@kernel
def join(scenario, environment, n, slot, now_s):
    """Note that a task is to be processed by node `n`."""
    settings = scenario.settings[0]
    here = scenario.node[n]
    node = environment.node[n]
    node.advertised_from_s = -1.0
    played = shares_cores(scenario, n) and not drains_alike(settings, here)
    if has_extensions(scenario) and (here.queue != FIFO or played):
        node.stale = 1
        return
    node.free_s = _place(settings, here, environment.server, QUEUED, node.free_s, environment.task[slot], now_s)


@kernel
def clear(scenario, environment, n):
    """Note that every task has left node `n`."""
    here = scenario.node[n]
    node = environment.node[n]
    node.free_s = 0.0
    node.busy_until_s = 0.0
    node.stale = 0
    node.advertised_from_s = -1.0
    for server in range(here.first_server, here.first_server + here.servers):
        environment.server[SERVING, server] = 0.0
        environment.server[QUEUED, server] = 0.0


@kernel
def _copy(here, server, source, target):
    for place in range(here.first_server, here.first_server + here.servers):
        server[target, place] = server[source, place]


@called_kernel
def _walk(settings, here, node, task, received, server, row, order, now_s, without):
    """Place all tasks of a node but one on its servers, and return when the first server is free then.

    Args:
        settings: one SETTINGS record.
        here: the node's NODE record.
        node: its NODE_STATE record.
        task: [T] TASK.
        received: first of the tasks that are to join the queue, or NONE.
        server: [3, S] float64, `State.server`.
        row: which of the three is overwritten where the node has several servers.
        order: [tasks] int32, overwritten.
        now_s: the present time.
        without: slot of a waiting task to leave out, or NONE.
    """
    if here.works_in_ticks:
        # By the end of the tick before its next work the node has done what it could until then.
        start_s = (node.tick - 1) * settings.tick_s
        free_s = start_s
        if node.busy > 0:
            serving = task[node.serving]
            free_s += node.work_left / here.core_speed
            if settings.expiry == EXPIRY_ABORT:
                free_s = max(min(free_s, serving.deadline_s), start_s)
        now_s = start_s
    elif here.servers == 1:
        free_s = node.busy_until_s  # the past, if it is idle
    else:
        _copy(here, server, SERVING, row)
        free_s = server[row, here.first_server]
    count = in_order_of_service(task, here.queue, node.queue_head, received, order)
    for place in range(count):
        slot = order[place]
        if slot != without:
            free_s = _place(settings, here, server, row, free_s, task[slot], now_s)
    return free_s


@kernel
def _walked(scenario, environment, n, now_s, row, without):
    episode = environment.episode[0]
    # Beyond the stack of free slots there is as much room as there are tasks.
    order = environment.free[episode.free_slots :]
    node, task, server = environment.node[n], environment.task, environment.server
    if shares_cores(scenario, n):
        settings, here, shared = scenario.settings[0], scenario.node[n], environment.sharing[n]
        late = environment.free[task.shape[0] :]
        return shared_free_at(settings, here, node, shared, task, order, late, NONE, now_s, without)
    received = node.received_head if has_ticks(scenario) else np.int32(NONE)
    return _walk(scenario.settings[0], scenario.node[n], node, task, received, server, row, order, now_s, without)


@kernel
def free_at(scenario, environment, n, now_s):
    """Return when a server of node `n` is free for one more task, in seconds on the clock; the past if one is idle.

    Tasks that the node holds are not counted.
    """
    node = environment.node[n]
    if has_extensions(scenario):
        in_ticks = has_ticks(scenario) and scenario.node[n].works_in_ticks
        if node.stale or in_ticks:
            node.free_s = _walked(scenario, environment, n, now_s, QUEUED, NONE)
            node.stale = 0
    return node.free_s


@kernel
def wait_of(scenario, environment, n, now_s):
    """Return the seconds that one more task would wait at node `n`, if it were processed there from now on."""
    return max(free_at(scenario, environment, n, now_s) - now_s, 0.0)


@kernel
def wait_of_offered(scenario, environment, n, now_s):
    """Return the seconds that the task on offer at node `n` will wait if it is kept."""
    node = environment.node[n]
    if has_extensions(scenario) and scenario.settings[0].offer == OFFER_NEWEST and node.held_tail != NONE:
        # It waits in the queue already.
        return max(_walked(scenario, environment, n, now_s, SCRATCH, node.held_tail) - now_s, 0.0)
    return wait_of(scenario, environment, n, now_s)


@called_kernel
def _free_with_held(settings, here, server, task, slot, free_s, now_s):
    """Place the held tasks, from `slot` on, behind the others; return when the first server is free then."""
    if here.servers > 1:
        _copy(here, server, QUEUED, SCRATCH)
    while slot != NONE:
        free_s = _place(settings, here, server, SCRATCH, free_s, task[slot], now_s)
        slot = task[slot].held_next
    return free_s


@kernel
def advertised_free_at(scenario, environment, n, now_s):
    """Return when a server of node `n` is free for one more task if the node keeps all that it holds.

    That is what it tells its neighbours: most held tasks will be kept, and all of them are decided before one that a
    neighbour sends now.
    """
    free_s = free_at(scenario, environment, n, now_s)
    slot = environment.node[n].held_head
    if slot == NONE or (has_extensions(scenario) and scenario.settings[0].offer == OFFER_NEWEST):
        return free_s  # what is on offer waits in the queue, and is counted there
    settings = scenario.settings[0]
    here = scenario.node[n]
    if has_extensions(scenario) and here.speed <= 0.0:
        return free_s
    node = environment.node[n]
    if shares_cores(scenario, n) and not drains_alike(settings, here):
        if now_s != node.advertised_from_s:
            order = environment.free[environment.episode[0].free_slots :]
            task, shared = environment.task, environment.sharing[n]
            late = environment.free[task.shape[0] :]
            node.advertised_from_s = now_s
            node.advertised_free_s = shared_free_at(settings, here, node, shared, task, order, late, slot, now_s, NONE)
        return node.advertised_free_s
    from_s = max(free_s, now_s)
    if drains_alike(settings, here):
        return from_s + node.held_work / here.core_speed
    # Where no server is idle, the present time does not matter. Every neighbour asks for the same.
    if from_s != node.advertised_from_s:
        node.advertised_from_s = from_s
        node.advertised_free_s = _free_with_held(
            settings, here, environment.server, environment.task, slot, free_s, now_s
        )
    return node.advertised_free_s
