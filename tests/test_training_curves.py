"""Curves of training: what is read from a run's log, and how runs of different batch size are put together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from offload_rllib.reporting.training_curves import of_training, read_curve


def run(path: Path, scores: Mapping[int, float | None]) -> Path:
    """Write the log of a run with the scores of its iterations by environment steps; None: no episode ended."""
    log = path / "tune" / "trial" / "result.json"
    log.parent.mkdir(parents=True)
    rows = [
        {"timesteps_total": steps, "env_runners": {} if score is None else {"offload": {"score_mean_s": score}}}
        for steps, score in scores.items()
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_iterations_in_which_no_episode_ended_are_left_out(tmp_path: Path) -> None:
    steps, scores = read_curve(run(tmp_path / "a", {100: None, 200: 5.0, 300: float("nan"), 400: 3.0}))
    np.testing.assert_array_equal(steps, [200, 400])
    np.testing.assert_array_equal(scores, [5.0, 3.0])


def test_a_curve_is_the_mean_over_runs_and_its_band_from_the_best_to_the_worst(tmp_path: Path) -> None:
    many = run(tmp_path / "many", dict.fromkeys(range(10, 4001, 10), 10.0))
    few = run(tmp_path / "few", dict.fromkeys(range(1000, 4001, 1000), 20.0))
    (axis,) = cast("list[Any]", of_training({"ppo": [many, few]}, {"local": 40.0}).axes)
    curve, rule = axis.lines
    np.testing.assert_allclose(curve.get_ydata(), 15.0)
    assert (np.min(curve.get_xdata()), np.max(curve.get_xdata())) == (50, 3950)
    np.testing.assert_allclose(rule.get_ydata(), 40.0)
    (band,) = axis.collections
    assert set(np.round(band.get_paths()[0].vertices[:, 1], 6)) == {10.0, 20.0}
