"""The life of a task in the arrays: slots, queues, deadlines, and the account it leaves when it ends."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.events.deadlines import forget_deadline
from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.metrics import (
    HISTOGRAM_BINS,
    HISTOGRAM_BITS,
    HISTOGRAM_LOWEST,
    RESPONSES,
    UNFINISHED_SCORES,
)
from offload_rllib.simulator.types import (
    EXPIRED,
    EXPIRY_ABORT,
    EXPIRY_NEVER,
    FINISHED,
    FREE,
    LATE,
    LOST,
    NODE_FAILED,
    NONE,
    OVERDUE,
    QUEUE_FULL,
    REJECTED,
    RETURNING,
    SENT_BACK,
    TRANSFERRED,
)
from offload_rllib.simulator.variants import has_extensions

_MANTISSA_SHIFT = np.int64(52 - HISTOGRAM_BITS)
_BEFORE_FIRST = (np.float64(HISTOGRAM_LOWEST).view(np.int64) >> _MANTISSA_SHIFT) - np.int64(1)


@kernel
def histogram_bin(seconds):
    """Return the bin of a time: the exponent and the first mantissa bits of its binary representation.

    What is below the range is in the first bin, what is above it in the last.
    """
    index = (np.float64(seconds).view(np.int64) >> _MANTISSA_SHIFT) - _BEFORE_FIRST
    return min(max(index, 0), HISTOGRAM_BINS - 1)


@kernel
def change_tasks(scenario, environment, n, now_s, by, bits):
    """Add `by` to the number of tasks at node `n`, and `bits` to their inputs; bring time integrals up to date."""
    node = environment.node[n]
    elapsed = now_s - node.changed_s
    node.task_seconds += node.tasks * elapsed
    if node.tasks >= scenario.node[n].capacity:
        node.full_seconds += elapsed
    node.changed_s = now_s
    node.tasks += by
    if has_extensions(scenario):
        node.bits = node.bits + bits if node.tasks > 0 else 0.0


@kernel
def integrate_unfinished(account, now_s):
    """Bring the time integral of the unfinished tasks of an account, each by its weight, up to date."""
    account.own_task_seconds += account.own_weight * (now_s - account.own_changed_s)
    account.own_changed_s = now_s


@kernel
def _change_unfinished(account, now_s, by, weight):
    integrate_unfinished(account, now_s)
    account.own_unfinished += by
    if account.own_unfinished == 0:
        account.own_weight = 0.0  # no rounding is carried from one time to the next
    else:
        account.own_weight += by * weight


@kernel
def change_unfinished(environment, node, now_s, by, weight):
    """Add `by` to the number of unfinished tasks that originate at a node, and `by` times `weight` to their weight."""
    _change_unfinished(node, now_s, by, weight)
    _change_unfinished(environment.episode[0], now_s, by, weight)


@kernel
def _count_end(account, finished, weight, drop_cost_s):
    """Enter a task that ended into an account."""
    if finished:
        account.own_finished += weight
    else:
        account.own_dropped += weight
        account.own_drop_cost_s += drop_cost_s


@kernel
def append_held(environment, node, slot):
    """Append a task to those its node's agent has to decide."""
    task = environment.task
    tail = node.held_tail
    task[slot].undecided = 1
    task[slot].held_previous = tail
    task[slot].held_next = NONE
    if tail == NONE:
        node.held_head = slot
    else:
        task[tail].held_next = slot
    node.held_tail = slot
    node.held += 1
    node.held_work += task[slot].work
    node.advertised_from_s = -1.0


@kernel
def insert_held(environment, node, slot, following):
    """Put a task before another one, or last (`following` is NONE), among those its node's agent has to decide."""
    if following == NONE:
        append_held(environment, node, slot)
        return
    task = environment.task
    before = task[following].held_previous
    task[slot].undecided = 1
    task[slot].held_previous = before
    task[slot].held_next = following
    task[following].held_previous = slot
    if before == NONE:
        node.held_head = slot
    else:
        task[before].held_next = slot
    node.held += 1
    node.held_work += task[slot].work
    node.advertised_from_s = -1.0


@kernel
def remove_held(environment, node, slot):
    """Remove a task from those its node's agent has to decide."""
    _unlink_held(environment.task, node, slot)


@called_kernel
def withdraw(task, node, slot):
    """Do the same as `remove_held`, called and not inlined: for where it is rare."""
    _unlink_held(task, node, slot)


@kernel
def _unlink_held(task, node, slot):
    before = task[slot].held_previous
    after = task[slot].held_next
    task[slot].undecided = 0
    if before == NONE:
        node.held_head = after
    else:
        task[before].held_next = after
    if after == NONE:
        node.held_tail = before
    else:
        task[after].held_previous = before
    node.held -= 1
    node.advertised_from_s = -1.0
    if node.held == 0:
        node.held_work = 0.0  # no rounding is carried from one time to the next
    else:
        node.held_work -= task[slot].work


@kernel
def score_of_unfinished(settings, task, age_s):
    """Return the score in seconds of a task that never finishes: no less than if it finished as late as it could.

    That is at its deadline where late tasks are aborted, and else at the end of the episode; never below `drop_s`.
    """
    latest_s = settings.horizon_s
    if settings.expiry == EXPIRY_ABORT and task.deadline_s != np.inf:
        latest_s = task.deadline_s
    return max(latest_s - task.created_s, age_s, settings.drop_s)


@kernel
def _charge(scenario, cost, task, outcome):
    """Add what a task that ended costs to the costs of its origin and to those of all nodes."""
    for c in range(cost.shape[1]):
        price = scenario.cost[c, task.type, outcome]
        if price != 0.0:
            cost[task.origin, c] += price
            cost[cost.shape[0] - 1, c] += price


@kernel
def account(scenario, environment, slot, now_s, outcome):
    """Enter a task that ended, or is still open at the end of the episode, into the metrics and the log."""
    settings = scenario.settings[0]
    task = environment.task[slot]
    age = now_s - task.created_s
    returning = task.service_end_s
    return_s = now_s - returning if outcome == FINISHED else 0.0
    if settings.score_from_s <= task.created_s < settings.score_until_s:
        metrics = environment.metrics[task.type]
        histogram = environment.histogram[task.type]
        metrics.created += 1
        if task.hops > 0:
            metrics.offloaded += 1
        if outcome == FINISHED:
            score = age
            metrics.finished += 1
            if now_s > task.deadline_s:
                metrics.late += 1
            metrics.response_sum_s += age
            metrics.holding_sum_s += task.holding_s
            metrics.waiting_sum_s += task.waiting_s
            metrics.service_sum_s += task.service_s
            metrics.transfer_sum_s += task.transfer_s
            metrics.return_sum_s += return_s
            histogram[RESPONSES, histogram_bin(age)] += np.uint32(1)
        else:
            score = score_of_unfinished(settings, task, age)
            if outcome == QUEUE_FULL:
                metrics.queue_full += 1
            elif outcome == EXPIRED:
                metrics.expired += 1
            elif outcome == LOST:
                metrics.lost += 1
            elif outcome == NODE_FAILED:
                metrics.node_failed += 1
            elif outcome == REJECTED:
                metrics.rejected += 1
            else:
                metrics.unfinished += 1
            histogram[UNFINISHED_SCORES, histogram_bin(score)] += np.uint32(1)
        metrics.score_sum_s += score
        origin = environment.node[task.origin]
        weight = scenario.type_weight[task.type]
        origin.score_sum_s += weight * score
        origin.scored += weight
        late = outcome == FINISHED and now_s > task.deadline_s
        _charge(scenario, environment.cost, task, LATE if late else outcome)
    if environment.log.shape[0] > task.number:
        row = environment.log[task.number]
        row.created_s = task.created_s
        row.deadline_s = task.deadline_s
        row.ended_s = now_s
        row.work = task.work
        row.bits_in = task.bits_in
        row.bits_out = task.bits_out
        row.holding_s = task.holding_s
        row.waiting_s = task.waiting_s
        row.service_s = task.service_s
        row.transfer_s = task.transfer_s
        row.return_s = return_s
        row.origin = task.origin
        row.type = task.type
        row.node = task.node
        row.hops = task.hops
        row.outcome = outcome


@kernel
def expiry_of(settings, task):
    """Return when a task would expire if it still waited then; infinite if nothing expires."""
    return np.inf if settings.expiry == EXPIRY_NEVER else task.deadline_s + settings.expiry_grace_s


@kernel
def stop_awaiting(origin, task):
    """Let a task's origin wait no longer for its result: it is there, or will not come, by all that the node knows.

    A node knows what happens to tasks at itself, and how late it is. No message tells it of a drop elsewhere.
    """
    origin.own_awaited -= task.awaited
    task.awaited = 0


@kernel
def _await_in_vain(scenario, environment, task, now_s, outcome):
    """Let the origin of a task that ended wait on if it cannot know of the end."""
    settings = scenario.settings[0]
    origin = environment.node[task.origin]
    here = task.node == task.origin and task.stage not in (TRANSFERRED, RETURNING, SENT_BACK)
    expire_s = expiry_of(settings, task)
    if outcome == FINISHED or here or now_s >= expire_s:
        stop_awaiting(origin, task)
    elif expire_s <= settings.horizon_s:
        environment.episode[0].overdue_in_heap += 1
        push(environment, expire_s, event_key(OVERDUE, task.origin, task.number), NONE)


@kernel
def release(scenario, environment, slot, now_s, outcome):
    """End a task: close its origin's account, enter it into the metrics, and give its slot back."""
    settings = scenario.settings[0]
    episode = environment.episode[0]
    task = environment.task[slot]
    origin = environment.node[task.origin]
    weight = scenario.type_weight[task.type]
    change_unfinished(environment, origin, now_s, -1, weight)
    _await_in_vain(scenario, environment, task, now_s, outcome)
    age = now_s - task.created_s
    drop_cost_s = weight * (score_of_unfinished(settings, task, age) - age)
    _count_end(origin, outcome == FINISHED, weight, drop_cost_s)
    _count_end(episode, outcome == FINISHED, weight, drop_cost_s)
    if outcome == FINISHED:
        episode.finished += 1
    elif outcome == QUEUE_FULL:
        episode.dropped_queue_full += 1
    elif outcome == EXPIRED:
        episode.dropped_expired += 1
    elif outcome == LOST:
        episode.dropped_lost += 1
    elif outcome == REJECTED:
        episode.dropped_rejected += 1
    else:
        episode.dropped_node_failed += 1
    account(scenario, environment, slot, now_s, outcome)
    forget_deadline(environment, slot)
    task.stage = FREE
    environment.free[episode.free_slots] = slot
    episode.free_slots += 1
