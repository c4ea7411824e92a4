"""`offload-rllib compare`: policies, trained and not, over environments and loads, with statistics."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from offload_rllib.commands.cluster_options import (
    AddressOption,
    ShipCodeOption,
    StorageOption,
    named_below,
    on_cluster,
)
from offload_rllib.commands.environment_options import MetricOption, TrustOption, WeightsOption, changes_of
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError
from offload_rllib.config.seeds import parse_seeds

if TYPE_CHECKING:
    import pandas as pd

    from offload_rllib.compare.plan import ComparisonPlan
    from offload_rllib.compare.run import ComparisonFolder
    from offload_rllib.evaluation.results import Comparison

# More points are printed as one table.
MOST_PRINTED = 2
UNSURE = "[95 %], ( ): no certain difference, adjusted for the table"

# ray and torch take seconds to import: only a comparison that is about to run needs them.


def compare(
    policies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="POLICY...",
            help="Heuristics, folders of runs (NAME=RUN,RUN,...: training seeds of one policy), policies to train "
            "(presets or YAML files); or one compare.yaml.",
        ),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="ENV", help="Environments; repeat, or separate by commas.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="KEY=VALUES", help="LOW:HIGH:STEP or V1,V2,..., e.g. rho=0.3:1.2:0.1."),
    ] = None,
    train_env: Annotated[
        list[str] | None,
        typer.Option("--train-env", metavar="ENV", help="Environments to train in; `here`: each compared one."),
    ] = None,
    train_at_every_point: Annotated[
        bool, typer.Option("--train-at-every-point", help="Train at every swept value, not at the value of the file.")
    ] = False,
    seeds: Annotated[
        str, typer.Option(metavar="SEEDS", help="Training seeds of each trained policy: 5, 0:5 or 0,3,7.")
    ] = "5",
    episodes: Annotated[int, typer.Option(min=2, help="Held-out episodes, the same for all policies.")] = 20,
    held_out_seed: Annotated[int, typer.Option("--held-out-seed", min=0, help="Seed of the held-out episodes.")] = 0,
    metric: MetricOption = None,
    reference: Annotated[
        str | None, typer.Option(metavar="POLICY", help="The policy that others are compared with; default: the first.")
    ] = None,
    task_log: Annotated[bool, typer.Option("--task-log", help="Log every task (Parquet).")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of all environments.")
    ] = None,
    set_policy: Annotated[
        list[str] | None,
        typer.Option("--set-policy", metavar="KEY=VALUE", help="Change a key of all policies that are trained."),
    ] = None,
    weights: WeightsOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray tasks that play in parallel; default: the number of CPUs.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The folder under comparisons/; must not exist.")] = None,
    trust: TrustOption = False,
    resume: Annotated[
        str | None, typer.Option(metavar="COMPARISON", help="Continue an interrupted comparison, by its folder.")
    ] = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    ship_code: ShipCodeOption = False,
) -> None:
    """Compare policies on common random numbers: tables, figures and a report with everything to repeat it."""
    from offload_rllib.compare.plan import is_plan, load_plan, plan_of
    from offload_rllib.training.train import quieten

    quieten()
    options = ClusterChoice(address, storage, ship_code=ship_code)
    if resume is not None:
        if policies or env or sweep or train_env or name or metric or reference or set_ or set_policy or weights:
            raise ConfigError("--resume takes everything from the comparison's folder; give no other arguments")
        resume_comparison(resume, options, workers=workers, trust=trust)
        return
    if policies and len(policies) == 1 and is_plan(policies[0]):
        if env or sweep or train_env or metric or reference or set_ or set_policy or weights:
            raise ConfigError(f"{policies[0]} states everything; give only --name and --workers with it")
        plan = load_plan(policies[0], trust=trust)
    else:
        if not policies or not env:
            raise ConfigError(
                "compare needs POLICY... and --env ENV, e.g.: "
                "offload-rllib compare local shortest_finish --env ether_12 --sweep rho=0.3:1.2:0.1"
            )
        plan = plan_of(
            policies,
            _separated(env),
            training_environments=_separated(train_env),
            sweep=sweep or (),
            overrides=changes_of(set_, weights),
            policy_overrides=set_policy or (),
            reference=reference,
            trust=trust,
            train_at_every_point=train_at_every_point,
            training_seeds=parse_seeds(seeds),
            episodes=episodes,
            held_out_seed=held_out_seed,
            metrics=tuple(metric or ()),
            task_log=task_log,
        )
    begin_comparison(plan, name, options, workers=workers)


@dataclass(frozen=True)
class ClusterChoice:
    """The options of a comparison that say where it runs."""

    address: str | None
    storage: str | None
    ship_code: bool


def begin_comparison(
    plan: ComparisonPlan, name: str | None, where: ClusterChoice, *, stem: str | None = None, workers: int | None = None
) -> None:
    """Check a plan, run it in a new folder, and print the results.

    Args:
        plan: what is to be done.
        name: of the folder, or a path; None: the next free number behind `stem`.
        where: it runs.
        stem: None: after environments and policies.
        workers: as for `run_comparison`.
    """
    from offload_rllib.compare.plan import check_plan
    from offload_rllib.compare.run import ComparisonFolder, default_name

    with console.status("checking the comparison (a new installation compiles the simulator, for about a minute)"):
        check_plan(plan)
    stem = stem or default_name(plan)
    command = shlex.join(["offload-rllib", *sys.argv[1:]])
    folder = ComparisonFolder.create(named_below(where.storage, name, stem), plan, command, stem)
    with folder.removed_if_not_begun():
        _carry_out(folder, plan, where, workers)


def resume_comparison(path: str, where: ClusterChoice, *, workers: int | None = None, trust: bool = False) -> None:
    """Run the rest of a comparison, and print the results.

    Raises:
        ConfigError: it is finished.
    """
    from offload_rllib.compare.run import ComparisonFolder

    folder = ComparisonFolder.open(path, trust=trust)
    if folder.state == "finished":
        raise ConfigError(f"{folder.path}: this comparison is finished; there is nothing to resume")
    _carry_out(folder, folder.plan, where, workers)


def _carry_out(folder: ComparisonFolder, plan: ComparisonPlan, where: ClusterChoice, workers: int | None) -> None:
    from offload_rllib.compare.plan import reference_of
    from offload_rllib.compare.report import finish_comparison
    from offload_rllib.compare.run import run_comparison

    say(f"comparison folder: {folder.path}")
    with on_cluster(where.address, where.storage, ship_code=where.ship_code):
        comparison = run_comparison(folder, console, workers=workers)
    if comparison is None:
        say(f"interrupted; what was done is saved. Continue with: {folder.resume_command}")
        raise typer.Exit(130)
    # Files first: a closed pipe ends the printing, and must not cost the results.
    paths = finish_comparison(folder, comparison, plan)
    _print(comparison, reference_of(plan))
    for what, path in paths.items():
        say(f"{what}: {path}")


def _separated(names: list[str] | None) -> list[str]:
    return [part for name in names or () for part in name.split(",") if part]


def _print(comparison: Comparison, reference: str) -> None:
    """Print the scores, differences from the reference, and what deciding costs."""
    from offload_rllib.evaluation.metrics import SCORE, metric_of
    from offload_rllib.reporting.tables import (
        SHORT,
        differences_table,
        means_table,
        over_points_table,
        robust_table,
        timings_table,
    )

    several = len(comparison.policies) > 1
    if len(comparison.points) > MOST_PRINTED:
        about = metric_of(SCORE).label
        _show(f"{about}, ± 95 %", over_points_table(comparison, SCORE))
        if several:
            differences = over_points_table(comparison, SCORE, reference)
            _show(f"{about}: policy minus {reference}, paired by episode, {UNSURE}", differences)
    else:
        metrics = [name for name in SHORT if name in comparison.metrics]
        for point in comparison.points:
            label = comparison.label(point)
            _show(f"{label}, ± 95 %", means_table(comparison, point, metrics))
            _show(f"{label}: robust statistics", robust_table(comparison, point, reference))
            if several and reference in comparison.played(point):
                differences = differences_table(comparison, point, reference, metrics)
                _show(f"{label}: differences, paired by episode, {UNSURE}", differences)
    _show("what deciding costs (not the same from run to run)", timings_table(comparison))


def _show(title: str, frame: pd.DataFrame) -> None:
    """Print a table, in parts where the terminal is narrower: no name and no number is cut."""
    from rich.table import Table

    columns = list(map(str, frame.columns))
    widths = [max(map(len, [*_words(name), *map(str, frame.iloc[:, i])])) + 3 for i, name in enumerate(columns)]
    parts: list[list[int]] = [[]]
    for i in range(1, len(columns)):
        if parts[-1] and widths[0] + sum(widths[k] for k in parts[-1]) + widths[i] > console.width:
            parts.append([])
        parts[-1].append(i)
    for number, part in enumerate(parts, 1):
        shown = f"{title} ({number} of {len(parts)})" if len(parts) > 1 else title
        table = Table(title=shown, title_justify="left")
        for i in (0, *part):
            table.add_column(columns[i], justify="right" if i else "left", overflow="fold", min_width=widths[i] - 3)
        for row in frame.itertuples(index=False):
            table.add_row(*(str(row[i]) for i in (0, *part)))
        console.print(table)


def _words(heading: str) -> list[str]:
    """Return the parts of a heading between which it may be folded."""
    return heading.split() or [""]
