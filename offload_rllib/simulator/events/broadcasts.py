"""What nodes tell their neighbours: their state, and what they have received from each, at regular intervals.

A broadcast is no event. What a node tells in a turn is its state at that time, everything included that happens at that
very instant. The state is saved just before it changes, for all turns since the last change; who reads a turn that
came later finds the present state. So a second in which nothing happens costs nothing, however often nodes broadcast.
Where time has ticks, a node tells its state when it has worked (see `tick_work`).
"""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator.events.setups import has_setups, warm_types
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.variants import has_extensions
from offload_rllib.simulator.waits import advertised_free_at


@kernel
def has_outlooks(scenario):
    """Return whether broadcasts tell what their senders saw at their last decisions."""
    return has_extensions(scenario) and scenario.settings[0].outlook > 0


@kernel
def schedule_broadcasts(scenario, environment, n):
    """Let nothing be saved yet of node `n`, whose `phase_s` is set; with fresh information nothing ever is."""
    interval_s = scenario.settings[0].broadcast_interval_s
    node = environment.node[n]
    node.unsaved_turn = 0
    node.next_broadcast_s = node.phase_s if interval_s > 0.0 and scenario.settings[0].tick_s <= 0.0 else np.inf


@kernel
def _write(scenario, environment, n, turn, stamp_s):
    """Write what node `n` tells of itself at a time."""
    message = environment.broadcast[n, turn & (environment.broadcast.shape[1] - 1)]
    message.tasks = environment.node[n].tasks
    message.free_s = advertised_free_at(scenario, environment, n, stamp_s)
    if has_extensions(scenario):
        # The silence of a node that is down tells its neighbours as much: that it is down, and empty.
        message.down = environment.node[n].down
        if has_setups(scenario):
            place = turn & (environment.broadcast.shape[1] - 1)
            environment.broadcast_warm[n, place] = warm_types(scenario, environment, n, stamp_s)
        if has_outlooks(scenario):
            told = environment.broadcast_outlook[n, turn & (environment.broadcast.shape[1] - 1)]
            for k in range(told.shape[0]):
                told[k] = environment.outlook[n, k]


@kernel
def save_broadcasts(scenario, environment, n, now_s):
    """Save the last broadcast of node `n` before `now_s`, at which it is about to change."""
    node = environment.node[n]
    if now_s <= node.next_broadcast_s:
        return
    interval_s = scenario.settings[0].broadcast_interval_s
    phase_s = node.phase_s
    first = node.unsaved_turn
    last = np.int64((now_s - phase_s) / interval_s)
    # The last one before `now_s`; division rounds.
    while phase_s + last * interval_s >= now_s:
        last -= 1
    while phase_s + (last + 1) * interval_s < now_s:
        last += 1
    for turn in range(max(first, last + 1 - environment.broadcast.shape[1]), last + 1):
        _write(scenario, environment, n, turn, phase_s + turn * interval_s)
    if has_extensions(scenario):
        environment.usage[n].broadcasts += (last + 1 - first) * (1 - node.down)
    node.unsaved_turn = last + 1
    node.next_broadcast_s = phase_s + (last + 1) * interval_s


@kernel
def save_counts(scenario, environment, link_index):
    """Save what a link's destination has broadcast of the tasks it received over it; they are about to change.

    The node's own broadcast must have been saved.
    """
    link = environment.link[link_index]
    latest = environment.node[scenario.link[link_index].destination].unsaved_turn
    room = environment.broadcast_link.shape[1]
    for turn in range(max(link.unsaved_turn, latest - room), latest):
        counted = environment.broadcast_link[link_index, turn & (room - 1)]
        counted.arrived = link.arrived
        counted.arrived_work = link.arrived_work
    link.unsaved_turn = latest


@kernel
def broadcast_in_tick(scenario, environment, n, tick, now_s):
    """Note what node `n` tells its neighbours in a tick: its state, and what it had received from each."""
    if has_extensions(scenario):
        environment.usage[n].broadcasts += 1 - environment.node[n].down
    _write(scenario, environment, n, tick, now_s)
    place = tick & (environment.broadcast.shape[1] - 1)
    here = scenario.node[n]
    for link in range(here.first_link, here.first_link + here.degree):
        incoming = scenario.link[link].reverse
        environment.broadcast_link[incoming, place].arrived = environment.link[incoming].arrived
        environment.broadcast_link[incoming, place].arrived_work = environment.link[incoming].arrived_work


@kernel
def turn_heard(phase_s, interval_s, delay_s, now_s):
    """Return the number of the last broadcast that has arrived over a link; below 0 if none has."""
    # A delay beyond the episode may be too long to be counted in intervals.
    turn = np.int64(math.floor(max((now_s - delay_s - phase_s) / interval_s, -1.0)))
    if phase_s + turn * interval_s + delay_s > now_s:
        turn -= 1  # the division rounded up
    return turn
