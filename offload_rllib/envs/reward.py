"""The rewards of agents for a decision interval. Each name is a formula, written in the docs page on rewards."""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator.information import known, known_of_self, offered, offered_next, valid_action
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.objectives import DROPS, RESPONSE, charged_so_far, has_weights
from offload_rllib.simulator.types import NONE, UNBOUNDED, Array
from offload_rllib.simulator.waits import wait_of

DELAY = 0
SPARSE = 1
PAPER = 2
PEERSIMGYM = 3
CUSTOM = 4  # written by a user's function
REWARDS = {"delay": DELAY, "sparse": SPARSE, "paper": PAPER, "peersimgym": PEERSIMGYM}

OWN = 0
NEIGHBOURHOOD = 1
TEAM = 2
SCOPES = {"own": OWN, "neighbourhood": NEIGHBOURHOOD, "team": TEAM}

NO_POTENTIAL = 0
BACKLOG = 1
TASKS = 2
UNFINISHED = 3
POTENTIALS = {"backlog": BACKLOG, "tasks": TASKS, "unfinished": UNFINISHED}

REWARD = np.dtype(
    [
        ("scale", "f8"),
        ("drop_penalty_s", "f8"),
        ("utility", "f8"),
        ("waiting_weight", "f8"),
        ("communication_weight", "f8"),
        ("execution_weight", "f8"),
        ("overload_weight", "f8"),
        ("no_op_reward", "f8"),
        ("shaping_weight", "f8"),
        ("shaping_gamma", "f8"),
        ("shaping_discount_s", "f8"),
        ("name", "i4"),
        ("scope", "i4"),
        ("potential", "i4"),
    ],
    align=True,
)

# log10 of this floor bounds the overload term at 1, as -log10(0.001) / 3.
FREE_SHARE_FLOOR = 0.001


def reward_record(config) -> Array:
    """Return the [1] REWARD record of a `config.decisions.Reward`."""
    record = np.zeros(1, REWARD)
    for key in (
        "scale",
        "drop_penalty_s",
        "utility",
        "waiting_weight",
        "communication_weight",
        "execution_weight",
        "overload_weight",
        "no_op_reward",
    ):
        record[0][key] = getattr(config, key)
    record[0]["name"] = REWARDS.get(config.name, CUSTOM)
    record[0]["scope"] = SCOPES[config.scope]
    if config.shaping is not None:
        record[0]["potential"] = POTENTIALS[config.shaping.potential]
        record[0]["shaping_weight"] = config.shaping.weight
        record[0]["shaping_gamma"] = config.shaping.gamma
        record[0]["shaping_discount_s"] = config.shaping.discount_s
    return record


@kernel
def paper_reward(scenario, environment, reward, agent, action, slot):
    """Return the published reward of PeersimGym for a decision an agent is about to take, before `scale`.

    R = r_u - (chi_wait T_wait + chi_comm T_comm + chi_exc T_exc + chi_O O); 0 with nothing on offer. T_wait is the
    true wait, net of work that will expire; tasks served per interval are of mean work; O's logarithm is of base
    10 with a floor under the free share.
    """
    if slot == NONE:
        return 0.0
    action = valid_action(scenario, environment, agent, action, slot)
    settings = scenario.settings[0]
    now_s = environment.episode[0].now_s
    task = environment.task[slot]
    i = scenario.agent_node[agent]
    own_speed = scenario.node[i].speed
    wait_s = known_of_self(scenario, environment, i, now_s).wait_s
    a = i
    communication_s = 0.0
    if action > 0:
        link = scenario.link[scenario.destination[agent, action]]
        a = link.destination
        wait_s += wait_of(scenario, environment, a, now_s)
        communication_s = link.latency_s + task.bits_in * link.seconds_per_bit
    speed = scenario.node[a].speed
    execution_s = task.work / speed - task.work / own_speed
    overload = 0.0
    capacity = scenario.node[a].capacity
    if capacity != UNBOUNDED:
        served = speed * settings.decision_interval_s / settings.mean_work
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
def dense_reward(
    tasks,
    target_tasks,
    kept,
    mean_work,
    speed,
    target_speed,
    communication_s,
    arrived,
    target_arrived,
    served,
    target_served,
    capacity,
    target_capacity,
    utility,
    waiting_weight,
    communication_weight,
    execution_weight,
    overload_weight,
    no_op_reward,
):
    """Return the reward of PeersimGym's code for a decision at node i with target j, without its shaping term.

    Args:
        tasks: at i, before the step.
        target_tasks: at j, as last broadcast.
        kept: j is i.
        mean_work: instructions per task.
        speed: of i, instructions per second.
        target_speed: of j.
        communication_s: time to send a mean task to j, 0 if kept.
        arrived: tasks expected to arrive at i in a step.
        target_arrived: the same at j.
        served: tasks that i can serve in a step.
        target_served: the same at j.
        capacity: of i, in tasks; `UNBOUNDED`: no overload.
        target_capacity: of j.
        utility: r_u, the reward for every decision of a node with a task.
        waiting_weight: caps the waiting term at this multiple of `utility`.
        communication_weight: caps the communication term.
        execution_weight: caps the execution term, on both sides.
        overload_weight: factor of the overload term.
        no_op_reward: the whole reward if `tasks` is below 1.
    """
    if tasks < 1.0:
        return no_op_reward
    waiting = max(tasks - 1.0, 0.0) * mean_work / speed
    if not kept:
        waiting += target_tasks / target_speed
    waiting = min(waiting, utility * waiting_weight)
    execution_cap = utility * execution_weight
    execution = min(max(mean_work / target_speed - mean_work / speed, -execution_cap), execution_cap)
    communication = min(communication_s, utility * communication_weight)
    keeper = capacity if kept else target_capacity
    after = tasks + arrived - served if kept else target_tasks + 1.0 + target_arrived - target_served
    overload = 0.0
    if keeper != UNBOUNDED:
        after = min(max(after, 0.0), float(keeper))
        overload = -math.log10(max((keeper - after) / keeper, FREE_SHARE_FLOOR))
    return utility - (waiting + communication + execution + overload_weight * overload)


@kernel
def expected_arrivals(scenario, n):
    """Return the tasks per second that PeersimGym's reward expects at a node: those of all clients next to it.

    In its networks every client may send to every neighbour that takes tasks; a node without a client takes none.
    """
    here = scenario.node[n]
    if here.arrival_rate <= 0.0:
        return 0.0
    rate = here.arrival_rate
    for link in range(here.first_link, here.first_link + here.degree):
        rate += scenario.node[scenario.link[link].destination].arrival_rate
    return rate


@kernel
def peersimgym_reward(scenario, environment, reward, agent, action):
    """Return `dense_reward` for the decision an agent is about to take; minus r_u for an action that leads nowhere."""
    i = scenario.agent_node[agent]
    if action != 0 and not 0 < action < scenario.destination.shape[1]:
        return -reward.utility
    if action > 0 and scenario.destination[agent, action] == NONE:
        return -reward.utility
    settings = scenario.settings[0]
    here = scenario.node[i]
    tasks = float(environment.node[i].tasks)
    target_tasks = tasks
    j = np.int64(i)
    communication_s = 0.0
    if action > 0:
        target = known(scenario, environment, agent, action, environment.episode[0].now_s)
        j = target.node
        target_tasks = float(target.tasks)
        communication_s = settings.mean_bits_in * scenario.link[scenario.destination[agent, action]].seconds_per_bit
    there = scenario.node[j]
    interval_s = settings.decision_interval_s
    return dense_reward(
        tasks,
        target_tasks,
        action == 0,
        settings.mean_work,
        here.speed,
        there.speed,
        communication_s,
        expected_arrivals(scenario, i) * interval_s,
        expected_arrivals(scenario, j) * interval_s,
        here.speed * interval_s / settings.mean_work,
        there.speed * interval_s / settings.mean_work,
        here.capacity,
        there.capacity,
        reward.utility,
        reward.waiting_weight,
        reward.communication_weight,
        reward.execution_weight,
        reward.overload_weight,
        reward.no_op_reward,
    )


@kernel
def decision_rewards(scenario, environment, reward, agents, actions, node_rewards):
    """Write the reward of `paper` or `peersimgym` of each node for its agent's decisions, before they are carried out.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        reward: one REWARD record.
        agents: how many of the deciding nodes are agents.
        actions: [D, k] int32.
        node_rewards: [N] float64, overwritten; 0 at nodes without an agent.
    """
    node_rewards[:] = 0.0
    for agent in range(agents):
        n = scenario.agent_node[agent]
        if reward.name == PEERSIMGYM:
            node_rewards[n] = peersimgym_reward(scenario, environment, reward, agent, actions[agent, 0])
            continue
        slot = offered(scenario, environment, agent)
        for k in range(actions.shape[1]):
            node_rewards[n] += paper_reward(scenario, environment, reward, agent, actions[agent, k], slot)
            slot = offered_next(environment, slot)


@kernel
def delay_reward(scenario, environment, reward, task_seconds, account):
    """Return the reward of `delay` of an account (`types.ACCOUNT`) without charges, by the episode's weights.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        reward: one REWARD record.
        task_seconds: integral of the unfinished tasks, by weight.
        account: of a node, or of all.
    """
    if has_weights(scenario):
        response = task_seconds + account.own_drop_cost_s
        drops = reward.drop_penalty_s * account.own_dropped
        return -(environment.weight[RESPONSE] * response + environment.weight[DROPS] * drops)
    return -(task_seconds + account.own_drop_cost_s + reward.drop_penalty_s * account.own_dropped)


@kernel
def account_step(scenario, environment, reward, node_rewards):
    """Write the reward of `delay` or `sparse` of each node for the step that ended into `node_rewards` [N] float64."""
    for n in range(environment.node.shape[0]):
        node = environment.node[n]
        if reward.name == SPARSE:
            node_rewards[n] = node.own_finished - node.own_dropped
        elif reward.name == DELAY:
            node_rewards[n] = delay_reward(scenario, environment, reward, node.own_task_seconds, node)
    if environment.charged.shape[0] > 0:
        for n in range(environment.node.shape[0]):
            node_rewards[n] -= charged_so_far(scenario, environment, n)


@kernel
def potential_of(scenario, environment, potential, n):
    """Return the potential of a node's present state."""
    node = environment.node[n]
    if potential == BACKLOG:
        return -wait_of(scenario, environment, n, environment.episode[0].now_s)
    if potential == TASKS:
        return -float(node.tasks)
    return -float(node.own_unfinished)


@kernel
def shape(scenario, environment, reward, node_rewards, potential):
    """Add weight x (gamma^(interval / discount_s) x potential now - potential before) to the reward of each node.

    A. Y. Ng, D. Harada, S. Russell, "Policy invariance under reward transformations", ICML 1999.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        reward: one REWARD record.
        node_rewards: [N] float64, changed.
        potential: [N] float64 of the state before the step; that of the present state afterwards.
    """
    discount = reward.shaping_gamma ** (scenario.settings[0].decision_interval_s / reward.shaping_discount_s)
    for n in range(node_rewards.shape[0]):
        now = potential_of(scenario, environment, reward.potential, n)
        node_rewards[n] += reward.shaping_weight * (discount * now - potential[n])
        potential[n] = now


@kernel
def write_agent_rewards(scenario, reward, node_rewards, rewards):
    """Write the rewards of the step that ended: the nodes' own ones, averaged over the scope.

    Args:
        scenario: what the environments share.
        reward: one REWARD record.
        node_rewards: [N] float64, the reward of each node.
        rewards: [A] float32, overwritten.
    """
    agents = rewards.shape[0]
    team = 0.0
    if reward.scope == TEAM:
        for n in range(node_rewards.shape[0]):
            team += node_rewards[n]
        team /= agents
    for agent in range(agents):
        n = scenario.agent_node[agent]
        if reward.scope == TEAM:
            value = team
        else:
            value = node_rewards[n]
            if reward.scope == NEIGHBOURHOOD:
                here = scenario.node[n]
                for link in range(here.first_link, here.first_link + here.degree):
                    value += node_rewards[scenario.link[link].destination]
                value /= here.degree + 1
        rewards[agent] = value * reward.scale
