"""The reports of a comparison: tables, figures, and one HTML page with all of them."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.figure import Figure

from offload_rllib.compare.plan import ComparisonPlan, load_plan, reference_of, trainings_of
from offload_rllib.compare.run import PLAN, RUNS, ComparisonFolder
from offload_rllib.config import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.config.loading import nearest
from offload_rllib.evaluation.metrics import SCORE, chosen, metric_of
from offload_rllib.evaluation.results import Comparison, load_comparison
from offload_rllib.reporting.figures import of_metric, of_profiles, of_responses, write_figure
from offload_rllib.reporting.looks import PAGE_STYLE
from offload_rllib.reporting.tables import (
    differences_table,
    means_table,
    over_points_table,
    robust_table,
    timings_table,
    transfer_table,
    write_tables,
)
from offload_rllib.reporting.tensorboard import write_events
from offload_rllib.reporting.training_curves import has_curve, of_training
from offload_rllib.simulator.heuristics import HEURISTICS

FIGURES, PAGE = "figures", "report.html"
TRAINING = "training_"
MOST_OPEN = 3
# Rules to compare with in figures of training: the best ones.
MOST_RULES = 2
STYLE = f"""{PAGE_STYLE}summary h2 {{ display: inline-block }}
pre {{ background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12px }}
"""


def finish_comparison(folder: ComparisonFolder, comparison: Comparison, plan: ComparisonPlan) -> dict[str, Path]:
    """Write the reports of a comparison, then mark it as finished; return the files as below."""
    write_events(comparison, folder.path)
    paths = write_comparison(comparison, plan, folder.path, runs=folder.path / RUNS)
    folder.record(state="finished")
    return paths


def draw_again(
    folder: ComparisonFolder,
    out: Path,
    *,
    metrics: Sequence[str] = (),
    policies: Sequence[str] = (),
    reference: str | None = None,
) -> dict[str, Path]:
    """Write tables, figures and the page of a finished comparison once more; nothing is played or trained.

    Args:
        folder: of the comparison.
        out: where to, which may be the comparison's own folder.
        metrics: what to show, names or functions of an episode's figures; empty: as the comparison was made.
        policies: policies to show; empty: all.
        reference: the policy that others are compared with, by its name in tables; None: as the comparison was made.

    Raises:
        ConfigError: it is not finished, or has no such metric or policy.
    """
    comparison = load_comparison(folder.path).with_own_metrics(metrics)
    plan = load_plan(folder.path / PLAN, trust=True)  # nothing that it names is run
    reference = reference or reference_of(plan)
    if policies:
        comparison = comparison.only([*dict.fromkeys([*policies, reference])])
    if reference not in comparison.policies:
        raise ConfigError(f"--reference '{reference}': no policy here.{nearest(reference, comparison.policies)}")
    plan = plan.model_copy(update={"metrics": tuple(metrics) or plan.metrics})
    chosen(plan.metrics, comparison.metrics)
    out.mkdir(parents=True, exist_ok=True)  # only now, when nothing is wrong with what was asked for
    return write_comparison(comparison, plan, out, runs=folder.path / RUNS, reference=reference)


def write_comparison(
    comparison: Comparison, plan: ComparisonPlan, folder: Path, *, runs: Path, reference: str | None = None
) -> dict[str, Path]:
    """Write tables, figures and the page into a folder; return the main files by what they are.

    Args:
        comparison: the results.
        plan: how they were made.
        folder: to write to.
        runs: the folder of the runs that were trained for it.
        reference: whom the others are compared with; None: as the plan says.
    """
    reference, metrics = reference or reference_of(plan), chosen(plan.metrics, comparison.metrics)
    paths = write_tables(comparison, reference, plan.metrics, folder)
    figures = folder / FIGURES
    figures.mkdir(exist_ok=True)
    drawn = {name: of_metric(comparison, name) for name in metrics}
    drawn["profiles"] = of_profiles(comparison, reference)
    responses = of_responses(comparison)
    if responses is not None:
        drawn["responses"] = responses
    drawn |= _training_curves(comparison, plan, runs)
    pictures = {name: write_figure(figure, figures / name)["png"] for name, figure in drawn.items()}
    with written_at_once(folder / PAGE) as partial:
        partial.write_text("\n".join(_page(comparison, plan, reference, metrics, pictures)), encoding="utf-8")
    return {"report": folder / PAGE, **paths, "figures": figures}


def _training_curves(comparison: Comparison, plan: ComparisonPlan, runs: Path) -> dict[str, Figure]:
    """Return the curves of what was trained, a figure for each place of training, and of runs that were given."""
    trained: dict[str, dict[str, list[Path]]] = {}
    for training in trainings_of(plan):
        trained.setdefault(training.place.label, {}).setdefault(training.name, []).append(runs / training.folder)
    given = {name: list(map(Path, folders)) for name, folders in plan.runs.items()}
    folders = [Path(name) for name in plan.policies if name not in (*HEURISTICS, *plan.trained)]
    given |= {folder.name: [folder] for folder in folders if folder.is_dir()}
    if given:
        trained["given runs"] = given
    figures = {}
    for label, by_policy in trained.items():
        shown = {name: found for name, folders in by_policy.items() if (found := list(filter(has_curve, folders)))}
        point = next((point for point in comparison.points if comparison.label(point) == label), None)
        rules = {}
        if point is not None:
            untrained = [name for name in comparison.played(point) if name in HEURISTICS]
            scores = {name: comparison.mean(name, SCORE, point).mean for name in untrained}
            rules = {name: scores[name] for name in sorted(scores, key=scores.__getitem__)[:MOST_RULES]}
        if shown:
            name = f"{TRAINING}{label}".replace(", ", "-").replace(" ", "_").replace("/", "_")
            figures[name] = of_training(shown, rules)
    return figures


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0)


def _page(
    comparison: Comparison, plan: ComparisonPlan, reference: str, metrics: tuple[str, ...], pictures: dict[str, Path]
) -> Iterable[str]:
    title = f"Comparison on {', '.join(plan.environments)}"
    record = comparison.record
    yield f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
    yield f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
    seeds = f", {len(plan.training_seeds)} training seeds" if plan.trained else ""
    yield (
        f"<p>{plan.episodes} held-out episodes (seed {plan.held_out_seed}), the same for all policies{seeds}. "
        "± and [ ]: 95 % intervals; ( ): no certain difference, adjusted for the number in the table (Holm). "
        "Differences are paired by episode. Rings in figures are single training seeds.</p>"
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
        titles = {"profiles": "Performance profiles", "responses": "Response times"}
        about = titles.get(name) or metric_of(name).label
        if name.startswith(TRAINING):
            about = f"Scores while they were trained: {name.removeprefix(TRAINING)}"
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
