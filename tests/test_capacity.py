"""A node takes in no more than its memory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.environments import log_bytes, make_env, small_environment

from offload_rllib.config import ConfigError
from offload_rllib.simulator.types import FINISHED, QUEUE_FULL


def replayed(folder: Path, rows: list[tuple[float, float]], **node: Any) -> Any:
    """Return a node of speed 1 that meets tasks of work 1, of some times and bits, at the first decision."""
    file = folder / "tasks.csv"
    file.write_text("\n".join(["time_s,work,bits_in", *(f"{time},1,{bits}" for time, bits in rows)]) + "\n")
    columns = {"work": "work", "bits_in": "bits_in"}
    environment = {
        "horizon_s": 30.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "a", "instructions_per_second": 1.0, "client": True} | node,
                {"name": "b", "instructions_per_second": 1.0},
            ],
            "links": [["a", "b"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e6},
        "workload": {"arrivals": {"kind": "replay", "path": str(file), "columns": columns}},
        "score": {"drop_s": 30},
        "decisions": {"when": "arrival"},
    }
    return make_env(environment, log=True)


def test_a_task_that_does_not_fit_into_the_memory_is_dropped(tmp_path: Path) -> None:
    # 60 and 30 bits fit into 100, 20 more do not; 10 do. The first leaves at 1 s, before what arrives then.
    rows = [(0, 60), (0, 30), (0, 20), (0.5, 10), (1, 60.5), (1, 60), (1.5, 101)]
    env = replayed(tmp_path, rows, queue_capacity_bits=100.0)
    env.play("local")
    full, done = QUEUE_FULL, FINISHED
    assert env.task_log(0)["outcome"].tolist() == [done, done, full, done, full, done, full]


def test_tasks_of_one_size_fill_a_memory_as_they_fill_places() -> None:
    logs = []
    for capacity in ({"queue_capacity": 3}, {"queue_capacity_bits": 3.5e5}):
        environment = small_environment(score={"drop_s": 40}, queue="lifo")
        for node in environment["topology"]["nodes"]:
            node.pop("queue_capacity", None)
            node.update(capacity)
        for kind in environment["workload"]["jobs"]["types"]:
            kind["bits_in"] = 1e5
        environment["workload"]["load"] = {"tasks_per_second_per_client": 3.0}
        env = make_env(environment, log=True)
        env.play("random")
        assert (env.task_log(0)["outcome"] == QUEUE_FULL).sum() > 20
        logs.append(log_bytes(env, 0))
    assert logs[0] == logs[1]


def test_the_fill_of_a_memory_is_in_tasks_of_mean_size(tmp_path: Path) -> None:
    env = replayed(tmp_path, [(0, 10), (0, 30), (0, 20)], queue_capacity_bits=100.0, queue_capacity=50)
    env.step([0])
    env.step([0])
    fill = env.observations[0, env.layout.names.index("row_0.tasks")]
    assert fill == pytest.approx(2 / 5)  # room for five tasks of 20 bits


def test_a_memory_makes_drops_possible_whose_score_must_be_stated() -> None:
    environment = small_environment(deadlines={"expiry": "never"})
    for node in environment["topology"]["nodes"]:
        node.pop("queue_capacity", None)
    environment["topology"]["nodes"][0]["queue_capacity_bits"] = 1e6
    with pytest.raises(ConfigError, match=r"score\.drop_s: missing.*a node has queue_capacity_bits"):
        make_env(environment)
