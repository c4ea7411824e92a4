"""The report of a front: its points, the hypervolumes, and a plot for each pair of objectives."""

from __future__ import annotations

import base64
import html
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from offload_rllib.config.files import written_at_once
from offload_rllib.evaluation.fronts import BEYOND, POLICY, Front, dominated
from offload_rllib.evaluation.metrics import metric_of
from offload_rllib.reporting.figures import new_figure, tidy, write_figure
from offload_rllib.reporting.looks import COLUMN, LABEL_POINTS, PAGE, PAGE_STYLE, TITLE_POINTS, looks

POINTS, PICTURE, PAGE_NAME, RECORD = "front.csv", "front", "report.html", "front.json"
MOST_COLUMNS = 3


def draw_front(front: Front) -> Figure:
    """Draw the points of every policy, with a panel for each pair of objectives.

    Filled: no point of the same policy dominates it, in all objectives together. A panel shows two of these, so that a
    point may look dominated there.
    """
    pairs = list(itertools.combinations(range(len(front.figures)), 2))
    columns = min(len(pairs), MOST_COLUMNS)
    rows = -(-len(pairs) // columns)
    width = COLUMN if columns == 1 else PAGE
    figure, axes = new_figure(width, rows * (width / columns * 0.85) + 0.4, rows, columns)
    look = looks(front.policies)
    for axis, (x, y) in zip(axes.flat, pairs, strict=False):
        for policy in front.policies:
            points = front.of(policy)
            hollow = dominated(points)
            style = {"color": look[policy]["color"], "marker": look[policy]["marker"], "s": 16, "lw": 0.8, "alpha": 0.8}
            for part, filled in ((points[~hollow], True), (points[hollow], False)):
                face = {} if filled else {"facecolors": "none", "edgecolors": style["color"]}
                kept = {key: value for key, value in style.items() if filled or key != "color"}
                axis.scatter(
                    part[:, x] * metric_of(front.figures[x]).factor,
                    part[:, y] * metric_of(front.figures[y]).factor,
                    label=policy if filled else None,
                    **kept,
                    **face,
                )
        for name, set_label in ((front.figures[x], axis.set_xlabel), (front.figures[y], axis.set_ylabel)):
            set_label(metric_of(name).label, fontsize=TITLE_POINTS)
        tidy(axis)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), fontsize=LABEL_POINTS)
    return figure


def hypervolumes(front: Front) -> pd.DataFrame:
    """Return a row per policy: its points, those that none of its own dominates, and its hypervolume."""
    rows = []
    for policy in front.policies:
        points = front.of(policy)
        rows.append(
            {
                POLICY: policy,
                "points": len(points),
                "not dominated": int((~dominated(points)).sum()),
                "hypervolume": front.hypervolume(policy),
            }
        )
    return pd.DataFrame(rows)


def write_front(front: Front, folder: Path, title: str) -> dict[str, Path]:
    """Write points, hypervolumes, the plot and the page into a folder; return the files by what they are."""
    paths = {"report": folder / PAGE_NAME, "points": folder / POINTS, "record": folder / RECORD}
    front.points.to_csv(paths["points"], index=False)
    table = hypervolumes(front)
    record = {
        "title": title,
        "objectives": front.objectives,
        "figures": front.figures,
        "episodes": front.episodes,
        "held_out_seed": front.seed,
        "policies": table.to_dict("records"),
    }
    paths["record"].write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    picture = write_figure(draw_front(front), folder / PICTURE)["png"]
    with written_at_once(paths["report"]) as partial:
        partial.write_text("\n".join(_page(front, table, title, picture)), encoding="utf-8")
    return paths | {"figure": picture}


def _page(front: Front, table: pd.DataFrame, title: str, picture: Path) -> Iterator[str]:
    shown = html.escape(title)
    yield f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{shown}</title>"
    yield f"<style>{PAGE_STYLE}</style><h1>{shown}</h1>"
    yield (
        f"<p>Each point is a mean over {front.episodes} held-out episodes (seed {front.seed}), the same for all. Less "
        "is better in every objective. Filled: no point of the same policy is as good in all and better in one."
        "</p>"
    )
    encoded = base64.b64encode(picture.read_bytes()).decode()
    yield f"<img alt='The front, by pairs of objectives' src='data:image/png;base64,{encoded}'>"
    yield "<h2>Hypervolumes</h2>"
    yield (
        "<p>Share of the box between the best value of each objective and the reference that the points of a policy "
        f"dominate. The reference is {BEYOND:.0%} of the range beyond the worst value of all points here.</p>"
    )
    yield table.to_html(index=False, border=0, float_format=lambda value: f"{value:.4f}")
    yield "<h2>Points</h2>"
    yield front.points.to_html(index=False, border=0, na_rep="-", float_format=lambda value: f"{value:.4g}")
    yield "</html>"
