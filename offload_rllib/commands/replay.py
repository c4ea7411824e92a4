"""The verb `replay`: an episode as a page that moves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from offload_rllib.commands.environment_options import SetOption, TrustOption, WeightsOption, changes_of
from offload_rllib.commands.terminal import console, say


def replay(
    policies: Annotated[
        list[str],
        typer.Argument(metavar="POLICY [POLICY]", help="One or two, as `evaluate` takes them."),
    ],
    env: Annotated[str, typer.Option("--env", metavar="ENV", help="A preset's name or a path to a YAML file.")],
    set_: SetOption = None,
    weights: WeightsOption = None,
    trust: TrustOption = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the held-out episodes.")] = 0,
    episode: Annotated[int, typer.Option(min=0, help="Which of the held-out episodes, from 0.")] = 0,
    until: Annotated[
        float | None, typer.Option(help="Show the episode up to this time, in seconds; by default to its end.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The page, .html, or an animation, .gif; by default replay.html, or replay.gif with --gif."),
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="An animation, for where no script runs.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Show one held-out episode as a page: tasks on links, queues, drops, and the running score of each policy.

    With --gif as an animation.
    """
    from offload_rllib.config import ConfigError
    from offload_rllib.evaluation.interval_text import number
    from offload_rllib.evaluation.metrics import SCORE
    from offload_rllib.replay.write import write_replay

    out = out or Path("replay.gif" if gif else "replay.html")
    if gif and out.suffix.lower() != ".gif":
        raise ConfigError(f"--out {out}: accepted ending with --gif: .gif")
    with Progress(console=console, transient=True) as progress:
        written = write_replay(
            out,
            policies,
            env,
            overrides=changes_of(set_, weights),
            seed=seed,
            episode=episode,
            until_s=until,
            force=force,
            trust=trust,
            progress=progress,
        )
    for policy, figures in written.figures.items():
        say(f"{policy}: mean score {number(figures[SCORE])} s in the whole episode")
    for note in written.notes:
        say(f"note: {note}")
    what, how = ("animation", "") if out.suffix.lower() == ".gif" else ("page", "; open it in a browser")
    say(f"{what}: {written.path} ({written.size_bytes / 1e6:.2f} MB){how}")
