"""How figures look: one colour, line and sign for each policy, in every figure; sizes that journals print unscaled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from offload_rllib.evaluation.results import SAMPLED
from offload_rllib.simulator.heuristics import HEURISTICS

# Inches: a column of a two-column page, and both. A figure of this width is printed as it is, with its letters.
COLUMN, PAGE = 3.5, 7.16
LABEL_POINTS, TITLE_POINTS = 7, 8
# Of a report in HTML: a heading, tables whose first column is text, and pictures.
PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
"""
# Eight of M. Okabe and K. Ito, "Color universal design", 2008, without yellow, which is faint on white; five of P. Tol,
# "Colour schemes", 2021. Neighbours in this list differ for any colour vision.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255", "#999933", "#332288",
    "#44aa99", "#117733",
)  # fmt: skip
LEARNERS = ("ppo", "ddqn", "a2c", "appo")
# The rules that are compared most have colours of their own; the others share them, with another line and sign.
RULES = (
    "size_interval", "shortest_finish", "local", "random", "least_queue", "deadline_finish", "always_server",
    "power_of_two",
)  # fmt: skip
STYLES = ("-", "--", ":", "-.")
MARKERS = "osD^vP*Xh<>p"
LEADER_POINTS = 3.0  # a label farther than this from the end of its line has a thin line to it


def _fixed() -> dict[str, int]:
    """Return the number of the look that belongs to a learner or a rule."""
    others = (name for name in HEURISTICS if name not in RULES)
    return {name: number for number, name in enumerate((*LEARNERS, *RULES, *others))}


FIXED = _fixed()


def _known(policy: str) -> int | None:
    """Return the number of the look of a policy by its name: of the rule, or of the learner that the name has."""
    rule = policy.partition(":")[0]
    if rule in HEURISTICS:
        return FIXED[rule]
    words = re.split(r"[^a-z0-9]+", policy.lower())
    return next((FIXED[word] for word in words if word in LEARNERS), None)


def looks(policies: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour, line style and marker of each policy.

    A rule looks the same in every figure, whatever else is there, and so does the first policy with the name of a
    learner in its own. All others take what is free, in their order. Greedy and sampled play share the colour.
    """
    bases = list(dict.fromkeys(policy.removesuffix(SAMPLED) for policy in policies))
    numbers: dict[str, int] = {}
    for base in bases:
        known = _known(base)
        if known is not None and known not in numbers.values():
            numbers[base] = known
    free = (n for n in range(len(bases) + len(FIXED)) if n not in numbers.values())
    numbers |= {base: next(free) for base in bases if base not in numbers}
    found = {}
    for policy in policies:
        number = numbers[policy.removesuffix(SAMPLED)]
        turn, place = divmod(number, len(PALETTE))
        style = STYLES[turn % len(STYLES)]
        sampled = policy.endswith(SAMPLED)
        found[policy] = {
            "color": PALETTE[place],
            "linestyle": "--" if sampled and style == "-" else style,
            "marker": MARKERS[(place + turn) % len(MARKERS)],
        }
    return found


def label_ends(axis: Axes, lines: Sequence[tuple[str, float, float, str]]) -> None:
    """Write the names of lines right of an axis, each as near to the end of its line as the others allow.

    Limits and scales of the axis must be final.

    Args:
        axis: where the lines are.
        lines: name, the last point, and colour of each.
    """
    height = axis.get_window_extent().height * 72 / axis.get_figure(root=True).dpi  # pyright: ignore[reportOptionalMemberAccess]
    place = axis.transData + axis.transAxes.inverted()
    ends = np.array([place.transform((x, y))[1] for _, x, y, _ in lines]).clip(0, 1)
    order = np.argsort(ends, kind="stable")
    at = apart(ends[order], 1.25 * LABEL_POINTS / height)
    at -= max(at[-1] - 1.0, 0.0) if len(at) else 0.0  # not above the axis
    for label, i in zip(at, order, strict=True):
        name, x, y, colour = lines[i]
        leader = abs(label - ends[i]) * height > LEADER_POINTS or place.transform((x, y))[0] < 0.97
        axis.annotate(
            name,
            (x, y),
            xytext=(1.03, label),
            textcoords=blended_transform_factory(axis.transAxes, axis.transAxes),
            fontsize=LABEL_POINTS,
            color=colour,
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6, "shrinkA": 0, "shrinkB": 0}
            if leader
            else None,
        )


def apart(ascending: np.ndarray, gap: float) -> np.ndarray:
    """Return ascending places that are at least a gap apart, as near to the given ones as the groups allow."""
    groups: list[list[float]] = []  # members, as the places their first would like to have
    for i, place in enumerate(ascending.tolist()):
        groups.append([place - i * gap])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    wanted = np.concatenate([np.full(len(group), np.mean(group)) for group in groups]) if groups else np.zeros(0)
    return wanted + gap * np.arange(len(wanted))
