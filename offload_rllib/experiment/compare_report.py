"""Everything that a comparison leaves to look at: tables, figures, and one HTML page that holds them all."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import yaml

from offload_rllib.config.files import written_at_once
from offload_rllib.experiment.compare import ComparisonFolder
from offload_rllib.experiment.compare_plan import ComparisonPlan, reference_of
from offload_rllib.experiment.comparison import Comparison
from offload_rllib.experiment.evaluation_events import write_events
from offload_rllib.experiment.figures import of_metric, of_profiles, of_responses, write_figure
from offload_rllib.experiment.metrics import SCORE, chosen, metric_of
from offload_rllib.experiment.tables import (
    differences_table,
    means_table,
    over_points_table,
    robust_table,
    timings_table,
    transfer_table,
    write_tables,
)

FIGURES, PAGE = "figures", "report.html"
MOST_OPEN = 3
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
summary h2 { display: inline-block }
img { max-width: 100% } pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12px }
"""


def finish_comparison(folder: ComparisonFolder, comparison: Comparison, plan: ComparisonPlan) -> dict[str, Path]:
    """Write all that a comparison leaves to look at, and only then call it finished; return the files as below."""
    paths = write_comparison(comparison, plan, folder.path)
    folder.record(state="finished")
    return paths


def write_comparison(comparison: Comparison, plan: ComparisonPlan, folder: Path) -> dict[str, Path]:
    """Write tables, figures and the page into the comparison's folder; return the main files by what they are."""
    reference, metrics = reference_of(plan), chosen(plan.metrics, comparison.metrics)
    paths = write_tables(comparison, reference, plan.metrics, folder)
    figures = folder / FIGURES
    figures.mkdir(exist_ok=True)
    write_events(comparison, folder)
    drawn = {name: of_metric(comparison, name) for name in metrics}
    drawn["profiles"] = of_profiles(comparison, reference)
    responses = of_responses(comparison)
    if responses is not None:
        drawn["responses"] = responses
    pictures = {name: write_figure(figure, figures / name)["png"] for name, figure in drawn.items()}
    with written_at_once(folder / PAGE) as partial:
        partial.write_text("\n".join(_page(comparison, plan, reference, metrics, pictures)), encoding="utf-8")
    return {"report": folder / PAGE, **paths, "figures": figures}


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0)


def _page(
    comparison: Comparison, plan: ComparisonPlan, reference: str, metrics: tuple[str, ...], pictures: dict[str, Path]
) -> Iterable[str]:
    title = f"Comparison on {', '.join(plan.environments)}"
    record = comparison.record
    yield f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
    yield f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
    seeds = f", {plan.training_seeds} training seeds" if plan.trained else ""
    yield (
        f"<p>{plan.episodes} held-out episodes (seed {plan.held_out_seed}), the same for all policies{seeds}. "
        "± and [ ]: 95 % intervals; ( ): the interval includes 0. Differences are paired by episode.</p>"
    )
    yield f"<p>Again: <code>{html.escape(str(record.get('command', '')))}</code></p>"
    if len(comparison.points) > 1:
        about = html.escape(metric_of(SCORE).label)
        yield f"<h2>{about}</h2>{_html(over_points_table(comparison, SCORE))}"
        if len(comparison.policies) > 1:
            yield f"<h3>Minus {html.escape(reference)}</h3>{_html(over_points_table(comparison, SCORE, reference))}"
    for point in comparison.points:
        # Many points would bury the figures: all but a few are folded.
        opened = " open" if len(comparison.points) <= MOST_OPEN else ""
        yield f"<details{opened}><summary><h2>{html.escape(comparison.label(point))}</h2></summary>"
        yield _html(means_table(comparison, point, metrics))
        yield "<h3>Robust statistics of the score</h3>" + _html(robust_table(comparison, point, reference))
        if reference in comparison.played(point) and len(comparison.played(point)) > 1:
            yield "<h3>Differences</h3>" + _html(differences_table(comparison, point, reference, metrics))
        yield "</details>"
    transfer = transfer_table(comparison)
    if "trained_on" in transfer and len(set(transfer["trained_on"])) > 1:
        yield "<h2>Trained elsewhere</h2>"
        yield transfer.to_html(index=False, border=0, float_format=lambda value: f"{value:.3g}")
    yield "<h2>Figures</h2>"
    for name, path in pictures.items():
        about = {"profiles": "Performance profiles", "responses": "Response times"}.get(name) or metric_of(name).label
        picture = base64.b64encode(path.read_bytes()).decode()
        yield f"<h3>{html.escape(about)}</h3><img alt='{html.escape(about)}' src='data:image/png;base64,{picture}'>"
    yield "<h2>What deciding costs</h2><p>Not the same from run to run; by point and seed in timings.csv.</p>"
    yield _html(timings_table(comparison))
    yield "<h2>To repeat it</h2>"
    versions = {key: record[key] for key in ("version", "packages", "python", "platform") if key in record}
    for about, content in (("Versions", versions), ("The plan", plan.model_dump(mode="json", by_alias=True))):
        text = html.escape(yaml.safe_dump(content, sort_keys=False))
        yield f"<details><summary>{about}</summary><pre>{text}</pre></details>"
    yield "</html>"
