"""What nodes tell their neighbours."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.variants import has_extensions, has_ticks
from offload_rllib.simulator.waits import advertised_free_at


@kernel
def broadcast(scenario, environment, n, turn, now_s):
    """Note what node `n` tells its neighbours at `now_s`: its state, and what it had received from each."""
    node = environment.node[n]
    place = turn & (environment.broadcast.shape[1] - 1)
    message = environment.broadcast[n, place]
    message.stamp_s = now_s
    if has_extensions(scenario):
        # The silence of a node that is down tells its neighbours as much: that it is down, and empty.
        environment.usage[n].broadcasts += 1 - node.down
        message.down = node.down
    message.tasks = node.tasks
    message.free_s = advertised_free_at(scenario, environment, n, now_s)
    here = scenario.node[n]
    for link in range(here.first_link, here.first_link + here.degree):
        incoming = scenario.link[link].reverse
        environment.broadcast_link[incoming, place].arrived = environment.link[incoming].arrived
        environment.broadcast_link[incoming, place].arrived_work = environment.link[incoming].arrived_work


@kernel
def next_broadcast(scenario, environment):
    """Return the time of the next broadcast: nodes take turns in the order of their phases."""
    settings = scenario.settings[0]
    interval_s = settings.broadcast_interval_s
    if interval_s <= 0.0 or (has_ticks(scenario)):
        return np.inf
    episode = environment.episode[0]
    n = environment.broadcast_order[episode.broadcast_position]
    return environment.node[n].phase_s + episode.broadcast_round * interval_s
