"""The waiting tasks of a node, in the order in which its servers take them: first in first out, and other disciplines.

FIFO and LIFO are doubly linked lists, whose links are fields of the tasks' own records. EDF, SJF and priorities are
pairing heaps (see `pairing_heap`). Whatever the discipline, `queue_head` is the next task to be served.

Where time has ticks, a task that comes from its client is received first, and joins the queue later (see `ticks` and
`docs/peersimgym.md`). It waits all the same: it counts among the node's tasks, and in the node's wait (see `waits`).
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.pairing_heap import enter_heap, goes_before, leave_heap
from offload_rllib.simulator.tasks import withdraw
from offload_rllib.simulator.types import FIFO, LIFO, NONE
from offload_rllib.simulator.variants import has_extensions, has_ticks


@kernel
def enqueue(scenario, environment, n, slot):
    """Let a task wait at node `n`."""
    node = environment.node[n]
    task = environment.task[slot]
    if has_ticks(scenario):
        task.received = 0
        node.overdue_s = min(node.overdue_s, task.deadline_s + scenario.settings[0].expiry_grace_s)
    _join(scenario, environment, n, slot)


@kernel
def _join(scenario, environment, n, slot):
    """Put a task where the discipline wants it in the queue."""
    discipline = scenario.node[n].queue
    node = environment.node[n]
    task = environment.task
    if has_ticks(scenario):
        task[slot].child = NONE  # `_following` asks for it in every discipline
    if has_extensions(scenario) and discipline != FIFO:
        _enter_queue(task, node, discipline, slot)
        return
    append(task, node, slot)


@kernel
def append(task, queue, slot):
    """Put a task at the end of a linked list; `queue` is a record with its `queue_head` and `queue_tail`."""
    tail = queue.queue_tail
    task[slot].previous = tail
    task[slot].next = NONE
    if tail == NONE:
        queue.queue_head = slot
    else:
        task[tail].next = slot
    queue.queue_tail = slot


@kernel
def unlink(task, queue, slot):
    """Take a task out of a linked list, wherever it stands; `queue` as in `append`."""
    before = task[slot].previous
    after = task[slot].next
    if before == NONE:
        queue.queue_head = after
    else:
        task[before].next = after
    if after == NONE:
        queue.queue_tail = before
    else:
        task[after].previous = before


@kernel
def receive(scenario, environment, n, slot):
    """Let a task wait at node `n` to join the queue."""
    node = environment.node[n]
    task = environment.task
    tail = node.received_tail
    node.overdue_s = min(node.overdue_s, task[slot].deadline_s + scenario.settings[0].expiry_grace_s)
    task[slot].received = 1
    task[slot].previous = tail
    task[slot].next = NONE
    if tail == NONE:
        node.received_head = slot
    else:
        task[tail].next = slot
    node.received_tail = slot


@kernel
def join_queue(scenario, environment, n):
    """Let all tasks that node `n` has received join its queue, in the order in which they came."""
    node = environment.node[n]
    task = environment.task
    slot = node.received_head
    node.received_head = NONE
    node.received_tail = NONE
    while slot != NONE:
        after = task[slot].next
        task[slot].received = 0
        _join(scenario, environment, n, slot)
        slot = after


@kernel
def dequeue_first(scenario, environment, n):
    """Take the next task to be served out of node `n`'s queue."""
    discipline = scenario.node[n].queue
    node = environment.node[n]
    task = environment.task
    first = node.queue_head
    if has_extensions(scenario) and task[first].undecided:
        withdraw(task, node, first)
    if has_extensions(scenario) and discipline > LIFO:
        _leave_queue(task, node, discipline, first)
    else:
        after = task[first].next
        node.queue_head = after
        if after == NONE:
            node.queue_tail = NONE
        else:
            task[after].previous = NONE


@kernel
def leave_queue(scenario, environment, n, slot, now_s):
    """Take a waiting task out of node `n`'s queue, or out of what it has received, without serving it."""
    node = environment.node[n]
    task = environment.task[slot]
    if has_ticks(scenario) and task.received:
        _leave_received(environment.task, node, slot)
    else:
        _leave_queue(environment.task, node, scenario.node[n].queue, slot)
    if has_extensions(scenario) and task.undecided:
        withdraw(environment.task, node, slot)
    task.waiting_s += now_s - task.since_s


# These two are called, not inlined: they would bloat every place where a task waits, FIFO's too.
@called_kernel
def _enter_queue(task, node, discipline, slot):
    """Let a task wait where the discipline is not FIFO."""
    head = node.queue_head
    if discipline == LIFO:
        task[slot].previous = NONE
        task[slot].next = head
        if head == NONE:
            node.queue_tail = slot
        else:
            task[head].previous = slot
        node.queue_head = slot
        return
    node.queue_head = enter_heap(task, discipline, head, slot)


@called_kernel
def _leave_queue(task, node, discipline, slot):
    """Take a task out of a queue of any discipline."""
    if discipline > LIFO:
        node.queue_head = leave_heap(task, discipline, node.queue_head, slot)
        return
    unlink(task, node, slot)


@called_kernel
def _leave_received(task, node, slot):
    """Take a task out of those that wait to join the queue."""
    before = task[slot].previous
    after = task[slot].next
    task[slot].received = 0
    if before == NONE:
        node.received_head = after
    else:
        task[before].next = after
    if after == NONE:
        node.received_tail = before
    else:
        task[after].previous = before


@kernel
def _following(task, slot):
    """Return the task after another one in a walk through a queue of any discipline, from its head on; or NONE."""
    if task[slot].child != NONE:
        return task[slot].child
    while task[slot].next == NONE:
        before = task[slot].previous
        while before != NONE and task[before].child != slot:
            slot = before
            before = task[slot].previous
        if before == NONE:
            return NONE
        slot = before  # the parent, whose own siblings come next
    return task[slot].next


@called_kernel
def first_overdue(task, node, grace_s, until_s):
    """Return a task in a node's queue that expires until some time, or NONE; `overdue_s` is then the next expiry."""
    node.overdue_s = np.inf
    slot = node.received_head
    while slot != NONE:
        node.overdue_s = min(node.overdue_s, task[slot].deadline_s + grace_s)
        slot = task[slot].next
    slot = node.queue_head
    while slot != NONE:
        expires_s = task[slot].deadline_s + grace_s
        if expires_s <= until_s:
            return slot
        node.overdue_s = min(node.overdue_s, expires_s)
        slot = _following(task, slot)
    return NONE


@kernel
def _append_list(task, slot, order, count):
    """Write the tasks of a list into `order` from place `count` on and return the place behind them."""
    while slot != NONE:
        order[count] = slot
        count += 1
        slot = task[slot].next
    return count


@called_kernel
def sort_tasks(task, discipline, order, count):
    """Sort the first tasks in `order` by a discipline, in place: Shell's sort."""
    gap = count // 2
    while gap > 0:
        for i in range(gap, count):
            slot = order[i]
            place = i
            while place >= gap and goes_before(task, discipline, slot, order[place - gap]):
                order[place] = order[place - gap]
                place -= gap
            order[place] = slot
        gap //= 2


@called_kernel
def in_order_of_service(task, discipline, head, received, order):
    """Write the waiting tasks into `order` [tasks] and return their number.

    Those from `received` on, if it is not NONE, will join the queue one after the other.
    """
    count = 0
    if discipline == FIFO:
        count = _append_list(task, head, order, count)
        return _append_list(task, received, order, count)
    count = _append_list(task, received, order, count)
    if discipline == LIFO:
        for place in range(count // 2):
            order[place], order[count - 1 - place] = order[count - 1 - place], order[place]
        return _append_list(task, head, order, count)
    place = count
    if head != NONE:
        order[count] = head
        count += 1
    while place < count:
        slot = task[order[place]].child
        while slot != NONE:
            order[count] = slot
            count += 1
            slot = task[slot].next
        place += 1
    sort_tasks(task, discipline, order, count)  # a heap read level by level is nearly in order
    return count
