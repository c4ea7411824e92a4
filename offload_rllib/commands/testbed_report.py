"""The verb `testbed-report`: a testbed beside the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError


def report_testbed(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Folders of testbeds, or Parquet files of tasks; together they are one report."
        ),
    ],
    drop: Annotated[
        float, typer.Option("--drop", min=0.0, help="Least score of a task that did not finish, as in score.drop_s.")
    ] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; is made. Default: that of the first log.")
    ] = None,
) -> None:
    """Compare the tasks of a testbed with those of the simulator: figures, distributions, parts, order of policies."""
    from offload_rllib.reporting.testbed_page import conclusion, verdict_table, write_testbed_report

    for path in logs:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
    folder = out or (logs[0] if logs[0].is_dir() else logs[0].parent)
    differences, records, paths = write_testbed_report(logs, folder, drop_s=drop)
    verdicts = verdict_table(differences.verdicts())
    table = Table(title="testbed minus simulator")
    for column in verdicts.columns:
        table.add_column(column, overflow="fold")
    for row in verdicts.itertuples(index=False):
        table.add_row(*map(str, row))
    console.print(table)
    for note in differences.notes:
        say(f"note: {note}")
    say(conclusion(differences, records)[1])
    for what, path in paths.items():
        say(f"{what}: {path}")
