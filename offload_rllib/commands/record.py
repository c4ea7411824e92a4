"""The verb `record`: the decisions of a policy as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from offload_rllib.commands.environment_options import EnvArgument, SetOption, TrustOption
from offload_rllib.commands.terminal import console, say


def record(
    env: EnvArgument,
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A heuristic, or as `evaluate` takes it.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file, .parquet; must not exist.")],
    set_: SetOption = None,
    trust: TrustOption = False,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes that no training and no evaluation plays.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episodes, and of drawn actions.")] = 0,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Let a trained policy draw its actions; by default it takes the best.")
    ] = False,
) -> None:
    """Write every decision of a policy into a Parquet file, to learn from: here (`train --imitate`) or elsewhere."""
    from offload_rllib.evaluation.recording import record_decisions

    with Progress(console=console, transient=True) as progress:
        written = record_decisions(
            env,
            policy,
            out,
            episodes=episodes,
            seed=seed,
            sampled=sampled,
            overrides=set_ or (),
            trust=trust,
            progress=progress,
        )
    say(f"decisions: {written.decisions:,} in {written.episodes:,} episodes: {written.path}")
