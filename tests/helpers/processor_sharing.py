"""Processor sharing by its definition: what is left of every task, from one arrival or departure to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence


def shared_departures(
    arrivals_s: Sequence[float], works: Sequence[float], cores: int, core_speed: float, at_once: float = math.inf
) -> list[float]:
    """Return when each task leaves a node whose cores are shared equally, a task using one core at most.

    Args:
        arrivals_s: in order.
        works: of the tasks, in instructions.
        cores: of the node.
        core_speed: instructions per second.
        at_once: tasks in service; the others wait, first come first served.
    """
    left: dict[int, float] = {}
    waiting: list[int] = []
    departures_s = [math.nan] * len(works)
    now_s, coming = 0.0, 0
    while coming < len(works) or left:
        speed = core_speed * min(1.0, cores / len(left)) if left else 0.0
        first = min(left, key=lambda task: left[task]) if left else -1
        end_s = now_s + left[first] / speed if left else math.inf
        arrival_s = arrivals_s[coming] if coming < len(works) else math.inf
        until_s = min(end_s, arrival_s)
        left = {task: work - speed * (until_s - now_s) for task, work in left.items()}
        now_s = until_s
        if end_s <= arrival_s:
            del left[first]
            departures_s[first] = now_s
        else:
            waiting.append(coming)
            coming += 1
        while waiting and len(left) < at_once:
            task = waiting.pop(0)
            left[task] = works[task]
    return departures_s
