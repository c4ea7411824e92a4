"""Nodes that move: where they are, the rates of their radio links, and the access point that each is attached to.

Positions are looked at at every multiple of `update_s`. Then the rates of a node's links follow from its distance to
each access point, and the node is attached to the nearest one: the only one that it sends tasks to. A result that
finds its node gone is forwarded, link by link, to the access point that has it then.
"""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.durations import draw_duration
from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.links import radio_rate
from offload_rllib.simulator.sharing.channels import change_rate, lose_messages
from offload_rllib.simulator.streams import stream, uniform
from offload_rllib.simulator.types import DURATION, NONE, record

MOVEMENT = record(
    update_s="f8",
    width_m="f8",  # of the area in which nodes move, from 0 on
    height_m="f8",
    slowest_m_per_s="f8",
    fastest_m_per_s="f8",
    hysteresis_m="f8",  # by which another access point must be nearer
    pause=DURATION,  # at each waypoint
    breaks="i4",  # 1: what is being sent over the link to the former access point is lost
)
MOVING = record(  # a node that moves
    node="i4",
    first_position="i4",  # its part of `position`; empty: random waypoints
    end_position="i4",
)
PLACE = record(x_m="f8", y_m="f8", moving="i4")  # of a node, and its index among those that move, or NONE
POSITION = record(time_s="f8", x_m="f8", y_m="f8")
MOVING_STATE = record(
    x_m="f8",  # when it was looked at last
    y_m="f8",
    from_s="f8",  # it leaves a point
    from_x_m="f8",
    from_y_m="f8",
    until_s="f8",  # and reaches the next
    until_x_m="f8",
    until_y_m="f8",
    legs="i8",  # begun so far
    link="i4",  # to its access point
)


@kernel
def time_of_move(scenario, environment):
    """Return when positions are looked at next; infinite if no node moves."""
    if scenario.moving.shape[0] == 0:
        return np.inf
    return environment.episode[0].moves * scenario.movement[0].update_s


@kernel
def begin_movement(scenario, environment):
    """Let every node that moves be where the topology has placed it, or at its first recorded position."""
    for p in range(scenario.moving.shape[0]):
        mover = scenario.moving[p]
        state = environment.moving[p]
        state.until_x_m = scenario.place[mover.node].x_m
        state.until_y_m = scenario.place[mover.node].y_m
        state.link = NONE
        if mover.first_position < mover.end_position:
            first = scenario.position[mover.first_position]
            state.until_x_m = first.x_m
            state.until_y_m = first.y_m
            state.until_s = first.time_s


@kernel
def _begin_leg(scenario, environment, p):
    """Let a node leave the point that it has reached."""
    mover = scenario.moving[p]
    state = environment.moving[p]
    state.from_s = state.until_s
    state.from_x_m = state.until_x_m
    state.from_y_m = state.until_y_m
    leg = state.legs
    state.legs += 1
    if mover.first_position < mover.end_position:
        row = mover.first_position + leg + 1
        state.until_s = np.inf  # it stays where it was recorded last
        if row < mover.end_position:
            to = scenario.position[row]
            state.until_s = to.time_s
            state.until_x_m = to.x_m
            state.until_y_m = to.y_m
        return
    law = scenario.movement[0]
    key = environment.node[mover.node].key
    state.until_x_m = law.width_m * uniform(stream(key, streams.WAYPOINT_X), leg)
    state.until_y_m = law.height_m * uniform(stream(key, streams.WAYPOINT_Y), leg)
    u = uniform(stream(key, streams.SPEED), leg)
    speed = law.slowest_m_per_s + (law.fastest_m_per_s - law.slowest_m_per_s) * u
    distance_m = math.hypot(state.until_x_m - state.from_x_m, state.until_y_m - state.from_y_m)
    state.from_s += draw_duration(law.pause, key, streams.PAUSE, leg)
    state.until_s = state.from_s + distance_m / speed


@called_kernel
def _look(scenario, environment, p, now_s):
    """Work out where a node is."""
    state = environment.moving[p]
    while state.until_s < now_s:
        _begin_leg(scenario, environment, p)
    share = 1.0
    if now_s < state.until_s:
        share = 0.0
        if now_s > state.from_s and state.until_s < np.inf:
            share = (now_s - state.from_s) / (state.until_s - state.from_s)
        if state.legs == 0:
            share = 1.0  # before its first recorded position it is there
    state.x_m = state.from_x_m + share * (state.until_x_m - state.from_x_m)
    state.y_m = state.from_y_m + share * (state.until_y_m - state.from_y_m)


@kernel
def _squared_distance(scenario, environment, p, link_index):
    """Return the squared distance of a node that moves to the other end of one of its links."""
    state = environment.moving[p]
    there = scenario.link[link_index].destination
    x_m = state.x_m - scenario.place[there].x_m
    y_m = state.y_m - scenario.place[there].y_m
    return x_m * x_m + y_m * y_m


@kernel
def _follow(scenario, environment, link_index, squared_m2, now_s):
    """Let the rate of a radio link follow its length."""
    law = scenario.link_law[link_index]
    if law.snr_m2 <= 0.0:
        return
    least_m2 = law.minimum_distance_m * law.minimum_distance_m
    rate = radio_rate(law.bandwidth_hz, law.snr_m2 / max(squared_m2, least_m2))
    change_rate(scenario, environment, link_index, 1.0 / rate, now_s)


@kernel
def _nearest(scenario, environment, p):
    """Return the link to the nearest access point, the first of equals; its own, if none is nearer by enough."""
    here = scenario.node[scenario.moving[p].node]
    present = np.int64(environment.moving[p].link)
    nearest = np.int64(here.first_link)
    for link_index in range(here.first_link, here.first_link + here.degree):
        if _squared_distance(scenario, environment, p, link_index) < _squared_distance(
            scenario, environment, p, nearest
        ):
            nearest = np.int64(link_index)
    if present == NONE:
        return nearest
    nearer_m = math.sqrt(_squared_distance(scenario, environment, p, nearest)) + scenario.movement[0].hysteresis_m
    return nearest if nearer_m < math.sqrt(_squared_distance(scenario, environment, p, present)) else present


@kernel
def _attach(scenario, environment, p, link_index, now_s):
    """Attach a node to the access point at the end of a link."""
    state = environment.moving[p]
    former = np.int64(state.link)
    state.link = link_index
    agent = scenario.node[scenario.moving[p].node].agent
    if agent != NONE:
        scenario.destination[agent, 1] = link_index
    if former == NONE:
        return
    environment.episode[0].handovers += 1
    if scenario.movement[0].breaks:
        lose_messages(scenario, environment, former, now_s)
        lose_messages(scenario, environment, np.int64(scenario.link[former].reverse), now_s)


@called_kernel
def move(scenario, environment, now_s):
    """Look where all nodes are: let rates follow, then attach each to the nearest access point."""
    environment.episode[0].moves += 1
    for p in range(scenario.moving.shape[0]):
        _look(scenario, environment, p, now_s)
        here = scenario.node[scenario.moving[p].node]
        for link_index in range(here.first_link, here.first_link + here.degree):
            squared_m2 = _squared_distance(scenario, environment, p, link_index)
            _follow(scenario, environment, link_index, squared_m2, now_s)
            _follow(scenario, environment, np.int64(scenario.link[link_index].reverse), squared_m2, now_s)
    for p in range(scenario.moving.shape[0]):
        link_index = _nearest(scenario, environment, p)
        if link_index != environment.moving[p].link:
            _attach(scenario, environment, p, link_index, now_s)


@kernel
def link_to_origin(scenario, environment, slot):
    """Return the link over which a result that is at an access point comes closer to its origin, a node that moves.

    Returns:
        NONE if the origin does not move.
    """
    task = environment.task[slot]
    p = np.int64(scenario.place[task.origin].moving)
    if p == NONE:
        return np.int64(NONE)
    at = np.int64(environment.message[slot].at)
    if at == NONE:
        at = np.int64(scenario.link[environment.path[slot, 0]].destination)
    access = np.int64(environment.moving[p].link)
    there = np.int64(scenario.link[access].destination)
    return np.int64(scenario.link[access].reverse) if at == there else np.int64(scenario.next_link[at, there])
