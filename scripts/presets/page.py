"""docs/presets.md: a table per learner with a row per preset, a figure, and how often learners win."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from offload_rllib.compare.run import RUNS, ComparisonFolder
from offload_rllib.config import load_policy_config
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.loading import presets
from offload_rllib.envs.goal import COST, SCORE
from offload_rllib.evaluation.interval_text import difference_text, number
from offload_rllib.evaluation.results import SAMPLED, Comparison, load_comparison
from offload_rllib.evaluation.rule_tuning import ORACLE
from offload_rllib.evaluation.statistics import Interval, certain
from offload_rllib.reporting.figures import new_figure, tidy, write_figure
from offload_rllib.reporting.looks import COLUMN, looks
from offload_rllib.runs.training_run import RunFolder
from scripts.presets.plan import ALGORITHMS, fits, part_name

DROPPED = "dropped_share"
HEAD = """\
<!-- Written by scripts/presets. Do not edit: run it. -->

# Every preset, as shipped

Do the learners win without any tuning? Each learner of `policies/` is trained on each preset of `envs/` with its
shipped settings, and plays greedily on held-out episodes against every rule. Rules with a parameter stand with their
default and with the value that [`tune-rule`](heuristics.md#tuning) found on training episodes. Rules that see the true
state (`..._oracle`) are left out. `ppo_auto` is the one to begin with: it anneals
[credit](algorithms/ppo.md#credit-in-hindsight), and falls back on [a clone of the best
rule](warm_start.md#cloning-a-rule) of training episodes. `a2c_auto` does the same with A2C. `ppo_drops` [bounds the
share of drops](constraints.md) to 2 %, with credit in hindsight: it is for networks where `ppo_auto` drops too many. A
bound costs score, so compare it with rules that drop as little. `ppo_from_rule` begins with the clone, and all others
with random weights. The page is written by `python -m scripts.presets`.
"""
EXPLAINED = """\
*Best rule* is the one with the lowest mean score on the held-out episodes themselves, which favours rules. [ ] is the
95 % interval of the learner minus that rule, paired by episode, over training seeds and episodes. A difference in
parentheses is not certain. *Rules beaten* counts those with a certainly higher mean score; certainty is adjusted for
the number of rules. In `objectives_6` and `priced_7` drops, energy or price cost something, too: there a score is the
[mean cost](metrics.md).
"""


@dataclass(frozen=True)
class Row:
    """How a learner stands in one preset.

    Attributes:
        preset: the environment.
        score_s: mean score of greedy play.
        sampled_s: mean score of play by sampling.
        rule: the best one.
        rule_s: its mean score.
        difference_s: learner minus rule.
        sure: whether the difference is certain among all rules.
        beaten: rules with a certainly higher mean score.
        lost: rules with a certainly lower one.
        rules: how many there are.
        dropped: share of tasks that the learner drops.
        rule_dropped: share that the best rule drops.
        drops_more: whether the learner certainly drops more.
        seeds: trainings of the learner.
        version: of the learner's file.
    """

    preset: str
    score_s: float
    sampled_s: float
    rule: str
    rule_s: float
    difference_s: Interval
    sure: bool
    beaten: int
    lost: int
    rules: int
    dropped: float
    rule_dropped: float
    drops_more: bool
    seeds: int
    version: int


def row_of(preset: str, comparison: Comparison, learner: str, version: int) -> Row:
    """Return how a learner of a version stands against the rules of a comparison that has one environment."""
    (point,) = comparison.points
    goal = COST if COST in comparison.metrics else SCORE
    greedy = comparison.played(point)
    rules = [name for name in greedy if name not in (learner, learner + SAMPLED) and ORACLE not in name]
    differences = [comparison.difference(learner, rule, goal, point) for rule in rules]
    sure = certain(differences)
    best = min(range(len(rules)), key=lambda i: comparison.mean(rules[i], goal, point).mean)
    drops = comparison.difference(learner, rules[best], DROPPED, point)
    return Row(
        preset,
        comparison.mean(learner, goal, point).mean,
        comparison.mean(learner + SAMPLED, goal, point).mean if learner + SAMPLED in greedy else float("nan"),
        rules[best],
        comparison.mean(rules[best], goal, point).mean,
        differences[best],
        bool(sure[best]),
        sum(bool(s) and d.mean < 0 for s, d in zip(sure, differences, strict=True)),
        sum(bool(s) and d.mean > 0 for s, d in zip(sure, differences, strict=True)),
        len(rules),
        comparison.mean(learner, DROPPED, point).mean,
        comparison.mean(rules[best], DROPPED, point).mean,
        bool(drops.excludes_zero and drops.mean > 0),
        len(comparison.matrix(learner, goal, point)),
        version,
    )


def rows_of(algorithm: str, folder: Path, page: Path) -> list[Row]:
    """Return the rows of the finished parts of a learner's present version, in the order of the presets' names.

    Args:
        algorithm: the learner.
        folder: with the parts of this machine.
        page: the data of the page as it is. Its rows count for parts that the folder does not have.
    """
    rows = {row.preset: row for row in _kept_rows(page).get(algorithm, [])}
    for preset in presets("envs"):
        path = folder / part_name(preset, algorithm)
        if path.is_dir() and ComparisonFolder.open(path).state == "finished":
            rows[preset] = _finished_row(preset, algorithm, path)
    version = load_policy_config(algorithm).version
    return [rows[preset] for preset in sorted(rows) if rows[preset].version == version]


def _kept_rows(page: Path) -> dict[str, list[Row]]:
    if not page.is_file():
        return {}
    content = read_json(page, "the data of the page")
    return {
        algorithm: [Row(**(row | {"difference_s": Interval(**row["difference_s"])})) for row in rows]
        for algorithm, rows in content.items()
    }


@cache
def _finished_row(preset: str, algorithm: str, path: Path) -> Row:
    """Return the row of a finished part: it does not change any more, and the page is written after every part."""
    trained = min((path / RUNS).iterdir())
    version = RunFolder.open(trained).policy_config.version
    return row_of(preset, load_comparison(path), f"{algorithm}_shared", version)


def verdict(algorithm: str, rows: Sequence[Row]) -> str:
    """Return in how many presets a learner is below every rule, above one, and drops more than the best."""
    first = sum(row.beaten == row.rules for row in rows)
    above = sum(row.lost > 0 for row in rows)
    more = sum(row.drops_more for row in rows)
    return (
        f"`{algorithm}` has a certainly lower mean score than every rule in {first} of {len(rows)} presets, a "
        f"certainly higher one than some rule in {above}, and certainly drops more than the best rule in {more}."
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    return tabulate(
        [
            {
                "preset": f"`{row.preset}`",
                "greedy, s": number(row.score_s),
                "sampled, s": number(row.sampled_s),
                "best rule": f"`{row.rule}`",
                "its score, s": number(row.rule_s),
                "difference, s": difference_text(row.difference_s, sure=row.sure),
                "rules beaten": f"{row.beaten} of {row.rules}",
                "dropped, %": f"{100 * row.dropped:.1f}",
                "by the rule, %": f"{100 * row.rule_dropped:.1f}",
            }
            for row in rows
        ],
        "keys",
        "github",
        disable_numparse=True,
    )


def figure(rows: dict[str, list[Row]]) -> Figure:
    """Return a figure of each learner's difference from the best rule, as a share of the rule's score."""
    names = sorted({row.preset for of in rows.values() for row in of}, reverse=True)
    drawn, axes = new_figure(2 * COLUMN, 0.8 + 0.19 * len(names), 1, 1)
    axis = axes.flat[0]
    style = looks(list(rows))
    for i, (algorithm, of) in enumerate(rows.items()):
        at = np.array([names.index(row.preset) for row in of], float) + 0.22 * (1 - i)
        middle = np.array([100 * row.difference_s.mean / row.rule_s for row in of])
        ends = np.array(
            [[100 * end / row.rule_s for end in (row.difference_s.low, row.difference_s.high)] for row in of]
        ).reshape(-1, 2)
        axis.errorbar(
            middle,
            at,
            xerr=np.abs(ends - middle[:, None]).T,
            fmt=style[algorithm]["marker"],
            color=style[algorithm]["color"],
            markersize=3,
            linewidth=0.8,
            label=algorithm,
        )
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.set_xscale("symlog", linthresh=20)
    axis.set_xticks([-50, -20, -10, 0, 10, 20, 50, 100], ["-50", "-20", "-10", "0", "10", "20", "50", "100"])
    axis.set_xlabel("mean score minus the best rule's, % of it (left: the learner is better)")
    axis.legend(loc="best")
    tidy(axis)
    return drawn


def write_page(path: Path, folder: Path) -> None:
    """Write the page of all finished parts in one step, with its figure and its data beside it.

    Parts that were finished elsewhere stay as the page has them.
    """
    images = path.parent / "images"
    rows = {a: found for a in ALGORITHMS if (found := rows_of(a, folder, images / "presets.json"))}
    write_figure(figure(rows), images / "presets", ("png",))
    with written_at_once(images / "presets.json") as partial:
        data = {algorithm: [asdict(row) for row in found] for algorithm, found in rows.items()}
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    lines = [HEAD, *(f"- {verdict(*found)}" for found in rows.items()), ""]
    lines += ["![Differences from the best rule in each preset](images/presets.png)", "", EXPLAINED]
    for algorithm, found in rows.items():
        seeds = " or ".join(map(str, sorted({row.seeds for row in found})))
        lines += [f"## `{algorithm}`", "", f"{seeds} training seeds, 20 held-out episodes.", "", table(found), ""]
    fitting = {a: [preset for preset in presets("envs") if fits(preset, a)] for a in ALGORITHMS}
    apart = sorted({f"`{preset}`" for names in fitting.values() for preset in set(presets("envs")) - set(names)})
    if apart:
        lines += [f"Learners that clone a rule do not fit {', '.join(apart)}, where decisions have a clock.", ""]
    missing = [
        f"{len(fitting[a]) - len(rows.get(a, []))} of {len(fitting[a])} for `{a}`"
        for a in ALGORITHMS
        if len(rows.get(a, [])) < len(fitting[a])
    ]
    if missing:
        lines += [f"Not run yet: {', '.join(missing)}.", ""]
    with written_at_once(path) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")
