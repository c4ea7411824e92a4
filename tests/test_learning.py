"""Training runs of presets do what the README and their pages say. Slow: they are whole runs."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("preset", ["ppo", "ppo_auto", "appo"])
def test_runs_of_presets_beat_the_rule_that_finishes_a_task_first(preset: str, tmp_path: Path) -> None:
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "offload_rllib", "train", "ether_12", preset, "--name", "default"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    print(result.stdout)
    print(f"{time.monotonic() - started:.0f} s")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "runs" / "default" / "evaluation" / "summary.csv").open() as file:
        rows = {(row["policy"], row["metric"]): row for row in csv.DictReader(file)}
    for baseline in ("local", "random", "least_queue", "always_server", "shortest_finish"):
        # To the learner a drop costs no more than a task that is just in time, so that it does not drop fewer tasks
        # than a rule whose score is already good.
        metrics = ("score_mean_s",) if baseline == "shortest_finish" else ("score_mean_s", "dropped_share")
        for metric in metrics:
            row = rows[baseline, metric]
            assert row["reference"] == "default"
            # Baseline minus trained policy, paired by held-out episode: the whole interval must be a loss.
            assert float(row["difference_low"]) > 0, row
