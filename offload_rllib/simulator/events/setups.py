"""Set-ups: what a node has to do before it serves a task of a type that it does not hold warm.

A node holds a number of types, as images and running containers. A service of a type that is not held begins cold: with
the set-up of the type, on the server of the task. From then on the type is held, until it has not been in use for
`keep_warm_s`, or until another type needs its place: that which has been out of use for longest leaves (least recently
used). A service that begins while the type is being set up waits for the same set-up.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.types import NONE, record
from offload_rllib.simulator.variants import has_extensions

WARM = record(  # of a node and a type of tasks, where services may begin with a set-up
    ready_s="f8",  # when it is, or was, set up
    idle_s="f8",  # when it was in use last
    starts="i8",  # services
    cold="i8",  # those that began with the set-up
    users="i4",  # tasks in service
    held="i4",  # 1 unless it had to leave; see also `SETTINGS.keep_warm_s`
)


@kernel
def has_setups(scenario):
    """Return whether services may begin with a set-up."""
    return has_extensions(scenario) and scenario.setup_s.shape[0] > 0


@kernel
def _is_held(warm, keep_warm_s, at_s):
    """Return whether a node holds the type of a WARM record at a time, if nothing changes until then."""
    return warm.held != 0 and (warm.users > 0 or at_s <= warm.idle_s + keep_warm_s)


@called_kernel
def _held_types(warm, keep_warm_s, at_s):
    """Return the types [Y] WARM that a node holds at a time, as the bits of a number."""
    bits = np.uint64(0)
    for y in range(warm.shape[0]):
        if _is_held(warm[y], keep_warm_s, at_s):
            bits |= np.uint64(1) << np.uint64(y)
    return bits


@kernel
def warm_types(scenario, environment, n, at_s):
    """Return the types that node `n` holds at a time not before its last change, as bits; 0 without set-ups."""
    if not has_setups(scenario):
        return np.uint64(0)
    return _held_types(environment.warm[n], scenario.settings[0].keep_warm_s, at_s)


@called_kernel
def _make_room(warm, keep_warm_s, slots, now_s):
    """Let a node forget types until it has a place for one more; one in use keeps its place."""
    while True:
        held = 0
        oldest = NONE
        for y in range(warm.shape[0]):
            if not _is_held(warm[y], keep_warm_s, now_s):
                warm[y].held = 0
                continue
            held += 1
            if warm[y].users == 0 and (oldest == NONE or warm[y].idle_s < warm[oldest].idle_s):
                oldest = y
        if held < slots or oldest == NONE:
            return
        warm[oldest].held = 0


@kernel
def begin_use(scenario, environment, n, task, now_s):
    """Note that a service begins at node `n`; return the seconds of set-up that it begins with."""
    settings = scenario.settings[0]
    types = environment.warm[n]
    warm = types[task.type]
    warm.starts += 1
    if not _is_held(warm, settings.keep_warm_s, now_s):
        if not scenario.node[n].cloud:
            _make_room(types, settings.keep_warm_s, settings.slots, now_s)
        warm.cold += 1
        warm.held = 1
        warm.ready_s = now_s + scenario.setup_s[task.type]
    warm.users += 1
    return max(warm.ready_s - now_s, 0.0)


@kernel
def end_use(environment, n, task, now_s):
    """Note that a service ends at node `n`. A set-up whose tasks have all left is given up."""
    warm = environment.warm[n, task.type]
    warm.users -= 1
    warm.idle_s = now_s
    if warm.users == 0 and now_s < warm.ready_s:
        warm.held = 0


@kernel
def forget_types(scenario, environment, n):
    """Let node `n`, which has failed, hold no type."""
    if has_setups(scenario):
        for y in range(environment.warm.shape[1]):
            environment.warm[n, y].held = 0
