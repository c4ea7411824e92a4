"""Tables, figures and verdicts of a reproduction (`scripts.paper.run`), from the files of its folder alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from offload_rllib.config.files import written_at_once
from offload_rllib.evaluation.interval_text import with_half_width
from offload_rllib.evaluation.results import SAMPLED
from offload_rllib.evaluation.statistics import Interval, certain, interval, paired_difference
from offload_rllib.simulator.types import Array
from scripts.paper.metrics import PANELS, Figures, paper_reduction, pooled
from scripts.paper.plan import (
    AUTHORS_S,
    BOUND,
    CELLS,
    LEFT_OUT_RULES,
    OTHER_RULES,
    OURS,
    PAPER_LEARNERS,
    PAPER_RULES,
    POINTER,
    Budget,
    settings_of,
)
from scripts.paper.plots import Line, draw_panels
from scripts.paper.run import TIMES, load

X_LABEL = {
    "A": "arrival rate, tasks per second and client (12 nodes)",
    "B": "nodes (0.5 tasks per second and client)",
    "C": "offered load rho (ether_12)",
    "D": "nodes (Ether networks, rho 0.8)",
    "E": "nodes (three tiers, rho 0.7)",
    "V": "variants of A at 0.5",
}
SCORES = (
    ("score, mean, s", "score_mean_s", 1.0),
    ("score, 95th percentile, s", "score_p95_s", 1.0),
    ("score, 99th percentile, s", "score_p99_s", 1.0),
    ("dropped tasks, %", "dropped_share", 100.0),
)
# What the paper says of its learners, and the figure that says it: lower than those of all three baselines.
CLAIMS = (
    ("lower response time than all three baselines", "response_s"),
    ("fewer dropped tasks than all three baselines", "dropped"),
    ("no more overload than any of the baselines", "overloaded_s"),
)
SCORE_CLAIM = ("lower score (drops and unfinished tasks priced) than all three", "score_mean_s")


@dataclass(frozen=True)
class Results:
    """What a folder holds: figures by setting, policy and training seed."""

    budget: Budget
    figures: dict[str, dict[str, dict[int, Figures]]]
    training_s: dict[str, float]
    times: dict[str, dict[str, float]]

    def values(self, setting: str, policy: str, key: str) -> Array:
        """Return a figure's means over episodes, for each training seed; empty if the policy has not played."""
        runs = [run for run in self.figures.get(setting, {}).get(policy, {}).values() if key in run]
        return pooled(runs, key)

    def difference(self, setting: str, policy: str, reference: str, key: str) -> Interval:
        """Return policy minus reference, paired by episode, with its 95 % interval over training seeds and episodes."""
        mine, theirs = (
            np.array([run[key] for run in self.figures[setting][name].values()]) for name in (policy, reference)
        )
        return paired_difference(mine, theirs)

    def reduced(self, setting: str, policy: str, key: str) -> Array:
        """Return the same by the paper's reduction."""
        return np.array([paper_reduction(run, key) for run in self.figures.get(setting, {}).get(policy, {}).values()])


def read(folder: Path) -> Results:
    """Return what a folder holds.

    Raises:
        ConfigError: it is not the folder of a reproduction.
    """
    budget, figures, seconds = load(folder)
    times = folder / TIMES
    return Results(budget, figures, seconds, json.loads(times.read_text("utf-8")) if times.is_file() else {})


def write_report(folder: Path) -> list[Path]:
    """Write `report.md`, `results.csv` and the figures (PNG and SVG) into a folder; return their paths."""
    results = read(folder)
    paths = [folder / "report.md", folder / "results.csv"]
    with written_at_once(paths[0]) as partial:
        partial.write_text("\n".join(_lines(results)) + "\n", encoding="utf-8")
    _write_csv(results, paths[1])
    return paths + list(_draw(results, folder))


def print_report(folder: Path, console: Console) -> None:
    """Print verdicts and times."""
    results = read(folder)
    for section in (_claims, _times):
        console.print(Markdown("\n".join(section(results))))


def learners_of(results: Results) -> tuple[str, ...]:
    """Return the learners of A and B."""
    return PAPER_LEARNERS if results.budget.as_published else (*PAPER_LEARNERS, OURS)


def verdicts(
    results: Results, settings: Sequence[str], learners: Sequence[str], key: str
) -> dict[tuple[str, str], str]:
    """Return how learners compare with the paper's three baselines on the same held-out episodes, by setting.

    ``lower``: certainly lower than each of the three; ``higher``: certainly higher than one of them; ``same or
    undecided`` otherwise. Certain is what `statistics.certain` says of all comparisons here together.
    """
    pairs = [(setting, learner) for setting in settings for learner in learners]
    differences = [results.difference(*pair, rule, key) for pair in pairs for rule in PAPER_RULES]
    signs = [
        np.sign(difference.mean) if sure else 0.0
        for difference, sure in zip(differences, certain(differences), strict=True)
    ]
    found = {}
    for pair, of_rules in zip(pairs, np.reshape(signs, (len(pairs), -1)), strict=True):
        found[pair] = "higher" if (of_rules > 0).any() else "lower" if (of_rules < 0).all() else "same or undecided"
    return found


def _table(
    results: Results,
    experiment: str,
    policies: Sequence[str],
    key: str,
    *,
    reduced: bool = False,
    factor: float = 1.0,
) -> Iterator[str]:
    """Yield a Markdown table of one figure: a row for each policy, a column for each setting."""
    settings = settings_of(experiment, results.budget)
    yield "| | " + " | ".join(x if isinstance(x, str) else f"{x:g}" for x in settings) + " |"
    yield "|---" + "|---:" * len(settings) + "|"
    get = results.reduced if reduced else results.values
    for policy in policies:
        cells = [get(setting.name, policy, key) for setting in settings.values()]
        if any(len(cell) for cell in cells):
            shown = [with_half_width(interval(cell), factor) if len(cell) else "" for cell in cells]
            yield f"| {policy} | " + " | ".join(shown) + " |"
    yield ""


def _lines(results: Results) -> Iterator[str]:
    budget = results.budget
    yield f"# Reproduction, budget `{budget.name}`"
    yield ""
    yield (
        f"{budget.seeds} training seed(s) of {budget.training_episodes} episodes for each policy of A and B, of "
        f"{budget.long_training_episodes} for C and D and {budget.tiers_training_episodes} for E; "
        f"{budget.episodes} held-out episodes; replay ratio {budget.replay_ratio:g}; "
        f"{sum(results.training_s.values()) / 60:.0f} CPU minutes of training. ±: the larger half of the 95 % "
        "interval of the mean over training seeds (Student's t); rules have none, for they are not trained, and play "
        "the same episodes."
    )
    yield ""
    yield from _claims(results)
    yield from _times(results)
    rows = [*PAPER_RULES, *LEFT_OUT_RULES, *_both(learners_of(results))]
    for experiment in "AB":
        yield f"## Experiment {experiment}: {X_LABEL[experiment]}"
        yield ""
        for title, ours, theirs in PANELS:
            yield f"### {title}"
            yield ""
            yield from _table(results, experiment, rows, ours)
            yield f"The same as the paper's plots reduce it{_unit_of_reduction(theirs)}:"
            yield ""
            yield from _table(results, experiment, rows, theirs, reduced=True)
        yield "### score, mean, s: a dropped or unfinished task counts with its deadline or age"
        yield ""
        yield from _table(results, experiment, rows, "score_mean_s")
    if settings_of("V", budget):
        yield f"## {X_LABEL['V']}"
        yield ""
        for title, key in (*((title, ours) for title, ours, _ in PANELS[:5]), ("score, mean, s", "score_mean_s")):
            yield f"### {title}"
            yield ""
            yield from _table(results, "V", [*PAPER_RULES, *LEFT_OUT_RULES, *_both(PAPER_LEARNERS)], key)
    for experiment in "CDE":
        if not settings_of(experiment, budget):
            continue
        yield f"## Experiment {experiment}: {X_LABEL[experiment]}"
        yield ""
        for title, key, factor in SCORES:
            yield f"### {title}"
            yield ""
            yield from _table(results, experiment, _policies(experiment), key, factor=factor)


def _unit_of_reduction(name: str) -> str:
    return " (a share, (mean + deviation) / 2)" if name == "occupancy" else ""


def _both(learners: Sequence[str]) -> list[str]:
    return [name for learner in learners for name in (learner, f"{learner}{SAMPLED}")]


def _policies(experiment: str) -> list[str]:
    rules = [*PAPER_RULES, *LEFT_OUT_RULES, *OTHER_RULES]
    if experiment == "C":
        return [BOUND, *rules, *_both((*PAPER_LEARNERS, POINTER))]
    there = f"{POINTER}, trained there"
    return [*rules, *_both((POINTER, there) if experiment == "D" else (POINTER,))]


def _claims(results: Results) -> Iterator[str]:
    of_both = [settings_of(experiment, results.budget).values() for experiment in "AB"]
    settings = dict.fromkeys(setting.name for some in of_both for setting in some)
    yield "## What holds"
    yield ""
    yield (
        f"In how many of the {len(settings)} settings of A and B (paired differences, over training seeds and "
        "episodes, certain at 95 %, adjusted for all comparisons of a row by Holm's method):"
    )
    yield ""
    yield "| claim | " + " | ".join(learners_of(results)) + " |"
    yield "|---" + "|---" * len(learners_of(results)) + "|"
    for claim, key in (*CLAIMS, SCORE_CLAIM):
        cells = []
        by_pair = verdicts(results, list(settings), learners_of(results), key)
        for learner in learners_of(results):
            found = [by_pair[name, learner] for name in settings]
            good = [v != "higher" for v in found] if claim.startswith("no more") else [v == "lower" for v in found]
            cells.append(f"{sum(good)} hold, {found.count('higher')} the opposite")
        yield f"| {claim} | " + " | ".join(cells) + " |"
    yield from _constant_rule(results, list(settings))
    yield ""


def _constant_rule(results: Results, settings: list[str]) -> Iterator[str]:
    """Yield the row that holds learners against the rule that sends everything to the server."""
    learners, key = learners_of(results), "score_mean_s"
    pairs = [(name, learner) for name in settings for learner in learners]
    server = {name: results.values(name, "always_server", key)[0] for name in settings}
    same = {pair for pair in pairs if np.allclose(results.values(*pair, key), server[pair[0]], rtol=1e-9)}
    others = [pair for pair in pairs if pair not in same]
    differences = [results.difference(*pair, "always_server", key) for pair in others]
    better = {
        pair
        for pair, difference, sure in zip(others, differences, certain(differences), strict=True)
        if sure and difference.mean < 0
    }
    cells = [
        f"{sum(pair[1] == learner for pair in better)} better, "
        f"{sum(pair[1] == learner for pair in same)} the same to nine digits"
        for learner in learners
    ]
    yield "| score lower than that of `always_server` | " + " | ".join(cells) + " |"


def _times(results: Results) -> Iterator[str]:
    if not results.times:
        return
    yield "## Time for 100 episodes of 1,000 steps"
    yield ""
    yield "Ours in CPU seconds of one core, without learning; the authors' in seconds as their repository states them"
    yield "(on a machine unknown; their learners went on learning)."
    yield ""
    yield "| | " + " | ".join(f"{nodes} nodes: authors, ours" for nodes in CELLS) + " |"
    yield "|---" + "|---:" * len(CELLS) + "|"
    for label, authors in AUTHORS_S.items():
        ours = results.times.get(label, {})
        if ours:
            cells = [f"{authors[n]:,}, {ours[str(n)]:.1f}" if str(n) in ours else "" for n in CELLS]
            yield f"| {label} | " + " | ".join(cells) + " |"
    yield ""


def _write_csv(results: Results, path: Path) -> None:
    with written_at_once(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "policy", "seed", "figure", "value"])
        for setting, policies in results.figures.items():
            for policy, runs in policies.items():
                for seed, run in runs.items():
                    for key in run:
                        writer.writerow([setting, policy, seed, key, float(pooled([run], key)[0])])
                    for _, _, name in PANELS if policy != BOUND else ():
                        writer.writerow([setting, policy, seed, f"paper_{name}", paper_reduction(run, name)])


def _lines_of(
    results: Results, experiment: str, policies: Sequence[str], get: Callable[[str, str], Array], factor: float = 1.0
) -> list[Line]:
    """Return what to draw: for each policy, mean and interval over training seeds at each setting."""
    settings = settings_of(experiment, results.budget)
    lines = []
    for policy in policies:
        points = [
            (x, interval(factor * values))
            for x, setting in settings.items()
            if len(values := get(setting.name, policy))
        ]
        if points:
            lines.append(Line(policy, [x for x, _ in points], [value for _, value in points]))
    return lines


def _draw(results: Results, folder: Path) -> Iterator[Path]:
    """Draw the experiments; yield the files."""
    learners = learners_of(results)
    for experiment in "AB":
        for kind, shown in (("", learners), ("_paper", [f"{learner}{SAMPLED}" for learner in learners])):
            rows = (*PAPER_RULES, *LEFT_OUT_RULES, *shown)
            panels = []
            for title, ours, theirs in PANELS:
                if kind:
                    drawn = _lines_of(results, experiment, rows, lambda s, p, key=theirs: results.reduced(s, p, key))
                    panels.append((title.partition(",")[0], drawn))
                else:
                    drawn = _lines_of(results, experiment, rows, lambda s, p, key=ours: results.values(s, p, key))
                    panels.append((title, drawn))
            how = "as the paper's plots reduce them, policies sampled" if kind else "this project's figures, greedy"
            title = f"Experiment {experiment}, {how} (budget {results.budget.name}; bars: 95 % over training seeds)"
            yield from draw_panels(panels, X_LABEL[experiment], title, folder / f"{experiment}{kind}")
    for experiment in "CDE":
        if not settings_of(experiment, results.budget):
            continue
        rows = [policy for policy in _policies(experiment) if not policy.endswith(SAMPLED) and policy != "power_of_two"]
        panels = [
            (title, _lines_of(results, experiment, rows, lambda s, p, k=key: results.values(s, p, k), factor))
            for title, key, factor in SCORES
        ]
        title = f"Experiment {experiment} (budget {results.budget.name}; bars: 95 % over training seeds)"
        yield from draw_panels(
            panels, X_LABEL[experiment], title, folder / experiment, columns=2, logarithmic=experiment == "E"
        )
