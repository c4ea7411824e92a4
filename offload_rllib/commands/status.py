"""`offload-rllib status`: the progress of a run, or of all runs of a comparison, from the files that they write."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import AwareDatetime, BaseModel, Field, ValidationError
from rich.live import Live
from rich.table import Table

from offload_rllib.commands.terminal import console
from offload_rllib.config import ConfigError
from offload_rllib.config.files import read_json
from offload_rllib.runs.folder import is_comparison
from offload_rllib.runs.lock import is_held

# A run without a status for so many of its iterations, and at least so long, is reported as silent.
SILENT_ITERATIONS = 5
SILENT_S = 120.0
REFRESH_S = 2.0
WORKING = ("well", "works")
SCORE = "score_mean_s"
ENDED = ("finished", "interrupted", "failed")


class Saved(BaseModel):
    """The last checkpoint."""

    env_steps: int
    time: str


class NoCheckpoint(BaseModel, extra="forbid"):
    """Nothing is saved yet."""


class ReportedStatus(BaseModel):
    """The part of `status.json` that is shown."""

    time: AwareDatetime
    host: str
    pid: Annotated[int, Field(gt=0, le=2**31 - 1)]
    iteration: int
    iteration_seconds: float
    env_steps: int
    env_steps_wanted: int
    env_steps_per_second: float | None
    figures: dict[str, float | None]
    runners: dict[str, int]
    notices: list[str]
    checkpoint: Saved | NoCheckpoint


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


def read_runs(folder: Path) -> dict[str, Any]:
    """Return the state of a comparison, its ``health`` in words, and in ``runs`` the status of every run by name.

    Raises:
        ConfigError: a record cannot be read.
    """
    record = folder / "state.json"
    entries = read_json(record, "the record of a comparison")
    if "state" not in entries:
        raise ConfigError(f"{record}: not the record of a comparison: it has no state")
    state = str(entries["state"])
    runs = {path.parent.name: read_status(path.parent) for path in sorted(folder.glob("runs/*/run.json"))}
    return {"state": state, "health": _health_of_comparison(folder, state, runs), "runs": runs}


def _health_of_comparison(folder: Path, state: str, runs: dict[str, dict[str, Any]]) -> str:
    go_on = f"continue: {shlex.join(['offload-rllib', 'compare', '--resume', str(folder)])}"
    if state in ENDED:
        return state if state == "finished" else f"{state}; {go_on}"
    if not is_held(folder):
        return f"its process is gone; {go_on}"
    finished = sum(run["state"] == "finished" for run in runs.values())
    return f"{finished} of {len(runs)} trainings are finished" if finished < len(runs) else "plays held-out episodes"


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


def read_status(run: Path) -> dict[str, Any]:
    """Return the state of a run: its record's state, its latest status, and ``health`` in words.

    Raises:
        ConfigError: the folder is not a run, or its record cannot be read.
    """
    record = run / "run.json"
    if not record.is_file():
        raise ConfigError(f"{run}: not a run folder: run.json is missing")
    entries = read_json(record, "the record of a run")
    if "state" not in entries:
        raise ConfigError(f"{record}: not the record of a run: it has no state")
    state = str(entries["state"])
    path = run / "status.json"
    if not path.exists():
        return {"state": state, "health": _health(run, state, {})}
    reported = read_json(path, "the status of a run")
    try:
        ReportedStatus.model_validate(reported)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: not the status of a run: {key}: {first['msg']}") from error
    return reported | {"state": state, "health": _health(run, state, reported)}


def _health(run: Path, state: str, reported: dict[str, Any]) -> str:
    go_on = f"continue: {shlex.join(['offload-rllib', 'train', '--resume', str(run)])}"
    if state in ENDED:
        return state if state == "finished" else f"{state}; {go_on}"
    if not reported:
        return "no result yet"
    return _health_of_process(reported, go_on)


def _health_of_process(reported: dict[str, Any], go_on: str) -> str:
    if reported["host"] == socket.gethostname() and not _lives(int(reported["pid"])):
        return f"its process is gone; {go_on}"
    age_s = (datetime.now(UTC) - datetime.fromisoformat(reported["time"])).total_seconds()
    if age_s > max(SILENT_S, SILENT_ITERATIONS * reported["iteration_seconds"]):
        return f"silent for {age_s:.0f} s (process {reported['pid']} on {reported['host']})"
    runners = reported.get("runners", {})
    if runners.get("healthy", 0) < runners.get("all", 0):
        return f"works with {runners['healthy']} of {runners['all']} runners"
    return "well"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
