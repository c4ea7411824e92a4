"""The data of the study as two small files in the docs, and the page that is made of them alone."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tabulate import tabulate

from offload_rllib.config import ConfigError
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.evaluation.interval_text import number, with_half_width
from offload_rllib.evaluation.metrics import SCORE, metric_of
from offload_rllib.evaluation.results import (
    ENVIRONMENT,
    EPISODE,
    FINGERPRINT,
    HELD_OUT_SEED,
    POLICY,
    SAMPLED,
    TRAINED_ON,
    TRAINING_SEED,
    Comparison,
)
from offload_rllib.evaluation.statistics import Interval, certain, interquartile_mean
from offload_rllib.reporting.figures import of_points, write_figure
from offload_rllib.reporting.tables import differences_table
from scripts.hype.plan import BOUND, BY_NAME, ENVIRONMENTS, METHODS, TUNED, Budget
from scripts.hype.plan import HELD_OUT_SEED as EPISODES_OF
from scripts.hype.run import ORACLE, done
from scripts.hype.text import HEAD, METHODS_TEXT, READING
from scripts.results.study import METRICS

DOCS = Path(__file__).resolve().parents[2] / "docs"
EPISODES, RECORD = "images/hype_episodes.csv", "images/hype.json"
PAGE = "hype.md"
# What `json` and the CSV keep of a figure.
DIGITS = 7
MOST_RULES = 4  # in the figure
FEWEST_SEEDS = 3  # with fewer, the quantile of Student's t is 12.7


def collect(folder: Path, budget: Budget, docs: Path) -> None:
    """Write the data of a study, as far as it has come: the figures of every episode, and a record of the pieces.

    Raises:
        ConfigError: nothing was done yet, or a file is refused.
    """
    rows, record = [], []
    missing = []
    for piece, content in done(folder, budget):
        if content is None:
            missing.append(piece.name)
            continue
        record.append(
            {key: content[key] for key in ("environment", "fingerprint", "method", "seed", "decisions", "chosen")}
            | {key: round(content[key], 2) for key in ("training_cpu_s", "playing_cpu_s")}
            | {"load": round(content["load"][0], 1)}
        )
        for policy, figures in content["figures"].items():
            for episode in range(budget.episodes):
                values = {name: _rounded(figures[name][episode]) if name in figures else None for name in METRICS}
                rows.append(
                    {ENVIRONMENT: piece.environment, POLICY: policy, TRAINING_SEED: piece.seed, EPISODE: episode}
                    | values
                )
    if not rows:
        raise ConfigError(f"{folder}: no piece of the study is done; run python -m scripts.hype --folder {folder}")
    about = {
        "budget": asdict(budget),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "missing": missing,
        "pieces": record,
    }
    (docs / EPISODES).parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table[TRAINING_SEED] = table[TRAINING_SEED].astype("Int64")
    with written_at_once(docs / EPISODES) as partial:
        table.to_csv(partial, index=False)
    with written_at_once(docs / RECORD) as partial:
        partial.write_text(_one_piece_a_line(about), encoding="utf-8")


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _one_piece_a_line(about: dict[str, Any]) -> str:
    head = {key: value for key, value in about.items() if key != "pieces"}
    pieces = ",\n".join(f"  {json.dumps(piece)}" for piece in about["pieces"])
    return f'{json.dumps(head, indent=1)[:-2]},\n "pieces": [\n{pieces}\n ]\n}}\n'


class Data:
    """What the page is made of: the two files in the docs."""

    def __init__(self, docs: Path) -> None:
        """Read them.

        Raises:
            ConfigError: a file is missing or broken.
        """
        self.record = read_json(docs / RECORD, "the record of the study")
        try:
            self._rows: Any = pd.read_csv(docs / EPISODES)
            self.budget = Budget(**self.record["budget"])
            self.pieces: list[dict[str, Any]] = self.record["pieces"]
            trained = {piece["environment"] for piece in self.pieces if piece["seed"] is not None}
            self.environments = [name for name in ENVIRONMENTS if name in trained & set(self._rows[ENVIRONMENT])]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{docs / EPISODES}: not the data of the study ({error!r})") from error

    def comparison(self, environment: str) -> Comparison:
        """Return what all policies achieved in an environment, on the same held-out episodes."""
        rows = self._rows[(self._rows[ENVIRONMENT] == environment) & (self._rows[POLICY] != BOUND)].copy()
        rows[TRAINING_SEED] = rows[TRAINING_SEED].astype("Int64")
        rows[FINGERPRINT] = next(piece["fingerprint"] for piece in self.pieces if piece["environment"] == environment)
        rows[TRAINED_ON] = np.where(rows[TRAINING_SEED].isna(), "", environment)
        rows[HELD_OUT_SEED] = EPISODES_OF
        return Comparison(rows.reset_index(drop=True), pd.DataFrame({POLICY: []}))

    def bound(self, environment: str) -> float:
        """Return the mean lower bound of an environment's episodes; NaN if it is not there."""
        rows = self._rows[(self._rows[ENVIRONMENT] == environment) & (self._rows[POLICY] == BOUND)]
        return float(rows[SCORE].mean()) if len(rows) else float("nan")

    def _of(self, environment: str, method: str) -> list[dict[str, Any]]:
        """Return the pieces of a method that was trained in an environment, by training seed."""
        return [
            piece
            for piece in self.pieces
            if (piece["environment"], piece["method"]) == (environment, method) and piece["seed"] is not None
        ]

    def costs(self, environment: str, method: str) -> tuple[float, float]:
        """Return the mean decisions and CPU seconds of a method's trainings; NaN if there are none."""
        mine = self._of(environment, method)
        if not mine:
            return float("nan"), float("nan")
        return (
            float(np.mean([piece["decisions"] for piece in mine])),
            float(np.mean([piece["training_cpu_s"] for piece in mine])),
        )

    def chosen(self, environment: str) -> list[str]:
        """Return the rules that the tuning chose, by training seed."""
        return [piece["chosen"] for piece in self._of(environment, TUNED)]


def learned_of(comparison: Comparison) -> list[str]:
    """Return the policies of rebuilt methods and presets, greedy or sampled, in the order of the study."""
    kinds = {method.name: method.kind for method in METHODS}
    order = [method.name for method in METHODS]
    found = [name for name in comparison.policies if kinds.get(name.removesuffix(SAMPLED), "rule") != "rule"]
    return sorted(found, key=lambda name: (order.index(name.removesuffix(SAMPLED)), name))


def judged_of(comparison: Comparison) -> list[str]:
    """Return the learned policies with at least two training seeds: one seed says nothing of a method."""
    return [name for name in learned_of(comparison) if len(comparison.matrix(name, SCORE)) > 1]


def findings(data: Data) -> list[str]:
    """Return what the data say, one sentence each: computed, whatever it is."""
    lines, better, worse, pairs = [], 0, 0, 0
    for environment in data.environments:
        comparison, bound = data.comparison(environment), data.bound(environment)
        policies = judged_of(comparison)
        if TUNED not in comparison.policies or not policies:
            continue
        differences = [comparison.difference(name, TUNED, SCORE) for name in policies]
        sure = certain(differences)
        lower = [name for name, each, is_sure in _judged(policies, differences, sure) if is_sure and each.mean < 0]
        higher = [name for name, each, is_sure in _judged(policies, differences, sure) if is_sure and each.mean > 0]
        better, worse, pairs = better + len(lower), worse + len(higher), pairs + len(policies)
        few = [name for name in policies if len(comparison.matrix(name, SCORE)) < FEWEST_SEEDS]
        if few:
            lines.append(
                f"In {environment} {len(few)} of these policies have two training seeds: their intervals are wide, and "
                "only large differences can be certain."
            )
        rule = comparison.mean(TUNED, SCORE).mean
        means = {name: comparison.mean(name, SCORE).mean for name in policies}
        best = min(means, key=means.__getitem__)
        untuned = {
            name: comparison.mean(name, SCORE).mean
            for name in comparison.policies
            if name.removesuffix(SAMPLED) not in BY_NAME and name != ORACLE
        }
        simple = min(untuned, key=untuned.__getitem__)
        lines.append(
            f"**{environment}**: of {len(policies)} learned policies, {len(lower)} score certainly lower than "
            f"`{TUNED}` ({_names(lower)}), {len(higher)} certainly higher ({_names(higher)}), and "
            f"{len(policies) - len(lower) - len(higher)} show no certain difference."
        )
        verdict = "lower" if means[best] < rule else "higher"
        lines.append(
            f"The lowest mean score of a learned policy in {environment} is {number(means[best])} s (`{best}`), "
            f"{number(abs(means[best] - rule))} s {verdict} than the {number(rule)} s of `{TUNED}`. The best rule "
            f"without tuning, `{simple}`, has {number(untuned[simple])} s."
        )
        if np.isfinite(bound):
            share = max(rule - means[best], 0.0) / (rule - bound)
            lines.append(
                f"No policy can score below {number(bound)} s in {environment}. `{TUNED}` is at {rule / bound:.2f} "
                f"times that bound and `{best}` at {means[best] / bound:.2f}: it closes {100 * share:.0f} % of the gap."
            )
        costs = {name: data.costs(environment, name.removesuffix(SAMPLED))[1] for name in policies}
        dear = max(costs, key=costs.__getitem__).removesuffix(SAMPLED)
        lines.append(
            f"Training takes {number(min(costs.values()))} to {number(costs[dear])} CPU-seconds there (most: "
            f"`{dear}`), and tuning the rule {number(data.costs(environment, TUNED)[1])}."
        )
    if pairs:
        lines.insert(
            0,
            f"Over all environments, {better} of {pairs} learned policies score certainly lower than the tuned rule, "
            f"and {worse} certainly higher.",
        )
    return lines


def _judged(
    names: Sequence[str], differences: Sequence[Interval], sure: Sequence[bool]
) -> list[tuple[str, Interval, bool]]:
    return list(zip(names, differences, sure, strict=True))


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def means_and_costs(data: Data, environment: str) -> pd.DataFrame:
    """Return a row per policy, best first: scores, tail, drops, and what its training cost."""
    comparison, bound = data.comparison(environment), data.bound(environment)
    rows = []
    for policy in sorted(comparison.policies, key=lambda name: comparison.matrix(name, SCORE).mean()):
        decisions, seconds = data.costs(environment, policy.removesuffix(SAMPLED))
        mean = comparison.mean(policy, SCORE)
        row = {"policy": policy}
        for name in (SCORE, "score_p95_s", "dropped_share"):
            about = metric_of(name)
            row[about.label] = with_half_width(comparison.mean(policy, name), about.factor)
        row["IQM of the mean score, s"] = with_half_width(interquartile_mean(comparison.matrix(policy, SCORE)))
        row["times the bound"] = f"{mean.mean / bound:.2f}" if np.isfinite(bound) else ""
        row["training seeds"] = str(len(comparison.matrix(policy, SCORE))) if np.isfinite(decisions) else ""
        row["decisions"] = f"{decisions:,.0f}" if np.isfinite(decisions) else ""
        row["CPU, s"] = number(seconds)
        rows.append(row)
    return pd.DataFrame(rows)


def figure_of(data: Data, environment: str) -> Figure:
    """Draw the mean scores of all learned policies, the tuned rule and the best rules, and the bound as a line."""
    comparison, bound = data.comparison(environment), data.bound(environment)
    rules = [name for name in comparison.policies if name.removesuffix(SAMPLED) not in BY_NAME and name != ORACLE]
    rules.sort(key=lambda name: comparison.matrix(name, SCORE).mean())
    shown = [*learned_of(comparison), *([TUNED] if TUNED in comparison.policies else []), *rules[:MOST_RULES]]
    figure = of_points(comparison.only(shown), SCORE)
    # The interval of two seeds can be many times as wide as everything else.
    highest = max(float(comparison.matrix(name, SCORE).mean(axis=1).max()) for name in shown)
    figure.axes[0].set_xlim(0, 1.1 * highest)
    if np.isfinite(bound):
        figure.axes[0].axvline(bound, color="black", lw=1, ls=":")
        figure.axes[0].set_title(f"{environment}; dotted: lower bound", fontsize=figure.axes[0].title.get_fontsize())
    return figure


def page_of(data: Data) -> str:
    """Return the page: everything in it that depends on a result is computed from the data."""
    budget, machine = data.budget, data.record["machine"]
    loads = [piece["load"] for piece in data.pieces]
    lines = [HEAD, "## Findings", ""]
    lines += [f"- {line}" for line in findings(data)]
    lines += [
        "",
        (
            f"Budget: {budget.decisions:,} decisions per training, {budget.seeds} training seeds, {budget.episodes} "
            f"held-out episodes. Machine: one core of {machine['cpus']} ({machine['processor']}), under other work: "
            f"its load was {min(loads):g} to {max(loads):g} when pieces ended. CPU seconds are those of the "
            "training process alone."
        ),
        "",
    ]
    if data.record["missing"]:
        lines += [f"Not run yet: {_missing(data.record['missing'])}.", ""]
    lines += [READING, "", METHODS_TEXT, ""]
    settings = [
        {"method": method.name, "settings": ", ".join(f"{key} {value}" for key, value in method.settings.items())}
        for method in METHODS
        if method.settings
    ]
    lines += [_table(pd.DataFrame(settings)), ""]
    for environment in data.environments:
        comparison = data.comparison(environment)
        lines += [f"## {ENVIRONMENTS[environment]}", ""]
        caption = (
            f"{environment}: mean score after {budget.decisions:,} decisions, {budget.seeds} training seeds (rings), "
            f"{budget.episodes} held-out episodes, one core of {machine['cpus']}; wide intervals leave the figure"
        )
        lines += [f"![{caption}](images/hype_{environment}.png)", "", f"*{caption}.*", ""]
        lines += [_table(means_and_costs(data, environment)), ""]
        if TUNED in comparison.policies:
            chosen = ", ".join(f"`{rule}`" for rule in data.chosen(environment))
            lines += [f"`{TUNED}`, by training seed: {chosen}.", ""]
            if judged := judged_of(comparison):
                metrics = (SCORE, "score_p95_s", "dropped_share")
                lines += [_table(differences_table(comparison, comparison.points[0], TUNED, metrics, judged)), ""]
        if single := [name for name in learned_of(comparison) if name not in judged_of(comparison)]:
            lines += [
                "One training seed so far, so that the interval is over episodes alone, and the method is not judged: "
                + _names(single)
                + ".",
                "",
            ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _missing(names: Sequence[str]) -> str:
    """Return what was not run, with the training seeds of each method in one place."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        environment, method, *seed = name.split("-")
        seeds.setdefault(f"`{method}` in {environment}", []).extend(seed)
    return "; ".join(
        what + (f" (seed{'s' if len(of) > 1 else ''} {', '.join(of)})" if of else "") for what, of in seeds.items()
    )


def _table(table: pd.DataFrame) -> str:
    rows: list[dict[str, Any]] = table.to_dict("records")
    return tabulate(rows, "keys", "github", disable_numparse=True)


def write_page(docs: Path) -> Path:
    """Write the page and its figures from the data in the docs; return the page.

    Raises:
        ConfigError: the data are missing or broken.
    """
    data = Data(docs)
    for environment in data.environments:
        write_figure(figure_of(data, environment), docs / f"images/hype_{environment}", ("png",))
    with written_at_once(docs / PAGE) as partial:
        partial.write_text(page_of(data), encoding="utf-8")
    return docs / PAGE
