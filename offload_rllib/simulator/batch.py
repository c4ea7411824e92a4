"""The scenarios of a batch of environments in one struct: one that all share, or one for each."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import Array, Scenario, State

# What environments that draw their own network do not share.
OWN = (
    "settings",
    "node",
    "link",
    "link_law",
    "failure_law",
    "power",
    "price",
    "charge",
    "destination",
    "arrivals",
    "client",
)


def shared(scenario: Scenario) -> Scenario:
    """Return a batch's scenarios where all environments share one: the same memory with a leading axis of 1."""
    return scenario._replace(**{name: getattr(scenario, name)[np.newaxis] for name in OWN})


def own_copies(scenario: Scenario, count: int) -> Scenario:
    """Return a batch's scenarios where each of `count` environments has its own: copies of `scenario`."""
    return scenario._replace(**{name: np.repeat(getattr(scenario, name)[np.newaxis], count, axis=0) for name in OWN})


def put(scenarios: Scenario, e: int, scenario: Scenario) -> Scenario:
    """Return a batch's scenarios with that of environment `e` replaced, in place if its links fit.

    Links beyond those of an environment are padding: no node refers to them.
    """
    needed, room = len(scenario.link), scenarios.link.shape[1]
    if needed > room:
        wider = {}
        for name in ("link", "link_law"):
            values: Array = getattr(scenarios, name)
            wider[name] = np.zeros((len(values), needed), values.dtype)
            wider[name][:, :room] = values
        scenarios = scenarios._replace(**wider)
    for name in OWN:
        values = getattr(scenario, name)
        getattr(scenarios, name)[e, : len(values)] = values
    return scenarios


@kernel
def scenario_of(scenarios, e):
    """Return the scenario of environment `e` of a batch, sharing memory."""
    v = min(e, scenarios.node.shape[0] - 1)
    return Scenario(
        scenarios.variant,
        scenarios.settings[v],
        scenarios.node[v],
        scenarios.link[v],
        scenarios.link_law[v],
        scenarios.failure_law[v],
        scenarios.power[v],
        scenarios.price[v],
        scenarios.charge[v],
        scenarios.weight,
        scenarios.throughput,
        scenarios.rate_change,
        scenarios.movement,
        scenarios.moving,
        scenarios.position,
        scenarios.place,
        scenarios.next_link,
        scenarios.agent_node,
        scenarios.destination[v],
        scenarios.first_leg,
        scenarios.leg,
        scenarios.setup_s,
        scenarios.onward,
        scenarios.arrivals[v],
        scenarios.client[v],
        scenarios.recording,
        scenarios.rate_piece,
        scenarios.burst_state,
        scenarios.burst_jump,
        scenarios.type_share,
        scenarios.type_weight,
        scenarios.type_priority,
        scenarios.distribution,
        scenarios.distribution_to,
        scenarios.choice,
        scenarios.job,
        scenarios.cost,
    )


@kernel
def env_slice(state, e):
    """Return environment `e` of a batch: the same struct without its leading axis, sharing memory."""
    return State(
        state.episode[e : e + 1],
        state.node[e],
        state.sharing[e],
        state.usage[e],
        state.client[e],
        state.distribution[min(e, state.distribution.shape[0] - 1)],
        state.server[e],
        state.link[e],
        state.channel[e],
        state.message[e],
        state.moving[e],
        state.warm[e],
        state.broadcast_warm[e],
        state.outlook[e],
        state.broadcast_outlook[e],
        state.broadcast[e],
        state.broadcast_link[e],
        state.task[e],
        state.path[e],
        state.leg[e],
        state.free[e],
        state.heap[e],
        state.bucket[e],
        state.metrics[e],
        state.histogram[e],
        state.log[e],
        state.cost[e],
        state.charged[e],
        state.weight[e],
    )
