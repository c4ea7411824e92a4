"""Messages over paths of several links: store and forward, one link after the other.

The nodes on the way only pass a message on: it does not count in their queues, it is not decided there, and a node that
is down passes it on as well. `State.leg` [E, T] says how many links of its path a task, or its result, has been given
to. Where all links of a path are plain it has no legs, and is crossed like one link.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.links import expected_transfer, sending_time
from offload_rllib.simulator.types import RETURNING, TRANSFERRED
from offload_rllib.simulator.variants import has_extensions


@kernel
def has_legs(scenario):
    """Return whether there are paths whose links are crossed one by one."""
    return has_extensions(scenario) and scenario.leg.shape[0] > 0


@kernel
def legs_of(scenario, link_index):
    """Return the number of legs of a path; 0 of a link."""
    return np.int64(scenario.first_leg[link_index + 1] - scenario.first_leg[link_index])


@kernel
def begin_path(scenario, environment, slot, link_index):
    """Return the link that a message over a path, or over a link, is given to first."""
    if not has_legs(scenario) or legs_of(scenario, link_index) == 0:
        return np.int64(link_index)
    environment.leg[slot] = 1
    return np.int64(scenario.leg[scenario.first_leg[link_index]])


@kernel
def path_of(scenario, environment, slot):
    """Return the path, or the link, that a task or its result is on."""
    task = environment.task[slot]
    if task.stage == RETURNING:
        return np.int64(scenario.link[environment.path[slot, task.hops_left]].reverse)
    return np.int64(environment.path[slot, task.hops - 1])


@kernel
def is_on_the_way(scenario, environment, slot):
    """Return whether a task, or a result, that has crossed a link has links of its path before it."""
    if not has_legs(scenario):
        return False
    task = environment.task[slot]
    if task.stage not in (TRANSFERRED, RETURNING):
        return False
    return environment.leg[slot] < legs_of(scenario, path_of(scenario, environment, slot))


@kernel
def next_on_path(scenario, environment, slot):
    """Return the next link of the path that a task or a result is on; it must have one."""
    path = path_of(scenario, environment, slot)
    link_index = scenario.leg[scenario.first_leg[path] + environment.leg[slot]]
    environment.leg[slot] += 1
    return np.int64(link_index)


@kernel
def expected_way(scenario, environment, link_index, bits, now_s):
    """Return the seconds that a node expects a message over a path of several links to take.

    It knows how long its own link will be busy, and nothing of the queues further on.
    """
    first = scenario.first_leg[link_index]
    seconds = expected_transfer(scenario, environment, np.int64(scenario.leg[first]), bits, now_s)
    for place in range(first + 1, scenario.first_leg[link_index + 1]):
        leg = np.int64(scenario.leg[place])
        seconds += scenario.link[leg].latency_s + sending_time(scenario, leg, bits)
    return seconds
