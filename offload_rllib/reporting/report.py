"""The report of an evaluation: a table, CSV files, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from offload_rllib.config.files import written_at_once
from offload_rllib.evaluation.interval_text import difference_text, number, with_half_width
from offload_rllib.evaluation.metrics import COLUMNS, METRICS, TYPE_COLUMNS, chosen, metric_of, types_of
from offload_rllib.evaluation.results import FINGERPRINT, POLICY, SAMPLED, Comparison
from offload_rllib.evaluation.statistics import certain
from offload_rllib.reporting.looks import looks
from offload_rllib.reporting.tensorboard import write_events
from offload_rllib.simulator.metrics import OF_TYPE

UNSURE = "[ ]: 95 % interval; ( ): no certain difference, adjusted for the number in the table"
COMPARED = ("score_mean_s", "dropped_share")


def tables(
    evaluation: Comparison, reference: str, *, by_type: bool = False, metrics: Sequence[str] = ()
) -> list[Table]:
    """Return a table of means with 95 % intervals, and one of paired differences from a reference policy.

    Both fit a terminal of 80 columns. A difference in parentheses is not certain, adjusted for all of the table. With
    `by_type` there is one more table for each type of task, if there are several; with `metrics` one of these.
    """
    episodes = evaluation.episode_count
    means = Table(
        title=f"{episodes} held-out episodes, the same for all policies",
        caption="score: response time; a dropped or unfinished task counts with its deadline or price\n"
        "done: response of finished tasks; sent: tasks that left their node; full: time nodes are full\n"
        "±: 95 % interval of the mean",
    )
    paired = Table(title=f"policy minus {reference}, paired by episode", caption=UNSURE)
    means.add_column("policy", overflow="fold")
    paired.add_column("policy", overflow="fold")
    for column in COLUMNS:
        means.add_column(column.brief, justify="right")
    for title in ("score, s", "dropped, % points"):
        paired.add_column(title, justify="right")
    order = sorted(evaluation.policies, key=lambda policy: evaluation.of(policy, "score_mean_s").mean())
    cells = [(policy, metric) for policy in order if policy != reference for metric in COMPARED]
    differences = [evaluation.difference(policy, reference, metric) for policy, metric in cells]
    texts = {
        cell: difference_text(difference, METRICS[cell[1]].factor, sure=sure)
        for cell, difference, sure in zip(cells, differences, certain(differences), strict=True)
    }
    for policy in order:
        values = [(evaluation.mean(policy, m.name), m.name, m.factor) for m in COLUMNS]
        means.add_row(
            policy,
            *(with_half_width(v, f) if metric in COMPARED else number(v.mean * f) for v, metric, f in values),
            style="bold" if policy == reference else "",
        )
        if policy != reference:
            paired.add_row(policy, *(texts[policy, metric] for metric in COMPARED))
    each = [_of_one_type(evaluation, name, reference) for name in types_of(evaluation.metrics)] if by_type else []
    each += [_of_metrics(evaluation, chosen(metrics, evaluation.metrics), order, reference)] if metrics else []
    return [means, paired, *each] if len(evaluation.policies) > 1 else [means, *each]


def _of_metrics(evaluation: Comparison, metrics: Sequence[str], policies: Sequence[str], reference: str) -> Table:
    table = Table(title="metrics", caption="±: 95 % interval of the mean")
    table.add_column("policy", overflow="fold")
    for name in metrics:
        table.add_column(metric_of(name).label, justify="right")
    for policy in policies:
        cells = [with_half_width(evaluation.mean(policy, name), metric_of(name).factor) for name in metrics]
        table.add_row(policy, *cells, style="bold" if policy == reference else "")
    return table


def _of_one_type(evaluation: Comparison, name: str, reference: str) -> Table:
    table = Table(title=f"tasks of type {name}", caption="missed: dropped, late or unfinished; ±: 95 % interval")
    table.add_column("policy", overflow="fold")
    for column in TYPE_COLUMNS:
        table.add_column(column.brief, justify="right", no_wrap=True)
    score = f"score_mean_s{OF_TYPE}{name}"
    for policy in sorted(evaluation.policies, key=lambda policy: evaluation.of(policy, score).mean()):
        cells = [
            with_half_width(evaluation.mean(policy, f"{column.name}{OF_TYPE}{name}"), column.factor)
            for column in TYPE_COLUMNS
        ]
        table.add_row(policy, *cells, style="bold" if policy == reference else "")
    return table


def write_summary(evaluation: Comparison, reference: str, path: Path) -> None:
    """Write a tidy CSV: one row per policy and metric, with mean, IQM, intervals, and the paired difference."""
    means = evaluation.summary(evaluation.metrics)
    keys = [*evaluation.keys, POLICY, "metric"]
    if len(evaluation.policies) > 1:
        paired = evaluation.paired(reference, evaluation.metrics).rename(
            columns={"low": "difference_low", "high": "difference_high", "method": "difference_method"}
        )
        means = means.merge(paired, how="left", on=keys, validate="one_to_one")
    means.insert(0, "seed", evaluation.seed)
    means.insert(0, FINGERPRINT, evaluation.environment)
    with written_at_once(path) as partial:
        means.to_csv(partial, index=False)


def plot(evaluation: Comparison, reference: str, path: Path, title: str) -> None:
    """Draw means with 95 % intervals of the main figures as a PNG: a row per policy, best on top."""
    policies = sorted(evaluation.policies, key=lambda policy: -evaluation.of(policy, "score_mean_s").mean())
    panels, look = COLUMNS[:3], looks(evaluation.policies)
    names = ("mean score, s", "95th percentile of the score, s", "dropped tasks, %")
    figure = Figure(figsize=(11, 1.2 + 0.38 * len(policies)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Sequence = figure.subplots(1, len(panels), sharey=True)
    for axis, panel, name in zip(axes, panels, names, strict=True):
        factor = panel.factor
        for row, policy in enumerate(policies):
            value = evaluation.mean(policy, panel.name)
            colour = look[policy]["color"]
            hollow = look[policy]["linestyle"] != "-"  # sampled play, or a rule beyond the palette: colours return
            axis.plot([value.low * factor, value.high * factor], [row, row], color=colour, lw=2.5, alpha=0.6)
            axis.plot(value.mean * factor, row, look[policy]["marker"], color=colour, mfc="white" if hollow else colour)
            axis.annotate(
                number(value.mean * factor),
                (value.mean * factor, row),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axis.set_xlabel(name)
        axis.set_xlim(left=0)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(policies)), policies)
    for label, policy in zip(axes[0].get_yticklabels(), policies, strict=True):
        label.set_fontweight("bold" if policy.removesuffix(SAMPLED) == reference else "normal")
    axes[0].set_ylim(-0.6, len(policies) - 0.2)
    figure.suptitle(title, fontsize=10, parse_math=False)
    with written_at_once(path) as partial:
        figure.savefig(partial, dpi=150, format="png")


def write_report(evaluation: Comparison, reference: str, folder: Path, title: str) -> dict[str, Path]:
    """Write `episodes.csv`, `summary.csv`, `timings.csv` and `comparison.png` into a folder; return them by kind.

    And an events file for TensorBoard (`evaluation_events`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "episodes": folder / "episodes.csv",
        "summary": folder / "summary.csv",
        "timings": folder / "timings.csv",
        "plot": folder / "comparison.png",
    }
    for kind, table in (("episodes", evaluation.episodes), ("timings", evaluation.timings)):
        with written_at_once(paths[kind]) as partial:
            table.to_csv(partial, index=False)
    write_summary(evaluation, reference, paths["summary"])
    plot(evaluation, reference, paths["plot"], title)
    paths["TensorBoard"] = write_events(evaluation, folder)
    return paths
