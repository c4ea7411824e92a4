"""Speeds of two things, measured in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], int]  # does some work, returns how many choices were made


@dataclass(frozen=True)
class Speed:
    """One line of the table, in choices per second."""

    what: str
    ours: float
    """Median over the repeats."""
    stock: float | None
    """The same of RLlib's own; None where nothing is compared."""
    ratio: float | None
    """Median over the repeats of ours / stock, each pair run in turn."""
    unit: str = "choices per CPU-second"


def _cpu_speed(work: Work) -> float:
    began = time.process_time()
    choices = work()
    return choices / (time.process_time() - began)


def compared(what: str, ours: Work, stock: Work | None, repeats: int) -> Speed:
    """Return the speeds of two things run in turn, medians of `repeats`, after one run of each that does not count."""
    for work in (ours, stock):
        if work is not None:
            work()
    speeds = [(_cpu_speed(ours), _cpu_speed(stock) if stock else math.nan) for _ in range(repeats)]
    mine, theirs = (statistics.median(column) for column in zip(*speeds, strict=True))
    if stock is None:
        return Speed(what, mine, None, None)
    return Speed(what, mine, theirs, statistics.median(a / b for a, b in speeds))
