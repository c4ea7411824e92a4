"""Tasks filed by the time at which they expire, so that the heap of events holds few of them."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import EXPIRE, NONE


@kernel
def watch_deadline(environment, slot, expire_s, interval_s):
    """File a task under the decision step in whose course it expires; beyond the episode it is not filed."""
    steps = environment.bucket.shape[0]
    task = environment.task
    if not expire_s < steps * interval_s + interval_s:
        return
    step = np.int64(expire_s / interval_s)
    # A step covers (step * interval, (step + 1) * interval]; division rounds, so both ends are checked.
    if expire_s <= step * interval_s and step > 0:
        step -= 1
    if expire_s > (step + 1) * interval_s:
        step += 1
    if step >= steps:
        return
    first = environment.bucket[step]
    task[slot].bucket = step
    task[slot].bucket_previous = NONE
    task[slot].bucket_next = first
    if first != NONE:
        task[first].bucket_previous = slot
    environment.bucket[step] = slot


@kernel
def forget_deadline(environment, slot):
    """Take a task out of its expiry bucket, if it is in one."""
    task = environment.task
    bucket = task[slot].bucket
    if bucket == NONE:
        return
    before = task[slot].bucket_previous
    after = task[slot].bucket_next
    if before == NONE:
        environment.bucket[bucket] = after
    else:
        task[before].bucket_next = after
    if after != NONE:
        task[after].bucket_previous = before
    task[slot].bucket = NONE


@kernel
def schedule_expiry(environment, slot, expire_s):
    """Let a task expire at a time; if it has ended by then, the event finds nothing to do."""
    task = environment.task[slot]
    environment.episode[0].expiries_in_heap += 1
    push(environment, expire_s, event_key(EXPIRE, task.origin, task.number), slot)


@kernel
def schedule_expiries(scenario, environment):
    """Schedule the expiry of the tasks whose time falls into the step that begins."""
    settings = scenario.settings[0]
    step = environment.episode[0].step
    slot = environment.bucket[step]
    while slot != NONE:
        task = environment.task[slot]
        following = task.bucket_next
        task.bucket = NONE
        schedule_expiry(environment, slot, task.deadline_s + settings.expiry_grace_s)
        slot = following
    environment.bucket[step] = NONE
