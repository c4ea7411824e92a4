"""Figures of a comparison, for papers (PDF, SVG) and for looking at (PNG)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from offload_rllib.config.files import written_at_once
from offload_rllib.experiment.comparison import POLICY, SAMPLED, Comparison
from offload_rllib.experiment.metrics import SCORE, metric_of
from offload_rllib.simulator.metrics import BIN_MIDDLES

FORMATS = ("png", "svg", "pdf")
STYLES = ("-", "--", ":", "-.")
MARKERS = "osD^vP*Xh<>"
FEWEST_FOR_LINES = 3
LEAST_SHOWN = 0.999


def write_figure(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> dict[str, Path]:
    """Write a figure in some formats, each in one step; return the paths by format."""
    paths = {}
    for kind in formats:
        paths[kind] = stem.with_name(f"{stem.name}.{kind}")
        # Without a date the same results give the same file.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with written_at_once(paths[kind]) as partial:
            figure.savefig(partial, dpi=150, format=kind, metadata=metadata)
    return paths


def looks(policies: Sequence[str]) -> dict[str, dict[str, object]]:
    """Return colour, line style and marker of each policy; greedy and sampled play of one policy share the colour."""
    bases = list(dict.fromkeys(policy.removesuffix(SAMPLED) for policy in policies))
    colours = colormaps["tab10" if len(bases) <= 10 else "tab20"]
    found = {}
    for policy in policies:
        number = bases.index(policy.removesuffix(SAMPLED))
        sampled = policy.endswith(SAMPLED)
        style = STYLES[(number // colours.N) % len(STYLES)]
        found[policy] = {
            "color": colours(number % colours.N),
            "linestyle": "--" if sampled and style == "-" else style,
            "marker": MARKERS[number % len(MARKERS)],
        }
    return found


def new_figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Return an empty figure of so many inches, and its axes [rows][columns]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def tidy(axis: Axes) -> None:
    """Give axes a grid, and take away the frame's upper and right side."""
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def is_line(comparison: Comparison) -> bool:
    """Return whether there is one swept key, of at least three numbers: then figures are lines over it."""
    if len(comparison.sweep) != 1:
        return False
    values = comparison.episodes[comparison.sweep[0]].unique()
    return len(values) >= FEWEST_FOR_LINES and pd.api.types.is_numeric_dtype(comparison.episodes[comparison.sweep[0]])


def over_sweep(comparison: Comparison, metric: str) -> Figure:
    """Draw a metric over the swept key, one panel per environment: means with 95 % intervals as bands."""
    (key,) = comparison.sweep
    environments = list(dict.fromkeys(point[0] for point in comparison.points))
    look, about = looks(comparison.policies), metric_of(metric)
    figure, axes = new_figure(1.6 + 4.4 * len(environments), 3.6, 1, len(environments))
    for axis, environment in zip(axes[0], environments, strict=True):
        points = [point for point in comparison.points if point[0] == environment]
        for policy in comparison.policies:
            places = [point for point in points if policy in comparison.played(point)]
            values = [comparison.mean(policy, metric, point) for point in places]
            x = [point[1] for point in places]
            axis.plot(x, [v.mean * about.factor for v in values], label=policy, ms=4, lw=1.5, **look[policy])
            low, high = ([getattr(v, end) * about.factor for v in values] for end in ("low", "high"))
            axis.fill_between(x, low, high, color=look[policy]["color"], alpha=0.15, lw=0)
        axis.set_xlabel(key)
        axis.set_title(environment, fontsize=10)
        if about.lower_is_better:
            axis.set_ylim(bottom=0)
        tidy(axis)
    axes[0][0].set_ylabel(about.label)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def of_points(comparison: Comparison, metric: str) -> Figure:
    """Draw a metric as means with 95 % intervals, a row per policy and a panel per point, in the order of the score."""
    points, about, look = comparison.points, metric_of(metric), looks(comparison.policies)

    def mean_score(policy: str) -> float:
        return float(
            np.mean([comparison.matrix(policy, SCORE, p).mean() for p in points if policy in comparison.played(p)])
        )

    order = sorted(comparison.policies, key=mean_score, reverse=True)
    columns = min(len(points), 4)
    rows = -(-len(points) // columns)
    figure, axes = new_figure(2.2 + 2.9 * columns, rows * (0.9 + 0.27 * len(order)), rows, columns)
    for axis in axes.flat[len(points) :]:
        axis.set_visible(False)
    for number, (axis, point) in enumerate(zip(axes.flat, points, strict=False)):
        for row, policy in enumerate(order):
            if policy not in comparison.played(point):
                continue
            value = comparison.mean(policy, metric, point)
            colour = look[policy]["color"]
            axis.plot(
                [value.low * about.factor, value.high * about.factor], [row, row], color=colour, lw=2.5, alpha=0.6
            )
            axis.plot(value.mean * about.factor, row, "o", color=colour, ms=5)
        axis.set_yticks(range(len(order)), order if number % columns == 0 else [""] * len(order), fontsize=8)
        axis.set_ylim(-0.6, len(order) - 0.4)
        if about.lower_is_better:
            axis.set_xlim(left=0)
        axis.set_title(comparison.label(point), fontsize=9)
        axis.set_xlabel(about.label, fontsize=9)
        tidy(axis)
    return figure


def of_metric(comparison: Comparison, metric: str) -> Figure:
    """Draw a metric: over the swept key where there is one, else point by point."""
    return over_sweep(comparison, metric) if is_line(comparison) else of_points(comparison, metric)


def of_profiles(comparison: Comparison, reference: str, metric: str = SCORE) -> Figure:
    """Draw performance profiles: in what share of episodes a policy comes within a factor of the reference."""
    profiles, look = comparison.profiles(reference, metric), looks(comparison.policies)
    figure, axes = new_figure(7, 3.6, 1, 1)
    axis = axes[0][0]
    for policy, part in profiles.groupby(POLICY, sort=False):
        style = {key: value for key, value in look[str(policy)].items() if key != "marker"}
        axis.plot(part["ratio"], part["share"] * 100, label=policy, lw=1.5, **style)
        axis.fill_between(part["ratio"], part["low"] * 100, part["high"] * 100, color=style["color"], alpha=0.12, lw=0)
    axis.set_xlabel(f"{metric_of(metric).title}, relative to {reference} on the same episode")
    axis.set_ylabel("episodes within the factor, %")
    axis.set_ylim(0, 101)
    tidy(axis)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def of_responses(comparison: Comparison) -> Figure | None:
    """Draw how many finished tasks took longer than a time, on logarithmic axes, a panel per environment.

    With a sweep the tasks of all its values count together. None if no response times were kept.
    """
    environments = list(dict.fromkeys(point[0] for point, _ in comparison.responses))
    if not environments:
        return None
    look = looks(comparison.policies)
    figure, axes = new_figure(1.6 + 4.4 * len(environments), 3.6, 1, len(environments))
    for axis, environment in zip(axes[0], environments, strict=True):
        for policy in comparison.policies:
            counts = [
                c for (point, name), c in comparison.responses.items() if (point[0], name) == (environment, policy)
            ]
            total = np.sum(counts, axis=0) if counts else np.zeros(0)
            if not np.any(total):
                continue
            beyond = 1 - np.cumsum(total) / total.sum()
            shown = (np.cumsum(total) > 0) & (beyond > 1e-6)
            style = {key: value for key, value in look[policy].items() if key != "marker"}
            shown &= beyond < LEAST_SHOWN  # a few tasks that hardly took any time would stretch the axis
            axis.plot(BIN_MIDDLES[shown], beyond[shown], label=policy, lw=1.2, **style)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(1e-4, 1.1)
        axis.set_xlabel("response time, s")
        axis.set_title(environment, fontsize=10)
        tidy(axis)
    axes[0][0].set_ylabel("share of finished tasks that took longer")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure
