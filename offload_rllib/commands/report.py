"""`offload-rllib report`: the tables and figures of a finished comparison, once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offload_rllib.commands.environment_options import MetricOption
from offload_rllib.commands.terminal import say


def report(
    comparison: Annotated[str, typer.Argument(metavar="COMPARISON", help="Folder of a finished comparison.")],
    metric: MetricOption = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", metavar="POLICY", help="Policies to show, in addition to the reference; repeat. Default: all."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="The policy that others are compared with, by its name in tables."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the files; must not exist. Default: the comparison's, replacing the old files."),
    ] = None,
) -> None:
    """Write tables, figures and the page of a finished comparison again; nothing is played."""
    from offload_rllib.compare.report import draw_again
    from offload_rllib.compare.run import ComparisonFolder
    from offload_rllib.runs.folder import refuse_existing

    folder = ComparisonFolder.open(comparison)
    refuse_existing(out)
    paths = draw_again(folder, out or folder.path, metrics=metric or (), policies=policy or (), reference=reference)
    for what, path in paths.items():
        say(f"{what}: {path}")
