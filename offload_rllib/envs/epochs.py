"""What an `ArrivalEnv` does in compiled code: from decision to decision in a batch of environments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offload_rllib.envs.earnings import earned, pay_node, settle
from offload_rllib.envs.observation import clock_of_day, observe_agent
from offload_rllib.envs.outlook import note_outlook
from offload_rllib.envs.reward import CUSTOM, PAPER, PEERSIMGYM, paper_reward, peersimgym_reward
from offload_rllib.simulator.actions import apply_decision
from offload_rllib.simulator.batch import env_slice, scenario_of
from offload_rllib.simulator.events.broadcasts import has_outlooks
from offload_rllib.simulator.events.closing import close_episode
from offload_rllib.simulator.events.loop import DONE, UNFINISHED, run_until
from offload_rllib.simulator.heuristics import decide_arrived
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.step import ACTIONS_PENDING, EVENTS_RUNNING, begin_step, end_step
from offload_rllib.simulator.types import NONE, Array


class Pending(NamedTuple):
    """The decision that each of E environments waits for; see the attributes of `ArrivalEnv`."""

    deciding: Array  # [E] int64
    time_s: Array  # [E] float64
    elapsed_s: Array  # [E] float64
    observations: Array  # [E, 1, F] float32
    masks: Array  # [E, 1, 1, R] int8
    rewards: Array  # [E] float32
    decisions: Array  # [E] int64
    truncated: Array  # [E] bool


@kernel
def _pay_decision(scenario, environment, reward, paid, action):
    """Add the reward of `paper` or `peersimgym` for an action to the deciding node, before it is carried out."""
    agent = np.int64(environment.episode[0].deciding)
    n = scenario.agent_node[agent]
    if reward.name == PAPER:
        slot = environment.node[n].held_head
        pay_node(paid, n, paper_reward(scenario, environment, reward, agent, action, slot))
    elif reward.name == PEERSIMGYM:
        pay_node(paid, n, peersimgym_reward(scenario, environment, reward, agent, action))


@kernel
def _show_end(environment, pending, e):
    """Write that environment `e` has come to the end of its episode."""
    pending.deciding[e] = NONE
    pending.time_s[e] = environment.episode[0].now_s
    pending.elapsed_s[e] = 0.0
    pending.observations[e] = 0.0
    pending.masks[e] = 0
    pending.masks[e, 0, 0, 0] = 1
    pending.rewards[e] = 0.0
    pending.decisions[e] = environment.episode[0].step
    pending.truncated[e] = True


@kernel
def _show_decision(scenario, environment, reward, paid, accounts, scales, pending, e):
    """Write who decides in environment `e`, what the agent sees, and what it has earned."""
    episode = environment.episode[0]
    agent = np.int64(episode.deciding)
    pending.deciding[e] = agent
    pending.time_s[e] = episode.now_s
    pending.elapsed_s[e] = episode.now_s - accounts[agent].since_s
    pending.decisions[e] = episode.step - 1
    if reward.name != CUSTOM:
        pending.rewards[e] = settle(scenario, environment, reward, paid, accounts, agent)
    clock = clock_of_day(scenario, environment)
    seen = pending.observations[e, 0]
    blocks = observe_agent(scenario, environment, scales, clock, agent, seen, pending.masks[e, 0])
    if has_outlooks(scenario):
        note_outlook(scenario, environment, agent, seen, blocks)


class Rules(NamedTuple):
    """Who decides inside the kernels: by code and parameter of `simulator.heuristics`, or NONE."""

    agents: int
    """Rule of the agents; NONE: they are asked."""
    agents_parameter: float
    others: int
    """Rule of the other deciding nodes, if there are any."""
    others_parameter: float


@kernel
def advance_batch(scenarios, batch, reward, rules, planned, paid, accounts, actions, scales, pending, which, first):
    """Bring environments to the next decision of an agent that is asked, or to their ends.

    Args:
        scenarios: of the batch (`simulator.batch`).
        batch: a `State`.
        reward: [1] REWARD.
        rules: a `Rules`.
        planned: [R, 2] float64, zeros.
        paid: [E, N + 1] float64, see `earnings.earned`.
        accounts: [E, A] AGENT_ACCOUNT.
        actions: [E] int32, of the agents that were asked.
        scales: of `observation.scaling`, for each environment or for all.
        pending: a `Pending`, overwritten.
        which: [e] int64, the environments; those that have ended are left alone.
        first: the place in `which` to begin at.

    Returns:
        The place of the first one that needs another call, or their number; and whether an episode has ended.
    """
    ended = False
    agents = accounts.shape[1]
    by_function = reward[0].name == CUSTOM
    for i in range(first, which.shape[0]):
        e = which[i]
        if pending.truncated[e]:
            ended = True
            continue
        scenario = scenario_of(scenarios, e)
        environment = env_slice(batch, e)
        episode = environment.episode[0]
        while True:
            if episode.stage == ACTIONS_PENDING:
                of_agent = episode.deciding < agents
                rule = rules.agents if of_agent else rules.others
                parameter = rules.agents_parameter if of_agent else rules.others_parameter
                action = np.int64(actions[e])
                if rule != NONE:
                    action = decide_arrived(scenario, environment, rule, parameter, planned)
                if of_agent:
                    if by_function:
                        begin_step(environment)
                    _pay_decision(scenario, environment, reward[0], paid[e], action)
                apply_decision(scenario, environment, action)
                episode.stage = EVENTS_RUNNING
            status = run_until(scenario, environment, scenario.settings[0].horizon_s)
            if status == UNFINISHED:
                return i, ended
            episode.stage = ACTIONS_PENDING
            if status == DONE:
                close_episode(scenario, environment)
                if by_function:
                    end_step(environment)
                _show_end(environment, pending, e)
                ended = True
                break
            if episode.deciding < agents:
                episode.step += 1
                if rules.agents == NONE:
                    if by_function:
                        end_step(environment)
                    own_scales = scales[min(e, scales.shape[0] - 1)]
                    _show_decision(scenario, environment, reward[0], paid[e], accounts[e], own_scales, pending, e)
                    break
    return which.shape[0], ended


@kernel
def settle_batch(scenarios, batch, reward, paid, accounts, deciding, environments, rewards):
    """Write the rewards of the deciding agents of some environments, where a user's function gives them."""
    for i in range(environments.shape[0]):
        e = environments[i]
        rewards[e] = 0.0
        if deciding[e] != NONE:
            scenario = scenario_of(scenarios, e)
            rewards[e] = settle(scenario, env_slice(batch, e), reward[0], paid[e], accounts[e], deciding[e])


@kernel
def earned_by_all(scenarios, batch, reward, paid, accounts, e, rewards):
    """Write what every agent of environment `e` has earned since its last decision."""
    scenario = scenario_of(scenarios, e)
    environment = env_slice(batch, e)
    for agent in range(rewards.shape[0]):
        rewards[agent] = earned(scenario, environment, reward[0], paid[e], accounts[e], agent)[0]


@kernel
def settle_first(scenarios, batch, reward, paid, accounts, e, rewards):
    """Write what the first agents of environment `e` have earned since their accounts were settled, and settle them."""
    scenario = scenario_of(scenarios, e)
    environment = env_slice(batch, e)
    for agent in range(rewards.shape[0]):
        rewards[agent] = settle(scenario, environment, reward[0], paid[e], accounts[e], agent)
