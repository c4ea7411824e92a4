"""The script that compares policies on a testbed keeps what counts, plays the rest again, and writes the table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.testbed_logs import made_up

from offload_rllib.config import load_environment
from offload_rllib.policies.heuristic import is_heuristic
from offload_rllib.testbed.analysis.log import SIMULATOR, TESTBED
from scripts.testbed import comparison
from scripts.testbed.comparison import Cell, Study, cells_of, groups_of, page_of, play

STUDY = Study("manual_5", 10.0, comparison.RULES, ("ppo", "a2c"))
TIMES = [1.0 + n % 7 for n in range(60)]


def plays_of(policies: list[str], valid: dict[str, bool]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the log and the record of a run."""
    logs = [
        made_up([time + (side == TESTBED) * 0.01 for time in TIMES], side=side, policy=policy).assign(counts=True)
        for policy in policies
        for side in (TESTBED, SIMULATOR)
    ]
    numbers = {"mean": 0.1, "p50": 0.1, "p99": 0.4, "max": 1.0}
    plays = [
        {
            "policy": policy, "episode": 0, "valid": valid[policy], "reasons": [] if valid[policy] else ["late"],
            "timer_lateness_ms": numbers, "decision_ms": numbers, "cpu_share": 0.2,
            "nodes": {"a": {"resident_bytes": 1e8}},
        }
        for policy in policies
    ]  # fmt: skip
    return pd.concat(logs), {
        "valid": all(valid.values()),
        "speed": 10.0,
        "created": "2026-01-02T03:04:05",
        "plays": plays,
    }


def test_what_counts_is_kept_and_what_does_not_is_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        policies = command[5 : command.index("--set")]
        calls.append(policies)
        out = Path(command[command.index("--out") + 1])
        out.mkdir()
        valid = dict.fromkeys(policies, True) | ({"random": False} if len(calls) < 3 else {})
        tasks, record = plays_of(policies, {name: ok for name, ok in valid.items() if name in policies})
        tasks.to_parquet(out / "tasks.parquet")
        (out / "testbed.json").write_text(json.dumps(record))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(comparison.subprocess, "run", run)
    group = [Cell(STUDY, 0.5, name, name) for name in ("local", "random")]
    assert play(group, tmp_path, 1) == "do not count: manual_5/rho_0.5/random"
    kept = (tmp_path / "manual_5/rho_0.5/local/tasks.parquet").read_bytes()
    assert play(group, tmp_path, 5) == "manual_5/rho_0.5/local, ...: 2 plays"
    assert calls == [["local", "random"], ["random"], ["random"]]
    assert (tmp_path / "manual_5/rho_0.5/local/tasks.parquet").read_bytes() == kept
    assert set(pd.read_parquet(tmp_path / "manual_5/rho_0.5/random/tasks.parquet")["policy"]) == {"random"}
    assert [path.name for path in tmp_path.iterdir()] == ["manual_5"], "nothing half-done is left"
    assert play(group, tmp_path, 5) == "manual_5/rho_0.5/local, ...: 2 plays"
    assert len(calls) == 3, "finished plays are kept"

    monkeypatch.setattr(comparison, "STUDIES", (STUDY,))
    monkeypatch.setattr(comparison, "REPEATED", ())
    page = "\n".join(page_of(tmp_path, Path("runs"), late=False))
    row = "| 0.5 | local | 60 | 3.91 / 3.90 | +0.3 % | +0.3&nbsp;[+0.3,&nbsp;+0.3] | +0.1 % | 0.00 / 0.00 | 0.150 |"
    assert row in page
    assert "at speed 10, played on 2026-01-02. 2 of 2 plays count" in page
    assert "22 of 24 are not played yet." in page
    assert "| mean response time | at most 5 % | 0.256 % |" in page


def test_a_run_that_fails_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 2, "", "error: no\nsuch policy")
    monkeypatch.setattr(comparison.subprocess, "run", lambda *_, **__: failed)
    assert play([Cell(STUDY, 0.5, "a", "a")], tmp_path, 3) == "manual_5/rho_0.5/a, ...: error: no such policy"
    assert list(tmp_path.iterdir()) == []


def test_the_plan_has_eight_policies_at_three_loads_that_there_are() -> None:
    for study in comparison.STUDIES:
        load_environment(study.env)
        cells = cells_of(study, Path("runs"))
        assert len(cells) == len({cell.folder for cell in cells}) == 24
        assert [len(group) for group in groups_of(cells, 5)] == [5, 3] * 3
        assert all(is_heuristic(rule, "rule") for rule in study.rules)
    every = [cell for study in (*comparison.STUDIES, *comparison.REPEATED) for cell in cells_of(study, Path("runs"))]
    assert len(every) == len({cell.folder for cell in every}) == 24 + 24 + 1
