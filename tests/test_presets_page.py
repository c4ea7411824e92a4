"""The study of all presets: whom a row calls the best rule, what counts as a win, and rules that are tuned once."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.loading import load_environment, load_policy_config
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.evaluation.results import Comparison
from offload_rllib.evaluation.statistics import Interval
from scripts.presets import plan
from scripts.presets.page import DROPPED, Row, row_of, rows_of, verdict
from scripts.presets.plan import tuned_rules


def _comparison(scores: dict[str, float], drops: dict[str, float]) -> Comparison:
    """Return made-up results: 20 episodes, with noise that all policies share, and a little of their own."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=20)
    rows = [
        {
            "environment": "here",
            "fingerprint": "",
            "policy": name,
            "trained_on": "here" if name.startswith("ppo") else "",
            "training_seed": seed,
            "held_out_seed": 0,
            "episode": episode,
            SCORE: score + common[episode] + 0.1 * rng.normal(),
            DROPPED: drops.get(name, 0.1) + 0.01 * common[episode] + 0.001 * rng.normal(),
        }
        for name, score in scores.items()
        for seed in ((0, 1, 2) if name.startswith("ppo") else (np.nan,))
        for episode in range(20)
    ]
    return Comparison(pd.DataFrame(rows), pd.DataFrame())


def test_a_row_holds_the_learner_against_the_best_rule_that_is_no_oracle() -> None:
    scores = {
        "ppo_shared": 8.0,
        "ppo_shared (sampled)": 9.0,
        "local": 30.0,
        "near": 8.02,
        "best_oracle": 2.0,
        "low": 6.0,
    }
    row = row_of("here", _comparison(scores, {"ppo_shared": 0.2}), "ppo_shared", 3)
    assert (row.rule, row.rules, row.beaten, row.lost, row.sure) == ("low", 3, 1, 1, True)
    assert row.difference_s.mean == pytest.approx(2.0, abs=0.2)
    assert row.drops_more
    assert (row.seeds, row.version) == (3, 3)
    assert row.dropped == pytest.approx(0.2, abs=0.02)
    assert row.score_s < row.sampled_s
    fewer = row_of("here", _comparison(scores, {"ppo_shared": 0.0}), "ppo_shared", 3)
    assert not fewer.drops_more


def _row(preset: str, beaten: int = 4, lost: int = 0, *, drops_more: bool = False, version: int = 1) -> Row:
    return Row(
        preset=preset,
        score_s=1.0,
        sampled_s=1.0,
        rule="local",
        rule_s=2.0,
        difference_s=Interval(-1.0, -2.0, 0.5, "crossed t", 0.2),
        sure=True,
        beaten=beaten,
        lost=lost,
        rules=4,
        dropped=0.1,
        rule_dropped=0.1,
        drops_more=drops_more,
        seeds=3,
        version=version,
    )


def test_a_win_is_over_every_rule() -> None:
    rows = [
        _row("here"),
        _row("here", drops_more=True),
        _row("here", beaten=3),
        _row("here", beaten=3, lost=1, drops_more=True),
    ]
    text = verdict("ppo", rows)
    assert "every rule in 2 of 4 presets" in text
    assert "some rule in 1," in text
    assert "drops more than the best rule in 2." in text


def test_rules_are_tuned_once_for_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(plan, "_tune", lambda _, preset, __: calls.append(preset) or ["size_interval:3"])
    for _ in range(2):
        assert tuned_rules("ether_12", tmp_path, Console()) == ("size_interval:3",)
    assert calls == ["ether_12"]
    kept = json.loads((tmp_path / plan.TUNED).read_text())
    assert kept["ether_12"]["fingerprint"] == fingerprint(load_environment("ether_12"))
    kept["ether_12"]["fingerprint"] = "another"
    (tmp_path / plan.TUNED).write_text(json.dumps(kept))
    tuned_rules("ether_12", tmp_path, Console())
    assert calls == ["ether_12"] * 2


def test_the_page_keeps_rows_of_other_machines_that_are_of_the_present_version(tmp_path: Path) -> None:
    present = load_policy_config("ppo").version
    rows = [_row("cell_9", version=present), _row("relay_8", version=present - 1)]
    page = tmp_path / "presets.json"
    page.write_text(json.dumps({"ppo": [asdict(row) for row in rows]}))
    assert rows_of("ppo", tmp_path / "nothing", page) == rows[:1]
    assert rows_of("a2c", tmp_path / "nothing", page) == []
    assert rows_of("ppo", tmp_path / "nothing", tmp_path / "missing.json") == []
