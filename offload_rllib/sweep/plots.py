"""Figures of a sweep: trials as lines over their values, and which keys matter."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from offload_rllib.config.sweep import Domain, Metric
from offload_rllib.reporting.figures import write_figure
from offload_rllib.sweep.leaderboard import shown_value
from offload_rllib.sweep.outcomes import FAILED, FINISHED, TrialOutcome, best_of
from offload_rllib.sweep.plan import SweepPlan, token_of
from offload_rllib.sweep.study import directions, parameters

FORMATS = ("png", "svg")
# With fewer trials than this nothing can be said about importance.
FEWEST_FOR_IMPORTANCE = 5
TICKS = 5


@dataclass(frozen=True)
class Axis:
    """One vertical axis, from 0 at the bottom to 1 at the top.

    Attributes:
        label: of the axis.
        heights: [trials], NaN where a trial has no value.
        ticks: heights and texts of the marks.
    """

    label: str
    heights: np.ndarray
    ticks: Sequence[tuple[float, str]]


def _axis_of_key(key: str, domain: Domain, values: Sequence[Any]) -> Axis:
    label = key.partition(".")[2]
    if domain.choice is not None:
        tokens = [token_of(option) for option in domain.choice]
        step = 1 / max(len(tokens) - 1, 1)
        heights = np.array([tokens.index(token_of(value)) * step for value in values])
        return Axis(label, heights, [(i * step, str(token)) for i, token in enumerate(tokens)])
    low, high = domain.bounds
    scale = math.log if domain.logarithmic else float
    span = scale(high) - scale(low)
    heights = np.array([(scale(value) - scale(low)) / span for value in values])
    places = np.linspace(scale(low), scale(high), TICKS)
    back = math.exp if domain.logarithmic else float
    return Axis(label, heights, [((x - scale(low)) / span, f"{back(x):.3g}") for x in places])


def _axis_of_metric(metric: Metric, values: np.ndarray) -> Axis:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = high - low or 1.0
    places = np.linspace(low, low + span, TICKS)
    return Axis(metric.name, (values - low) / span, [((x - low) / span, f"{x:.4g}") for x in places])


def _reported(plan: SweepPlan, outcomes: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    name = plan.config.metrics[0].name
    return [outcome for outcome in outcomes if outcome.state != FAILED and math.isfinite(outcome.figure(name))]


def plot_parallel_coordinates(stem: Path, plan: SweepPlan, outcomes: Sequence[TrialOutcome], title: str) -> Path | None:
    """Draw every trial as a line over the keys of the space and the metrics; return the PNG's path.

    Colour is the first metric; trials that ended early are thin, the best is black. None without results.
    """
    shown, metrics = _reported(plan, outcomes), plan.config.metrics
    if not shown:
        return None
    axes = [
        _axis_of_key(key, domain, [outcome.values[key] for outcome in shown])
        for key, domain in plan.config.space.items()
    ]
    axes += [_axis_of_metric(m, np.array([outcome.figure(m.name) for outcome in shown])) for m in metrics]
    best = best_of(metrics, shown)
    values = np.array([outcome.figure(metrics[0].name) for outcome in shown])
    # One bad trial must not make all the others look alike.
    colours = ScalarMappable(
        Normalize(*np.percentile(values, (0, 90) if metrics[0].mode == "min" else (10, 100))),
        colormaps["viridis_r" if metrics[0].mode == "min" else "viridis"],
    )
    figure = Figure(figsize=(2.2 + 1.7 * len(axes), 4.6), layout="constrained")
    plane = figure.add_subplot()
    lines = np.array([axis.heights for axis in axes])
    for t, outcome in sorted(enumerate(shown), key=lambda item: item[1] is best):
        whole = outcome.state == FINISHED
        is_best = outcome is best
        plane.plot(
            range(len(axes)),
            lines[:, t],
            color="black" if is_best else colours.to_rgba(values[t]),
            lw=2.4 if is_best else 1.6 if whole else 0.9,
            alpha=1.0 if whole else 0.7,
            label=f"best: {outcome.name}" if is_best else None,
        )
    for i, axis in enumerate(axes):
        plane.axvline(i, color="0.3", lw=0.8)
        for height, text in axis.ticks:
            plane.plot([i - 0.02, i + 0.02], [height, height], color="0.3", lw=0.8)
            plane.annotate(
                text,
                (i, height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
            )
    plane.set_xticks(range(len(axes)), [axis.label.replace(".", ".\n") for axis in axes], fontsize=8)
    plane.set_yticks([])
    plane.set_xlim(-0.2, len(axes) - 0.5)
    plane.spines[:].set_visible(False)
    plane.legend(loc="upper left", bbox_to_anchor=(0, 1.1), frameon=False, fontsize=8)
    figure.colorbar(colours, ax=plane, label=metrics[0].name, extend="max" if metrics[0].mode == "min" else "min")
    figure.suptitle(title, fontsize=10)
    return write_figure(figure, stem, FORMATS)["png"]


def importances(plan: SweepPlan, outcomes: Sequence[TrialOutcome]) -> dict[str, float]:
    """Return the share of each key in what makes trials good, by PED-ANOVA (arXiv 2304.10255); empty if unknown.

    From all trials with results, early ended ones included, by the first metric. Of a few trials it is a rough hint.
    """
    shown, metric = _reported(plan, outcomes), plan.config.metrics[0]
    if len(shown) < FEWEST_FOR_IMPORTANCE:
        return {}
    import optuna  # noqa: PLC0415 - takes a second, and only the end of a sweep needs it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=directions([metric]))
    for outcome in shown:
        study.add_trial(optuna.trial.create_trial(value=outcome.figure(metric.name), **parameters(plan, outcome)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the estimate is new, and that trials are few
        return optuna.importance.get_param_importances(study)


def plot_importance(stem: Path, plan: SweepPlan, outcomes: Sequence[TrialOutcome], title: str) -> Path | None:
    """Draw the share of each key in the first metric, and every trial's metric over each key; return the PNG's path.

    None with too few trials.
    """
    shares = importances(plan, outcomes)
    if not shares:
        return None
    shown, metric = _reported(plan, outcomes), plan.config.metrics[0]
    values = np.array([outcome.figure(metric.name) for outcome in shown])
    order = sorted(plan.config.space, key=lambda key: -shares.get(key, 0.0))
    columns = min(len(order), 3)
    rows = math.ceil(len(order) / columns)
    figure = Figure(figsize=(3.4 + 3.1 * columns, 0.7 + 2.5 * rows), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, columns], squeeze=False)[0]
    bars = left.add_subplot()
    bars.barh(range(len(order)), [shares.get(key, 0.0) for key in order], color="tab:blue")
    bars.set_yticks(range(len(order)), [key.rpartition(".")[2] for key in order], fontsize=8)
    bars.invert_yaxis()
    bars.set_xlabel(f"importance for {metric.name}\n(PED-ANOVA, {len(shown)} trials)", fontsize=8)
    bars.spines[["top", "right"]].set_visible(False)
    best = best_of(plan.config.metrics, shown)
    panels = right.subplots(rows, columns, sharey=True, squeeze=False)
    for panel in panels.flat[len(order) :]:
        panel.set_visible(False)
    for panel, key in zip(panels.flat, order, strict=False):
        _slice(panel, key, plan.config.space[key], shown, values, best)
    for panel in panels[:, 0]:
        panel.set_ylabel(metric.name, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return write_figure(figure, stem, FORMATS)["png"]


def _slice(
    panel: Any,
    key: str,
    domain: Domain,
    shown: Sequence[TrialOutcome],
    values: np.ndarray,
    best: TrialOutcome | None,
) -> None:
    """Draw the metric of every trial over one key."""
    if domain.choice is not None:
        tokens = [token_of(option) for option in domain.choice]
        x = np.array([tokens.index(token_of(outcome.values[key])) for outcome in shown], float)
        panel.set_xticks(range(len(tokens)), [str(token) for token in tokens], fontsize=7)
        panel.set_xlim(-0.5, len(tokens) - 0.5)
    else:
        x = np.array([outcome.values[key] for outcome in shown], float)
        if domain.logarithmic:
            panel.set_xscale("log")
    whole = np.array([outcome.state == FINISHED for outcome in shown])
    panel.plot(x[whole], values[whole], "o", color="tab:blue", ms=4.5, label="whole budget")
    panel.plot(x[~whole], values[~whole], "o", color="tab:blue", ms=4.5, mfc="none", label="ended early")
    if best is not None:
        i = [outcome is best for outcome in shown].index(True)
        label = f"best: {shown_value(best.values[key])}"
        panel.plot(x[i], values[i], "*", color="tab:orange", ms=11, label=label)
        panel.set_title(label, fontsize=8)
    panel.set_xlabel(key.partition(".")[2], fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)


def shares_text(shares: Mapping[str, float]) -> str:
    """Return the importances in one line, largest first."""
    return ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
