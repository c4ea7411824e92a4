"""The project's own results: every algorithm with every kind of sharing against every heuristic, as a docs page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from tabulate import tabulate

from offload_rllib.compare.plan import ComparisonPlan, check_plan, reference_of
from offload_rllib.compare.report import FIGURES, finish_comparison
from offload_rllib.compare.run import ComparisonFolder, run_comparison
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.files import written_at_once
from offload_rllib.evaluation.interval_text import difference_text, number
from offload_rllib.evaluation.metrics import SCORE, metric_of
from offload_rllib.evaluation.results import SAMPLED, Comparison, load_comparison
from offload_rllib.evaluation.statistics import Interval, certain
from offload_rllib.reporting.figures import write_figure
from offload_rllib.reporting.tables import differences_table, means_table, transfer_table
from offload_rllib.reporting.training_curves import of_training
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.scenario.build import fitting_rules

METRICS = ("score_mean_s", "score_p50_s", "score_p95_s", "dropped_share", "offloaded_share")
SEEDS, EPISODES = 5, 20
# In the figures of training.
DRAWN_RULES = ("least_queue", "shortest_finish")


@dataclass(frozen=True)
class Study:
    """One part of the results.

    Attributes:
        name: of its folder and figures.
        title: of its section.
        environment: a preset.
        policies: presets of `policies/` that are trained.
        question: what the part is about, in a sentence or two above its figure.
        sharings: each policy is trained with each.
        overrides: of the environment.
        changes: of the policies.
        own_changes: of single ones, by preset.
        tuned: rules with a parameter that was found by `offload-rllib tune-rule`, beside those with their defaults.
        reference: whom the others are compared with.
        figure: the metric that is drawn.
        judged: the metrics by which learned policies are held against every rule.
        elsewhere: more environments, by what tables call them: a preset and its overrides. Policies are trained in all
            and play in all, and the section is the table of what is lost where they were not trained.
        seeds: training seeds.
        episodes: that all policies play.
        tried: what else was tried, below the tables.
    """

    name: str
    title: str
    environment: str
    policies: tuple[str, ...]
    question: str = field(kw_only=True)
    sharings: tuple[str, ...] = ("shared",)
    overrides: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    own_changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tuned: tuple[str, ...] = ()
    reference: str = "shortest_finish"
    figure: str = SCORE
    judged: tuple[str, ...] = (SCORE,)
    elsewhere: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    seeds: int = SEEDS
    episodes: int = EPISODES
    tried: str = ""

    def plan(self) -> ComparisonPlan:
        """Return the comparison that the part consists of.

        Raises:
            ConfigError: a preset is not there, or does not take a change; changes are those of none of the policies.
        """
        if of_none := ", ".join(sorted(set(self.own_changes) - set(self.policies))):
            raise ConfigError(f"{self.name}: own_changes of {of_none}, trained are {', '.join(self.policies)}")
        trained = {
            f"{policy}_{sharing}": load_policy_config(
                policy,
                [f"sharing={sharing}", *in_one_process(policy), *self.changes, *self.own_changes.get(policy, ())],
            )
            for policy in self.policies
            for sharing in self.sharings
        }
        environment = load_environment(self.environment, self.overrides)
        environments = {self.environment: environment}
        environments |= {label: load_environment(*place) for label, place in self.elsewhere.items()}
        return ComparisonPlan(
            environments=environments,
            training_environments=environments if self.elsewhere else {},
            policies=(*trained, *fitting_rules(environment), *self.tuned),
            trained=trained,
            training_seeds=tuple(range(self.seeds)),
            episodes=self.episodes,
            metrics=METRICS,
            reference=self.reference,
        )


def in_one_process(policy: str) -> list[str]:
    """Return the changes that let a preset sample as much in one process, whatever number of CPUs there is."""
    training = load_policy_config(policy).training
    return ["training.runners=0", f"training.envs_per_runner={max(training.runners, 1) * training.envs_per_runner}"]


def run_study(study: Study, folder: Path, console: Console) -> bool:
    """Run a study in `folder/NAME`, or what is left of it; return whether it is finished, False after an interruption.

    Raises:
        ConfigError: the folder holds something else, or the same part as it was before it or its presets changed.
        TrainingError: a training failed.
    """
    path = folder / study.name
    if path.is_dir():
        kept = _opened(study, path)
    else:
        plan = study.plan()
        check_plan(plan)
        kept = ComparisonFolder.create(str(path), plan, "python -m scripts.results")
    if kept.state == "finished":
        return True
    comparison = run_comparison(kept, console)
    if comparison is not None:
        finish_comparison(kept, comparison, kept.plan)
    return comparison is not None


def check_folder(studies: Sequence[Study], folder: Path) -> None:
    """Check that what a folder holds of the studies was made with the settings that they have now.

    Raises:
        ConfigError: it was not.
    """
    for study in studies:
        if (folder / study.name).is_dir():
            _opened(study, folder / study.name)


def _opened(study: Study, path: Path) -> ComparisonFolder:
    kept, wanted = ComparisonFolder.open(path), study.plan()
    found = kept.plan
    if found != wanted:
        changed = []
        for key in type(wanted).model_fields:
            new, old = getattr(wanted, key), getattr(found, key)
            if isinstance(new, dict):
                changed += [label for label in sorted({*new, *old}) if new.get(label) != old.get(label)]
            elif new != old:
                changed.append(key)
        raise ConfigError(
            f"{path}: made with other settings than this part has now ({', '.join(changed)}); remove it, or take "
            "another --folder"
        )
    return kept


def _section(study: Study, kept: ComparisonFolder, images: Path) -> list[str]:
    """Return a finished study's part of the page, and copy its figure to the page's images."""
    path, plan = kept.path, kept.plan
    comparison = load_comparison(path)
    images.mkdir(parents=True, exist_ok=True)
    picture = images / f"results_{study.name}.png"
    shutil.copyfile(path / FIGURES / f"{study.figure}.png", picture)
    shutil.copyfile(path / "summary.csv", picture.with_suffix(".csv"))
    seconds = sum(_seconds(run) for run in (path / "runs").iterdir())
    steps = {config.training.env_steps for config in plan.trained.values()}
    own = "".join(f", {policy}{_listed(changes)}" for policy, changes in study.own_changes.items())
    about = (
        f"`{study.environment}`{_listed(study.overrides)}; policies as in `policies/`{_listed(study.changes)}{own}; "
        f"{', '.join(f'{count:,}' for count in sorted(steps))} decisions per run, {len(plan.training_seeds)} training "
        f"seed{'s' if len(plan.training_seeds) > 1 else ''}, {plan.episodes} held-out episodes. Training took "
        f"{seconds / 60:.0f} minutes in all."
    )
    lines = [
        f"## {study.title}",
        "",
        study.question,
        "",
        about,
        "",
        f"![{study.title}](images/{picture.name})",
        "",
    ]
    if not study.elsewhere:
        curves = images / f"training_{study.name}.png"
        rules = {
            name: comparison.mean(name, SCORE, comparison.points[0]).mean for name in (*DRAWN_RULES, study.reference)
        }
        runs = {name: sorted((path / "runs").glob(f"{name}-*")) for name in plan.trained}
        write_figure(of_training(runs, rules), curves.with_suffix(""), ("png",))
        lines += [f"![Scores while they were trained](images/{curves.name})", ""]
    for table in _tables(study, comparison, plan):
        rows: list[dict[str, Any]] = table.to_dict("records")
        lines += [tabulate(rows, "keys", "github", disable_numparse=True), ""]
    if study.tried:
        lines += [study.tried, ""]
    return lines


def _tables(study: Study, comparison: Comparison, plan: ComparisonPlan) -> list[pd.DataFrame]:
    """Return the tables of a part as text: verdicts, means and differences, or what is lost by transfer."""
    reference = reference_of(plan)
    if not study.elsewhere:
        (point,) = comparison.points
        learned = [name for name in comparison.policies if name.removesuffix(SAMPLED) in plan.trained]
        return [
            *(verdicts(comparison, metric, learned) for metric in study.judged),
            means_table(comparison, point, METRICS),
            differences_table(comparison, point, reference, METRICS[:4], learned),
        ]
    lost = [
        row
        for row in transfer_table(comparison).to_dict("records")
        if row["trained_on"] == study.environment and row["environment"] != study.environment
    ]
    differences = [Interval(row["difference"], row["low"], row["high"], p=row["p"]) for row in lost]
    rows = [
        {
            "policy": row["policy"],
            "plays in": row["environment"],
            f"trained in {study.environment}": number(row["mean"]),
            "trained there": number(row["there"]),
            "lost by the transfer": difference_text(difference, sure=sure),
            reference: number(comparison.mean(reference, SCORE, (row["environment"],)).mean),
        }
        for row, difference, sure in zip(lost, differences, certain(differences), strict=True)
    ]
    return [pd.DataFrame(rows)]


def verdicts(comparison: Comparison, metric: str, learned: Sequence[str]) -> pd.DataFrame:
    """Return which rules each learned policy certainly beats, and which not, adjusted for all pairs of the table."""
    (point,) = comparison.points
    rules = [name for name in comparison.played(point) if name not in learned]
    label = metric_of(metric).label
    pairs = [(policy, rule) for policy in learned for rule in rules]
    found = [comparison.difference(policy, rule, metric, point) for policy, rule in pairs]
    sign = {
        pair: (1 if difference.mean > 0 else -1) if sure else 0
        for pair, difference, sure in zip(pairs, found, certain(found), strict=True)
    }
    return pd.DataFrame(
        [
            {
                f"{label} of": policy,
                f"certainly lower than, of {len(rules)} rules": _most(_with(sign, policy, rules, -1), rules),
                "no certain difference from": ", ".join(_with(sign, policy, rules, 0)),
                "certainly higher than": ", ".join(_with(sign, policy, rules, 1)),
            }
            for policy in learned
        ]
    )


def _with(sign: Mapping[tuple[str, str], int], policy: str, rules: Sequence[str], wanted: int) -> list[str]:
    return [rule for rule in rules if sign[policy, rule] == wanted]


def _most(chosen: Sequence[str], rules: Sequence[str]) -> str:
    """Return the names of a few of the rules, or how many of them there are."""
    return "all" if len(chosen) == len(rules) else ", ".join(chosen) if len(chosen) <= 3 else str(len(chosen))


def _seconds(run: Path) -> float:
    return float(RunFolder.open(run).entries()["seconds"])


def _listed(changes: Sequence[str]) -> str:
    return f" with {', '.join(f'`{change}`' for change in changes)}" if changes else ""


def write_page(path: Path, head: str, studies: Sequence[Study], folder: Path) -> None:
    """Write a page of the studies that are finished in a folder, in one step, and their figures beside it.

    The page names those that are not.

    Raises:
        ConfigError: a part was made with other settings than it has now.
    """
    lines, missing = [head], []
    for study in studies:
        done = folder / study.name
        if done.is_dir() and (kept := _opened(study, done)).state == "finished":
            lines += _section(study, kept, path.parent / "images")
        else:
            missing.append(f"`{study.name}`")
    if missing:
        lines += [f"Parts of the plan (`scripts/results/plan.py`) that have not been run: {', '.join(missing)}.", ""]
    with written_at_once(path) as partial:
        partial.write_text("\n".join(lines), encoding="utf-8")
