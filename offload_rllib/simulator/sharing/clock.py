"""The clock of one thing that is shared equally, and a tournament that knows which of many such things ends next.

All that share a thing advance alike, so one number stands for them: `work_each`, the work that one has had that was
there since the thing was last idle. What enters when it is v, with work w, leaves when it is v + w (`TASK.work_end`),
whatever else comes and goes meanwhile. Those that share are a pairing heap by that number.

The next end moves whenever one comes or goes, so it is no event of the heap of events, from which nothing can be
withdrawn. Each thing has one next end, and a tournament knows the first of all: a change costs O(log of those that
share) and O(log of the things).

A record has the fields `work_each`, `at_s`, `end_s`, `first` and `winner` of `types.CORE_SHARING`.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.jit import called_kernel, kernel
from offload_rllib.simulator.types import NONE


@kernel
def _of_place(clocks, place):
    """Return what has won a place of the tournament: the places from the number of clocks on are the clocks."""
    count = clocks.shape[0]
    return np.int64(place - count) if place >= count else np.int64(clocks[place].winner)


@called_kernel
def _play_again(clocks, which):
    """Repeat the matches of a clock whose next end has changed: the earlier end wins, then the lower index."""
    place = (which + clocks.shape[0]) >> 1
    while place > 0:
        a = _of_place(clocks, 2 * place)
        b = _of_place(clocks, 2 * place + 1)
        first, second = clocks[a].end_s, clocks[b].end_s
        clocks[place].winner = a if first < second or (first == second and a < b) else b
        place >>= 1


@kernel
def first_to_end(clocks):
    """Return the clock whose next end is the first of all; its `end_s` is infinite if none has one."""
    return _of_place(clocks, np.int64(1))


@kernel
def begin_clocks(clocks):
    """Let nothing be shared; at the start of an episode."""
    for which in range(clocks.shape[0]):
        clocks[which].first = NONE
        clocks[which].end_s = np.inf
    for which in range(clocks.shape[0]):
        _play_again(clocks, which)


@kernel
def speed_of_each(law, throughput, messages):
    """Return the rate that each of so many messages on a channel has, relative to one that is alone.

    Args:
        law: LINK_LAW record of the channel.
        throughput: [P] `Scenario.throughput`.
        messages: their number; none counts as one.
    """
    if law.throughputs == 0:
        return 1.0
    count = max(messages, 1)
    return throughput[law.first_throughput + min(count, law.throughputs) - 1] / count


@kernel
def foresee_end(clocks, task, which, speed_of_each):
    """Work out who leaves next, and when, if nothing changes until then."""
    clock = clocks[which]
    clock.end_s = np.inf
    if clock.first != NONE:
        left = max(task[clock.first].work_end - clock.work_each, 0.0)
        clock.end_s = clock.at_s + left / speed_of_each
    _play_again(clocks, which)


@kernel
def bring_up_to_date(clock, is_idle, speed_of_each, now_s):
    """Let the work that each has had be that of the present time."""
    if is_idle:
        clock.work_each = 0.0  # no rounding is carried from one busy period to the next
    else:
        clock.work_each += (now_s - clock.at_s) * speed_of_each
    clock.at_s = now_s
