"""What agents have earned between two of their decisions, where tasks are decided as they arrive.

Every node has an account from the start of the episode on, in closed form between events; an agent's account is the
average over its scope. What an agent earns is the difference of its account between two of its decisions, so that a
decision costs as much as the scope is wide, however many nodes there are.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.envs.reward import (
    DELAY,
    NEIGHBOURHOOD,
    NO_POTENTIAL,
    SPARSE,
    TEAM,
    delay_reward,
    potential_of,
)
from offload_rllib.simulator.energy import has_charges
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.objectives import charged_so_far

AGENT_ACCOUNT = np.dtype(
    [
        ("total", "f8"),  # at the last decision
        ("potential", "f8"),  # then
        ("since_s", "f8"),  # its time; 0 before the first
    ],
    align=True,
)


@kernel
def _own_total(scenario, environment, account, reward, now_s):
    """Return the rewards of `delay` or `sparse` of a node, or of all nodes, so far."""
    if reward.name == SPARSE:
        return account.own_finished - account.own_dropped
    task_seconds = account.own_task_seconds + account.own_weight * (now_s - account.own_changed_s)
    return delay_reward(scenario, environment, reward, task_seconds, account)


@kernel
def _node_total(scenario, environment, reward, paid, n, now_s):
    total = paid[n]
    if reward.name in (DELAY, SPARSE):
        total = _own_total(scenario, environment, environment.node[n], reward, now_s)
    return total - charged_so_far(scenario, environment, n) if has_charges(scenario) else total


@kernel
def _agent_total(scenario, environment, reward, paid, agents, agent, now_s):
    """Return an agent's rewards so far, before `scale`."""
    if reward.scope == TEAM:
        last = environment.node.shape[0]
        total = paid[last]
        if reward.name in (DELAY, SPARSE):
            total = _own_total(scenario, environment, environment.episode[0], reward, now_s)
        if has_charges(scenario):
            total -= charged_so_far(scenario, environment, last)
        return total / agents
    n = scenario.agent_node[agent]
    total = _node_total(scenario, environment, reward, paid, n, now_s)
    if reward.scope == NEIGHBOURHOOD:
        here = scenario.node[n]
        for link in range(here.first_link, here.first_link + here.degree):
            total += _node_total(scenario, environment, reward, paid, scenario.link[link].destination, now_s)
        total /= here.degree + 1
    return total


@kernel
def _agent_potential(scenario, environment, reward, agents, agent):
    """Return the average of the potential over an agent's scope; of a team, it takes a look at every node."""
    potential = 0.0
    if reward.scope == TEAM:
        for n in range(environment.node.shape[0]):
            potential += potential_of(scenario, environment, reward.potential, n)
        return potential / agents
    n = scenario.agent_node[agent]
    potential = potential_of(scenario, environment, reward.potential, n)
    if reward.scope == NEIGHBOURHOOD:
        here = scenario.node[n]
        for link in range(here.first_link, here.first_link + here.degree):
            potential += potential_of(scenario, environment, reward.potential, scenario.link[link].destination)
        potential /= here.degree + 1
    return potential


@kernel
def pay_node(paid, n, value):
    """Add the reward of a decision, or of a user's function, to a node; the last entry of `paid` [N + 1] is the sum."""
    paid[n] += value
    paid[paid.shape[0] - 1] += value


@kernel
def earned(scenario, environment, reward, paid, accounts, agent):
    """Return what an agent has earned since its last decision, with its account and its potential now.

    Args:
        scenario: of the environment.
        environment: a `State` without its leading axis.
        reward: one REWARD record.
        paid: [N + 1] float64, rewards of decisions and functions of each node, and their sum.
        accounts: [A] AGENT_ACCOUNT.
        agent: which one.
    """
    now_s = environment.episode[0].now_s
    account = accounts[agent]
    agents = accounts.shape[0]
    total = _agent_total(scenario, environment, reward, paid, agents, agent, now_s)
    value = total - account.total
    potential = 0.0
    if reward.potential != NO_POTENTIAL:
        potential = _agent_potential(scenario, environment, reward, agents, agent)
        discount = reward.shaping_gamma ** ((now_s - account.since_s) / reward.shaping_discount_s)
        value += reward.shaping_weight * (discount * potential - account.potential)
    return value * reward.scale, total, potential


@kernel
def settle(scenario, environment, reward, paid, accounts, agent):
    """Return an agent's rewards since its last decision, and restart the sum: it decides now."""
    value, total, potential = earned(scenario, environment, reward, paid, accounts, agent)
    account = accounts[agent]
    account.total = total
    account.potential = potential
    account.since_s = environment.episode[0].now_s
    return value
