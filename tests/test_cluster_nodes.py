"""A cluster of several nodes on one machine: nodes die, are cut off, come back, are added; drivers are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.environments import small_environment

CLUSTER = Path(__file__).parents[1] / "scripts" / "cluster"
sys.path.insert(0, str(CLUSTER))

# Beside the launchers, not installed.
from chaos import audit, rows_of  # noqa: E402  # pyright: ignore[reportMissingImports]
from namespaces import NamespaceCluster, why_not  # noqa: E402  # pyright: ignore[reportMissingImports]

# Where this small environment's curve is flat.
STEPS = 60_000
REASON = why_not()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[NamespaceCluster]:
    with NamespaceCluster(workers=3) as cluster:
        yield cluster


class Run:
    """A training on the cluster, watched from outside by its files."""

    def __init__(
        self, cluster: NamespaceCluster, folder: Path, name: str, *, seed: int = 0, env_steps: int = STEPS
    ) -> None:
        self.cluster, self.folder, self.path = cluster, folder, folder / "runs" / name
        (folder / "ring.yaml").write_text(yaml.safe_dump(small_environment(description="a ring of four")))
        policy = {
            "algorithm": {"name": "PPO", "batch_env_steps": 1920, "minibatch_steps": 256, "epochs": 3, "lr": 1e-3},
            "network": {"hidden": [16, 16]},
            "training": {
                "env_steps": env_steps,
                "envs_per_runner": 8,
                "runners": 3,
                "seed": seed,
                "sample_timeout_s": 8,
            },
        }
        (folder / "quick.yaml").write_text(yaml.safe_dump(policy))
        self.begin = ["train", "ring.yaml", "quick.yaml", "--name", name, "--runners", "3", "--episodes", "2"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, address: str | None = None) -> None:
        command = [sys.executable, "-m", "offload_rllib", *(arguments or self.begin)]
        command += ["--address", address or self.cluster.address]
        self.process = self.cluster.run(command, self.folder)

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-3000:]

    def told(self) -> dict[str, Any]:
        try:
            return json.loads((self.path / "status.json").read_text())
        except (OSError, ValueError):
            return {}

    def until(self, happened: Callable[[dict[str, Any]], bool], timeout_s: float = 240) -> dict[str, Any]:
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while not (told := self.told()) or not happened(told):
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, f"{told}\n{self.output()}"
            time.sleep(0.5)
        return told

    def finish(self, timeout_s: float = 600) -> None:
        assert self.process is not None
        code = self.process.wait(timeout_s)
        assert code == 0, self.output()

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def check_counters_and_checkpoints(self) -> None:
        assert audit(self.path) == []
        assert rows_of(self.path)[-1]["timesteps_total"] >= STEPS

    def score(self) -> float:
        scores = [row["env_runners"].get("offload", {}).get("score_mean_s") for row in rows_of(self.path)[-15:]]
        return float(np.nanmean([score for score in scores if score is not None]))

    def notices(self) -> str:
        return (self.path / "logs" / "train.log").read_text()


@pytest.fixture(scope="module")
def undisturbed(nodes: NamespaceCluster, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the final scores of three seeds that nothing happened to."""
    scores = []
    for seed in range(3):
        run = Run(nodes, tmp_path_factory.mktemp("quiet"), "quiet", seed=seed)
        try:
            run.start()
            run.finish()
            run.check_counters_and_checkpoints()
            scores.append(run.score())
        finally:
            run.end()
    return scores


def test_training_from_outside_runs_in_the_cluster(nodes: NamespaceCluster, tmp_path: Path) -> None:
    run = Run(nodes, tmp_path, "client", env_steps=5760)
    try:
        run.start(*run.begin, "--storage", str(tmp_path / "runs"), address=nodes.client_address)
        run.finish()
        assert "trained policy" in run.output()
        steps = [row["timesteps_total"] for row in rows_of(run.path)]
        assert steps == [1920, 3840, 5760]
    finally:
        run.end()


def test_a_run_outlives_nodes_networks_and_its_own_driver(
    nodes: NamespaceCluster, undisturbed: list[float], tmp_path: Path
) -> None:
    run = Run(nodes, tmp_path, "disturbed", env_steps=100_000_000)
    try:
        run.start()
        run.until(lambda told: told["runners"]["healthy"] == 3)

        nodes.kill(1)
        told = run.until(lambda told: told["runners"]["healthy"] < 3)
        at = told["env_steps"]
        run.until(lambda told: told["env_steps"] > at + 3000)  # it goes on without
        added = nodes.add()
        run.until(lambda told: told["runners"]["healthy"] == 3)  # the runner moves to the node that was added

        nodes.cut_off(2)
        told = run.until(lambda told: told["runners"]["healthy"] < 3)
        nodes.heal(2)
        deadline = time.monotonic() + 240
        while run.told()["runners"]["healthy"] < 3:
            nodes.keep_up()
            assert run.process is not None
            assert run.process.poll() is None, run.output()
            assert time.monotonic() < deadline, run.told()
            time.sleep(1)

        assert run.process is not None
        before = run.told()["env_steps"]
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        run.start("train", "--resume", str(run.path), "--episodes", "2")
        run.until(lambda told: told["env_steps"] > before + STEPS)
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.process.wait(180) == 130, run.output()
        assert json.loads((run.path / "run.json").read_text())["state"] == "interrupted"
        run.check_counters_and_checkpoints()
        notices = run.notices()
        assert "lost" in notices
        assert "back at work" in notices
        assert nodes.runs(added)
    finally:
        run.end()
        nodes.keep_up()
    # Four standard deviations of three seeds; it has had more steps, on the flat part of the curve.
    tolerance = 4 * float(np.std(undisturbed, ddof=1))
    assert run.score() < float(np.mean(undisturbed)) + tolerance, (run.score(), undisturbed)
