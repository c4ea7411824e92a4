"""Time in ticks, PeersimGym's way: what happens within a tick happens at random moments of it.

With `SETTINGS.tick_s` a node works once in a tick, and a transfer takes whole ticks. Of all that falls into a tick, the
agents' decision among it, each order is equally likely, as if each drew a number between 0 and 1. Decisions stay at
multiples of the tick, so times are stretched around them: tick k lasts from k - 1/2 to k + 1/2 ticks, what drew less
than the decision lies in its first half, the rest in its second. With `SETTINGS.ticks_in_order` the order is fixed
instead: all messages of a tick arrive, all nodes work, the agents decide.
"""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.streams import stream, uniform

RESULTS = 32  # more than a task's hops: results on their way back are numbered from here
NOTICES = 64  # and from here the notices of tasks that a failed node did not take
LONGEST = 1e15  # ticks of a message: more than an episode has, and still an exact number

# Where in a tick messages arrive and nodes work if the order is fixed; decisions come at 0.
MESSAGES_AT = -0.375
WORK_AT = -0.25


@called_kernel
def moment(episode_key, drawn, tick, tick_s):
    """Return when something happens in tick number `tick` that drew the number `drawn`, in [0, 1); seconds."""
    decision = uniform(stream(episode_key, streams.TICK_DECISION), tick)
    if drawn < decision:
        return (tick - 0.5 + 0.5 * drawn / decision) * tick_s
    return (tick + 0.5 * (drawn - decision) / (1.0 - decision)) * tick_s


@kernel
def tick_of(now_s, tick_s):
    """Return the number of the tick that a time lies in."""
    return np.int64(math.floor(now_s / tick_s + 0.5))


@kernel
def work_moment(scenario, environment, n, tick):
    """Return when node `n` works in a tick."""
    settings = scenario.settings[0]
    if settings.ticks_in_order:
        return (tick + WORK_AT) * settings.tick_s
    drawn = uniform(stream(environment.node[n].key, streams.TICK_WORK), tick)
    return moment(environment.episode[0].key, drawn, tick, settings.tick_s)


@kernel
def delivery_moment(scenario, environment, slot, turn, sent_s, delay_s):
    """Return when a message of a task arrives: after whole ticks, one at least.

    Args:
        scenario: of the environment.
        environment: a `State` without its leading axis.
        slot: the task.
        turn: number of the message among those of the task: the hop, or `RESULTS` or `NOTICES` and the hops left.
        sent_s: when it was sent.
        delay_s: what it takes where time is continuous.
    """
    settings = scenario.settings[0]
    tick_s = settings.tick_s
    task = environment.task[slot]
    # Half a tick is rounded up, also where it was computed a little less.
    ticks = math.floor(min(delay_s / tick_s, LONGEST) + 0.5 + 1e-9)
    tick = tick_of(sent_s, tick_s) + max(1, np.int64(ticks))
    if settings.ticks_in_order:
        return (tick + MESSAGES_AT) * tick_s
    key = stream(environment.node[task.origin].key, streams.TICK_DELIVERY)
    return moment(environment.episode[0].key, uniform(stream(key, task.number), turn), tick, tick_s)
