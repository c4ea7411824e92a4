"""The trials of a sweep on the terminal, while it runs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from offload_rllib.sweep.outcomes import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    TrialOutcome,
    outcome_of,
    ranked,
)
from offload_rllib.sweep.plan import SweepPlan, token_of
from offload_rllib.training.interruption import ended_early
from offload_rllib.training.process_callback import PresentCallback

MOST_ROWS = 15
STYLES = {RUNNING: "bold", FAILED: "red", STOPPED: "dim"}


def shown_value(value: Any) -> str:
    """Return a value of the space in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(token_of(value))


def trials_table(plan: SweepPlan, outcomes: list[TrialOutcome], title: str, most: int = MOST_ROWS) -> Table:
    """Return the best trials as a table; columns are keys of the space and metrics."""
    config = plan.config
    table = Table(title=title, title_justify="left")
    table.add_column("trial", no_wrap=True)
    for key in config.space:
        name = key.rpartition(".")[2]  # folded where the terminal is narrow; values are not
        table.add_column(name, justify="right", overflow="fold", min_width=_widest(key, outcomes[:most]))
    for metric in config.metrics:
        table.add_column(metric.name, justify="right", overflow="fold", min_width=6)
    table.add_column("env steps", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for outcome in outcomes[:most]:
        figures = [outcome.figure(metric.name) for metric in config.metrics]
        table.add_row(
            outcome.name.removeprefix("trial_"),
            *(shown_value(outcome.values[key]) for key in config.space),
            *(f"{figure:.4g}" if math.isfinite(figure) else "" for figure in figures),
            f"{outcome.env_steps:,}",
            outcome.state,
            style=STYLES.get(outcome.state, ""),
        )
    return table


def _widest(key: str, outcomes: list[TrialOutcome]) -> int:
    return max((len(shown_value(outcome.values[key])) for outcome in outcomes), default=1)


class SweepTable(PresentCallback):
    """Shows trials, best first, as results come in.

    Attributes:
        outcomes: of all trials, as of the latest event.
    """

    def __init__(self, plan: SweepPlan, console: Console) -> None:
        """Show the trials of a plan on a console."""
        self._plan, self._console = plan, console
        self._began = time.monotonic()
        self._announced: set[str] = set()
        self.outcomes: list[TrialOutcome] = []
        self._live = Live(console=console, refresh_per_second=1, transient=True)

    def __enter__(self) -> Self:
        """Start the display."""
        if self._console.is_terminal:
            self._live.start()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        """End the display."""
        super().__exit__()
        self._live.stop()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Show that a trial has begun."""
        self._update(trials)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Show a trial's result; Tune makes it the trial's latest after this call."""
        self._update(trials, {trial: result})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Show that a trial has ended; Tune sets its state after this call."""
        self._update(trials)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Show that a trial has failed."""
        self._update(trials)

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        """Keep the final states of all trials."""
        self._update(trials)

    def _update(self, trials: list[Any], latest: Mapping[Any, dict[str, Any]] = MappingProxyType({})) -> None:
        if ended_early():  # Tune says of every trial that it is complete; what was seen before is true
            return
        self.outcomes = [outcome_of(self._plan, trial, latest.get(trial)) for trial in trials]
        order = ranked(self._plan.config.metrics, self.outcomes)
        running_first = sorted(order, key=lambda outcome: outcome.state != RUNNING)
        if self._console.is_terminal:
            self._live.update(trials_table(self._plan, running_first, self._title()))
            return
        metric = self._plan.config.metrics[0].name
        for outcome in order:
            if outcome.state in (FINISHED, STOPPED, FAILED) and outcome.name not in self._announced:
                self._announced.add(outcome.name)
                what = outcome.problem or f"{metric} {outcome.figure(metric):.4g}"
                values = ", ".join(f"{key} {shown_value(value)}" for key, value in outcome.values.items())
                self._console.print(
                    f"{outcome.name} {outcome.state} after {outcome.env_steps:,} env steps: {what} ({values})",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

    def _title(self) -> str:
        count = Counter(outcome.state for outcome in self.outcomes)
        states = (FINISHED, STOPPED, FAILED, RUNNING, WAITING)
        shown = ", ".join(f"{count[state]} {state}" for state in states if count[state])
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        return f"{len(self.outcomes)} of {self._plan.trials} trials: {shown}; {minutes}:{seconds:02d}"
