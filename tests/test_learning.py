"""The default training run does what the README says. Slow: it is the whole run."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_default_run_beats_the_weak_baselines(tmp_path: Path) -> None:
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "offload_rllib", "train", "ether_12", "ppo", "--name", "default"],
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
    for baseline in ("local", "random", "least_queue", "always_server"):
        for metric in ("score_mean_s", "dropped_share"):
            row = rows[baseline, metric]
            assert row["reference"] == "default"
            # Baseline minus trained policy, paired by held-out episode: the whole interval must be a loss.
            assert float(row["difference_low"]) > 0, row
