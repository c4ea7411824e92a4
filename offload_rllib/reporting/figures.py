"""Figures of a comparison, for papers (PDF, SVG) and for looking at (PNG)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from offload_rllib.config.files import written_at_once
from offload_rllib.evaluation.metrics import SCORE, metric_of
from offload_rllib.evaluation.results import POLICY, SAMPLED, Comparison, Point
from offload_rllib.reporting.looks import COLUMN, LABEL_POINTS, PAGE, TITLE_POINTS, label_ends, looks
from offload_rllib.simulator.metrics import BIN_MIDDLES

FORMATS = ("png", "svg", "pdf")
FEWEST_FOR_LINES = 3
# With more policies than this the lines cannot be distinguished: each gets a panel of its own.
MOST_IN_A_PANEL = 6
PANEL_COLUMNS = 4
# Journals reject Type 3 fonts, matplotlib's default in PDF.
FONTS = {"pdf.fonttype": 42, "ps.fonttype": 42}
LEAST_SHOWN = 0.999
DPI = 300


def write_figure(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> dict[str, Path]:
    """Write a figure in some formats, each in one step; return the paths by format."""
    paths = {}
    for kind in formats:
        paths[kind] = stem.with_name(f"{stem.name}.{kind}")
        # Without a date the same results give the same file.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with written_at_once(paths[kind]) as partial, rc_context(FONTS):  # pyright: ignore[reportArgumentType] - any mapping will do
            figure.savefig(partial, dpi=DPI, format=kind, metadata=metadata)
    return paths


def new_figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Return an empty figure of so many inches, and its axes [rows][columns]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def tidy(axis: Axes) -> None:
    """Give axes a grid and small letters, and take away the frame's upper and right side."""
    axis.grid(alpha=0.3, lw=0.5)
    axis.tick_params(labelsize=LABEL_POINTS)
    axis.spines[["top", "right"]].set_visible(False)


def is_line(comparison: Comparison) -> bool:
    """Return whether there is one swept key, of at least three numbers: then figures are lines over it."""
    if len(comparison.sweep) != 1:
        return False
    values = comparison.episodes[comparison.sweep[0]].unique()
    return len(values) >= FEWEST_FOR_LINES and pd.api.types.is_numeric_dtype(comparison.episodes[comparison.sweep[0]])


def _base(policy: str) -> str:
    return policy.removesuffix(SAMPLED)


def _lines(
    comparison: Comparison,
    groups: Sequence[str],
    draw: Callable[[Axes, str, str, bool], None],
    finish: Callable[[Axes], object],
    labels: tuple[str, str],
) -> Figure:
    """Draw a line for each policy in each group: in one panel, or, if they are many, in a panel each.

    Args:
        comparison: the policies.
        groups: titles of the groups, e.g. environments.
        draw: given axes, group, policy, and whether it is what the panel shows or only a grey line beside it.
        finish: sets scales and limits of a panel.
        labels: of the horizontal and the vertical axis.
    """
    bases = list(dict.fromkeys(map(_base, comparison.policies)))
    if len(bases) <= MOST_IN_A_PANEL:
        columns = min(len(groups), 2)
        rows = -(-len(groups) // columns)
        figure, axes = new_figure(COLUMN if columns == 1 else PAGE, 2.4 * rows, rows, columns)
        for axis in axes.flat[len(groups) :]:
            axis.set_visible(False)
        for axis, group in zip(axes.flat, groups, strict=False):
            for policy in comparison.policies:
                draw(axis, group, policy, True)  # noqa: FBT003 - a callback's argument
            axis.set_title(group, fontsize=TITLE_POINTS)
    else:
        figure, axes = _panel_each(comparison.policies, bases, groups, draw)
    shown = [axis for axis in axes.flat if axis.get_visible()]
    for axis in shown:
        finish(axis)
        tidy(axis)
        if len(bases) <= MOST_IN_A_PANEL:
            _label(axis)
    if len(bases) > MOST_IN_A_PANEL:  # panels of different policies are compared with each other
        low, high = min(axis.get_ylim()[0] for axis in shown), max(axis.get_ylim()[1] for axis in shown)
        for axis in shown:
            axis.set_ylim(low, high)
    figure.supxlabel(labels[0], fontsize=TITLE_POINTS)
    figure.supylabel(labels[1], fontsize=TITLE_POINTS)
    return figure


def _label(axis: Axes) -> None:
    """Write the name of each line at its end."""
    lines = []
    for line in axis.lines:
        x, y = (np.asarray(values, np.float64) for values in line.get_data())
        name = str(line.get_label())
        if not name.startswith("_") and np.isfinite(y).any():
            last = np.flatnonzero(np.isfinite(y))[-1]
            lines.append((name, float(x[last]), float(y[last]), str(line.get_color())))
    label_ends(axis, lines)


def _panel_each(
    policies: Sequence[str], bases: Sequence[str], groups: Sequence[str], draw: Callable[[Axes, str, str, bool], None]
) -> tuple[Figure, np.ndarray]:
    """Return a figure with a panel for each policy of each group, the others in grey, and its axes."""
    rows = -(-len(bases) // PANEL_COLUMNS)
    figure, axes = new_figure(PAGE, 1.55 * rows * len(groups) + 0.5, rows * len(groups), PANEL_COLUMNS)
    for axis in axes.flat:
        axis.set_visible(False)
    for number, group in enumerate(groups):
        for axis, base in zip(axes[number * rows : (number + 1) * rows].flat, bases, strict=False):
            axis.set_visible(True)
            for policy in sorted(policies, key=lambda name, base=base: _base(name) == base):
                draw(axis, group, policy, _base(policy) == base)
            axis.set_title(f"{group}: {base}" if len(groups) > 1 else base, fontsize=LABEL_POINTS)
    about = f"{groups[0]}; " if len(groups) == 1 else ""
    dashed = ", dashed: sampled" if len(bases) < len(policies) else ""
    figure.suptitle(f"{about}grey: the other policies{dashed}", fontsize=TITLE_POINTS)
    return figure, axes


def over_sweep(comparison: Comparison, metric: str) -> Figure:
    """Draw a metric over the swept key: means with 95 % intervals as bands, and a point for each training seed."""
    (key,) = comparison.sweep
    look, about = looks(comparison.policies), metric_of(metric)

    def draw(axis: Axes, environment: str, policy: str, shown: bool) -> None:
        places = [p for p in comparison.points if p[0] == environment and policy in comparison.played(p)]
        values = [comparison.mean(policy, metric, place) for place in places]
        x, means = [place[1] for place in places], [value.mean * about.factor for value in values]
        if not shown:
            axis.plot(x, means, color="0.8", lw=0.8)
            return
        axis.plot(x, means, label=policy, ms=3, lw=1.2, **look[policy])
        low, high = ([getattr(value, end) * about.factor for value in values] for end in ("low", "high"))
        axis.fill_between(x, low, high, color=look[policy]["color"], alpha=0.15, lw=0)
        for place in places:
            _seeds(axis, comparison, policy, metric, place, place[1], upright=True)

    def finish(axis: Axes) -> None:
        if about.lower_is_better:
            axis.set_ylim(bottom=0)

    environments = list(dict.fromkeys(point[0] for point in comparison.points))
    return _lines(comparison, environments, draw, finish, (key, about.label))


def _seeds(
    axis: Axes, comparison: Comparison, policy: str, metric: str, point: Point, at: float, *, upright: bool
) -> None:
    """Mark the mean of each training seed: a seed that failed is seen, and an interval may not tell."""
    means = comparison.matrix(policy, metric, point).mean(axis=1) * metric_of(metric).factor
    if len(means) > 1:
        where = np.full(len(means), at, np.float64)
        x, y = (where, means) if upright else (means, where)
        axis.plot(x, y, "o", ms=2.5, mfc="none", mec=looks(comparison.policies)[policy]["color"], mew=0.8)


def of_points(comparison: Comparison, metric: str) -> Figure:
    """Draw a metric as means with 95 % intervals, a row per policy and a panel per point, in the order of the score.

    Rings are the means of single training seeds.
    """
    points, about, look = comparison.points, metric_of(metric), looks(comparison.policies)

    def mean_score(policy: str) -> float:
        return float(
            np.mean([comparison.matrix(policy, SCORE, p).mean() for p in points if policy in comparison.played(p)])
        )

    order = sorted(comparison.policies, key=mean_score, reverse=True)
    columns = min(len(points), 3)
    rows = -(-len(points) // columns)
    figure, axes = new_figure(COLUMN if columns == 1 else PAGE, rows * (0.7 + 0.17 * len(order)), rows, columns)
    for axis in axes.flat[len(points) :]:
        axis.set_visible(False)
    for number, (axis, point) in enumerate(zip(axes.flat, points, strict=False)):
        for row, policy in enumerate(order):
            if policy not in comparison.played(point):
                continue
            value = comparison.mean(policy, metric, point)
            colour = look[policy]["color"]
            axis.plot([value.low * about.factor, value.high * about.factor], [row, row], color=colour, lw=2, alpha=0.6)
            axis.plot(value.mean * about.factor, row, "o", color=colour, ms=4)
            _seeds(axis, comparison, policy, metric, point, row, upright=False)
        axis.set_yticks(range(len(order)), order if number % columns == 0 else [""] * len(order), fontsize=LABEL_POINTS)
        axis.set_ylim(-0.6, len(order) - 0.4)
        if about.lower_is_better:
            axis.set_xlim(left=0)
        axis.set_title(comparison.label(point), fontsize=TITLE_POINTS)
        axis.set_xlabel(about.label, fontsize=TITLE_POINTS)
        tidy(axis)
    return figure


def of_metric(comparison: Comparison, metric: str) -> Figure:
    """Draw a metric: over the swept key if there is one, otherwise point by point."""
    return over_sweep(comparison, metric) if is_line(comparison) else of_points(comparison, metric)


def of_profiles(comparison: Comparison, reference: str, metric: str = SCORE) -> Figure:
    """Draw performance profiles: in what share of episodes a policy comes within a factor of the reference."""
    profiles, look = comparison.profiles(reference, metric), looks(comparison.policies)

    def draw(axis: Axes, _: str, policy: str, shown: bool) -> None:
        part = profiles[profiles[POLICY] == policy]
        style = {key: value for key, value in look[policy].items() if key != "marker"}
        if not shown:
            axis.plot(part["ratio"], part["share"] * 100, color="0.8", lw=0.8)
            return
        axis.plot(part["ratio"], part["share"] * 100, label=policy, lw=1.2, **style)
        axis.fill_between(part["ratio"], part["low"] * 100, part["high"] * 100, color=style["color"], alpha=0.12, lw=0)

    x = f"{metric_of(metric).title}, relative to {reference} on the same episode"
    environments = ", ".join(dict.fromkeys(str(point[0]) for point in comparison.points))
    return _lines(
        comparison, [environments], draw, lambda axis: axis.set_ylim(0, 101), (x, "episodes within the factor, %")
    )


def of_responses(comparison: Comparison) -> Figure | None:
    """Draw how many finished tasks took longer than a time, on logarithmic axes.

    With a sweep the tasks of all its values count together. None if no response times were kept.
    """
    environments = list(dict.fromkeys(point[0] for point, _ in comparison.responses))
    if not environments:
        return None
    look = looks(comparison.policies)

    def draw(axis: Axes, environment: str, policy: str, shown: bool) -> None:
        counts = [c for (point, name), c in comparison.responses.items() if (point[0], name) == (environment, policy)]
        total = np.sum(counts, axis=0) if counts else np.zeros(0)
        if not np.any(total):
            return
        beyond = 1 - np.cumsum(total) / total.sum()
        # A few tasks of nearly zero time would stretch the axis.
        inside = (np.cumsum(total) > 0) & (beyond > 1e-6) & (beyond < LEAST_SHOWN)
        style = {key: value for key, value in look[policy].items() if key != "marker"}
        drawn = {"label": policy, "lw": 1.2, **style} if shown else {"color": "0.8", "lw": 0.8}
        axis.plot(BIN_MIDDLES[inside], beyond[inside], **drawn)

    def finish(axis: Axes) -> None:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_ylim(1e-4, 1.1)

    labels = ("response time, s", "share of finished tasks that took longer")
    return _lines(comparison, environments, draw, finish, labels)
