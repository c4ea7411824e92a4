"""The waiting tasks of a node, in the order in which its servers take them: first in first out, and other disciplines.

FIFO and LIFO are doubly linked lists. EDF and SJF are pairing heaps (M. L. Fredman, R. Sedgewick, D. D. Sleator,
R. E. Tarjan, "The pairing heap: a new form of self-adjusting heap", Algorithmica 1, 1986). Their links are fields of
the tasks' own records, so that they need no arrays of their own. A task enters in constant time and leaves, from any
position, in amortised O(log n). Whatever the discipline, `queue_head` is the next task to be served.

Where time has ticks, a task that comes from its client is received first, and joins the queue later (see `ticks` and
`docs/peersimgym.md`). It waits all the same: it counts among the node's tasks, and in the node's wait (see `waits`).

In a heap `child` is a task's first child, `next` its right sibling, `previous` its left sibling, or its parent if it
is a first child.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.tasks import withdraw
from offload_rllib.simulator.types import EDF, FIFO, LIFO, NONE
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
    tail = node.queue_tail
    task[slot].previous = tail
    task[slot].next = NONE
    if tail == NONE:
        node.queue_head = slot
    else:
        task[tail].next = slot
    node.queue_tail = slot


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


@kernel
def goes_before(task, discipline, a, b):
    """Return whether task `a` is served before `b`: by deadline or work, equals in order of creation."""
    first = task[a].deadline_s if discipline == EDF else task[a].work
    second = task[b].deadline_s if discipline == EDF else task[b].work
    return first < second or (first == second and task[a].number < task[b].number)


@kernel
def _meld(task, discipline, a, b):
    """Make one heap of two, given by their roots, and return its root; its own siblings are left as they were."""
    if goes_before(task, discipline, b, a):
        root, loser = b, a
    else:
        root, loser = a, b
    first = task[root].child
    task[loser].next = first
    task[loser].previous = root
    if first != NONE:
        task[first].previous = loser
    task[root].child = loser
    return root


@kernel
def _meld_siblings(task, discipline, first):
    """Make one heap of a list of siblings in two passes, pairs from the left, then all from the right."""
    pairs = NONE
    while first != NONE:
        root = first
        second = task[first].next
        if second == NONE:
            first = NONE
        else:
            first = task[second].next
            root = _meld(task, discipline, root, second)
        task[root].next = pairs
        pairs = root
    if pairs == NONE:
        return NONE
    root = pairs
    rest = task[pairs].next
    while rest != NONE:
        following = task[rest].next
        root = _meld(task, discipline, root, rest)
        rest = following
    task[root].next = NONE
    task[root].previous = NONE
    return root


# These two are called, not inlined: they would bloat every place where a task waits, FIFO's too.
@called_kernel
def _enter_queue(task, node, discipline, slot):
    """Let a task wait where the discipline is not FIFO."""
    head = node.queue_head
    task[slot].previous = NONE
    if discipline == LIFO:
        task[slot].next = head
        if head == NONE:
            node.queue_tail = slot
        else:
            task[head].previous = slot
        node.queue_head = slot
        return
    task[slot].child = NONE
    task[slot].next = NONE
    node.queue_head = slot if head == NONE else _meld(task, discipline, head, slot)


@called_kernel
def _leave_queue(task, node, discipline, slot):
    """Take a task out of a queue of any discipline."""
    before = task[slot].previous
    after = task[slot].next
    if discipline <= LIFO:
        if before == NONE:
            node.queue_head = after
        else:
            task[before].next = after
        if after == NONE:
            node.queue_tail = before
        else:
            task[after].previous = before
        return
    root = node.queue_head
    below = _meld_siblings(task, discipline, task[slot].child)
    if slot == root:
        node.queue_head = below
        return
    if task[before].child == slot:
        task[before].child = after
    else:
        task[before].next = after
    if after != NONE:
        task[after].previous = before
    if below != NONE:
        node.queue_head = _meld(task, discipline, root, below)


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
