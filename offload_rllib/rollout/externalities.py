"""What a task costs the others that join the same queue: the queue is played again without it.

Servers take tasks in the order in which they joined, so one pass over the tasks gives the score of each. This is the
recursion of D. V. Lindley ("The theory of queues with a single server", Mathematical Proceedings of the Cambridge
Philosophical Society 48(2), 1952), and with several servers that of J. Kiefer and J. Wolfowitz ("On the theory of
queues with many servers", Transactions of the American Mathematical Society 78, 1955). A second pass, without one
task, continues until both agree again. The difference of the scores of all others is the externality of the task. By a
figure that a constraint bounds it is the number of others that the figure counts, minus their number without the task.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import EXPIRED, FINISHED, LATE, OPEN, QUEUE_FULL, Array


class Joined(NamedTuple):
    """The tasks that joined a node, in the order in which they did: columns [n] float64, `type` int64."""

    joined_s: Array
    """Time, since the episode began; so are the other times."""
    service_s: Array
    """How long a server needs."""
    bits: Array
    """That the task occupies in memory."""
    begin_until_s: Array
    """A task that still waits at this time is dropped."""
    end_until_s: Array
    """A task whose result is not back at this time is dropped, and leaves its server."""
    created_s: Array
    return_s: Array
    """How long the result travels."""
    unfinished_s: Array
    """Score of the task if it is dropped."""
    weight: Array
    """Of the task's score."""
    deadline_s: Array
    """A task that finishes after it is late."""
    type: Array


class Course(NamedTuple):
    """What happens to these tasks: columns [n] float64, `outcome` int64, written task by task."""

    score_s: Array
    outcome: Array
    """How it ends: FINISHED, QUEUE_FULL, EXPIRED, LATE, or OPEN where the episode ends first."""
    left_s: Array
    """When the task leaves the node."""
    all_left_s: Array
    """When it and all before it have left."""


def empty_course(tasks: int) -> Course:
    """Return columns for so many tasks."""
    return Course(np.zeros(tasks), np.zeros(tasks, np.int64), np.zeros(tasks), np.zeros(tasks))


@kernel
def _join(queue: Joined, course: Course, k: int, tasks: int, bits: float, horizon_s: float, free_s: Array) -> None:
    """Let task `k` join behind those before it.

    Args:
        queue: `Joined`.
        course: `Course`, up to task k - 1; task k is written.
        k: index of the task.
        tasks: capacity of the node.
        bits: the same in bits.
        horizon_s: end of the episode.
        free_s: [servers] float64, when each server is free, ascending; changed in place.
    """
    joined_s = queue.joined_s[k]
    tasks_inside, bits_inside = 0, queue.bits[k]
    # Where there is room for all, those inside are not counted: they may be very many.
    i = k - 1 if tasks <= k or bits < np.inf else -1
    while i >= 0 and course.all_left_s[i] > joined_s:
        if course.left_s[i] > joined_s:
            tasks_inside += 1
            bits_inside += queue.bits[i]
        i -= 1
    course.score_s[k], course.outcome[k] = queue.unfinished_s[k], QUEUE_FULL
    left_s = joined_s
    if tasks_inside < tasks and bits_inside <= bits:
        begin_s = max(joined_s, free_s[0])
        left_s = queue.begin_until_s[k]
        course.outcome[k] = EXPIRED if left_s < horizon_s else OPEN
        if begin_s < left_s:
            end_s = begin_s + queue.service_s[k]
            left_s = min(end_s, queue.end_until_s[k])
            back_s = end_s + queue.return_s[k]
            if back_s <= queue.end_until_s[k]:
                course.score_s[k] = back_s - queue.created_s[k]
                course.outcome[k] = LATE if back_s > queue.deadline_s[k] else FINISHED
            else:
                course.outcome[k] = EXPIRED if queue.end_until_s[k] < horizon_s else OPEN
            place = 0
            while place + 1 < free_s.shape[0] and free_s[place + 1] < left_s:
                free_s[place] = free_s[place + 1]
                place += 1
            free_s[place] = left_s
    course.left_s[k] = left_s
    course.all_left_s[k] = left_s if k == 0 else max(course.all_left_s[k - 1], left_s)


@kernel
def _count(charges: Array, kind: int, with_it: int, without: int, counted: Array) -> None:
    """Add to `counted` [C] what the end of a task of a type with another one counts, less what it counts without."""
    for c in range(charges.shape[0]):
        counted[c] += charges[c, kind, with_it] - charges[c, kind, without]


@kernel
def charge_externalities(
    queue: Joined,
    charges: Array,
    tasks: int,
    bits: float,
    horizon_s: float,
    as_it_was: Course,
    without: Course,
    free_s: Array,
    now_free_s: Array,
    cost_s: Array,
    counted: Array,
) -> None:
    """Add to the cost of every task what it costs those that joined behind it.

    Args:
        queue: `Joined`, of n tasks.
        charges: [C, Y, OUTCOMES] float64, what a figure counts (see `envs.costs.cost_table`).
        tasks: capacity of the node.
        bits: the same in bits.
        horizon_s: end of the episode.
        as_it_was: `Course`, overwritten.
        without: `Course`, scratch.
        free_s: [n + 1, servers] float64, scratch, 0.
        now_free_s: [servers] float64, scratch, 0.
        cost_s: [n] float64, added to.
        counted: [n, C] float64, added to: how many more tasks each figure counts.
    """
    count, servers = queue.joined_s.shape[0], now_free_s.shape[0]
    for k in range(count):
        _join(queue, as_it_was, k, tasks, bits, horizon_s, now_free_s)
        without.left_s[k] = as_it_was.left_s[k]
        without.all_left_s[k] = as_it_was.all_left_s[k]
        for s in range(servers):
            free_s[k + 1, s] = now_free_s[s]
    for i in range(count):
        for s in range(servers):
            now_free_s[s] = free_s[i, s]
        without.left_s[i] = -np.inf
        without.all_left_s[i] = -np.inf if i == 0 else as_it_was.all_left_s[i - 1]
        differ_until_s = as_it_was.left_s[i]
        k = i
        differs = True
        while differs and k + 1 < count:
            k += 1
            _join(queue, without, k, tasks, bits, horizon_s, now_free_s)
            cost_s[i] += queue.weight[k] * (as_it_was.score_s[k] - without.score_s[k])
            _count(charges, queue.type[k], as_it_was.outcome[k], without.outcome[k], counted[i])
            if without.left_s[k] != as_it_was.left_s[k]:
                differ_until_s = max(differ_until_s, without.left_s[k], as_it_was.left_s[k])
            # Those that join later find the same number inside, and servers that are free at the same times.
            joined_s = queue.joined_s[k]
            differs = differ_until_s > joined_s
            for s in range(servers):
                if max(now_free_s[s], joined_s) != max(free_s[k + 1, s], joined_s):
                    differs = True
        for back in range(i, k + 1):
            without.left_s[back] = as_it_was.left_s[back]
            without.all_left_s[back] = as_it_was.all_left_s[back]
