"""Given the same tasks and decisions, the simulator agrees with the real PeersimGym (see docs/peersimgym.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peersimgym import recordings, replay, simulate

FOLDER = recordings()
TRACES = sorted(FOLDER.glob("trace_*.json")) if FOLDER else []
STATISTICS = FOLDER / "stats.json" if FOLDER else Path("stats.json")
# One machine there finishes any number of tasks that fit into a tick: beyond its capacity a cloud is not comparable.
OVER_SERVED_CLOUDS = {"n3_cloud_1vm"}
RESPONSE_TICKS = 2.5
SEEDS = 10

needs_recordings = pytest.mark.skipif(
    FOLDER is None, reason="the recordings of PeersimGym are not part of the project and are not beside it"
)


@needs_recordings
@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_recorded_tasks_under_recorded_decisions(path: Path, tmp_path: Path) -> None:
    recording = json.loads(path.read_text())
    if recording["name"] in OVER_SERVED_CLOUDS:
        pytest.skip("its cloud serves more than its machines could")
    theirs, ours = recording["totals"], replay(recording, tmp_path)
    few = max(5, 0.01 * theirs["generated"])
    assert abs(ours.finished - theirs["finished"]) <= few
    assert abs(ours.queue_full - theirs["dropped_on_arrival"]) <= few
    assert abs(ours.expired - theirs["expired"]) <= few
    assert abs(ours.response_ticks - theirs["mean_response_ticks"]) <= RESPONSE_TICKS


def local_cases() -> list[dict[str, Any]]:
    """Return the recorded statistics of nodes that keep what they get.

    With the original's random order of a tick's events a decision may come between a task's arrival at an idle node and
    its first work, so that about half of such tasks are on offer there, and none with a fixed order or here. Under
    policies that send tasks away, only the recordings with a fixed order can therefore be compared.
    """
    if not STATISTICS.is_file():
        return []
    return [case for case in json.loads(STATISTICS.read_text())["cases"] if case["policy"] == "local"]


@needs_recordings
@pytest.mark.parametrize("case", local_cases(), ids=lambda case: case["name"])
def test_statistics_of_nodes_that_keep_their_tasks(case: dict[str, Any], tmp_path: Path) -> None:
    episodes = [simulate(case["config"], seed, tmp_path) for seed in range(SEEDS)]

    def check(ours: str, theirs: str, tick_effect: float) -> None:
        values = np.array([getattr(episode, ours) for episode in episodes], float)
        summary = case["summary"][theirs]
        error = np.hypot(values.std(ddof=1) / SEEDS**0.5, summary["sd"] / len(case["per_seed"]) ** 0.5)
        assert abs(values.mean() - summary["mean"]) <= 3 * error + tick_effect, (values.mean(), summary["mean"], error)

    generated = case["summary"]["generated"]["mean"]
    # What is in the last two ticks' messages, and the order of a departure and an arrival in one tick at a full node.
    check("finished", "finished", 2)
    check("queue_full", "dropped_on_arrival", 0.005 * generated)
    check("expired", "expired", 0.005 * generated)
    check("response_ticks", "mean_response_ticks", 1.0)
