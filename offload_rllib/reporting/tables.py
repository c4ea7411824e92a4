"""Tables of a comparison: for the terminal, for Markdown and LaTeX, as tidy CSV and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from offload_rllib.config.files import written_at_once
from offload_rllib.envs.goal import COST
from offload_rllib.evaluation.interval_text import difference_text, number, with_half_width
from offload_rllib.evaluation.metrics import SCORE, chosen, metric_of
from offload_rllib.evaluation.results import POLICY, TRAINED_ON, Comparison, Point
from offload_rllib.evaluation.statistics import certain, interquartile_mean, probability_of_improvement
from offload_rllib.reporting.latex import latex_table

# Columns after the mean score in the first, short table.
SHORT = (SCORE, COST, "score_p95_s", "dropped_share")


def means_table(comparison: Comparison, point: Point, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the means of a point, best score first, as text: a row per policy, a column per metric."""
    played = sorted(comparison.played(point), key=lambda policy: comparison.matrix(policy, SCORE, point).mean())
    rows = []
    for policy in played:
        row = {"policy": policy}
        for name in metrics:
            row[metric_of(name).label] = with_half_width(comparison.mean(policy, name, point), metric_of(name).factor)
        rows.append(row)
    return pd.DataFrame(rows)


def differences_table(
    comparison: Comparison, point: Point, reference: str, metrics: Sequence[str], policies: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return paired differences from a reference as text: a row per policy (None: all), a column per metric.

    Differences that are not certain are in parentheses, adjusted for all cells of the table.
    """
    played = [p for p in (comparison.played(point) if policies is None else policies) if p != reference]
    cells = [(policy, name) for policy in played for name in metrics]
    found = [comparison.difference(policy, reference, name, point) for policy, name in cells]
    texts = {
        cell: difference_text(difference, metric_of(cell[1]).factor, sure=sure)
        for cell, difference, sure in zip(cells, found, certain(found), strict=True)
    }
    return pd.DataFrame(
        [
            {"policy": f"{policy} - {reference}", **{metric_of(name).label: texts[policy, name] for name in metrics}}
            for policy in played
        ]
    )


def short_table(comparison: Comparison, point: Point, reference: str) -> pd.DataFrame:
    """Return a short table for a column of a paper, best score first: mean score and cost, tail, drops, difference."""
    names = [name for name in SHORT if name in comparison.metrics]
    table = means_table(comparison, point, names)
    if reference not in comparison.played(point) or len(table) < 2:
        return table
    minus = differences_table(comparison, point, reference, (SCORE,))
    found = dict(zip(minus["policy"], minus[metric_of(SCORE).label], strict=True))
    table[f"minus {reference}"] = [found.get(f"{policy} - {reference}", "") for policy in table["policy"]]
    return table


def over_points_table(comparison: Comparison, metric: str, reference: str | None = None) -> pd.DataFrame:
    """Return one metric over all points as text: a row per policy, best on the average first, a column per point.

    Args:
        comparison: the results.
        metric: which.
        reference: None: means; otherwise paired differences from this policy, uncertain ones in parentheses, adjusted
            for all cells of the table.
    """
    about = metric_of(metric)
    places = {
        policy: [p for p in comparison.points if policy in comparison.played(p)] for policy in comparison.policies
    }
    means = {p: np.mean([comparison.mean(p, metric, point).mean for point in places[p]]) for p in places}
    order = sorted(places, key=lambda policy: float(means[policy]), reverse=not about.lower_is_better)
    if reference is None:
        texts = {
            (policy, point): with_half_width(comparison.mean(policy, metric, point), about.factor)
            for policy in order
            for point in places[policy]
        }
    else:
        order = [policy for policy in order if policy != reference]
        cells = [(policy, point) for policy in order for point in places[policy] if point in places[reference]]
        found = [comparison.difference(policy, reference, metric, point) for policy, point in cells]
        texts = {
            cell: difference_text(difference, about.factor, sure=sure)
            for cell, difference, sure in zip(cells, found, certain(found), strict=True)
        }
    return pd.DataFrame(
        [
            {"policy": policy, **{comparison.label(p): texts.get((policy, p), "") for p in comparison.points}}
            for policy in order
        ]
    )


def robust_table(comparison: Comparison, point: Point, reference: str, metric: str = SCORE) -> pd.DataFrame:
    """Return IQM and probability of improvement of a point as text: a row per policy, best mean first."""
    about = metric_of(metric)
    rows = []
    for policy in sorted(comparison.played(point), key=lambda policy: comparison.matrix(policy, SCORE, point).mean()):
        values = comparison.matrix(policy, metric, point)
        row = {
            "policy": policy,
            about.label: with_half_width(comparison.mean(policy, metric, point), about.factor),
            "IQM": with_half_width(interquartile_mean(values), about.factor),
        }
        if reference in comparison.played(point):
            text = ""
            if policy != reference:
                other = comparison.matrix(reference, metric, point)
                better = probability_of_improvement(values, other, lower_is_better=about.lower_is_better)
                text = f"{100 * better.mean:.0f} [{100 * better.low:.0f}, {100 * better.high:.0f}]"
            row[f"better than {reference}, % of episodes"] = text
        rows.append(row)
    return pd.DataFrame(rows)


def timings_table(comparison: Comparison) -> pd.DataFrame:
    """Return the cost of deciding as text, a row per policy over all points and training seeds.

    Microseconds per decision with a task on offer, as policies are played here: up to 32 episodes in parallel. Not the
    same from run to run.
    """
    names = ("decisions", "decision_wall_us", "decision_cpu_us", "seconds")
    columns = {name: comparison.timings[name].to_numpy(np.float64) for name in names}
    policies = comparison.timings[POLICY].to_numpy()
    rows = []
    for policy in comparison.policies:
        decisions, wall, cpu, seconds = (columns[name][policies == policy] for name in names)
        known = decisions > 0  # without tasks nothing is decided
        if known.any():
            rows.append(
                {
                    "policy": policy,
                    "decisions": f"{decisions.sum():,.0f}",
                    "µs per decision": number(float(np.average(wall[known], weights=decisions[known]))),
                    "CPU µs per decision": number(float(np.average(cpu[known], weights=decisions[known]))),
                    "seconds in all": number(float(seconds.sum())),
                }
            )
    return pd.DataFrame(rows)


def transfer_table(comparison: Comparison, metric: str = SCORE) -> pd.DataFrame:
    """Return the loss of policies where they were not trained: one row per policy, place of training, and point.

    Columns: `policy` (without its origin), `trained_on`, the point, `mean`, and, where the same policy was also trained
    on that point's environment, `there` (its mean) and the paired `difference` with `low`, `high`
    and its own p-value `p`.
    """
    about = comparison.episodes[[POLICY, TRAINED_ON]].drop_duplicates()
    origin = {str(name): str(label) for name, label in about.itertuples(index=False) if label}
    rows = []
    for point in comparison.points:
        for policy in comparison.played(point):
            if policy not in origin:
                continue
            base = policy.replace(f" from {origin[policy]}", "")
            twin = policy.replace(f" from {origin[policy]}", f" from {point[0]}")
            row = {"policy": base, "trained_on": origin[policy], **dict(zip(comparison.keys, point, strict=True))}
            row["mean"] = comparison.mean(policy, metric, point).mean
            if twin in comparison.played(point):
                lost = comparison.difference(policy, twin, metric, point)
                there = float(comparison.matrix(twin, metric, point).mean())
                row |= {"there": there, "difference": lost.mean, "low": lost.low, "high": lost.high, "p": lost.p}
            rows.append(row)
    return pd.DataFrame(rows)


def _tables(comparison: Comparison, reference: str, names: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield every table to read, with its title: metrics over all points first, then point by point."""
    how = f"{comparison.episode_count} held-out episodes, 95 % intervals"
    if len(comparison.points) > 1:
        for name in names:
            about = metric_of(name).label
            yield f"{about}: {how}", over_points_table(comparison, name)
            yield (
                f"{about}, policy minus {reference}, paired by episode: {how}",
                over_points_table(comparison, name, reference),
            )
    for point in comparison.points:
        about = f"{comparison.label(point)}: {how}"
        yield f"{about}: in short", short_table(comparison, point, reference)
        yield about, means_table(comparison, point, names)
        yield about, robust_table(comparison, point, reference)
        if reference in comparison.played(point):
            yield about, differences_table(comparison, point, reference, names)


def write_tables(comparison: Comparison, reference: str, metrics: Sequence[str], folder: Path) -> dict[str, Path]:
    """Write summary and paired differences as CSV and JSON, and tables to read as Markdown and LaTeX.

    Returns:
        The files by what they are.
    """
    names = chosen(metrics, comparison.metrics)
    frames = {
        "summary": comparison.summary(names),
        "differences": comparison.paired(reference, names),
        "profiles": comparison.profiles(reference),
        "transfer": transfer_table(comparison),
    }
    paths = {}
    for what, frame in frames.items():
        if frame.empty:
            continue
        paths[what] = folder / f"{what}.csv"
        with written_at_once(paths[what]) as partial:
            frame.to_csv(partial, index=False)
        with written_at_once(folder / f"{what}.json") as partial:
            frame.to_json(partial, orient="records", indent=1)
    markdown, latex = [], []
    for about, part in _tables(comparison, reference, names):
        if part.empty:
            continue
        rows = part.to_dict("records")
        # Cells are text; they are to stay as they are.
        markdown += [f"### {about}", "", tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True), ""]
        latex.append(latex_table(part, about))
    for what, lines in (("markdown", markdown), ("latex", latex)):
        paths[what] = folder / f"tables.{'md' if what == 'markdown' else 'tex'}"
        with written_at_once(paths[what]) as partial:
            partial.write_text("\n".join(lines), encoding="utf-8")
    return paths
