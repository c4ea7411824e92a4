"""What a constraint on a share of the tasks costs agents, at the moments at which the tasks end.

A constraint bounds a figure, for example `dropped_share`. Its cost is 1 for each task that the figure counts, at the
moment at which that task ends, and 0 for any other. So over an episode the costs sum to the figure times the tasks that
it is a share of. Costs are averaged over the scope of the reward, as rewards are, and like them they are what happened
between two decisions of an agent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import nearest
from offload_rllib.envs.reward import NEIGHBOURHOOD, TEAM
from offload_rllib.simulator.batch import env_slice, scenario_of
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.metrics import OF_TYPE
from offload_rllib.simulator.types import (
    CAUSES,
    EXPIRED,
    LATE,
    LOST,
    NODE_FAILED,
    NONE,
    OPEN,
    OUTCOMES,
    QUEUE_FULL,
    REJECTED,
    Array,
    State,
)

_DROPPED = (QUEUE_FULL, EXPIRED, LOST, NODE_FAILED, REJECTED)
# Which ends of a task a figure counts, as `simulator.metrics.of_tasks` does.
COUNTED = {
    "dropped_share": _DROPPED,
    **{f"dropped_{cause}_share": (outcome,) for cause, outcome in zip((*CAUSES, "rejected"), _DROPPED, strict=True)},
    "late_share": (LATE,),
    "unfinished_share": (OPEN,),
    "missed_share": (*_DROPPED, LATE, OPEN),
}


def cost_table(figures: Sequence[str], types: Sequence[str]) -> tuple[Array, Array]:
    """Return what a task costs when it ends, and which tasks the figures are shares of.

    Args:
        figures: names [C] of `COUNTED`, with `_of_<type>` behind them for the tasks of one type alone.
        types: names [Y] of the types of tasks.

    Returns:
        Costs [C, Y, OUTCOMES] float64, and [C, Y] float64: 1 where the figure is of tasks of the type.

    Raises:
        ConfigError: a figure is not one of them, or its type of task does not exist.
    """
    cost = np.zeros((len(figures), len(types), OUTCOMES))
    share_of = np.zeros((len(figures), len(types)))
    for c, name in enumerate(figures):
        figure, of, kind = name.partition(OF_TYPE)
        if figure not in COUNTED:
            raise ConfigError(
                f"algorithm.constraints: '{name}' has no exact cost.{nearest(name, COUNTED)} Accepted: "
                f"{', '.join(COUNTED)}"
            )
        if of and kind not in types:
            raise ConfigError(
                f"algorithm.constraints: figure {name}: no type of task is called '{kind}'.{nearest(kind, types)} "
                f"Accepted: {', '.join(types)}"
            )
        for y, of_type in enumerate(types):
            if not of or of_type == kind:
                share_of[c, y] = 1.0
                cost[c, y, COUNTED[figure]] = 1.0
    return cost, share_of


def counted(state: State, share_of: Array) -> Array:
    """Return [E, C, 2] float64: the tasks of the present episodes that each figure counts, and those it is a share of.

    Args:
        state: of the batch.
        share_of: of `cost_table`.
    """
    return np.stack([state.cost[:, -1], state.metrics["created"] @ share_of.T], axis=-1)


@kernel
def _cost_so_far(scenario, environment, reward, agents, agent, c):
    """Return an agent's cost since the start of the episode: the average over its scope."""
    cost = environment.cost
    if reward.scope == TEAM:
        return cost[cost.shape[0] - 1, c] / agents
    n = scenario.agent_node[agent]
    total = cost[n, c]
    if reward.scope == NEIGHBOURHOOD:
        here = scenario.node[n]
        for link in range(here.first_link, here.first_link + here.degree):
            total += cost[scenario.link[link].destination, c]
        total /= here.degree + 1
    return total


@kernel
def settle_costs(scenarios, batch, reward, accounts, deciding, environments, costs):
    """Write what deciding agents have been charged since their last decision, and restart their sums.

    Args:
        scenarios: of the batch.
        batch: a `State`.
        reward: [1] REWARD.
        accounts: [E, A, C] float64: of each agent, the costs at its last decision; changed.
        deciding: [E] int64, the agents; NONE where no agent decides.
        environments: [e] int64, which ones.
        costs: [E, C] float32, overwritten in those.
    """
    for i in range(environments.shape[0]):
        e, agent = environments[i], deciding[environments[i]]
        costs[e] = 0.0
        if agent == NONE:
            continue
        scenario, environment = scenario_of(scenarios, e), env_slice(batch, e)
        for c in range(costs.shape[1]):
            total = _cost_so_far(scenario, environment, reward[0], accounts.shape[1], agent, c)
            costs[e, c] = total - accounts[e, agent, c]
            accounts[e, agent, c] = total


@kernel
def settle_costs_of_all(scenarios, batch, reward, accounts, environments, costs):
    """Do the same for every agent; `costs` is [E, A, C] float32."""
    for i in range(environments.shape[0]):
        e = environments[i]
        scenario, environment = scenario_of(scenarios, e), env_slice(batch, e)
        for agent in range(accounts.shape[1]):
            for c in range(accounts.shape[2]):
                total = _cost_so_far(scenario, environment, reward[0], accounts.shape[1], agent, c)
                costs[e, agent, c] = total - accounts[e, agent, c]
                accounts[e, agent, c] = total
