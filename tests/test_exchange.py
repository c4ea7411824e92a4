"""Recorded tasks go where they were recorded to go, here as in other simulators, and come back when theory says."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.environments import make_env, small_environment
from helpers.processor_sharing import shared_departures
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.simulator.types import FINISHED

LATENCY_S, RATE_BPS = 0.015, 1e7
CORES = 2
COLUMNS = {key: key for key in ("origin", "work", "bits_in", "bits_out", "destination")}


def sites(file: Path, **changes: Any) -> dict[str, Any]:
    """Return four sites of two cores, each linked to each, with the tasks of a file."""
    names = "abcd"
    return {
        "horizon_s": 400.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": name, "instructions_per_second": 1.0 + i, "cores": CORES, "client": True}
                for i, name in enumerate(names)
            ],
            "links": [(a, b) for a in names for b in names if a < b],
        },
        "links": {"kind": "fixed", "rate_bps": RATE_BPS, "latency_s": LATENCY_S},
        "workload": {"arrivals": {"kind": "replay", "path": str(file), "columns": COLUMNS}},
        "service": "parallel",
        "decisions": {"when": "arrival", "max_hops": 1},
    } | changes


@pytest.fixture
def tasks(tmp_path: Path) -> pd.DataFrame:
    """Tasks of random destinations at a load of 0.9 of the slowest site; in the file ``tasks.csv`` too."""
    rng = np.random.default_rng(0)
    count = 1500
    made = pd.DataFrame(
        {
            "time_s": np.cumsum(rng.exponential(0.13, count)),
            "origin": rng.choice([*"abcd"], count),
            "destination": rng.choice([*"abcd"], count),
            "work": rng.lognormal(-0.8, 1.0, count),
            "bits_in": rng.exponential(1e5, count),
            "bits_out": rng.exponential(1e4, count),
        }
    )
    made.to_csv(tmp_path / "tasks.csv", index=False)
    return made


def first_come_first_served(arrivals_s: list[float], works: list[float], speed: float) -> list[float]:
    """Return when each task leaves a node of `CORES` cores (Lindley's recursion, for several servers)."""
    free_s = [0.0] * CORES
    departures_s = []
    for arrival_s, work in zip(arrivals_s, works, strict=True):
        departures_s.append(max(arrival_s, heapq.heappop(free_s)) + work / speed)
        heapq.heappush(free_s, departures_s[-1])
    return departures_s


def exact_responses(tasks: pd.DataFrame, service: str) -> np.ndarray:
    """Return the response of each task by a recursion at each site."""
    away = (tasks.origin != tasks.destination).to_numpy()
    sent_s = np.where(away, LATENCY_S + tasks.bits_in / RATE_BPS, 0.0)
    back_s = np.where(away, LATENCY_S + tasks.bits_out / RATE_BPS, 0.0)
    arrival_s = (tasks.time_s + sent_s).to_numpy()
    left_s = np.empty(len(tasks))
    for i, name in enumerate("abcd"):
        there = np.flatnonzero(tasks.destination == name)
        there = there[np.argsort(arrival_s[there])]
        given = arrival_s[there].tolist(), tasks.work.to_numpy()[there].tolist()
        if service == "parallel":
            left_s[there] = first_come_first_served(*given, 1.0 + i)
        else:
            left_s[there] = shared_departures(*given, CORES, 1.0 + i)
    return left_s + back_s - tasks.time_s.to_numpy()


@pytest.mark.parametrize("service", ["parallel", "shared"])
def test_every_recorded_task_has_the_response_of_the_exact_recursion(
    tmp_path: Path, tasks: pd.DataFrame, service: str
) -> None:
    env = make_env(sites(tmp_path / "tasks.csv", service=service), 2, log=True)
    env.play("recorded")
    log = env.task_log(1)
    assert ["abcd"[n] for n in log["node"]] == tasks.destination.tolist()
    done = log["outcome"] == FINISHED
    assert done.mean() > 0.98
    response_s = log["ended_s"] - log["created_s"]
    assert np.abs(response_s - exact_responses(tasks, service))[done].max() < 1e-9
    assert log["waiting_s"].max() > (5 if service == "parallel" else -1)


def test_clocked_agents_send_recorded_tasks_to_the_same_nodes(tmp_path: Path, tasks: pd.DataFrame) -> None:
    decisions = {"when": "interval", "interval_s": 0.05, "max_hops": 1}
    env = make_env(sites(tmp_path / "tasks.csv", decisions=decisions), log=True)
    env.play("recorded")
    log = env.task_log(0)
    decided = log["outcome"] == FINISHED
    assert decided.sum() > 1400
    assert np.array([*"abcd"])[log["node"]][decided].tolist() == tasks.destination[: len(log)][decided].tolist()


def test_the_tasks_of_an_evaluation_can_be_played_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = small_environment(decisions={"when": "arrival", "max_hops": 1})
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(environment))
    command = ["evaluate", "small.yaml", "random", "soft_finish:0.5", "--episodes", "2", "--task-log", "--out", "out"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in (tmp_path / "out" / "tasks").iterdir())
    assert files == ["random-0.csv", "random-1.csv", "soft_finish_0.5-0.csv", "soft_finish_0.5-1.csv"]
    file = tmp_path / "out" / "tasks" / "random-1.csv"
    then = pd.read_csv(file)
    columns = COLUMNS | {"deadline": "deadline_s", "type": "type"}
    environment["workload"] = {"arrivals": {"kind": "replay", "path": str(file), "columns": columns}}
    logs: list[Any] = []
    evaluation = evaluate(load_environment(environment), make_contenders(["recorded"]), episodes=2, logs=logs)
    again = logs[0].to_pandas()
    again = again[again.episode == 0]
    assert (again.outcome == then.outcome).all()
    assert (again.node == then.destination).all()
    assert (then.origin != then.destination).sum() > 20
    assert then.response_s.notna().equals(then.outcome == "finished")
    assert np.nanmax(np.abs(again.response_s - then.response_s)) < 1e-12
    assert set(evaluation.episodes.tasks_created) == {len(then)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("5,a,c,1", "tasks.csv: row 2: column 'destination': 'c' is no destination of 'a', which the task enters"),
        ("5,a,x,1", "tasks.csv: row 2: column 'destination': no node is named 'x'"),
    ],
)
def test_a_destination_that_cannot_be_is_refused(tmp_path: Path, row: str, message: str) -> None:
    file = tmp_path / "tasks.csv"
    file.write_text(f"time_s,origin,destination,work\n1,c,,1\n{row}\n")
    environment = small_environment(score={"drop_s": 40})
    columns = {key: COLUMNS[key] for key in ("origin", "work", "destination")}
    environment["workload"] = {"arrivals": {"kind": "replay", "path": str(file), "columns": columns}}
    with pytest.raises(ConfigError, match=message):
        make_env(environment)


def test_the_rule_recorded_needs_recorded_destinations() -> None:
    with pytest.raises(ConfigError, match="policies: 'recorded' needs recorded destinations"):
        evaluate(load_environment(small_environment()), make_contenders(["recorded", "local"]), episodes=2)
