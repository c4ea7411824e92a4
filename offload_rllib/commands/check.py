"""`offload-rllib check`: whether the file or the policy of a user is sound, before it is trained on."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from offload_rllib.commands.environment_options import SetOption, SetPolicyOption, TrustOption
from offload_rllib.commands.terminal import console, say

STYLES = {"passed": "green", "note": "yellow", "failed": "bold red"}


def check(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An environment or a policy: a preset's name, a YAML file, or the folder of a run or of a policy.",
        ),
    ],
    env: Annotated[
        str | None, typer.Option("--env", help="Where a policy plays; by default that of the run, otherwise ether_12.")
    ] = None,
    set_: SetOption = None,
    set_policy: SetPolicyOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes that are played.")] = 0,
    trust: TrustOption = False,
) -> None:
    """Check an environment or a policy: interfaces, seeds, rewards, masks, load. Exit code 1 if a check failed."""
    from offload_rllib.checking.check import check as run

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        report = run(
            file,
            env=env,
            overrides=set_ or (),
            policy_overrides=set_policy or (),
            seed=seed,
            trust=trust,
            progress=progress,
        )
    table = Table(title=report.subject, title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for result in report.results:
        table.add_row(result.name, Text(result.outcome, STYLES[result.outcome]), result.found)
    console.print(table)
    counts = {outcome: sum(result.outcome == outcome for result in report.results) for outcome in STYLES}
    say(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    if not report.passed:
        raise typer.Exit(1)
