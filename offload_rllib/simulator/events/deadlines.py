"""Tasks filed by the time at which they expire, so that few of them are in the heap of events.

Most tasks end long before their deadline. They are filed in buckets of equal width, from which they are taken in
constant time; only the expiries that fall into the present bucket are events.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import EXPIRE, NONE


@kernel
def watch_deadline(scenario, environment, slot, expire_s):
    """Let a task expire at a time: as an event, or filed until its bucket is the present one."""
    if expire_s <= environment.episode[0].bucket_end_s:
        _schedule(environment, slot, expire_s)
    elif expire_s <= scenario.settings[0].horizon_s:
        _file(environment, slot, expire_s, scenario.settings[0].bucket_s)


@kernel
def _file(environment, slot, expire_s, width_s):
    task = environment.task
    bucket = np.int64(expire_s / width_s)
    # A bucket covers (bucket * width, (bucket + 1) * width]; division rounds, so both ends are checked.
    if expire_s <= bucket * width_s and bucket > 0:
        bucket -= 1
    if expire_s > (bucket + 1) * width_s:
        bucket += 1
    bucket = min(bucket, environment.bucket.shape[0] - 1)
    first = environment.bucket[bucket]
    task[slot].bucket = bucket
    task[slot].bucket_previous = NONE
    task[slot].bucket_next = first
    if first != NONE:
        task[first].bucket_previous = slot
    environment.bucket[bucket] = slot


@kernel
def forget_deadline(environment, slot):
    """Take a task out of its bucket, if it is in one."""
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
def _schedule(environment, slot, expire_s):
    """Make an event of a task's expiry; if the task has ended by then, the event finds nothing to do."""
    task = environment.task[slot]
    environment.episode[0].expiries_in_heap += 1
    push(environment, expire_s, event_key(EXPIRE, task.origin, task.number), slot)


@kernel
def open_bucket(scenario, environment):
    """Let the next bucket be the present one, and make events of the expiries in it."""
    settings = scenario.settings[0]
    episode = environment.episode[0]
    episode.bucket += 1
    bucket = episode.bucket
    last = bucket == environment.bucket.shape[0] - 1
    episode.bucket_end_s = np.inf if last else (bucket + 1) * settings.bucket_s
    slot = environment.bucket[bucket]
    environment.bucket[bucket] = NONE
    while slot != NONE:
        task = environment.task[slot]
        following = task.bucket_next
        task.bucket = NONE
        _schedule(environment, slot, task.deadline_s + settings.expiry_grace_s)
        slot = following
