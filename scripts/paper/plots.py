"""Panels of lines over settings, one line for each policy, with bars for intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from offload_rllib.config.files import written_at_once
from offload_rllib.evaluation.results import SAMPLED
from offload_rllib.evaluation.statistics import Interval

# Rules in greys and pale colours, learners in strong ones that the colour-blind tell apart (Okabe and Ito).
STYLES = {
    "bound": ("black", "-", "_"),
    "local": ("0.55", ":", "v"),
    "random": ("0.55", "--", "s"),
    "least_queue": ("0.35", "-", "^"),
    "shortest_finish": ("#56B4E9", "-", "P"),
    "always_server": ("#E69F00", "-", "o"),
    "deadline_finish": ("#F0E442", "-", "X"),
    "size_interval": ("#999933", "-", "h"),
    "DDQN": ("#D55E00", "--", "D"),
    "A2C": ("#009E73", "-.", "<"),
    "PPO": ("#0072B2", ":", ">"),
    "PPO, delay": ("#CC79A7", "-", "*"),
    "PPO, pointer": ("#0072B2", "-", "*"),
    "PPO, pointer, trained there": ("#CC79A7", "--", "d"),
}
FORMATS = ("png", "svg")


@dataclass(frozen=True)
class Line:
    """A policy's means and intervals over the settings of an experiment."""

    policy: str
    x: list[float]
    values: list[Interval]


def draw_panels(
    panels: Sequence[tuple[str, list[Line]]],
    x_label: str,
    title: str,
    path: Path,
    *,
    columns: int = 3,
    logarithmic: bool = False,
) -> Iterator[Path]:
    """Draw panels side by side as PNG and SVG; yield the files.

    Args:
        panels: title and lines of each.
        x_label: below the last row.
        title: of the whole.
        path: without suffix.
        columns: of panels.
        logarithmic: x-axis.
    """
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.1 * columns, 3.1 * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (name, lines) in zip(axes.flat, panels, strict=True):
        for line in lines:
            colour, dash, marker = STYLES[line.policy.removesuffix(SAMPLED)]
            mean = [value.mean for value in line.values]
            # Hollow markers: lines that coincide stay visible. Bars, not bands: ten bands hide each other.
            axis.errorbar(
                line.x,
                mean,
                [[value.mean - value.low for value in line.values], [value.high - value.mean for value in line.values]],
                color=colour,
                ls=dash,
                marker=marker,
                markerfacecolor="none",
                markersize=6,
                lw=1.6,
                elinewidth=0.8,
                capsize=2,
                label=line.policy,
            )
        axis.set_title(name, fontsize=10)
        # The interval of three seeds can be many times as high as everything else.
        highest = max((value.mean for line in lines for value in line.values if value.mean == value.mean), default=1.0)
        axis.set_ylim(0, 1.15 * highest if highest > 0 else 1.0)
        if logarithmic:
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel(x_label, fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    for suffix in FORMATS:
        target = path.with_name(f"{path.name}.{suffix}")
        with written_at_once(target) as partial:
            figure.savefig(partial, dpi=130, format=suffix)
        yield target
