"""A run is one folder: trained, watched, interrupted, resumed, compared, never overwritten."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers.command_line import finish, run_here, start
from helpers.environments import small_environment
from helpers.policies import policy_config
from helpers.results import trained_steps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from offload_rllib.cli import main
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.runs.training_run import RunFolder

STEPS = 960
LONGER = 4800  # thirty iterations: time enough to press Ctrl-C after the first checkpoint


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with an environment and a policy that trains for a few iterations."""
    environment = small_environment(description="a ring of four")
    (tmp_path / "ring.yaml").write_text(yaml.safe_dump(environment))
    policy = policy_config(runners=1, env_steps=STEPS).model_dump(mode="json", by_alias=True)
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(policy))
    return tmp_path


# The command line, in a process that says at its end how often it built a scenario.
COUNTS_SCENARIOS = """
import atexit, sys
from offload_rllib.cli import main
from offload_rllib.scenario import build

built, build_network = [], build.build_network
build.build_network = lambda *arguments: (built.append(1), build_network(*arguments))[1]
atexit.register(lambda: print("scenarios built:", len(built)))
main()
"""


def test_a_run_is_trained_evaluated_and_recorded(files: Path) -> None:
    command = ("train", "ring.yaml", "quick.yaml", "--episodes", "4")
    output = finish(start(files, *command, program=("-c", COUNTS_SCENARIOS)))
    run = files / "runs" / "ring-quick-1"
    # Once for the checks, the training and the evaluation, and once to draw the network of the results.
    assert "scenarios built: 2" in output, output
    assert "ring-quick-1 (sampled)" in output, output
    assert "shortest_finish" in output
    assert f"tensorboard --logdir {run.relative_to(files)}" in output
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["env_steps"] == STEPS
    assert set(record["packages"]) >= {"ray", "torch", "numpy"}
    assert RunFolder.open(run).environment == load_environment(files / "ring.yaml")
    assert sorted(path.name.partition(".tfevents")[0] for path in (run / "evaluation").iterdir()) == [
        "comparison.png",
        "episodes.csv",
        "events.out",
        "summary.csv",
        "timings.csv",
    ]
    assert sorted(path.name for path in (run / "policy").iterdir()) == [
        "policy.json",
        "shared.critic.safetensors",
        "shared.safetensors",
    ]
    card = (run / "MODEL_CARD.md").read_text()
    assert record["environment"] in card
    assert "| ring-quick-1 (sampled) | " in card, "written again after the evaluation"

    events = EventAccumulator(str(run / "tune" / "trial"))
    events.Reload()
    scores = events.Scalars("episodes/score_mean_s")
    assert [event.step for event in scores] == trained_steps(run) == list(range(160, STEPS + 1, 160))
    tags = set(events.Tags()["scalars"])
    figures = ("episodes/response_mean_s", "episodes/score_p95_s", "episodes_drops/dropped_expired_share")
    assert {*figures, "ray/tune/learners/shared/entropy"} <= tags
    assert not any("env_runners/offload" in tag for tag in tags), "no figure is shown twice"
    assert min(tags) == "episodes/dropped_share", "TensorBoard begins with what the run is about"
    evaluated = EventAccumulator(str(run / "evaluation"))
    evaluated.Reload()
    assert "evaluation/score_mean_s/ring/shortest_finish" in evaluated.Tags()["scalars"]

    code, again = run_here(files, "evaluate", "ring.yaml", "local", str(run), "--episodes", "3", "--out", "compared")
    assert code == 0, again
    assert "local" in again, again
    assert (files / "compared" / "summary.csv").read_text().count("ring-quick-1 (sampled)") > 10
    code, other = run_here(files, "evaluate", "ether_12", str(run), "--episodes", "3")
    assert code == 2, other
    assert "this policy takes 42 observations and 3 actions; the environment has 150 and 12" in other
    assert not (files / "evaluations").exists()


def test_an_interrupted_run_goes_on_where_it_stopped(files: Path) -> None:
    longer = ["--set-policy", f"training.env_steps={LONGER}"]
    process = start(files, "train", "ring.yaml", "quick.yaml", "--name", "cut", *longer)
    run = files / "runs" / "cut"
    deadline = time.monotonic() + 200
    while not list(run.glob("tune/trial/checkpoint_*/policy/policy.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C sends
    output = finish(process, 60)
    assert process.returncode == 130, output
    assert "offload-rllib train --resume runs/cut" in output
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    cut_at = trained_steps(run)
    assert 0 < cut_at[-1] < LONGER

    # Comparing works with what was reached, and starting anew is refused.
    code, output = run_here(files, "evaluate", "ring.yaml", str(run), "--episodes", "2")
    assert code == 0, output
    assert "cut (sampled)" in output, output
    code, refused = run_here(files, "train", "ring.yaml", "quick.yaml", "--name", "cut")
    assert code == 2, refused
    assert "--resume runs/cut" in refused

    resumed = start(files, "train", "--resume", "runs/cut", "--episodes", "2")
    output = finish(resumed)
    assert resumed.returncode == 0, output
    steps = trained_steps(run)
    assert steps[: len(cut_at)] == cut_at
    assert steps == sorted(set(steps)), "no step is counted twice"
    assert steps[-1] == LONGER
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    code, ended = run_here(files, "train", "--resume", "runs/cut")
    assert code == 2, ended
    assert "this run is finished; there is nothing to resume" in ended


def test_a_run_is_resumed_on_a_cluster_of_several_nodes(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the runners it has; how many there would be for a new run is not asked."""
    monkeypatch.chdir(files)
    run = RunFolder.create(None, load_environment(files / "ring.yaml"), load_policy_config(files / "quick.yaml"), "r")
    (run.path / "tune").mkdir()
    resumed: list[Path] = []

    @contextmanager
    def two_nodes() -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(nodes=["one", "other"], cpus=2, gpus=0)

    def stopped_again(run: RunFolder, _console: Any, *, resume: bool, **_others: Any) -> bool:
        assert resume
        resumed.append(run.path)
        return False

    monkeypatch.setattr("offload_rllib.cluster.connection.connect", two_nodes)
    monkeypatch.setattr("offload_rllib.training.train.train", stopped_again)
    arguments = ["train", "--resume", str(run.path), "--address", "127.0.0.1:1"]
    monkeypatch.setattr(sys, "argv", ["offload-rllib", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert resumed == [run.path]


def test_names_are_numbered_and_folders_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment, policy = load_environment(small_environment()), policy_config()
    runs = [RunFolder.create(None, environment, policy, "ring-ppo") for _ in range(3)]
    assert [run.name for run in runs] == ["ring-ppo-1", "ring-ppo-2", "ring-ppo-3"]
    with pytest.raises(ConfigError, match=r"runs/ring-ppo-2: this run folder exists and is not overwritten"):
        RunFolder.create("ring-ppo-2", environment, policy, "ring-ppo")
    with pytest.raises(ConfigError, match=r"this run has no checkpoint yet"):
        runs[0].policy_folder()
    (runs[0].path / "policy.yaml").unlink()
    with pytest.raises(ConfigError, match=r"not a run folder: policy.yaml is missing"):
        RunFolder.open(runs[0].path)


def test_a_run_folder_that_cannot_be_completed_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def full_disk(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        RunFolder.create("full", load_environment(small_environment()), policy_config(), "x")
    assert not (tmp_path / "runs" / "full").exists()
