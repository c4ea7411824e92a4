"""The simulator agrees with the real PeersimGym (see docs/peersimgym.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peersimgym import recordings, replay
from peersimgym_ticks import simulate

FOLDER = recordings()
TRACES = sorted(FOLDER.glob("trace_*.json")) if FOLDER else []
STATISTICS = FOLDER / "stats.json" if FOLDER else Path("stats.json")
CASES = json.loads(STATISTICS.read_text())["cases"] if STATISTICS.is_file() else []
# A machine of the cloud there finishes any number of tasks that fit into a tick: where the mean task waits for one
# here, in ticks, the two are not comparable.
LONGEST_WAIT_AT_CLOUD = 0.25
RESPONSE_TICKS = 2.5
SEEDS = 8

needs_recordings = pytest.mark.skipif(
    FOLDER is None, reason="the recordings of PeersimGym are not part of the project and are not beside it"
)


@needs_recordings
@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_recorded_tasks_under_recorded_decisions(path: Path, tmp_path: Path) -> None:
    recording = json.loads(path.read_text())
    theirs, ours = recording["totals"], replay(recording, tmp_path)
    if ours.waited_at_cloud > LONGEST_WAIT_AT_CLOUD:
        pytest.skip("its cloud serves more than its machines could")
    few = max(5, 0.01 * theirs["generated"])
    assert abs(ours.finished - theirs["finished"]) <= few
    assert abs(ours.queue_full - theirs["dropped_on_arrival"]) <= few
    assert abs(ours.expired - theirs["expired"]) <= few
    assert abs(ours.response_ticks - theirs["mean_response_ticks"]) <= RESPONSE_TICKS


@needs_recordings
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_statistics_of_its_own_tasks_under_its_own_policies(case: dict[str, Any], tmp_path: Path) -> None:
    episodes = [simulate(case["config"], case["policy"], seed, tmp_path) for seed in range(SEEDS)]
    if max(episode.waited_at_cloud for episode in episodes) > LONGEST_WAIT_AT_CLOUD:
        pytest.skip("its cloud serves more than its machines could")
    seeds = len(case["per_seed"])

    def check(ours: str, theirs: str, less: float, more: float) -> None:
        values = np.array([getattr(episode, ours) for episode in episodes], float)
        summary = case["summary"][theirs]
        # Both have the same spread if they agree, and few seeds tell it badly.
        pooled = ((SEEDS - 1) * values.var(ddof=1) + (seeds - 1) * summary["sd"] ** 2) / (SEEDS + seeds - 2)
        error = (pooled * (1 / SEEDS + 1 / seeds)) ** 0.5
        difference = values.mean() - summary["mean"]
        assert -3 * error - less <= difference <= 3 * error + more, (values.mean(), summary["mean"], error)

    # Tasks that its clients send join the queues of nodes at even ticks only, at most two ticks later than here: last
    # in is not always first out. The cloud works between ticks here.
    check("response_ticks", "mean_response_ticks", 2, 1)
    few = 2 + 0.005 * case["summary"]["generated"]["mean"]
    check("finished", "finished", few, few)
    check("queue_full", "dropped_on_arrival", few, few)
    check("expired", "expired", few, few)
