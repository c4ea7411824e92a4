"""Folders of runs and of sweeps as they are while they work, without the work."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import yaml

EVALUATED = ["shortest_finish", "local"]  # the first takes the place of a trained policy


def log_rows(rows: list[tuple[int, float | None, float]]) -> str:
    """Return rows of a `result.json`: environment steps, mean score, dropped share."""
    text = ""
    for steps, score, drop in rows:
        figures = {"score_mean_s": float("nan") if score is None else score, "dropped_share": drop}
        text += json.dumps({"timesteps_total": steps, "env_runners": {"offload": figures}}) + "\n"
    return text


def finished_run(
    folder: Path, *, name: str = "mine", state: str = "finished", pid: int = 1, description: str = "A ring"
) -> Path:
    """Make the folder of a run in which half of the steps were done."""
    run = folder / name
    (run / "tune" / "trial").mkdir(parents=True)
    (run / "tune" / "trial" / "result.json").write_text(
        log_rows([(100, 9.0, 0.2), (150, None, float("nan")), (200, 7.5, 0.1)])
    )
    (run / "environment.yaml").write_text(yaml.safe_dump({"description": description}))
    (run / "policy.yaml").write_text(yaml.safe_dump({"description": "PPO"}))
    (run / "run.json").write_text(json.dumps({"state": state}))
    status = {
        "time": "2999-01-01T00:00:00+00:00",
        "host": socket.gethostname(),
        "pid": pid,
        "iteration": 3,
        "iteration_seconds": 0.5,
        "env_steps": 240,
        "env_steps_wanted": 480,
        "env_steps_per_second": 100.0,
        "figures": {"score_mean_s": 7.5, "late_share": None},
        "runners": {"all": 2, "healthy": 1},
        "notices": ["a runner was late"],
        "checkpoint": {},
    }
    (run / "status.json").write_text(json.dumps(status))
    return run


def running_sweep(folder: Path, metrics: Any = None) -> Path:
    """Make the folder of a sweep whose process is gone: two trials finished, one failed, two in between."""
    sweep = folder / "wide"
    config = {
        "environment": "manual_5",
        "policy": "ppo",
        "space": {"policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]}},
        "metrics": metrics or ["score_mean_s"],
        "budget": {"trials": 6, "env_steps": 100, "report_env_steps": 50},
    }
    for number, scores in enumerate(([7.0, 6.0], [8.0, 5.0], [4.0], [3.0], [])):
        trial = sweep / "tune" / f"trial_{number:04d}"
        trial.mkdir(parents=True)
        (trial / "params.json").write_text(json.dumps({"policy.algorithm.lr": 0.001 * (number + 1)}))
        rows = [
            {
                "timesteps_total": 50 * step,
                "validation": {"score_mean_s": score, "fairness": score / 10},
                "done": step == 2,
            }
            for step, score in enumerate(scores, 1)
        ]
        (trial / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if number == 3:
            (trial / "error.txt").write_text("it diverged")
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(config))
    (sweep / "sweep.json").write_text(json.dumps({"state": "training"}))
    return sweep
