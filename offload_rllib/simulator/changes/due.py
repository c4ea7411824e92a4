"""When something changes by itself, and what: rates that follow a schedule, and nodes that move.

What changes is written into the scenario, of which each environment has its own copy then: `LINK.seconds_per_bit`, and
the destinations of nodes that move. So the scenario says what holds at present.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.changes.movement import begin_movement, move, time_of_move
from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.sharing.channels import change_rate
from offload_rllib.simulator.types import record

RATE_CHANGE = record(time_s="f8", seconds_per_bit="f8", link="i4")  # from when on


@kernel
def next_change(scenario, environment):
    """Return when something changes next; infinite if nothing does any more."""
    episode = environment.episode[0]
    time_s = np.inf
    if episode.rate_changes < scenario.rate_change.shape[0]:
        time_s = scenario.rate_change[episode.rate_changes].time_s
    return min(time_s, time_of_move(scenario, environment))


@called_kernel
def make_change(scenario, environment, now_s):
    """Make one of the changes that are due: of a rate, or else of all positions."""
    episode = environment.episode[0]
    if episode.rate_changes < scenario.rate_change.shape[0]:
        change = scenario.rate_change[episode.rate_changes]
        if change.time_s <= now_s:
            episode.rate_changes += 1
            change_rate(scenario, environment, np.int64(change.link), change.seconds_per_bit, now_s)
            return
    move(scenario, environment, now_s)


@kernel
def begin_changes(scenario, environment):
    """Let everything be as at the start of an episode."""
    if scenario.rate_change.shape[0] + scenario.moving.shape[0] == 0:
        return
    for link_index in range(scenario.link.shape[0]):
        scenario.link[link_index].seconds_per_bit = scenario.link_law[link_index].seconds_per_bit
    begin_movement(scenario, environment)
    while next_change(scenario, environment) <= 0.0:
        make_change(scenario, environment, 0.0)
