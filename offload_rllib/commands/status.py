"""`offload-rllib status`: the progress of a run, or of all runs of a comparison, from the files that they write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from offload_rllib.commands.terminal import console
from offload_rllib.runs.folder import is_comparison
from offload_rllib.runs.status import ENDED, read_runs, read_status

REFRESH_S = 2.0
SCORE = "score_mean_s"


def status(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="A run, or the runs of `train --seeds` or `compare`, here or on shared storage."
        ),
    ],
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until the run ends.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show a run's progress, speed, latest figures, workers and health, during the run and afterwards."""
    read, shown = (read_runs, _table_of_runs) if is_comparison(run) else (read_status, _table)
    present = read(run)
    if as_json:
        typer.echo(json.dumps(present, indent=1))
        return
    if not watch:
        console.print(shown(run, present))
        return
    with Live(shown(run, present), console=console, auto_refresh=False) as live:
        while present["state"] not in ENDED:
            time.sleep(REFRESH_S)
            present = read(run)
            live.update(shown(run, present), refresh=True)


def _table_of_runs(folder: Path, present: dict[str, Any]) -> Table:
    table = Table(title=str(folder), title_justify="left", caption=present["health"], caption_justify="left")
    table.add_column("run", overflow="fold")
    for name in ("env steps", "of", "per second", "latest score, s"):
        table.add_column(name, justify="right")
    table.add_column("health", overflow="fold")
    for name, run in present["runs"].items():
        figures = run.get("env_steps"), run.get("env_steps_wanted"), run.get("env_steps_per_second")
        score = run.get("figures", {}).get(SCORE)
        numbers = ["" if figure is None else f"{figure:,.0f}" for figure in figures]
        # The command that resumes is that of the whole.
        health = "waits" if run["state"] == "created" else run["health"].partition("; ")[0]
        table.add_row(name, *numbers, "" if score is None else f"{score:.4g}", health)
    return table


def _table(run: Path, present: dict[str, Any]) -> Table:
    table = Table(title=str(run), title_justify="left", show_header=False)
    table.add_row("state", present["state"])
    table.add_row("health", present["health"])
    if "env_steps" in present:
        wanted = present["env_steps_wanted"]
        share = present["env_steps"] / wanted if wanted else 1.0
        table.add_row("progress", f"{present['env_steps']:,} of {wanted:,} env steps ({share:.0%})")
        speed = present["env_steps_per_second"]
        if speed:
            left_s = max(wanted - present["env_steps"], 0) / speed
            table.add_row("speed", f"{speed:,.0f} env steps/s, {left_s / 60:.0f} min left")
        table.add_row("iteration", f"{present['iteration']}, {present['iteration_seconds']:g} s; at {present['time']}")
        for name, value in present["figures"].items():
            if value is not None:
                table.add_row(name, f"{value:.4g}")
        runners = present["runners"]
        if runners:
            table.add_row("runners", ", ".join(f"{count} {what}" for what, count in runners.items()))
        saved = present["checkpoint"]
        if saved:
            table.add_row("checkpoint", f"at {saved['env_steps']:,} env steps, {saved['time']}")
        for notice in present["notices"]:
            table.add_row("notice", notice)
    return table
