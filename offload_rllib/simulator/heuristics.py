"""Decision rules that need no training. They know what `information` says a node knows, and nothing else."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.events import environment as environment_of
from offload_rllib.simulator.events import scenario_of
from offload_rllib.simulator.information import estimate, known, offered
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.streams import stream, uniform
from offload_rllib.simulator.types import NONE
from offload_rllib.simulator.variants import is_full

LOCAL = 0
RANDOM = 1
LEAST_QUEUE = 2
SHORTEST_FINISH = 3
ALWAYS_SERVER = 4

HEURISTICS = {
    "local": LOCAL,
    "random": RANDOM,
    "least_queue": LEAST_QUEUE,
    "shortest_finish": SHORTEST_FINISH,
    "always_server": ALWAYS_SERVER,
}

DESCRIPTIONS = {
    "local": "every node processes what reaches it",
    "random": "a valid action, all equally likely",
    "least_queue": "the fewest tasks, as last told, plus what was sent there since",
    "shortest_finish": "the shortest expected time until the result is back, from what the node knows",
    "always_server": "the fastest node in reach",
}


@kernel
def cost(scenario, environment, heuristic, agent, action, slot, now_s):
    """Return what a rule minimises over the actions; equal costs are decided by lot.

    The rules that know their neighbours send nothing to one that was down as last told.
    """
    if heuristic == LOCAL:
        return 0.0 if action == 0 else 1.0
    if heuristic == RANDOM:
        return 0.0
    there = known(scenario, environment, agent, action, now_s)
    if is_full(scenario) and not there.alive:
        return np.inf
    if heuristic == LEAST_QUEUE:
        return float(there.tasks + there.sent_tasks)
    if heuristic == SHORTEST_FINISH:
        return estimate(scenario, environment, agent, action, there, slot).finish_s
    return -scenario.node[there.node].speed


@kernel
def decide(scenario, environment, heuristic, agent, now_s):
    """Return the action of one agent under a rule; 0 if nothing is on offer.

    Ties are broken uniformly by the node's own stream, addressed by the number of choices it has had.
    """
    slot = offered(scenario, environment, agent)
    if slot == NONE:
        return 0
    n = scenario.agent_node[agent]
    lots = stream(environment.node[n].key, streams.HEURISTIC)
    index = environment.node[n].choices * scenario.destination.shape[1]
    best = 0
    best_cost = np.inf
    ties = 0
    for action in range(scenario.destination.shape[1]):
        if action > 0 and scenario.destination[agent, action] == NONE:
            continue
        c = cost(scenario, environment, heuristic, agent, action, slot, now_s)
        if c < best_cost:
            best = action
            best_cost = c
            ties = 1
        elif c == best_cost:
            ties += 1
            # Keeping the newcomer with probability 1/ties makes all equals equally likely (reservoir sampling).
            if uniform(lots, index + action) * ties < 1.0:
                best = action
    return best


@kernel
def decide_all(scenarios, state, heuristic, actions):
    """Write the actions of all agents of all environments under a rule into `actions` [E, A] int32."""
    for e in range(state.episode.shape[0]):
        scenario = scenario_of(scenarios, e)
        environment = environment_of(state, e)
        for agent in range(scenario.agent_node.shape[0]):
            actions[e, agent] = decide(scenario, environment, heuristic, agent, environment.episode[0].now_s)
