"""The results of a sweep: leaderboard, study, plots, and the best policy as a file for `train`."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from offload_rllib.config.files import written_at_once
from offload_rllib.policies.saved import POLICY_FOLDER
from offload_rllib.runs.folder import write_yaml
from offload_rllib.runs.training_run import TUNE
from offload_rllib.sweep.folder import ENVIRONMENT_FILE, POLICY_FILE, SweepFolder
from offload_rllib.sweep.leaderboard import shown_value
from offload_rllib.sweep.outcomes import FAILED, TrialOutcome, best_of, pareto_front, ranked
from offload_rllib.sweep.plan import SweepPlan, token_of
from offload_rllib.sweep.plots import plot_importance, plot_parallel_coordinates
from offload_rllib.sweep.study import STUDY, write_study
from offload_rllib.sweep.trial import seed_folder

LEADERBOARD = "leaderboard.csv"
BEST_POLICY, BEST_ENVIRONMENT, BEST = "best.yaml", "best_environment.yaml", "best"


def write_leaderboard(path: Path, plan: SweepPlan, outcomes: Sequence[TrialOutcome]) -> None:
    """Write one row per trial, best first, in one step.

    Columns: `rank`, `trial`, `state`, `env_steps`, `pareto` (whether it is on the Pareto front of the metrics), one per
    key of the space, and one per metric. `METRIC_seed_S` follow with several training seeds, then the seconds of
    `SweepTrial`, all other figures of the validation episodes, and `problem`.
    """
    metrics = plan.config.metrics
    names = [metric.name for metric in metrics]
    order = ranked(metrics, outcomes)
    front = {outcome.name for outcome in pareto_front(metrics, outcomes)}
    seeds = [f"seed_{seed}" for seed in plan.config.seeds] if len(plan.config.seeds) > 1 else []
    others = [name for name in dict.fromkeys(n for o in order for n in o.figures) if name not in names]
    costs = list(dict.fromkeys(name for outcome in order for name in outcome.cost))
    header = ["rank", "trial", "state", "env_steps", "pareto", *plan.config.space, *names]
    header += [f"{name}_{seed}" for name in names for seed in seeds] + costs + others + ["problem"]
    with written_at_once(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for rank, outcome in enumerate(order, 1):
            row = [rank, outcome.name, outcome.state, outcome.env_steps, int(outcome.name in front)]
            row += [token_of(outcome.values[key]) for key in plan.config.space]
            row += [outcome.figures.get(name, "") for name in names]
            row += [outcome.by_seed.get(name, {}).get(seed, "") for name in names for seed in seeds]
            row += [f"{outcome.cost[name]:.2f}" if name in outcome.cost else "" for name in costs]
            row += [outcome.figures.get(name, "") for name in others]
            writer.writerow([*row, outcome.problem])


def write_best(folder: SweepFolder, plan: SweepPlan, best: TrialOutcome) -> dict[str, Path]:
    """Write the best trial's policy, its environment if trials differ in it, and keep its trained policies.

    Returns:
        What was written, by what it is.
    """
    environment, policy = plan.trial(best.values)
    figures = ", ".join(f"{metric.name} {best.figure(metric.name):.5g}" for metric in plan.config.metrics)
    seeds = ", ".join(map(str, plan.config.seeds))
    lines = [
        f"{best.name} of the sweep {folder.name}: {figures}",
        f"after {best.env_steps:,} environment steps, mean over training seeds {seeds},",
        f"on {plan.config.validation.episodes} validation episodes ({plan.config.validation.play}).",
        *(f"{key}: {shown_value(value)}" for key, value in best.values.items()),
    ]
    paths = {"best policy": folder.path / BEST_POLICY}
    if plan.touches_environment:
        paths["its environment"] = folder.path / BEST_ENVIRONMENT
        lines.append(f"The environment differs too; train it on {BEST_ENVIRONMENT} beside this file.")
        write_yaml(paths["its environment"], environment.model_dump(mode="json"), "\n".join(lines[:-1]))
    write_yaml(paths["best policy"], policy.model_dump(mode="json", by_alias=True), "\n".join(lines))
    trained = _keep_trained(folder, plan, best)
    return paths | ({"as trained in the sweep": trained} if trained else {})


def _keep_trained(folder: SweepFolder, plan: SweepPlan, best: TrialOutcome) -> Path | None:
    """Copy the policies of the best trial's newest checkpoint to `best/seed_S`, so that they outlive it."""
    checkpoints = sorted((folder.path / TUNE / best.name).glob("checkpoint_*"))
    if not checkpoints:
        return None
    partial = folder.path / f"{BEST}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for seed in plan.config.seeds:
        source = seed_folder(checkpoints[-1], seed) / POLICY_FOLDER
        shutil.copytree(source, seed_folder(partial, seed))
    shutil.rmtree(folder.path / BEST, ignore_errors=True)
    return partial.replace(folder.path / BEST)


def write_trial_files(folder: SweepFolder, plan: SweepPlan, outcomes: Sequence[TrialOutcome]) -> None:
    """Write into each trial's folder what it trained, as `train` takes it."""
    for outcome in outcomes:
        path = folder.path / TUNE / outcome.name
        if outcome.state == FAILED or not path.is_dir():
            continue
        environment, policy = plan.trial(outcome.values)
        write_yaml(path / POLICY_FILE, policy.model_dump(mode="json", by_alias=True))
        if plan.touches_environment:
            write_yaml(path / ENVIRONMENT_FILE, environment.model_dump(mode="json"))


def write_sweep_report(folder: SweepFolder, plan: SweepPlan, outcomes: Sequence[TrialOutcome]) -> dict[str, Path]:
    """Write the results of a sweep, replacing those of an earlier part; return the paths by what they are.

    Without any result there are the leaderboard and the study alone, with what went wrong.
    """
    paths = {"leaderboard": folder.path / LEADERBOARD}
    write_leaderboard(paths["leaderboard"], plan, outcomes)
    paths["study"] = write_study(folder.path / STUDY, plan, outcomes, folder.name)
    best = best_of(plan.config.metrics, outcomes)
    if best is None:
        return paths
    write_trial_files(folder, plan, outcomes)
    title = plan.config.description or folder.name
    for what, plot, stem in (
        ("parallel coordinates", plot_parallel_coordinates, "parallel_coordinates"),
        ("importance", plot_importance, "importance"),
    ):
        written = plot(folder.path / stem, plan, outcomes, title)
        if written:
            paths[what] = written
    return paths | write_best(folder, plan, best)
