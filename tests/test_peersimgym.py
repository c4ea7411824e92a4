"""The simulator agrees with the real PeersimGym (see docs/peersimgym.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.peersimgym import kolmogorov_distance, recorded_responses, recordings, replay
from helpers.peersimgym_ticks import simulate

TRACES = sorted(recordings().glob("trace_*.json"))
CASES = json.loads((recordings() / "stats.json").read_text())["cases"]
SEEDS = 8
# Shares of its response times, in ticks, as they were noted with the statistics.
RESPONSE_SHARES = {"n1_unit_lam0.6": {2: 0.36, 3: 0.57, 4: 0.07}}


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_recorded_tasks_under_recorded_decisions(path: Path, tmp_path: Path) -> None:
    recording = json.loads(path.read_text())
    theirs, ours = recording["totals"], replay(recording, tmp_path)
    tasks = np.array([step[2] for step in recording["steps"]])[:, : ours.tasks.shape[1]]
    # Not one differs in the recordings here. Of tasks that come from neighbours in the same tick, that of the later
    # sender is the newer there, the one that was made later here: that may show in others.
    wrong = np.argwhere(tasks != ours.tasks[: len(tasks)])
    assert len(wrong) <= 0.002 * tasks.size, f"{len(wrong)} of {tasks.size} differ, first at {wrong[0]} (tick, node)"
    assert abs(ours.queue_full - theirs["dropped_on_arrival"]) <= 1
    assert abs(ours.expired - theirs["expired"]) <= 1
    assert abs(ours.finished - theirs["finished"]) <= 2
    assert kolmogorov_distance(recorded_responses(recording), ours.responses) <= 0.025


# Ten nodes take minutes; those of one and two nodes are the fast ones.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case["name"], marks=[pytest.mark.slow] if case["name"].startswith("n10") else [])
        for case in CASES
    ],
)
def test_statistics_of_its_own_tasks_under_its_own_policies(case: dict[str, Any], tmp_path: Path) -> None:
    episodes = [simulate(case["config"], case["policy"], seed, tmp_path) for seed in range(SEEDS)]
    seeds = len(case["per_seed"])

    def check(ours: str, theirs: str, margin: float) -> None:
        values = np.array([getattr(episode, ours) for episode in episodes], float)
        summary = case["summary"][theirs]
        # Both have the same spread if they agree, and few seeds tell it badly.
        pooled = ((SEEDS - 1) * values.var(ddof=1) + (seeds - 1) * summary["sd"] ** 2) / (SEEDS + seeds - 2)
        error = (pooled * (1 / SEEDS + 1 / seeds)) ** 0.5
        difference = values.mean() - summary["mean"]
        assert abs(difference) <= 3 * error + margin, (ours, values.mean(), summary["mean"], error)

    if case["name"] in RESPONSE_SHARES:
        responses = np.concatenate([episode.responses for episode in episodes])
        for ticks, share in RESPONSE_SHARES[case["name"]].items():
            # They were noted of one run, as whole percents: two standard errors of its number of tasks.
            error = (share * (1 - share) / case["summary"]["generated"]["mean"]) ** 0.5
            assert abs(float((responses == ticks).mean()) - share) <= 2 * error + 0.005
    few = 2 + 0.005 * case["summary"]["generated"]["mean"]
    check("response_ticks", "mean_response_ticks", 0.25)
    check("tasks_in_node", "mean_tasks_in_node", 0.1)
    check("finished", "finished", few)
    check("queue_full", "dropped_on_arrival", few)
    check("expired", "expired", few)
