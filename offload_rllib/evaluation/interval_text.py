"""Estimates and their intervals as text, the same everywhere: terminal, Markdown, LaTeX, HTML, model cards.

An interval is shown with two significant digits of its half-width, and the estimate with as many decimals: more would
be noise, and fewer would hide a difference of sub-second scores.
"""

from __future__ import annotations

import math

from offload_rllib.evaluation.statistics import Interval

MOST_DECIMALS = 12


def number(value: float) -> str:
    """Return a number with three or four digits, empty for one that is not known."""
    if not math.isfinite(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"


def with_half_width(value: Interval, factor: float = 1.0) -> str:
    """Return an estimate ± the larger half of its interval; the estimate alone where there is no interval."""
    half = value.half * factor
    if not (math.isfinite(half) and half > 0):
        return number(value.mean * factor)
    decimals = _decimals(half)
    return f"{_fixed(value.mean * factor, decimals)} ± {_fixed(half, decimals)}"


def difference_text(value: Interval, factor: float = 1.0, *, sure: bool) -> str:
    """Return a difference with its interval, in parentheses unless it is sure that there is one."""
    half = value.half * factor
    if math.isfinite(half) and half > 0:
        decimals = _decimals(half)
        mean, low, high = (_fixed(end * factor, decimals) for end in (value.mean, value.low, value.high))
    else:
        mean, low, high = (number(end * factor) for end in (value.mean, value.low, value.high))
    text = f"{'+' if value.mean > 0 else ''}{mean} [{low}, {high}]"
    return text if sure else f"({text})"


def _decimals(half: float) -> int:
    """Return how many decimals show two significant digits of a half-width."""
    exponent = int(f"{half:.1e}".partition("e")[2])
    return min(max(1 - exponent, 0), MOST_DECIMALS)


def _fixed(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}"
