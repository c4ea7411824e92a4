"""Tables of a comparison: for the terminal, for Markdown and LaTeX, as tidy CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from offload_rllib.config.files import written_at_once
from offload_rllib.experiment.comparison import POLICY, TRAINED_ON, Comparison, Point
from offload_rllib.experiment.metrics import SCORE, chosen, metric_of
from offload_rllib.experiment.statistics import Interval


def number(value: float) -> str:
    """Return a number with three or four digits, empty for one that is not known."""
    if not math.isfinite(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"


def with_half_width(value: Interval, factor: float) -> str:
    """Return a mean and the larger half of its interval; the mean alone where there is no interval."""
    half = max(value.high - value.mean, value.mean - value.low) * factor
    mean = number(value.mean * factor)
    return f"{mean} ± {number(half)}" if math.isfinite(half) and half > 0 else mean


def difference_text(value: Interval, factor: float) -> str:
    """Return a difference with its interval, in parentheses if that includes 0."""
    ends = f"[{number(value.low * factor)}, {number(value.high * factor)}]"
    text = f"{'+' if value.mean > 0 else ''}{number(value.mean * factor)} {ends}"
    return text if value.excludes_zero else f"({text})"


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


def differences_table(comparison: Comparison, point: Point, reference: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Return paired differences from a reference as text: a row per policy, a column per metric."""
    rows = []
    for policy in comparison.played(point):
        if policy == reference:
            continue
        row = {"policy": f"{policy} - {reference}"}
        for name in metrics:
            row[metric_of(name).label] = difference_text(
                comparison.difference(policy, reference, name, point), metric_of(name).factor
            )
        rows.append(row)
    return pd.DataFrame(rows)


def transfer_table(comparison: Comparison, metric: str = SCORE) -> pd.DataFrame:
    """Return what policies lose where they were not trained: one row per policy, place of training, and point.

    Columns: `policy` (without its origin), `trained_on`, the point, `mean`, and, where the same policy was also trained
    on that point's environment, `there` (its mean) and the paired `difference` with `low` and `high`.
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
                row |= {"there": there, "difference": lost.mean, "low": lost.low, "high": lost.high}
            rows.append(row)
    return pd.DataFrame(rows)


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
    for point in comparison.points:
        about = f"{comparison.label(point)}: {comparison.episode_count} held-out episodes, 95 % intervals"
        parts = [means_table(comparison, point, names)]
        if reference in comparison.played(point):
            parts.append(differences_table(comparison, point, reference, names))
        for part in parts:
            if part.empty:
                continue
            rows = part.to_dict("records")
            # Cells are text; they are to stay as they are.
            markdown += [
                f"### {about}",
                "",
                tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True),
                "",
            ]
            latex += [
                f"% {about}",
                tabulate(rows, headers="keys", tablefmt="latex_booktabs", disable_numparse=True),
                "",
            ]
    for what, lines in (("markdown", markdown), ("latex", latex)):
        paths[what] = folder / f"tables.{'md' if what == 'markdown' else 'tex'}"
        with written_at_once(paths[what]) as partial:
            partial.write_text("\n".join(lines), encoding="utf-8")
    return paths
