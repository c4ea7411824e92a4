"""What a node knows when it decides: the one source of observations and heuristics.

A node knows its own state exactly. Of a neighbour it knows the last broadcast that has reached it, the broadcast's
age, and what it has itself sent there that the broadcast does not count yet. Nothing here reads the true state of
another node, unless the scenario's information is `fresh` (broadcast interval 0).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from offload_rllib.simulator.batch import env_slice, scenario_of
from offload_rllib.simulator.events.broadcasts import turn_heard
from offload_rllib.simulator.events.routing import expected_way, has_legs, legs_of
from offload_rllib.simulator.events.setups import has_setups, warm_types
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.links import expected_transfer
from offload_rllib.simulator.sharing.cores import shares_cores
from offload_rllib.simulator.ticks import tick_of, work_moment
from offload_rllib.simulator.types import NONE, OFFER_NEWEST
from offload_rllib.simulator.variants import has_extensions, has_ticks
from offload_rllib.simulator.waits import advertised_free_at, wait_of, wait_of_offered

Integer = int | np.integer  # numba gives the one, its types are the other


class Known(NamedTuple):
    """What the deciding node knows of one destination. SI units."""

    node: Integer  # index of the destination
    tasks: Integer  # held, waiting and served there, as last broadcast
    wait_s: float  # from now until a server is free there for one more task, by the last broadcast; see `waits`
    age_s: float  # of that information
    sent_tasks: Integer  # sent there by the deciding node and not counted in `tasks` yet
    sent_work: float  # instructions of those
    alive: Integer  # 0 if the destination was down, as last broadcast
    warm: Integer  # the types of tasks that it holds, as bits; 0 without set-ups


class Estimate(NamedTuple):
    """What the deciding node expects for the task on offer at one destination. Seconds from now."""

    transfer_s: float  # until the task is there
    wait_s: float  # until a server is free for it there, counted from now; where cores are shared, a whole core
    service_s: float
    return_s: float  # of the result, to the task's origin
    finish_s: float  # until the result is at the origin


@kernel
def has_processor(scenario, n):
    """Return whether node `n` can process tasks."""
    return not has_extensions(scenario) or scenario.node[n].speed > 0.0


@kernel
def alive(scenario, record):
    """Return 1 if a node was up, by its own record or its broadcast."""
    return np.int64(1 - record.down) if has_extensions(scenario) else np.int64(1)


@kernel
def known_of_self(scenario, environment, n, now_s):
    """Return what node `n` knows of itself.

    The task on offer is not counted among its tasks. Held tasks do not count in its wait: they are decided later.
    """
    node = environment.node[n]
    others = node.tasks - (1 if node.held_head != NONE else 0)
    wait_s = wait_of_offered(scenario, environment, n, now_s)
    warm = warm_types(scenario, environment, n, now_s)
    return Known(np.int64(n), np.int64(others), wait_s, 0.0, np.int64(0), 0.0, alive(scenario, node), warm)


class News(NamedTuple):
    """Which broadcast of a neighbour has reached a node last, and where its parts are."""

    turn: Integer  # its number; below 0 if none has arrived
    stamp_s: float  # when it was sent
    is_saved: bool  # or the neighbour has not changed since
    counts_are_saved: bool  # or no task of the node has arrived there since


@kernel
def news_of(scenario, environment, link_index, now_s):
    """Return which broadcast of a link's destination its source knows; with fresh information the present state."""
    interval_s = scenario.settings[0].broadcast_interval_s
    if interval_s <= 0.0:
        return News(turn=np.int64(0), stamp_s=now_s, is_saved=False, counts_are_saved=False)
    link = scenario.link[link_index]
    there = environment.node[link.destination]
    if has_ticks(scenario):
        # A broadcast of a tick, the first one of which is number 1, is known in the next.
        turn = tick_of(now_s, scenario.settings[0].tick_s) - 1
        stamp_s = work_moment(scenario, environment, link.destination, turn)
        return News(turn=turn if turn > 0 else np.int64(-1), stamp_s=stamp_s, is_saved=True, counts_are_saved=True)
    turn = turn_heard(there.phase_s, interval_s, scenario.link[link.reverse].broadcast_delay_s, now_s)
    counts_are_saved = turn < environment.link[link_index].unsaved_turn
    return News(turn, there.phase_s + turn * interval_s, turn < there.unsaved_turn, counts_are_saved)


@kernel
def known_tasks(scenario, environment, link_index, now_s):
    """Return the number of tasks that a link's source knows at its destination, with those sent there since."""
    sent = environment.link[link_index]
    news = news_of(scenario, environment, link_index, now_s)
    if news.turn < 0:
        return np.int64(sent.sent)
    n = scenario.link[link_index].destination
    place = news.turn & (environment.broadcast.shape[1] - 1)
    tasks = environment.broadcast[n, place].tasks if news.is_saved else environment.node[n].tasks
    arrived = environment.broadcast_link[link_index, place].arrived if news.counts_are_saved else sent.arrived
    return np.int64(tasks + sent.sent - arrived)


@kernel
def known_of_neighbour(scenario, environment, link_index, now_s):
    """Return what a link's source knows of its destination."""
    link = scenario.link[link_index]
    n = np.int64(link.destination)
    sent = environment.link[link_index]
    there = environment.node[n]
    news = news_of(scenario, environment, link_index, now_s)
    if news.turn < 0:
        # Every node starts up and empty, and its neighbours know that.
        return Known(n, np.int64(0), 0.0, now_s, sent.sent, sent.sent_work, np.int64(1), np.uint64(0))
    place = news.turn & (environment.broadcast.shape[1] - 1)
    warm = np.uint64(0)
    if has_setups(scenario):
        is_saved = news.is_saved
        warm = environment.broadcast_warm[n, place] if is_saved else warm_types(scenario, environment, n, news.stamp_s)
    if news.is_saved:
        message = environment.broadcast[n, place]
        tasks = np.int64(message.tasks)
        free_s = message.free_s
        up = alive(scenario, message)
    else:
        tasks = np.int64(there.tasks)
        free_s = advertised_free_at(scenario, environment, n, news.stamp_s)
        up = alive(scenario, there)
    if news.counts_are_saved:
        counted = environment.broadcast_link[link_index, place]
        arrived = counted.arrived
        arrived_work = counted.arrived_work
    else:
        arrived = sent.arrived
        arrived_work = sent.arrived_work
    pending = sent.sent - arrived
    # With nothing pending the two sums may still differ by rounding, for tasks overtake each other on a link.
    work = max(sent.sent_work - arrived_work, 0.0) if pending > 0 else 0.0
    return Known(n, tasks, max(free_s - now_s, 0.0), now_s - news.stamp_s, pending, work, up, warm)


@kernel
def known(scenario, environment, agent, action, now_s):
    """Return what an agent knows of the destination of one of its actions (which must not be padding)."""
    if action == 0:
        return known_of_self(scenario, environment, scenario.agent_node[agent], now_s)
    return known_of_neighbour(scenario, environment, scenario.destination[agent, action], now_s)


@kernel
def true_state(scenario, environment, agent, action, now_s):
    """Return what a node would know if it knew everything: for rules that say oracle, and for nothing else.

    Tasks that are held there, or on their way there from any node, are counted; at the agent's own node the held ones
    are not, because they are decided after the one on offer.
    """
    if action == 0:
        return known_of_self(scenario, environment, scenario.agent_node[agent], now_s)
    n = np.int64(scenario.link[scenario.destination[agent, action]].destination)
    wait_s = max(advertised_free_at(scenario, environment, n, now_s) - now_s, 0.0)
    sent = np.int64(0)
    sent_work = 0.0
    here = scenario.node[n]
    for link_index in range(here.first_link, here.first_link + here.degree):
        more, more_work = _on_the_way(environment.link[scenario.link[link_index].reverse])
        sent += more
        sent_work += more_work
    if has_extensions(scenario) and scenario.first_leg.shape[0] > 0:
        for a in range(scenario.destination.shape[0]):
            for row in range(1, scenario.destination.shape[1]):
                path = np.int64(scenario.destination[a, row])
                if path != NONE and scenario.link[path].destination == n and path >= _own_links(scenario):
                    more, more_work = _on_the_way(environment.link[path])
                    sent += more
                    sent_work += more_work
    there = environment.node[n]
    warm = warm_types(scenario, environment, n, now_s)
    return Known(n, np.int64(there.tasks), wait_s, 0.0, sent, sent_work, alive(scenario, there), warm)


@kernel
def _on_the_way(link):
    """Return how many tasks are on their way over a link, or a path, and their instructions; of its LINK_STATE."""
    pending = link.sent - link.arrived
    return pending, max(link.sent_work - link.arrived_work, 0.0) if pending > 0 else 0.0


@kernel
def _own_links(scenario):
    """Return the number of links of the network itself, before the paths."""
    last = scenario.node[scenario.node.shape[0] - 1]
    return np.int64(last.first_link + last.degree)


@kernel
def fill(tasks, room):
    """Return the filled share of a queue with room for so many tasks; of an unbounded one, tasks / (tasks + 4)."""
    if room == np.inf:
        return tasks / (tasks + 4.0)
    return min(tasks / room, 1.0)


@kernel
def expected_wait(scenario, known_state):
    """Return the seconds until a destination has a server for one more task, behind those sent to it.

    0 where there is no processor: what waits further on is not known.
    """
    there = scenario.node[known_state.node]
    idle_server = known_state.tasks + known_state.sent_tasks < there.servers
    if idle_server or not has_processor(scenario, known_state.node):
        return 0.0
    return known_state.wait_s + known_state.sent_work / there.speed


@kernel
def _delay_by_sharing(scenario, known_state, wait_s, service_s, transfer_s):
    """Return the seconds by which others are expected to delay a task at a node whose cores are shared.

    A task much longer than the others is delayed until it has a core to itself, `wait_s`; a short one by what the
    number of tasks makes of its service, if none of them leaves. Between the two the delay is that of tasks whose
    remaining work is exponential. Where a node bounds how many it serves at once, the rest of the wait is a queue's.
    """
    there = scenario.node[known_state.node]
    tasks = np.int64(known_state.tasks + known_state.sent_tasks) + 1
    served = min(tasks, np.int64(there.concurrency))
    left_s = max(wait_s - transfer_s, 0.0)
    if left_s <= 0.0 or served <= there.servers:
        return left_s
    shared_s = wait_s * (served - there.servers) / (tasks - there.servers)
    alone_s = service_s * (served - there.servers) / there.servers
    return left_s - min(shared_s, left_s) * math.exp(-alone_s / shared_s)


@kernel
def is_warm(known_state, kind):
    """Return whether a destination holds a type of tasks, as far as is known."""
    return (np.uint64(known_state.warm) >> np.uint64(kind)) & np.uint64(1) != np.uint64(0)


@kernel
def estimate(scenario, environment, agent, action, known_state, slot):
    """Return what to expect if the task in `slot`, on offer to `agent`, takes an action.

    The wait shrinks while the task travels: finish = max(transfer, wait) + service + return. Where cores are shared it
    is transfer + delay + service + return (`_delay_by_sharing`). A destination without a processor stands for the one
    that its shortest way leads to, as far as links and speed go (`ONWARD`). Where the type of the task is not held, its
    set-up is part of the service.
    """
    task = environment.task[slot]
    wait_s = expected_wait(scenario, known_state)
    service_s = task.work * scenario.node[known_state.node].seconds_per_instruction
    if has_setups(scenario) and not is_warm(known_state, task.type):
        service_s += scenario.setup_s[task.type]
    transfer_s = 0.0
    return_latency_s = task.return_latency_s
    return_seconds_per_bit = task.return_seconds_per_bit
    if action > 0:
        link_index = scenario.destination[agent, action]
        back = scenario.link[scenario.link[link_index].reverse]
        now_s = environment.episode[0].now_s
        if has_legs(scenario) and legs_of(scenario, link_index) > 0:
            transfer_s = expected_way(scenario, environment, link_index, task.bits_in, now_s)
        else:
            transfer_s = expected_transfer(scenario, environment, link_index, task.bits_in, now_s)
        return_latency_s += back.latency_s
        return_seconds_per_bit += back.seconds_per_bit
        if not has_processor(scenario, known_state.node):
            onward = scenario.onward[known_state.node]
            service_s = task.work * onward.seconds_per_instruction
            transfer_s += onward.latency_s + task.bits_in * onward.seconds_per_bit
            return_latency_s += onward.return_latency_s
            return_seconds_per_bit += onward.return_seconds_per_bit
    return_s = return_latency_s + task.bits_out * return_seconds_per_bit
    until_service_s = max(transfer_s, wait_s)
    if shares_cores(scenario, known_state.node):
        until_service_s = transfer_s + _delay_by_sharing(scenario, known_state, wait_s, service_s, transfer_s)
    return Estimate(transfer_s, wait_s, service_s, return_s, until_service_s + service_s + return_s)


@kernel
def _charge_of_link(scenario, charge, link_index, bits_in, bits_out):
    """Return what it takes off the reward, in s, to send a task over a link, and its result back."""
    link = scenario.link[link_index]
    there = charge[link.source]
    back = charge[link.destination]
    return_s = bits_out * scenario.link[link.reverse].seconds_per_bit
    return (
        there.transmit_w * bits_in * link.seconds_per_bit
        + there.j_per_bit * bits_in
        + back.transmit_w * return_s
        + (back.j_per_bit + back.j_per_result_bit) * bits_out
    )


@kernel
def expected_charge(scenario, account, environment, agent, action, known_state, slot):
    """Return what an action for the task in `slot` is expected to be charged with, in s, on one of the accounts.

    The service, with its set-up, and the way to the destination and back to here. The way back from here is the same
    for all actions and left out. What a task costs beyond a node without a processor is not known here: 0.
    """
    task = environment.task[slot]
    charge = scenario.charge[account]
    n = known_state.node
    seconds = 0.0
    if has_processor(scenario, n):
        busy_s = task.work * scenario.node[n].seconds_per_instruction
        if has_setups(scenario) and not is_warm(known_state, task.type):
            busy_s += scenario.setup_s[task.type]
        seconds += charge[n].server_w * busy_s
    if action == 0:
        return seconds
    link_index = scenario.destination[agent, action]
    if not has_legs(scenario) or legs_of(scenario, link_index) == 0:
        return seconds + _charge_of_link(scenario, charge, link_index, task.bits_in, task.bits_out)
    for place in range(scenario.first_leg[link_index], scenario.first_leg[link_index + 1]):
        seconds += _charge_of_link(scenario, charge, scenario.leg[place], task.bits_in, task.bits_out)
    return seconds


@kernel
def offered(scenario, environment, agent):
    """Return the slot of the task on offer to an agent, or NONE."""
    node = environment.node[scenario.agent_node[agent]]
    if has_extensions(scenario) and scenario.settings[0].offer == OFFER_NEWEST:
        return node.held_tail
    return node.held_head


@kernel
def offered_next(environment, slot):
    """Return the slot of the task that is on offer behind another one, or NONE; `slot` may be NONE."""
    return environment.task[slot].held_next if slot != NONE else slot


@kernel
def all_have_processors(scenario):
    """Return whether every node can process tasks."""
    return not has_extensions(scenario) or scenario.onward.shape[0] == 0


@kernel
def rejects(scenario, action):
    """Return whether an action rejects a task: the last one, where agents can."""
    last = scenario.destination.shape[1] - 1
    return has_extensions(scenario) and action == last and scenario.settings[0].rejects != 0


@kernel
def is_valid(scenario, environment, agent, action, slot):
    """Return whether an action is valid for the task in `slot`.

    A neighbour is if it and the task exist, and if the task could be processed there, or further on with the hops that
    it then has left. 0 is where the node has a processor; without a task it always is. A task can always be rejected
    where agents can reject.
    """
    if action == 0:
        return slot == NONE or has_processor(scenario, scenario.agent_node[agent])
    if action < 0 or action >= scenario.destination.shape[1] or slot == NONE:
        return False
    if rejects(scenario, action):
        return True
    link_index = scenario.destination[agent, action]
    if link_index == NONE:
        return False
    if all_have_processors(scenario):
        return True
    hops = environment.task[slot].hops + 1 + scenario.onward[scenario.link[link_index].destination].hops
    return hops <= scenario.settings[0].max_hops


@kernel
def valid_action(scenario, environment, agent, action, slot):
    """Return an action if it is valid for the task in `slot`, otherwise the first that is: 0 with a processor here."""
    if is_valid(scenario, environment, agent, action, slot):
        return np.int64(action)
    if not all_have_processors(scenario):
        for other in range(scenario.destination.shape[1]):
            if is_valid(scenario, environment, agent, other, slot):
                return np.int64(other)
    return np.int64(0)


@kernel
def write_waits(scenarios, state, e, wait_s):
    """Write the seconds [N] that one more task would wait at each node of environment `e` of a batch."""
    scenario = scenario_of(scenarios, e)
    environment = env_slice(state, e)
    for n in range(wait_s.shape[0]):
        wait_s[n] = wait_of(scenario, environment, n, environment.episode[0].now_s)
