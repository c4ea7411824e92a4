"""Trainings run side by side where there is room for them, with the same policies as one after another."""

from __future__ import annotations

import io
import json
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.environments import small_environment
from helpers.policies import policy_config
from rich.console import Console
from safetensors.torch import load_file

from offload_rllib.cluster.connection import Cluster, Node
from offload_rllib.config import load_environment
from offload_rllib.policies.saved import load_description
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training.several import STOP, at_once, train_all
from offload_rllib.training.status import last_status


def cluster(*cpus: float, gpus: float = 0.0) -> Cluster:
    return Cluster(tuple(Node(f"{i}", f"10.0.0.{i}", n, gpus, is_driver=i == 0) for i, n in enumerate(cpus)))


@pytest.mark.parametrize(
    ("training", "nodes", "expected"),
    [
        ({"runners": 2}, cluster(2.0), 1),
        ({"runners": 2}, cluster(16.0), 6),
        ({"runners": 2}, cluster(8.0, 8.0), 6),
        ({"runners": 0}, cluster(2.0), 2),
        ({"runners": 4, "cpus_per_runner": 0.5}, cluster(10.0), 4),
        ({"runners": 2, "gpus": 1.0}, cluster(64.0, gpus=2.0), 2),
        ({"runners": 2, "gpus": 1.0}, cluster(64.0), 1),
    ],
)
def test_as_many_train_at_a_time_as_there_is_room_for(training: dict[str, Any], nodes: Cluster, expected: int) -> None:
    assert at_once([policy_config(**training)], nodes) == expected


@pytest.mark.usefixtures("ray_session")
def test_side_by_side_is_as_one_after_another(tmp_path: Path) -> None:
    environment = load_environment(small_environment())

    def runs(folder: Path, **training: Any) -> list[RunFolder]:
        configs = [policy_config(runners=0, env_steps=320, seed=seed, **training) for seed in (0, 1)]
        return [
            RunFolder.create(str(folder / f"seed_{i}"), environment, config, "") for i, config in enumerate(configs)
        ]

    said = io.StringIO()
    together = runs(tmp_path / "together")
    assert train_all(together, Console(file=said, width=200))
    assert "(2 at a time)" in said.getvalue()
    assert "2 of 2 are finished" in said.getvalue()
    alone = runs(tmp_path / "alone")
    for run in alone:
        assert train_all([run], Console(quiet=True))
    # Tune names the folder that it copies to a run by the second: runs that begin in the same one must not share it.
    staged = [last_status(run)["logs"] for run in together + alone]
    assert all(re.search(r"/artifacts/[-_\d]+-[\da-f]{8}/tune/", path) for path in staged)
    for seed, run in enumerate(together):
        assert [path.name for path in (run.path / "tune").glob("trial*")] == ["trial"]
        rows = [json.loads(row) for row in (run.path / "tune" / "trial" / "result.json").read_text().splitlines()]
        assert {row["config"]["seed"] for row in rows} == {seed}
    for one, other in zip(together, alone, strict=True):
        assert one.state == other.state == "finished"
        kept, expected = (load_file(run.path / "policy" / "shared.safetensors") for run in (one, other))
        assert all((kept[key] == expected[key]).all() for key in expected)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ctrl_c_loses_nothing_of_trainings_side_by_side(tmp_path: Path) -> None:
    environment = load_environment(small_environment())
    # Nothing is saved by itself, and nothing ends by itself.
    configs = [policy_config(runners=0, env_steps=10**8, checkpoint_every=10**6, seed=seed) for seed in (0, 1)]
    runs = [RunFolder.create(str(tmp_path / f"seed_{i}"), environment, config, "") for i, config in enumerate(configs)]

    def press() -> None:
        while not all((run.path / "status.json").exists() for run in runs):
            time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    assert not train_all(runs, Console(quiet=True))
    for run in runs:
        assert run.state == "interrupted"
        assert not (run.path / STOP).exists()
        reported = json.loads((run.path / "status.json").read_text())["env_steps"]
        assert 0 < load_description(run.policy_folder()).env_steps == run.entries()["env_steps"] == reported
