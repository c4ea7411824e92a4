"""Progress of a training run on the terminal."""

from __future__ import annotations

import math
import time
from typing import Any, Self

from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from offload_rllib.rollout.callbacks import PREFIX
from offload_rllib.training.process_callback import PresentCallback

# Without a terminal (a log file, CI) a line now and then says the same.
LINE_EVERY_S = 15.0


class TrainingProgress(PresentCallback):
    """Shows environment steps, speed, and the score of the latest training episodes."""

    def __init__(self, total_env_steps: int, console: Console) -> None:
        """Show progress towards `total_env_steps` on a console."""
        self._console = console
        self._total = total_env_steps
        self._started = time.monotonic()
        self._first: int | None = None
        self._line_at = 0.0
        self._score = ""
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,} env steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._bar = self._progress.add_task("training", total=total_env_steps, figures="starting")

    def __enter__(self) -> Self:
        """Start the display."""
        if self._console.is_terminal:
            self._progress.start()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        """End the display."""
        super().__exit__()
        if self._console.is_terminal:
            self._progress.stop()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Update the display with a result."""
        runners = result[ENV_RUNNER_RESULTS]
        steps = int(runners[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        if self._first is None:
            self._first, self._started = steps, time.monotonic()
        elapsed = time.monotonic() - self._started
        speed = f"{(steps - self._first) / elapsed:,.0f} env steps/s" if steps > self._first else ""
        scores = runners.get(PREFIX, {})
        # Iterations in which no episode ended have no scores, or not-a-number: the latest known score stays.
        if math.isfinite(scores.get("score_mean_s", math.nan)):
            self._score = f"score {scores['score_mean_s']:.1f} s, dropped {scores['dropped_share']:.1%}"
        figures = ", ".join(part for part in (self._score, speed) if part)
        self._progress.update(self._bar, completed=min(steps, self._total), figures=figures)
        if not self._console.is_terminal and (elapsed >= self._line_at or steps >= self._total):
            self._line_at = elapsed + LINE_EVERY_S
            self._console.print(
                f"training: {steps:,}/{self._total:,} env steps, {figures}", highlight=False, soft_wrap=True
            )
