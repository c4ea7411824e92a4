"""The status of a run while it works: `status.json`, a log, and the best policy so far."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import socket
import time
from datetime import UTC, datetime
from functools import cached_property
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Self

from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
)

from offload_rllib.algorithms.constraints import CONSTRAINTS
from offload_rllib.cluster.ray_settings import MESSAGES
from offload_rllib.config import ConfigError
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.policy import Training
from offload_rllib.envs.goal import goal_of
from offload_rllib.policies.manifest import is_whole
from offload_rllib.policies.saved import POLICY_FOLDER
from offload_rllib.rollout.callbacks import PREFIX
from offload_rllib.runs.training_run import BEST, STATUS, TUNE, RunFolder
from offload_rllib.training.process_callback import PresentCallback
from offload_rllib.training.recovery import keep_first_state

LOG_BYTES = 2 * 2**20
LOG_FILES = 5
NOTICES_SHOWN = 8
# Shares of the latest iterations in the speed that is shown.
SPEED_WINDOW = 10
# Episodes, or a few more, that say by their mean which policy is the best so far. One iteration may end none.
SCORE_EPISODES = 20
# In `best.json`, beside the score.
EXCESS = "excess"


class _LogFile(RotatingFileHandler):
    """A log that stops silently on a full disk: the run reports that itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        pass


def run_logger(run: RunFolder) -> tuple[logging.Logger, logging.Handler]:
    """Return a run's own logger, and the handler that writes `logs/train.log`, rotated."""
    folder = run.path / "logs"
    folder.mkdir(exist_ok=True)
    handler = _LogFile(folder / "train.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger(f"offload_rllib.run.{run.path.resolve()}")
    logger.setLevel(logging.INFO)
    for each in (logger, logging.getLogger(MESSAGES)):
        each.propagate = False
        each.addHandler(handler)
    return logger, handler


def last_status(run: RunFolder) -> dict[str, Any]:
    """Return a run's latest status; None if it has written none."""
    try:
        return read_json(run.path / STATUS, "the status of a run")
    except ConfigError:
        return {}


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


class RunWatch(PresentCallback):
    """Writes the status that `offload-rllib status` shows, logs events, keeps the best policy, times checkpoints."""

    def __init__(self, run: RunFolder, training: Training) -> None:
        """Watch a run."""
        self._run = run
        self._training = training
        self._notices: list[str] = []
        self._speed: list[tuple[float, int]] = []
        self._checkpoint_at = time.monotonic()
        self._saved: dict[str, Any] = {}
        self._figures: dict[str, float | None] = {}
        # Of the latest iterations that ended episodes: how many, their excess over the bounds of constraints, and
        # their mean score or cost.
        self._standings: list[tuple[float, float, float]] = []
        self._best = self._known_best()

    def __enter__(self) -> Self:
        """Open the log."""
        self.log, self._handler = run_logger(self._run)
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        """Close the log."""
        super().__exit__()
        for logger in (self.log, logging.getLogger(MESSAGES)):
            logger.removeHandler(self._handler)
        self._handler.close()

    @cached_property
    def _goal(self) -> str:
        return goal_of(self._run.environment.reward)

    @property
    def env_steps(self) -> int:
        """Environment steps of the latest result; 0 before the first."""
        return self._speed[-1][1] if self._speed else 0

    def _known_best(self) -> tuple[float, float]:
        try:
            known = read_json(self._run.path / BEST / "best.json", "the score of a policy")
            return float(known.get(EXCESS, 0.0)), float(known[self._goal])
        except (ValueError, KeyError, TypeError):
            return math.inf, math.inf

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Log what happened, write the status, and ask for a checkpoint where one is due by time."""
        for notice in filter(None, str(result.get("notices", "")).split("\n")):
            self.log.warning(notice)
            self._notices = [*self._notices, f"{_now()} {notice}"][-NOTICES_SHOWN:]
        self._note_figures(result)
        every_s = self._training.checkpoint_every_s
        if every_s is not None and time.monotonic() - self._checkpoint_at >= every_s:
            result["should_checkpoint"] = True
        self._write(result, trial.local_path)

    def _note_figures(self, result: dict[str, Any]) -> None:
        """Keep the latest value of every figure, for an iteration that ends no episode has none."""
        sampled = result[ENV_RUNNER_RESULTS]
        present = {name: _finite(value) for name, value in sampled.get(PREFIX, {}).items()}
        present[EPISODE_RETURN_MEAN] = _finite(sampled.get(EPISODE_RETURN_MEAN))
        self._figures |= {
            name: value for name, value in present.items() if value is not None or name not in self._figures
        }
        score, episodes = present.get(self._goal), _finite(sampled.get(NUM_EPISODES))
        if score is not None and episodes:
            bounds = result.get(CONSTRAINTS, {}).values()
            excesses = [share - each["at_most"] for each in bounds if (share := _finite(each["share"])) is not None]
            # Without a share, bounds are not known to be kept.
            self._standings.append((episodes, max(excesses, default=math.inf if bounds else 0.0), score))
            while sum(count for count, _, _ in self._standings[1:]) >= SCORE_EPISODES:
                del self._standings[0]

    def _recent(self) -> tuple[float, float] | None:
        """Return how the latest episodes stand: excess over the bounds, and mean score or cost, s; None before any."""
        episodes = sum(count for count, _, _ in self._standings)
        if not episodes:
            return None
        excess = sum(count * excess for count, excess, _ in self._standings) / episodes
        return max(excess, 0.0), sum(count * score for count, _, score in self._standings) / episodes

    def _write(self, result: dict[str, Any], logs: str | None) -> None:
        sampled = result[ENV_RUNNER_RESULTS]
        steps = int(sampled[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        self._speed = [*self._speed, (time.monotonic(), steps)][-SPEED_WINDOW:]
        (first_s, first), (last_s, last) = self._speed[0], self._speed[-1]
        status = {
            "time": _now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "iteration": int(result["training_iteration"]),
            "seconds": round(float(result["time_total_s"]), 1),
            "iteration_seconds": round(float(result["time_this_iter_s"]), 2),
            "env_steps": steps,
            "env_steps_wanted": self._training.env_steps,
            "env_steps_per_second": round((last - first) / (last_s - first_s), 1) if last_s > first_s else None,
            "figures": self._figures,
            "runners": result.get("runners", {}),
            "notices": self._notices,
            "checkpoint": self._saved,
            "logs": logs,
        }
        try:
            with written_at_once(self._run.path / STATUS) as partial:
                partial.write_text(json.dumps(status, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            # Training itself continues until a checkpoint cannot be written.
            self.log.warning("status.json cannot be written: %s", error)

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **_: Any) -> None:
        """Note the checkpoint, and keep its policy if no earlier one did better in training.

        Policies that kept the bounds of constraints are better than others, and of others the nearest to the bounds is.
        """
        self._checkpoint_at = time.monotonic()
        metrics = trial.last_result or {}
        steps = int(metrics.get(ENV_RUNNER_RESULTS, {}).get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))
        self._saved = {"time": _now(), "env_steps": steps}
        self.log.info("checkpoint at %d environment steps: %s", steps, checkpoint.path)
        standing = self._recent()
        try:
            if (self._run.path / TUNE).is_dir():
                keep_first_state(self._run.path / TUNE)
            if self._training.keep_best and standing is not None and standing < self._best:
                self._keep_best(checkpoint, standing, steps)
        except OSError as error:
            self.log.warning("the best policy cannot be kept: %s", error)

    def _keep_best(self, checkpoint: Any, standing: tuple[float, float], steps: int) -> None:
        partial, kept = self._run.path / f"{BEST}.partial", self._run.path / BEST
        shutil.rmtree(partial, ignore_errors=True)
        with checkpoint.as_directory() as folder:
            if not is_whole(Path(folder)):
                return
            shutil.copytree(Path(folder) / POLICY_FOLDER, partial / POLICY_FOLDER)
        noted = {self._goal: standing[1], "env_steps": steps}
        if getattr(self._run.policy_config.algorithm, CONSTRAINTS, ()):
            noted[EXCESS] = standing[0]
        (partial / "best.json").write_text(json.dumps(noted) + "\n", encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)
        partial.replace(kept)
        self._best = standing


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
