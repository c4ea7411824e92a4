"""Messages on a channel by their definition: what is left of every one, from one event to the next."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Message(NamedTuple):
    """A message that is given to a channel."""

    given_s: float
    airtime_s: float  # that it takes alone, at a factor of 1
    leaves_s: float = math.inf  # if it is not sent by then
    factors: Sequence[tuple[float, float]] = ((0.0, 1.0),)  # of its link's rate: from when on, factor


def _factor(message: Message, now_s: float) -> float:
    return message.factors[bisect_right(message.factors, (now_s, math.inf)) - 1][1]


def channel_departures(
    messages: Sequence[Message], throughput: Sequence[float] | None = (1.0,), at_once: float = math.inf
) -> list[float]:
    """Return when each message leaves a channel: when it is sent, or `leaves_s`.

    Args:
        messages: in the order in which they are given.
        throughput: of 1, 2, ... messages together, the last of all more; None: each is sent as if it were alone.
        at_once: messages that are sent; the others wait, first come first served.
    """
    left: dict[int, float] = {}
    waiting: list[int] = []
    departures_s = [math.nan] * len(messages)
    changes = sorted({time_s for message in messages for time_s, _ in message.factors})
    now_s, coming = 0.0, 0
    while coming < len(messages) or left or waiting:
        count = len(left)
        each = 1.0 if throughput is None or not count else throughput[min(count, len(throughput)) - 1] / count
        speed = {i: each * _factor(messages[i], now_s) for i in left}
        ends_s = {i: now_s + left[i] / speed[i] for i in left}
        first = min(ends_s, key=lambda i: ends_s[i], default=-1)
        given_s = messages[coming].given_s if coming < len(messages) else math.inf
        present = [*left, *waiting]
        late = min(present, key=lambda i: messages[i].leaves_s, default=-1)
        place = bisect_right(changes, now_s)
        times = (
            ends_s.get(first, math.inf),
            messages[late].leaves_s if present else math.inf,
            given_s,
            changes[place] if place < len(changes) else math.inf,
        )
        until_s = min(times)
        left = {i: rest - speed[i] * (until_s - now_s) for i, rest in left.items()}
        now_s = until_s
        what = times.index(until_s)
        if what < 2:
            gone = (first, late)[what]
            left.pop(gone, None)
            if gone in waiting:
                waiting.remove(gone)
            departures_s[gone] = now_s
        elif what == 2:
            waiting.append(coming)
            coming += 1
        while waiting and len(left) < at_once:
            i = waiting.pop(0)
            left[i] = messages[i].airtime_s
    return departures_s
