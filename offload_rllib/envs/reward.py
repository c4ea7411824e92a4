"""What agents are paid for a decision interval. Each name is a formula, written in the docs page on rewards."""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator.events import backlog
from offload_rllib.simulator.information import is_valid, known_of_self, offered
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import NONE, UNBOUNDED, Array

DELAY = 0
SPARSE = 1
PAPER = 2
REWARDS = {"delay": DELAY, "sparse": SPARSE, "paper": PAPER}

OWN = 0
NEIGHBOURHOOD = 1
TEAM = 2
SCOPES = {"own": OWN, "neighbourhood": NEIGHBOURHOOD, "team": TEAM}

REWARD = np.dtype(
    [
        ("scale", "f8"),
        ("utility", "f8"),
        ("waiting_weight", "f8"),
        ("communication_weight", "f8"),
        ("execution_weight", "f8"),
        ("overload_weight", "f8"),
        ("mean_work", "f8"),  # instructions per task
        ("name", "i4"),
        ("scope", "i4"),
    ],
    align=True,
)

# log10 of this floor bounds the overload term at 1, as -log10(0.001) / 3.
FREE_SHARE_FLOOR = 0.001


def reward_record(config, mean_work: float) -> Array:
    """Return the [1] REWARD record of a `config.decisions.Reward`."""
    record = np.zeros(1, REWARD)
    for key in ("scale", "utility", "waiting_weight", "communication_weight", "execution_weight", "overload_weight"):
        record[0][key] = getattr(config, key)
    record[0]["mean_work"] = mean_work
    record[0]["name"] = REWARDS[config.name]
    record[0]["scope"] = SCOPES[config.scope]
    return record


@kernel
def paper_reward(scenario, environment, reward, agent, action):
    """Return the published reward of PeersimGym for the decision an agent is about to take, before `scale`.

    R = r_u - (chi_wait T_wait + chi_comm T_comm + chi_exc T_exc + chi_O O); 0 with nothing on offer. T_wait is the
    true backlog in instructions over the speed; tasks served per interval are of mean work; O's logarithm is of base
    10 with a floor under the free share.
    """
    slot = offered(scenario, environment, agent)
    if slot == NONE:
        return 0.0
    if not is_valid(scenario, environment, agent, action):
        action = 0
    settings = scenario.settings[0]
    now_s = environment.episode[0].now_s
    task = environment.task[slot]
    i = scenario.agent_node[agent]
    own_speed = scenario.node[i].speed
    wait_s = known_of_self(scenario, environment, i, now_s).work / own_speed
    a = i
    communication_s = 0.0
    if action > 0:
        link = scenario.link[scenario.destination[agent, action]]
        a = link.destination
        wait_s += backlog(scenario, environment, a, now_s) / scenario.node[a].speed
        communication_s = link.latency_s + task.bits_in * link.seconds_per_bit
    speed = scenario.node[a].speed
    execution_s = task.work / speed - task.work / own_speed
    overload = 0.0
    capacity = scenario.node[a].capacity
    if capacity != UNBOUNDED:
        served = speed * settings.decision_interval_s / reward.mean_work
        # The task on offer is still counted at its own node; the formula adds it to the queue that gets it.
        others = environment.node[a].tasks - (1 if action == 0 else 0)
        tasks = min(max(0.0, others - served) + 1.0, float(capacity))
        overload = -math.log10(max((capacity - tasks) / capacity, FREE_SHARE_FLOOR)) / 3.0
    return reward.utility - (
        reward.waiting_weight * wait_s
        + reward.communication_weight * communication_s
        + reward.execution_weight * execution_s
        + reward.overload_weight * overload
    )


@kernel
def price_decisions(scenario, environment, reward, actions, decision_rewards):
    """Write what `paper` pays each node for its agent's decision, before the decisions are carried out.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        reward: one REWARD record.
        actions: [A] int32.
        decision_rewards: [N] float64, overwritten; 0 at nodes without an agent.
    """
    decision_rewards[:] = 0.0
    for agent in range(actions.shape[0]):
        n = scenario.agent_node[agent]
        decision_rewards[n] = paper_reward(scenario, environment, reward, agent, actions[agent])


@kernel
def own_reward(environment, reward, decision_rewards, n):
    """Return what node `n` is paid for the step that ended, before scope and scale."""
    node = environment.node[n]
    if reward.name == PAPER:
        return decision_rewards[n]
    if reward.name == SPARSE:
        return float(node.own_finished - node.own_dropped)
    return -(node.own_task_seconds + node.own_drop_cost_s)


@kernel
def pay(scenario, environment, reward, decision_rewards, rewards):
    """Write the rewards of the step that ended.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        reward: one REWARD record.
        decision_rewards: [N] float64 from `price_decisions`; read by `paper` alone.
        rewards: [A] float32, overwritten.
    """
    agents = scenario.agent_node.shape[0]
    team = 0.0
    if reward.scope == TEAM:
        for n in range(environment.node.shape[0]):
            team += own_reward(environment, reward, decision_rewards, n)
        team /= agents
    for agent in range(agents):
        n = scenario.agent_node[agent]
        if reward.scope == TEAM:
            value = team
        else:
            value = own_reward(environment, reward, decision_rewards, n)
            if reward.scope == NEIGHBOURHOOD:
                here = scenario.node[n]
                for link in range(here.first_link, here.first_link + here.degree):
                    value += own_reward(environment, reward, decision_rewards, scenario.link[link].destination)
                value /= here.degree + 1
        rewards[agent] = value * reward.scale
