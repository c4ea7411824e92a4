"""A pairing heap of tasks: those that wait where the queue has an order, and those that share the cores of a node.

M. L. Fredman, R. Sedgewick, D. D. Sleator, R. E. Tarjan, "The pairing heap: a new form of self-adjusting heap",
Algorithmica 1, 1986. The links are fields of the tasks' own records, so that heaps need no arrays of their own. A task
enters in constant time and leaves, from any position, in amortised O(log n). `child` is a task's first child, `next`
its right sibling, `previous` its left sibling, or its parent if it is a first child. A heap is known by its root, the
task that goes before all others; NONE: it is empty.
"""

from __future__ import annotations

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import EDF, NONE, PRIORITY, SHARING


@kernel
def goes_before(task, discipline, a, b):
    """Return whether task `a` goes before `b`: by deadline, priority, work, or end of service; equals by creation."""
    if discipline == EDF:
        first = task[a].deadline_s
        second = task[b].deadline_s
    elif discipline == SHARING:
        first = task[a].work_end
        second = task[b].work_end
    elif discipline == PRIORITY:
        first = -float(task[a].priority)
        second = -float(task[b].priority)
    else:
        first = task[a].work
        second = task[b].work
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


@kernel
def enter_heap(task, discipline, root, slot):
    """Put a task into a heap and return its new root."""
    task[slot].previous = NONE
    task[slot].child = NONE
    task[slot].next = NONE
    return slot if root == NONE else _meld(task, discipline, root, slot)


@kernel
def leave_heap(task, discipline, root, slot):
    """Take a task out of a heap, from any position, and return its new root."""
    before = task[slot].previous
    after = task[slot].next
    below = _meld_siblings(task, discipline, task[slot].child)
    if slot == root:
        return below
    if task[before].child == slot:
        task[before].child = after
    else:
        task[before].next = after
    if after != NONE:
        task[after].previous = before
    return root if below == NONE else _meld(task, discipline, root, below)
