"""Cores that are shared by the tasks in service: egalitarian processor sharing, exact in time.

With c cores of speed s each of n tasks in service is processed at the rate s if n <= c, and c s / n otherwise: a task
uses one core at most (L. Kleinrock, "Time-shared systems: a theoretical treatment", Journal of the ACM 14, 1967). All
tasks of a node advance alike: see `sharing.clock`, whose work is in instructions here.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.pairing_heap import enter_heap, leave_heap
from offload_rllib.simulator.queues import in_order_of_service, sort_tasks
from offload_rllib.simulator.sharing.clock import bring_up_to_date, foresee_end
from offload_rllib.simulator.types import EDF, EXPIRY_ABORT, EXPIRY_NEVER, NONE, SHARING
from offload_rllib.simulator.variants import has_extensions


@kernel
def shares_cores(scenario, n):
    """Return whether node `n` serves more tasks at once than it has cores."""
    return has_extensions(scenario) and scenario.node[n].concurrency > scenario.node[n].servers


@kernel
def can_start(scenario, environment, n):
    """Return whether node `n` serves one more task at once."""
    return environment.node[n].busy < scenario.node[n].concurrency


@kernel
def _speed_of_each(here, tasks):
    """Return the instructions per second that each of so many tasks in service gets."""
    return here.core_speed if tasks <= here.servers else here.speed / tasks


@kernel
def _bring_up_to_date(here, node, shared, now_s):
    bring_up_to_date(shared, node.busy == 0, _speed_of_each(here, node.busy), now_s)


@called_kernel
def share(here, node, sharing, task, n, slot, now_s):
    """Let a task share the cores of node `n` from now on."""
    shared = sharing[n]
    _bring_up_to_date(here, node, shared, now_s)
    task[slot].work_end = shared.work_each + task[slot].work
    shared.first = enter_heap(task, SHARING, shared.first, slot)
    node.busy += 1
    if node.busy <= here.servers:
        node.busy_seconds -= now_s
    foresee_end(sharing, task, n, _speed_of_each(here, node.busy))


@called_kernel
def stop_sharing(here, node, sharing, task, n, slot, now_s):
    """Let a task share the cores of node `n` no more."""
    shared = sharing[n]
    _bring_up_to_date(here, node, shared, now_s)
    if slot == shared.first and now_s == shared.end_s:
        shared.work_each = task[slot].work_end  # without the rounding of the time of its end
    shared.first = leave_heap(task, SHARING, shared.first, slot)
    node.busy -= 1
    if node.busy < here.servers:
        node.busy_seconds += now_s
    foresee_end(sharing, task, n, _speed_of_each(here, node.busy))


@kernel
def drains_alike(settings, here):
    """Return whether a node's wait follows from the sum of its work: one core, and nothing is given up."""
    return here.servers == 1 and (settings.expiry == EXPIRY_NEVER or not settings.has_deadline)


@kernel
def _first_deadline(task, order, first, end):
    """Return the place of the earliest deadline in a part of `order` that is not empty."""
    found = first
    for place in range(first + 1, end):
        if task[order[place]].deadline_s < task[order[found]].deadline_s:
            found = place
    return found


@kernel
def _move_back(task, order, first, place):
    """Move the task in a place of `order` towards `first`, behind those that leave no later."""
    slot = order[place]
    while place > first and task[order[place - 1]].work_end > task[slot].work_end:
        order[place] = order[place - 1]
        place -= 1
    order[place] = slot


@kernel
def _take_out(order, first, place):
    """Take the entry in a place of `order` out; those from `first` on move up, and begin at `first` + 1 then."""
    while place > first:
        order[place] = order[place - 1]
        place -= 1


@kernel
def _slot_in(order, place):
    """Return the slot of an entry of `order`, also of one that is marked as gone: by its complement."""
    return np.int64(order[place]) if order[place] >= 0 else ~np.int64(order[place])


@called_kernel
def _mark_gone(task, order, first, end, slot):
    """Mark a task in `order`, which is sorted by the time of leaving from `first` to `end`."""
    low, high = first, end
    while low < high:
        middle = (low + high) // 2
        if task[_slot_in(order, middle)].work_end < task[slot].work_end:
            low = middle + 1
        else:
            high = middle
    while order[low] != slot:
        low += 1
    order[low] = ~slot


@called_kernel
def _alone_at(aborts, here, task, order, by_deadline, first, end, work_each, now_s):
    """Return the same as `shared_free_at` where nothing waits: tasks are served, or aborted, and none takes a place.

    Args:
        aborts: whether tasks are aborted at their deadlines.
        here: the node's NODE record.
        task: [T] TASK.
        order: tasks in service from `first` to `end`, by the time at which they leave; entries are marked.
        by_deadline: [tasks] int32, overwritten.
        first: see `order`.
        end: see `order`.
        work_each: see CORE_SHARING, at `now_s`.
        now_s: the present time.
    """
    present = count = end - first
    if aborts:
        for place in range(count):
            by_deadline[place] = order[first + place]
        sort_tasks(task, EDF, by_deadline, count)
    due = 0  # those before it in `by_deadline` have left
    while present >= here.servers:
        while order[first] < 0:
            first += 1
        speed = _speed_of_each(here, present)
        following_s = now_s + max(task[order[first]].work_end - work_each, 0.0) / speed
        late_s = np.inf
        if aborts:
            while due < count and task[by_deadline[due]].work_end <= work_each:
                due += 1  # it has been served, or is at this very instant
            if due < count:
                late_s = max(task[by_deadline[due]].deadline_s, now_s)
        if following_s <= late_s:
            work_each = task[order[first]].work_end
            now_s = following_s
            first += 1
        else:
            work_each += (late_s - now_s) * speed
            now_s = late_s
            _mark_gone(task, order, first, end, np.int64(by_deadline[due]))
            due += 1
        present -= 1
    return now_s


@called_kernel
def shared_free_at(settings, here, node, shared, task, order, by_deadline, held, now_s, without):
    """Return when a node would have a whole core for one more task, if no other came; the past if it has one now.

    What is to come is played through: tasks leave when they are served, or aborted, and waiting ones take their
    places. For n tasks this takes the time of a sort. As long as tasks wait, each deadline takes up to as many further
    steps as there are tasks in service.

    Args:
        settings: one SETTINGS record.
        here: the node's NODE record.
        node: its NODE_STATE record.
        shared: its CORE_SHARING record.
        task: [T] TASK. Of waiting tasks `work_end` is overwritten.
        order: [tasks] int32, overwritten.
        by_deadline: [tasks] int32, overwritten.
        held: the first of the tasks that the node is to keep behind the waiting ones, or NONE.
        now_s: the present time.
        without: slot of a waiting task to leave out, or NONE.
    """
    end = in_order_of_service(task, SHARING, shared.first, NONE, order)
    count = end + in_order_of_service(task, here.queue, node.queue_head, NONE, order[end:])
    while held != NONE:
        order[count] = held
        count += 1
        held = task[held].held_next
    # Tasks in service are in `order` from `first` to `end`, by the time at which they leave; behind them wait others.
    first = 0
    work_each = 0.0
    if node.busy > 0:
        work_each = shared.work_each + (now_s - shared.at_s) * _speed_of_each(here, node.busy)
    while True:
        while end < count and end - first < here.concurrency:
            waiting = task[order[end]]
            gone = settings.expiry != EXPIRY_NEVER and now_s > waiting.deadline_s + settings.expiry_grace_s
            if gone or order[end] == without:
                _take_out(order, first, end)
                first += 1
            else:
                waiting.work_end = work_each + waiting.work
                _move_back(task, order, first, end)
            end += 1
        if end == count:
            aborts = settings.expiry == EXPIRY_ABORT
            return _alone_at(aborts, here, task, order, by_deadline, first, end, work_each, now_s)
        if end - first < here.servers:
            return now_s
        speed = _speed_of_each(here, end - first)
        following_s = now_s + max(task[order[first]].work_end - work_each, 0.0) / speed
        late = first
        late_s = np.inf
        if settings.expiry == EXPIRY_ABORT:
            late = _first_deadline(task, order, first, end)
            late_s = max(task[order[late]].deadline_s, now_s)
        if following_s <= late_s:
            work_each = task[order[first]].work_end
            now_s = following_s
        else:
            work_each += (late_s - now_s) * speed
            now_s = late_s
            _take_out(order, first, late)
        first += 1
