"""Decision rules that need no training. They know what `information` says a node knows, and nothing else.

A rule gives every action a cost and takes the cheapest; ties are broken uniformly at random. All its draws come from
the node's own stream, addressed by the number of choices the node has had.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.batch import env_slice, scenario_of
from offload_rllib.simulator.energy import has_charges
from offload_rllib.simulator.information import (
    Known,
    all_have_processors,
    estimate,
    expected_charge,
    expected_wait,
    fill,
    has_processor,
    is_valid,
    known,
    known_tasks,
    offered,
    offered_next,
    rejects,
    true_state,
)
from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.objectives import account_weight, response_weight
from offload_rllib.simulator.streams import stream, uniform
from offload_rllib.simulator.types import NONE
from offload_rllib.simulator.variants import has_extensions

LOCAL = 0
RANDOM = 1
LEAST_QUEUE = 2
SHORTEST_FINISH = 3
ALWAYS_SERVER = 4
ROUND_ROBIN = 5
LEAST_FILL = 6
POWER_OF_TWO = 7
SOFT_FINISH = 8
KEEP_FIRST = 9
DEADLINE_FINISH = 10
SIZE_INTERVAL = 11
THRESHOLD = 12
SHORTEST_FINISH_ORACLE = 13
ALWAYS_CLOUD = 14
AS_RECORDED = 15
ADMIT_IF_IN_TIME = 16
LEAST_COST = 17

# Sub-streams of a node's stream for heuristics; ties are drawn from the stream itself.
_NOISE = 1
_CANDIDATES = 2
_START = 3

# Temperature of `keep_first` once it does not keep, in mean services.
SOFT_TEMPERATURE = 0.5
# Costs more than any finish, and less than no action at all.
_LATE = 1e300


class Rule(NamedTuple):
    """A decision rule."""

    code: int
    description: str
    parameter: float | None = None
    """Default of the number that may follow the name and a colon; None: the rule takes none."""


HEURISTICS = {
    "local": Rule(LOCAL, "every node processes what reaches it"),
    "random": Rule(RANDOM, "a valid action, all equally likely"),
    "round_robin": Rule(ROUND_ROBIN, "the valid actions in turn, from a random first one"),
    "least_queue": Rule(LEAST_QUEUE, "the fewest tasks, as last broadcast, plus those sent there since"),
    "least_fill": Rule(LEAST_FILL, "the smallest filled share of the queue, as last broadcast, plus tasks sent since"),
    "power_of_two": Rule(POWER_OF_TWO, "of two random valid actions, the one with fewer tasks"),
    "threshold": Rule(THRESHOLD, "keep below so many tasks here; otherwise a random neighbour that is below, too", 2.0),
    "shortest_finish": Rule(
        SHORTEST_FINISH, "the shortest expected time until the result is back, from what the node knows"
    ),
    "soft_finish": Rule(
        SOFT_FINISH, "drawn by exp(-expected finish / temperature); the temperature in mean services", 0.5
    ),
    "keep_first": Rule(KEEP_FIRST, "keep while the wait here is below so many mean services, then as soft_finish", 0.5),
    "deadline_finish": Rule(DEADLINE_FINISH, "the shortest expected finish in time; keep what can be in time nowhere"),
    "admit_if_in_time": Rule(
        ADMIT_IF_IN_TIME, "as shortest_finish, but reject what is expected to be in time nowhere (decisions.reject)"
    ),
    "size_interval": Rule(
        SIZE_INTERVAL, "as shortest_finish, but tasks above so many mean works stay off the fastest node", 4.0
    ),
    "least_cost": Rule(
        LEAST_COST, "the least expected finish plus energy and price, as the reward weighs them (energy_weight, ...)"
    ),
    "always_server": Rule(ALWAYS_SERVER, "the fastest node in reach"),
    "always_cloud": Rule(ALWAYS_CLOUD, "the cloud, or a node linked to it; otherwise keep"),
    "recorded": Rule(AS_RECORDED, "to the node that the recording names (columns.destination); otherwise keep"),
    "shortest_finish_oracle": Rule(SHORTEST_FINISH_ORACLE, "as shortest_finish, from the true state of the neighbours"),
}

DESCRIPTIONS = {name: rule.description for name, rule in HEURISTICS.items()}

# What a trained policy is compared with unless others are named.
BASELINES = (
    "local",
    "random",
    "round_robin",
    "least_queue",
    "power_of_two",
    "shortest_finish",
    "deadline_finish",
    "size_interval",
    "always_server",
    "shortest_finish_oracle",
)


def is_rule(text: str) -> bool:
    """Return whether a text names a rule, or is at least not of the form ``module:function``."""
    name, _, rest = text.partition(":")
    return name in HEURISTICS or not rest


def parse_rule(text: str) -> tuple[int, float]:
    """Return the code and the parameter of a rule given as ``name`` or ``name:number``.

    Raises:
        KeyError: no rule has that name.
        ValueError: the rule takes no number, or not that one.
    """
    name, colon, number = text.partition(":")
    rule = HEURISTICS[name]
    if not colon:
        return rule.code, rule.parameter or 0.0
    if rule.parameter is None:
        raise ValueError(f"'{text}': {name} takes no parameter")
    try:
        parameter = float(number)
    except ValueError:
        parameter = math.nan
    if not (math.isfinite(parameter) and parameter > 0):
        raise ValueError(f"'{text}': what follows {name}: must be a number above 0, e.g. {name}:{rule.parameter:g}")
    return rule.code, parameter


@kernel
def _is_option(scenario, environment, agent, action, slot):
    """Return whether a rule may take an action for the task in `slot`."""
    if all_have_processors(scenario):
        return action == 0 or scenario.destination[agent, action] != NONE
    return is_valid(scenario, environment, agent, action, slot) and not rejects(scenario, action)


@kernel
def _options(scenario, environment, agent, slot, end):
    """Return how many of the actions below `end` a rule may take."""
    count = 0
    for action in range(end):
        if _is_option(scenario, environment, agent, action, slot):
            count += 1
    return count


@kernel
def _option(scenario, environment, agent, slot, number):
    """Return the action that is option `number`, from 0 on."""
    if all_have_processors(scenario):
        return np.int64(number)  # behind the last destination there is only padding
    action = np.int64(0)
    while action < scenario.destination.shape[1]:
        if _is_option(scenario, environment, agent, action, slot):
            if number == 0:
                break
            number -= 1
        action += 1
    return action


@kernel
def _known(scenario, environment, agent, action, planned, now_s):
    """Return what a node knows of a destination, with what it has decided just now."""
    return _with_planned(known(scenario, environment, agent, action, now_s), planned, action)


@kernel
def _with_planned(there, planned, action):
    sent_tasks = there.sent_tasks + np.int64(planned[action, 0])
    sent_work = there.sent_work + planned[action, 1]
    return Known(there.node, there.tasks, there.wait_s, there.age_s, sent_tasks, sent_work, there.alive, there.warm)


@kernel
def _action_to(scenario, agent, n):
    """Return the action that sends a task to node `n`; 0 if it is no destination of the agent."""
    for action in range(1, scenario.destination.shape[1]):
        link_index = scenario.destination[agent, action]
        if link_index != NONE and scenario.link[link_index].destination == n:
            return action
    return 0


@kernel
def _picked(scenario, environment, rule, parameter, agent, slot, turn, rng_key, planned, now_s):
    """Return the action of a rule that does not weigh all actions; NONE of one that does."""
    processor = has_processor(scenario, scenario.agent_node[agent])
    if rule == LOCAL:
        return 0 if processor else NONE
    if rule == AS_RECORDED:
        action = _action_to(scenario, agent, environment.task[slot].destination)
        return action if _is_option(scenario, environment, agent, action, slot) else NONE
    if rule == KEEP_FIRST and processor:
        own = _known(scenario, environment, agent, 0, planned, now_s)
        mean_service_s = scenario.settings[0].mean_service_s
        return 0 if expected_wait(scenario, own) < parameter * mean_service_s else NONE
    options = _options(scenario, environment, agent, slot, scenario.destination.shape[1])
    if rule == ROUND_ROBIN:
        number = np.int64(uniform(stream(rng_key, _START), 0) * options + turn) % options
        return _option(scenario, environment, agent, slot, number)
    if rule == THRESHOLD:
        own = _known(scenario, environment, agent, 0, planned, now_s)
        if processor and (own.tasks + own.sent_tasks < parameter or options == 1):
            return 0
        first = 1 if processor else 0
        number = first + np.int64(uniform(stream(rng_key, _CANDIDATES), turn) * (options - first))
        action = _option(scenario, environment, agent, slot, number)
        if not processor:
            return action
        there = _known(scenario, environment, agent, action, planned, now_s)
        return action if there.alive and there.tasks + there.sent_tasks < parameter else 0
    return NONE


@kernel
def _is_candidate(scenario, environment, agent, action, slot, turn, rng_key):
    """Return whether an action is one of the two that `power_of_two` compares in this turn."""
    options = _options(scenario, environment, agent, slot, scenario.destination.shape[1])
    number = action
    if not all_have_processors(scenario):
        number = _options(scenario, environment, agent, slot, action)
    candidates = stream(rng_key, _CANDIDATES)
    first = np.int64(uniform(candidates, 2 * turn) * options)
    second = np.int64(uniform(candidates, 2 * turn + 1) * (options - 1))
    return number in (first, second + (1 if second >= first else 0))


@kernel
def _kept_off(scenario, environment, parameter, agent, there, slot):
    """Return whether `size_interval` keeps a task off a destination: it is long, and only some are that fast."""
    if environment.task[slot].work <= parameter * scenario.settings[0].mean_work:
        return False
    fastest = slowest = scenario.node[scenario.agent_node[agent]].speed
    if slowest <= 0.0:
        slowest = np.inf  # without a processor
    for action in range(1, scenario.destination.shape[1]):
        if scenario.destination[agent, action] != NONE:
            speed = scenario.node[scenario.link[scenario.destination[agent, action]].destination].speed
            fastest = max(fastest, speed)
            if speed > 0.0:
                slowest = min(slowest, speed)
    return slowest < fastest and scenario.node[there.node].speed == fastest


@kernel
def _links_from_cloud(scenario, action, n):
    """Return what `always_cloud` minimises: 0 the cloud, 1 a neighbour that is linked to it, 2 keeping, 3 others."""
    here = scenario.node[n]
    if here.cloud:
        return 0.0
    if action == 0:
        return 2.0
    for link_index in range(here.first_link, here.first_link + here.degree):
        if scenario.node[scenario.link[link_index].destination].cloud:
            return 1.0
    return 3.0


@called_kernel
def _charge(scenario, environment, agent, action, there, slot):
    total = 0.0
    for account in range(scenario.charge.shape[0]):
        seconds = expected_charge(scenario, account, environment, agent, action, there, slot)
        total += account_weight(scenario, environment, account) * seconds
    return total


@kernel
def _cost(scenario, environment, rule, parameter, agent, action, there, slot, turn, rng_key):
    """Return what a rule minimises over the actions.

    A draw from the softmax of -finish / temperature is the smallest of finish / temperature minus Gumbel noise.
    """
    if rule == RANDOM:
        return 0.0
    if has_extensions(scenario) and not there.alive:
        return np.inf  # nothing is sent to a node that was down as last broadcast
    counts = rule in (LEAST_QUEUE, LEAST_FILL, POWER_OF_TWO)
    if counts and not has_processor(scenario, there.node):
        return _LATE  # no task stays there, so its number says nothing
    if rule == LEAST_QUEUE:
        return float(there.tasks + there.sent_tasks)
    if rule == LEAST_FILL:
        return fill(there.tasks + there.sent_tasks, scenario.node[there.node].room)
    if rule == POWER_OF_TWO:
        is_candidate = _is_candidate(scenario, environment, agent, action, slot, turn, rng_key)
        return float(there.tasks + there.sent_tasks) if is_candidate else np.inf
    if rule == ALWAYS_SERVER:
        return -scenario.node[there.node].speed
    if rule == ALWAYS_CLOUD:
        return _links_from_cloud(scenario, action, there.node)
    finish_s = estimate(scenario, environment, agent, action, there, slot).finish_s
    if rule in (SOFT_FINISH, KEEP_FIRST):
        temperature_s = (parameter if rule == SOFT_FINISH else SOFT_TEMPERATURE) * scenario.settings[0].mean_service_s
        u = uniform(stream(rng_key, _NOISE), turn * scenario.destination.shape[1] + action)
        return finish_s / temperature_s + math.log(-math.log(u))
    if has_charges(scenario) and rule == LEAST_COST:
        charge_s = _charge(scenario, environment, agent, action, there, slot)
        return response_weight(scenario, environment) * finish_s + charge_s
    if rule == DEADLINE_FINISH:
        left_s = environment.task[slot].deadline_s - environment.episode[0].now_s
        stays = action == 0 or not has_processor(scenario, scenario.agent_node[agent])
        return finish_s if finish_s <= left_s else (_LATE if stays else np.inf)
    if rule == SIZE_INTERVAL and _kept_off(scenario, environment, parameter, agent, there, slot):
        return np.inf
    return finish_s


@kernel
def _fewest_tasks(scenario, environment, agent, planned, rng_key, index, now_s):
    """Return the action that `least_queue` takes where every node is up and has a processor.

    It needs no more than a number of each node, and many are equal. So it has a loop without branches of its own.
    """
    node = environment.node[scenario.agent_node[agent]]
    best = 0
    fewest = np.int64(node.tasks) - (1 if node.held_head != NONE else 0) + np.int64(planned[0, 0])
    ties = 1
    for action in range(1, scenario.destination.shape[1]):
        link_index = scenario.destination[agent, action]
        if link_index == NONE:
            break
        tasks = known_tasks(scenario, environment, link_index, now_s) + np.int64(planned[action, 0])
        ties = 1 if tasks < fewest else ties + (tasks == fewest)
        takes = (tasks < fewest) | ((tasks == fewest) & (uniform(rng_key, index + action) * ties < 1.0))
        best = action if takes else best
        fewest = min(fewest, tasks)
    return best


@kernel
def decide(scenario, environment, rule, parameter, agent, slot, k, planned, now_s):
    """Return the action of a deciding node for one of its tasks.

    Args:
        scenario: what the environments share.
        environment: a `State` without its leading axis.
        rule: its code.
        parameter: of the rule.
        agent: index of the deciding node.
        slot: of the task.
        k: its place among those that the node decides now.
        planned: [R, 2] tasks and work that this step's earlier decisions of this node add to each destination.
        now_s: time of the decision.
    """
    node = environment.node[scenario.agent_node[agent]]
    turn = node.choices + k  # choices that the node has had before this one
    rng_key = stream(node.key, streams.HEURISTIC)
    picked = _picked(scenario, environment, rule, parameter, agent, slot, turn, rng_key, planned, now_s)
    if picked != NONE:
        return picked
    index = turn * scenario.destination.shape[1]
    if not has_extensions(scenario) and rule == LEAST_QUEUE:
        return _fewest_tasks(scenario, environment, agent, planned, rng_key, index, now_s)
    best = 0
    best_cost = np.inf
    ties = 0
    for action in range(scenario.destination.shape[1]):
        if not _is_option(scenario, environment, agent, action, slot):
            continue
        if rule == SHORTEST_FINISH_ORACLE:
            there = _with_planned(true_state(scenario, environment, agent, action, now_s), planned, action)
        else:
            there = _known(scenario, environment, agent, action, planned, now_s)
        c = _cost(scenario, environment, rule, parameter, agent, action, there, slot, turn, rng_key)
        if c < best_cost:
            best = action
            best_cost = c
            ties = 1
        elif c == best_cost and c < np.inf:
            ties += 1
            # Keeping the newcomer with probability 1/ties makes all equals equally likely (reservoir sampling).
            if uniform(rng_key, index + action) * ties < 1.0:
                best = action
    if has_extensions(scenario) and rule == ADMIT_IF_IN_TIME:
        last = scenario.destination.shape[1] - 1
        if rejects(scenario, last) and now_s + best_cost > environment.task[slot].deadline_s:
            return last
    if ties == 0:  # all are down, as last broadcast, or kept off
        return _option(scenario, environment, agent, slot, 0)
    return best


@kernel
def decide_arrived(scenario, environment, rule, parameter, planned):
    """Return the action of a rule for the task that has just arrived; `planned` [R, 2] holds zeros."""
    episode = environment.episode[0]
    agent = np.int64(episode.deciding)
    slot = environment.node[scenario.agent_node[agent]].held_head
    return decide(scenario, environment, rule, parameter, agent, slot, 0, planned, episode.now_s)


@kernel
def _decide_tasks(scenario, environment, rule, parameter, agent, planned, now_s, actions):
    """Write the actions [k] of one deciding node."""
    planned[:] = 0.0
    slot = offered(scenario, environment, agent)
    for k in range(actions.shape[0]):
        if slot == NONE:
            actions[k] = 0
            continue
        action = decide(scenario, environment, rule, parameter, agent, slot, k, planned, now_s)
        actions[k] = action
        if action > 0:
            planned[action, 0] += 1.0
            planned[0, 0] -= 1.0  # a node's own count of tasks includes those it holds
        planned[action, 1] += environment.task[slot].work
        slot = offered_next(environment, slot)


@kernel
def decide_all(scenarios, state, rule, parameter, first, planned, actions):
    """Write the actions of deciding nodes of all environments under a rule; 0 where nothing is on offer.

    Args:
        scenarios: of the batch (`simulator.batch`).
        state: of the batch.
        rule: its code.
        parameter: of the rule.
        first: index of the first node, among the deciding ones.
        planned: [R, 2] float64, scratch.
        actions: [E, nodes, k] int32, overwritten.
    """
    for e in range(state.episode.shape[0]):
        scenario = scenario_of(scenarios, e)
        environment = env_slice(state, e)
        now_s = environment.episode[0].now_s
        for i in range(actions.shape[1]):
            _decide_tasks(scenario, environment, rule, parameter, first + i, planned, now_s, actions[e, i])


@kernel
def decide_pending(scenarios, state, rule, parameter, planned, actions):
    """Write the action [E] under a rule of each environment in which a decision is due; 0 where none is.

    Args:
        scenarios: of the batch (`simulator.batch`).
        state: of the batch.
        rule: its code.
        parameter: of the rule.
        planned: [R, 2] float64, zeros.
        actions: [E] int32, overwritten.
    """
    for e in range(state.episode.shape[0]):
        scenario = scenario_of(scenarios, e)
        environment = env_slice(state, e)
        actions[e] = 0
        if environment.episode[0].deciding != NONE:
            actions[e] = decide_arrived(scenario, environment, rule, parameter, planned)
