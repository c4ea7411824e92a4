"""What the page shows of a sweep: its trials, from the files that Tune writes for each."""

from __future__ import annotations

import math
import shlex
import socket
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from offload_rllib.config.files import read_json
from offload_rllib.config.loading import load_sweep
from offload_rllib.config.sweep import SweepConfig
from offload_rllib.evaluation.interval_text import number
from offload_rllib.evaluation.metrics import metric_of
from offload_rllib.runs.lock import LOCK, STALE_S
from offload_rllib.runs.status import ENDED, lives
from offload_rllib.runs.training_run import TUNE
from offload_rllib.watching.data import Json, Watched
from offload_rllib.watching.logs import VALIDATION, Log

SWEEP_RECORD = "sweep.json"
MOST_ROWS = 50
MOST_CURVES = 8


@dataclass
class Trial:
    """One trial, as far as its files tell."""

    name: str
    values: Json
    state: str
    env_steps: float
    metrics: list[float]


class WatchedSweep(Watched):
    """A sweep: its leaderboard so far."""

    def __init__(self, path: Path) -> None:
        """Watch a sweep's folder."""
        super().__init__(path)
        self._logs: dict[str, Log] = {}
        self._values: dict[str, Json] = {}

    @cached_property
    def config(self) -> SweepConfig:
        """What is searched."""
        return load_sweep(self.path / "sweep.yaml", trust=True)  # nothing that it names is run here

    def data(self) -> Json:
        """Return the trials, best first, and the curves of the best."""
        record = read_json(self.path / SWEEP_RECORD, "the record of a sweep")
        state = str(record.get("state", "unknown"))
        trials = ranked(self.config, [self._trial(folder, state) for folder in self._folders()])
        ended = sum(trial.state in ("finished", "stopped", "failed") for trial in trials)
        return {
            "kind": "sweep",
            "name": self.path.resolve().name,
            "about": self.described("sweep.yaml"),
            "state": state,
            "health": self._health(state),
            "progress": self._progress(ended, trials),
            "facts": [[what, str(count)] for what, count in Counter(trial.state for trial in trials).items()],
            "notices": [],
            "curves": [self._curve(trials)] if trials else [],
            "table": self._leaderboard(trials),
        }

    def _folders(self) -> list[Path]:
        return sorted(path for path in (self.path / TUNE).glob("trial_*") if path.is_dir())

    def _trial(self, folder: Path, state: str) -> Trial:
        metric = self.config.metrics[0].name
        log = self._logs.setdefault(folder.name, Log(folder / "result.json", {metric: (VALIDATION, metric)}))
        log.update()
        if folder.name not in self._values and (folder / "params.json").is_file():
            self._values[folder.name] = read_json(folder / "params.json", "the values of a trial")
        steps = log.steps[-1] if log.steps else 0.0
        figures = log.last.get(VALIDATION)
        figures = figures if isinstance(figures, dict) else {}
        return Trial(
            folder.name,
            self._values.get(folder.name, {}),
            self._state(folder, log, steps, state),
            steps,
            [_figure(figures.get(each.name)) for each in self.config.metrics],
        )

    def _state(self, folder: Path, log: Log, steps: float, state: str) -> str:
        if (folder / "error.txt").exists():
            return "failed"
        if log.last.get("done"):
            return "finished" if steps >= self.config.budget.env_steps else "stopped"
        return "interrupted" if state in ENDED else "running"

    def _health(self, state: str) -> str:
        go_on = f"continue: {shlex.join(['offload-rllib', 'tune', '--resume', str(self.path)])}"
        if state in ENDED:
            return state if state == "finished" else f"{state}; {go_on}"
        lock = self.path / LOCK
        if not lock.is_file():
            return f"its process is gone; {go_on}" if state == "training" else "not begun"
        holder = read_json(lock, "the lock of a folder")
        pid, host = holder.get("pid"), holder.get("host")
        if host == socket.gethostname() and isinstance(pid, int) and pid > 0 and not lives(pid):
            return f"its process is gone; {go_on}"
        silent_s = time.time() - lock.stat().st_mtime
        return f"silent for {silent_s:.0f} s (process {pid} on {host})" if silent_s > STALE_S else "well"

    def _progress(self, ended: int, trials: list[Trial]) -> Json:
        wanted = self.config.budget.trials
        if self.config.search.kind == "grid":
            wanted = math.prod(len(domain.choice or ()) for domain in self.config.space.values())
        shown = f"{ended} of {wanted} trials have ended; {len(trials)} have begun"
        return {"share": min(ended / wanted, 1.0), "text": shown}

    def _curve(self, trials: list[Trial]) -> Json:
        metric = metric_of(self.config.metrics[0].name)
        lines = []
        for trial in trials[:MOST_CURVES]:
            x, y = self._logs[trial.name].curve(metric.name)
            lines.append({"name": trial.name, "x": x, "y": [value * metric.factor for value in y]})
        return {"title": f"{metric.label}: validation episodes of the best trials", "lines": lines, "levels": []}

    def _leaderboard(self, trials: list[Trial]) -> Json | None:
        if not trials:
            return None
        metrics = [metric_of(metric.name) for metric in self.config.metrics]
        front = front_of(self.config, trials) if len(metrics) > 1 else {trials[0].name}
        rows = []
        for trial in trials[:MOST_ROWS]:
            values = [_shown(trial.values.get(key)) for key in self.config.space]
            figures = [number(value * metric.factor) for value, metric in zip(trial.metrics, metrics, strict=True)]
            cells = [trial.name, *values, *figures, f"{trial.env_steps:,.0f}", trial.state]
            rows.append({"cells": cells, "strong": trial.name in front})
        hidden = len(trials) - len(rows)
        return {
            "title": "Leaderboard",
            "columns": ["trial", *self.config.space, *(each.label for each in metrics), "environment steps", "state"],
            "rows": rows,
            "note": ("In bold: the trials that no other is better than in every metric." if len(metrics) > 1 else "")
            + (f" {hidden} more are not shown." if hidden else ""),
        }


def _figure(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _signed(config: SweepConfig, trial: Trial) -> list[float]:
    """Return a trial's metrics such that less is better."""
    return [
        value if metric.mode == "min" else -value for metric, value in zip(config.metrics, trial.metrics, strict=True)
    ]


def ranked(config: SweepConfig, trials: list[Trial]) -> list[Trial]:
    """Return trials from best to worst by the first metric: those with the whole budget, then the others."""

    def key(trial: Trial) -> tuple[bool, bool, bool, float, str]:
        first = _signed(config, trial)[0]
        known = math.isfinite(first)
        return trial.state == "failed", not known, trial.state != "finished", first if known else 0.0, trial.name

    return sorted(trials, key=key)


def front_of(config: SweepConfig, trials: list[Trial]) -> set[str]:
    """Return the names of the finished trials that no finished trial dominates: the Pareto front."""
    finished = {trial.name: _signed(config, trial) for trial in trials if trial.state == "finished"}

    def dominated(figures: list[float]) -> bool:
        return any(
            all(a <= b for a, b in zip(other, figures, strict=True)) and other != figures for other in finished.values()
        )

    return {name for name, figures in finished.items() if not dominated(figures)}
