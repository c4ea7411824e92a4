"""The state of a run, from the files that it writes: no Ray is needed, and nothing is written."""

from __future__ import annotations

import os
import shlex
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from offload_rllib.config import ConfigError
from offload_rllib.config.files import read_json
from offload_rllib.runs.lock import is_held
from offload_rllib.runs.training_run import RECORD, STATUS

# A run without a status for so many of its iterations, and at least so long, is reported as silent.
SILENT_ITERATIONS = 5
SILENT_S = 120.0
WORKING = ("well", "works")
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


def read_status(run: Path) -> dict[str, Any]:
    """Return the state of a run: its record's state, its latest status, and ``health`` in words.

    Raises:
        ConfigError: the folder is not a run, or its record cannot be read.
    """
    record = run / RECORD
    if not record.is_file():
        raise ConfigError(f"{run}: not a run folder: run.json is missing")
    entries = read_json(record, "the record of a run")
    if "state" not in entries:
        raise ConfigError(f"{record}: not the record of a run: it has no state")
    state = str(entries["state"])
    path = run / STATUS
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
    if reported["host"] == socket.gethostname() and not lives(int(reported["pid"])):
        return f"its process is gone; {go_on}"
    age_s = (datetime.now(UTC) - datetime.fromisoformat(reported["time"])).total_seconds()
    if age_s > max(SILENT_S, SILENT_ITERATIONS * reported["iteration_seconds"]):
        return f"silent for {age_s:.0f} s (process {reported['pid']} on {reported['host']})"
    runners = reported.get("runners", {})
    if runners.get("healthy", 0) < runners.get("all", 0):
        return f"works with {runners['healthy']} of {runners['all']} runners"
    return "well"


def lives(pid: int) -> bool:
    """Return whether a process of this machine works."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
