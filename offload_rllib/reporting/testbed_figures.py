"""Figures of a testbed beside the simulator: distributions of response times, and their parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from offload_rllib.evaluation.results import POLICY
from offload_rllib.reporting.figures import new_figure, tidy
from offload_rllib.testbed.analysis.differences import OTHER, SIDES, Differences
from offload_rllib.testbed.analysis.log import LOAD, PARTS, SIDE, SIMULATOR, TESTBED, Table

PANEL_COLUMNS = 4
# Colours of M. Okabe and K. Ito, "Color universal design", 2008; the sides also differ by their line.
LOOKS: dict[str, dict[str, Any]] = {
    SIMULATOR: {"color": "#0072b2", "linestyle": "-", "lw": 2.4, "alpha": 0.6},
    TESTBED: {"color": "#d55e00", "linestyle": "--", "lw": 1.4},
}
TITLES = {
    "decision_s": "decision",
    "holding_s": "holding",
    "waiting_s": "waiting",
    "service_s": "service",
    "transfer_s": "transfer",
    "return_s": "return",
    OTHER: "other",
}
COLOURS = {part: colormaps["tab10"](i) for i, part in enumerate((*PARTS, OTHER))}
LEAST_SHARE = 1e-6


def of_distributions(tasks: Table, differences: Differences, load: float) -> Figure:
    """Draw the distribution functions of the response times of both sides at a load, a panel for each policy.

    Args:
        tasks: from `log.read_log`.
        differences: of them.
        load: one of it.
    """
    cases = differences.cases[differences.cases[LOAD] == load]
    columns = min(len(cases), PANEL_COLUMNS)
    rows = -(-len(cases) // columns)
    figure, axes = new_figure(1.0 + 2.6 * columns, 0.8 + 2.3 * rows, rows, columns)
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    counted = tasks[tasks["counts"] & (tasks[LOAD] == load)]
    for axis, (_, case) in zip(axes.flat, cases.iterrows(), strict=False):
        of_policy = counted[counted[POLICY] == case[POLICY]]
        for side in (SIMULATOR, TESTBED):
            done = np.sort(of_policy[of_policy[SIDE] == side]["response_s"].dropna().to_numpy())
            if len(done):
                axis.step(done, np.arange(1, len(done) + 1) / len(done), where="post", label=side, **LOOKS[side])
        axis.set_title(f"{case[POLICY]}\ndistance {case['ks']:.3f}", fontsize=9, parse_math=False)
        axis.set_ylim(0, 1.02)
        axis.set_xlim(left=0)
        tidy(axis)
    figure.supxlabel("response time, s", fontsize=10)
    figure.supylabel("share of finished tasks", fontsize=10)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    return figure


def of_parts(differences: Differences, load: float) -> Figure:
    """Draw of what the mean response time of each policy is made on both sides, and by how much each part differs."""
    parts = differences.parts[differences.parts[LOAD] == load]
    policies = list(dict.fromkeys(parts[POLICY]))[::-1]
    figure, axes = new_figure(11.0, 1.4 + 0.5 * len(policies), 1, 2)
    means, apart = axes[0]
    shown = [part for part in (*PARTS, OTHER) if _matters(parts, part)]
    for row, policy in enumerate(policies):
        of_policy = parts[parts[POLICY] == policy].set_index("part")
        for side, offset in zip(SIDES, (-0.19, 0.19), strict=True):
            left = 0.0
            for part in shown:
                width = float(of_policy[f"{side}_s"].get(part, 0.0))
                means.barh(row + offset, width, 0.34, left=left, color=COLOURS[part], alpha=1.0 if offset < 0 else 0.55)
                left += width
        ends = {True: 0.0, False: 0.0}
        for part in shown:
            width = float(of_policy["difference_s"].get(part, 0.0))
            apart.barh(row, width, 0.6, left=ends[width > 0], color=COLOURS[part])
            ends[width > 0] += width
        total = float(of_policy["difference_s"].sum())
        apart.plot(total, row, "D", color="black", ms=4)
    for axis in axes[0]:
        axis.set_yticks(range(len(policies)), policies if axis is means else [""] * len(policies), parse_math=False)
        axis.set_ylim(-0.6, len(policies) - 0.4)
        tidy(axis)
    apart.axvline(0, color="0.3", lw=0.8)
    means.set_xlabel("mean response time, s (strong: testbed, below; pale: simulator, above)", fontsize=9)
    apart.set_xlabel("testbed minus simulator, s (diamond: all parts together)", fontsize=9)
    handles = [means.barh(0, 0, color=COLOURS[part]) for part in shown]
    figure.legend(
        handles, [TITLES[part] for part in shown], loc="outside upper center", ncols=7, fontsize=9, frameon=False
    )
    return figure


def _matters(parts: Table, part: str) -> bool:
    of_part = parts[parts["part"] == part]
    return bool((of_part[["testbed_s", "simulator_s"]].abs().to_numpy() > LEAST_SHARE).any())
