"""`offload-rllib evaluate`: policies on the same held-out episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from offload_rllib.commands.environment_options import EnvArgument, EpisodesOption, HeldOutSeedOption, SetOption
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment

EVALUATIONS = Path("evaluations")


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
    episodes: EpisodesOption = 20,
    held_out_seed: HeldOutSeedOption = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; must not exist.")] = None,
) -> None:
    """Compare policies on common random numbers; the first one is the reference of the differences."""
    from offload_rllib.experiment.recorded_folder import new_results, refuse_existing

    environment = load_environment(env, set_ or ())
    refuse_existing(out)
    stem = Path(env).stem
    play(environment, policies, episodes, held_out_seed, lambda: new_results(out, EVALUATIONS, stem), label=stem)


def play(
    environment: EnvironmentConfig,
    names: list[str],
    episodes: int,
    seed: int,
    made: Callable[[], Path],
    *,
    label: str,
    title: str | None = None,
) -> None:
    """Let policies play held-out episodes, write the results to a folder, and print them.

    Args:
        environment: where they play.
        names: of the policies; the first one is the reference.
        episodes: how many.
        seed: of the held-out episodes.
        made: makes the folder, when there are results.
        label: what the results call the environment.
        title: of the figure; None: the label.
    """
    from offload_rllib.experiment.contenders import make_contenders
    from offload_rllib.experiment.evaluation import evaluate as evaluate_all
    from offload_rllib.experiment.report import tables, write_report

    contenders = make_contenders(names)
    with Progress(console=console, transient=True) as progress:
        evaluation = evaluate_all(environment, contenders, episodes=episodes, seed=seed, progress=progress, label=label)
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
    paths = write_report(
        evaluation, reference, made(), f"{title or label}: {environment.description} ({episodes} held-out episodes)"
    )
    for table in tables(evaluation, reference):
        console.print(table)
    for kind, path in paths.items():
        say(f"{kind}: {path}")
