"""`offload-rllib front`: what policies reach of several objectives, over their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from offload_rllib.commands.environment_options import (
    EnvArgument,
    EpisodesOption,
    HeldOutSeedOption,
    SetOption,
    TrustOption,
)
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import load_environment
from offload_rllib.config.names import one_line, plain_name

FRONTS = Path("fronts")


def front(
    env: EnvArgument,
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="Folders of runs, NAME=RUN,RUN,... (runs whose points are one front), or heuristics.",
        ),
    ],
    set_: SetOption = None,
    trust: TrustOption = False,
    steps: Annotated[
        int,
        typer.Option(
            min=0,
            max=50,
            help="Weights that are multiples of 1 / STEPS; 0: each objective alone, each pair alike, and all alike.",
        ),
    ] = 0,
    episodes: EpisodesOption = 20,
    held_out_seed: HeldOutSeedOption = 0,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Trained policies draw their actions, instead of taking the best.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; must not exist.")] = None,
) -> None:
    """Play policies at many weights of the objectives: points, hypervolumes, and a plot of the front."""
    from offload_rllib.evaluation.fronts import play_front
    from offload_rllib.reporting.front_page import hypervolumes, write_front
    from offload_rllib.runs.folder import refuse_existing, write_results

    environment = load_environment(env, set_ or (), trust=trust)
    refuse_existing(out)
    stem = plain_name(Path(env).stem)
    with Progress(console=console, transient=True) as progress:
        found = play_front(
            environment,
            policies,
            steps=steps,
            episodes=episodes,
            seed=held_out_seed,
            sampled=sampled,
            progress=progress,
        )
    title = one_line(f"{stem}: {', '.join(found.objectives)}")
    folder, paths = write_results(out, FRONTS, stem, lambda partial: write_front(found, partial, title))
    table = Table(title=f"{title}; {episodes} held-out episodes at each weight")
    for column in hypervolumes(found).columns:
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in hypervolumes(found).itertuples(index=False):
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)
    for kind, path in paths.items():
        say(f"{kind}: {folder / path.name}")
