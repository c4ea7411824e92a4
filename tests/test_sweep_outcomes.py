"""Trials are ranked, stopped, merged and kept by what they reported."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sweeps import STEPS, plan_of
from rich.console import Console

from offload_rllib.config.sweep import Metric
from offload_rllib.sweep.leaderboard import trials_table
from offload_rllib.sweep.outcomes import (
    FAILED,
    FINISHED,
    STOPPED,
    WAITING,
    TrialOutcome,
    best_of,
    pareto_front,
    ranked,
)
from offload_rllib.sweep.plan import token_of
from offload_rllib.sweep.search import RestoredASHA, RestoredMedian
from offload_rllib.sweep.study import write_study
from offload_rllib.sweep.trial import mean_of


def outcome(name: str, state: str, env_steps: int, **figures: float) -> TrialOutcome:
    return TrialOutcome(name, {}, state, env_steps, figures)


def test_the_leaderboard_compares_trials_that_had_the_whole_budget() -> None:
    metrics = (Metric(name="a"), Metric(name="b", mode="max"))
    trials = [
        outcome("lucky", STOPPED, 10, a=0.5, b=9),
        outcome("good", FINISHED, 100, a=1, b=1),
        outcome("other", FINISHED, 100, a=2, b=2),
        outcome("worse", FINISHED, 100, a=1.5, b=0.5),
        outcome("broken", FAILED, 50, a=0, b=10),
        outcome("none", STOPPED, 0),
    ]
    assert [o.name for o in ranked(metrics, trials)] == ["good", "other", "worse", "lucky", "none", "broken"]
    assert {o.name for o in pareto_front(metrics, trials)} == {"good", "other"}
    best = best_of(metrics, trials)
    assert best is not None
    assert best.name == "good"
    assert best_of(metrics, trials[4:]) is None
    assert best_of(metrics[:1], trials[:1] + trials[4:]) is trials[0]
    assert best_of(metrics[1:], trials) is trials[2]


@pytest.mark.parametrize("names", [["score_mean_s"], ["score_mean_s", "offloaded_share"]])
def test_a_sweep_leaves_a_study_that_optuna_opens(sweep_files: Path, names: list[str], tmp_path: Path) -> None:
    import optuna

    metrics = [{"name": name, "mode": "min" if i == 0 else "max"} for i, name in enumerate(names)]
    space = {"policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]}, "policy.network.hidden": {"choice": [[8], [8, 8]]}}
    plan = plan_of(sweep_files, space=space, metrics=metrics)
    values = {"policy.algorithm.lr": 1e-3, "policy.network.hidden": [8, 8]}
    figures = {"score_mean_s": 2.0, "offloaded_share": 0.5, "response_mean_s": 1.5}
    trials = [
        TrialOutcome("trial_0000", values, FINISHED, STEPS, figures),
        TrialOutcome("trial_0001", values | {"policy.algorithm.lr": 2e-3}, STOPPED, 160, figures),
        TrialOutcome("trial_0002", values, FAILED),
        TrialOutcome("trial_0003", values, WAITING),
    ]
    write_study(tmp_path / "a study.db", plan, trials[:1], "mine")
    path = write_study(tmp_path / "a study.db", plan, trials, "mine")  # that of a sweep that was resumed
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{path}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"][: len(names)]
    assert study.metric_names == names
    first, stopped, _ = study.trials
    assert first.values == [figures[name] for name in names]
    assert first.params == {"policy.algorithm.lr": 1e-3, "policy.network.hidden": token_of([8, 8])}
    assert first.user_attrs["response_mean_s"] == 1.5
    assert first.user_attrs["trial"] == "trial_0000"
    assert stopped.intermediate_values == ({160: 2.0} if len(names) == 1 else {})
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


class EarlierTrial:
    """A trial of Tune's that had reported before an interruption."""

    has_reported_at_least_once = True

    def __init__(self, folder: Path, scores: list[float]) -> None:
        self.trial_id = folder.name
        self.storage = type("Storage", (), {"trial_fs_path": str(folder)})
        folder.mkdir()
        rows = [{"timesteps_total": 100 * i, "validation": {"a": score}} for i, score in enumerate(scores, 1)]
        (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_schedulers_remember_trials_from_before_an_interruption(tmp_path: Path, kind: str) -> None:
    judged: dict[str, Any] = {"time_attr": "timesteps_total", "metric": "validation/a", "mode": "min"}
    if kind == "asha":
        scheduler: Any = RestoredASHA(max_t=900, grace_period=100, reduction_factor=3, **judged)
    else:
        scheduler = RestoredMedian(grace_period=100, min_samples_required=3, **judged)
    for i in range(3):
        scheduler.on_trial_add(None, EarlierTrial(tmp_path / f"trial_{i}", [1.0, 1.0]))
    new = EarlierTrial(tmp_path / "new", [])
    scheduler.on_trial_add(None, new)
    assert scheduler.on_trial_result(None, new, {"timesteps_total": 100, "validation/a": 5.0}) == "STOP"


def test_results_are_merged_leaf_by_leaf() -> None:
    merged = mean_of(
        [
            {"a": 1, "b": {"c": float("nan")}, "d": "text", "steps_lifetime": 9},
            {"a": 2, "b": {"c": 4.0}, "e": np.float32(3)},
        ]
    )
    assert merged == {"a": 1.5, "b": {"c": 4.0}, "e": 3.0}


def test_a_narrow_terminal_shows_values_whole(sweep_files: Path) -> None:
    space = {"policy.algorithm.lr": [0.0006466], "policy.algorithm.minibatch_steps": [64, 128]}
    values = {"policy.algorithm.lr": 0.0006466, "policy.algorithm.minibatch_steps": 128}
    trial = TrialOutcome("trial_0001", values, FINISHED, STEPS, {"score_mean_s": 43.98})
    console = Console(file=io.StringIO(), width=66)
    console.print(trials_table(plan_of(sweep_files, space=space), [trial], "one trial"))
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    for text in ("0001", "0.0006466", "128", "43.98", "640", "finished"):
        assert f" {text} " in shown, shown
