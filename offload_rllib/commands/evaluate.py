"""`offload-rllib evaluate`: policies on the same held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from offload_rllib.commands.environment_options import (
    EnvArgument,
    EpisodesOption,
    HeldOutSeedOption,
    MetricOption,
    SetOption,
    TrustOption,
    WeightsOption,
    changes_of,
)
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment
from offload_rllib.config.names import one_line, plain_name

if TYPE_CHECKING:
    from offload_rllib.scenario import BuiltScenario

EVALUATIONS = Path("evaluations")
Write = Callable[[Path], dict[str, Path]]


def evaluate(
    env: EnvArgument,
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="Heuristics, functions package.module:function, folders of runs, or addresses of services.",
        ),
    ],
    set_: SetOption = None,
    weights: WeightsOption = None,
    trust: TrustOption = False,
    episodes: EpisodesOption = 20,
    held_out_seed: HeldOutSeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; must not exist.")] = None,
    by_type: Annotated[bool, typer.Option("--by-type", help="Also print a table for each type of task.")] = False,
    metric: MetricOption = None,
    task_log: Annotated[
        bool, typer.Option("--task-log", help="Write every task, one CSV file per policy and episode.")
    ] = False,
) -> None:
    """Compare policies on common random numbers; the first one is the reference of the differences."""
    from offload_rllib.runs.folder import refuse_existing, write_results

    environment = load_environment(env, changes_of(set_, weights), trust=trust)
    refuse_existing(out)
    stem = plain_name(Path(env).stem)

    def keep(write: Write) -> dict[str, Path]:
        folder, paths = write_results(out, EVALUATIONS, stem, write)
        return {kind: folder / path.name for kind, path in paths.items()}

    play(
        environment,
        policies,
        episodes,
        held_out_seed,
        keep,
        label=stem,
        by_type=by_type,
        metrics=metric or (),
        task_log=task_log,
    )


def play(
    environment: EnvironmentConfig,
    names: list[str],
    episodes: int,
    seed: int,
    keep: Callable[[Write], dict[str, Path]],
    *,
    label: str,
    title: str | None = None,
    by_type: bool = False,
    metrics: Sequence[str] = (),
    task_log: bool = False,
    scenario: BuiltScenario | None = None,
) -> None:
    """Let policies play held-out episodes, write the results to a folder, and print them.

    Args:
        environment: where they play.
        names: of the policies; the first one is the reference.
        episodes: how many.
        seed: of the held-out episodes.
        keep: called with what writes the results into a folder; returns the files by what they are.
        label: what the results call the environment.
        title: of the figure; None: the label.
        by_type: whether to print a table for each type of task, too.
        metrics: print a table of these, too: names, or functions of an episode's figures.
        task_log: whether to write every task to files in the folder `tasks`.
        scenario: of the environment, if it is built already.
    """
    from offload_rllib.envs.goal import COST
    from offload_rllib.evaluation.evaluate import Player
    from offload_rllib.evaluation.evaluate import evaluate as evaluate_all
    from offload_rllib.evaluation.metrics import chosen
    from offload_rllib.evaluation.own_metrics import load_own_metrics
    from offload_rllib.evaluation.players import make_contenders
    from offload_rllib.evaluation.task_log import write_exchange
    from offload_rllib.reporting.report import tables, write_report

    contenders = make_contenders(names)
    load_own_metrics(metrics)  # a mistake is reported before anything is played
    logs: list[Any] | None = [] if task_log else None
    with Progress(console=console, transient=True) as progress:
        evaluation = evaluate_all(
            environment,
            contenders,
            episodes=episodes,
            seed=seed,
            progress=progress,
            label=label,
            player=Player(scenario),
            logs=logs,
        ).with_own_metrics(metrics)
    chosen(metrics, evaluation.metrics)
    reference = contenders[0].name
    made_tasks = evaluation.of(reference, "tasks_created")
    empty = int((made_tasks == 0).sum())
    if empty == made_tasks.size:
        raise ConfigError(
            f"no task came in any of the {empty} episodes, so there is nothing to compare: raise workload.load or "
            "horizon_s, or play more episodes"
        )
    if empty:
        say(f"note: no task came in {empty} of the {made_tasks.size} episodes; their means do not count")
    # Files first: a closed pipe ends the printing, and must not cost the results.
    about = one_line(f"{title or label}: {environment.description} ({episodes} held-out episodes)")

    def write(folder: Path) -> dict[str, Path]:
        paths = write_report(evaluation, reference, folder, about)
        if logs is not None:
            paths["tasks"] = folder / "tasks"
            write_exchange(logs, paths["tasks"])
        return paths

    paths = keep(write)
    if COST in evaluation.metrics and COST not in metrics:
        metrics = [*metrics, COST]
    for table in tables(evaluation, reference, by_type=by_type, metrics=metrics):
        console.print(table)
    for kind, path in paths.items():
        say(f"{kind}: {path}")
