"""`train --seeds`: one command trains a policy with several seeds, and is the comparison of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.environments import small_environment
from helpers.policies import policy_config
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.commands import train as train_command
from offload_rllib.compare.plan import ComparisonPlan, trainings_of
from offload_rllib.compare.run import ComparisonFolder
from offload_rllib.config import ConfigError
from offload_rllib.config.seeds import parse_seeds
from offload_rllib.evaluation.results import load_comparison
from offload_rllib.runs.lock import locked
from offload_rllib.runs.status import read_runs
from offload_rllib.simulator.heuristics import BASELINES


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an environment and a policy that trains for a moment."""
    folder = tmp_path_factory.mktemp("seeds")
    (folder / "ring.yaml").write_text(yaml.safe_dump(small_environment(description="ring")))
    policy = policy_config(env_steps=320).model_dump(mode="json", by_alias=True)
    (folder / "quick.yaml").write_text(yaml.safe_dump(policy))
    return folder


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (0, 1, 2)), ("0:5", (0, 1, 2, 3, 4)), ("7:9", (7, 8)), ("0,3,7", (0, 3, 7)), ("1", (0,))]
)
def test_seeds_are_a_number_a_range_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "5:5", "5:2", "1,1", "-1:3", "a", "0:", "0:5:2", f"{2**31},0", "0:1001"])
def test_other_seeds_are_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--seeds '.*': accepted: a number of seeds \(5: 0 to 4\), FIRST:END"):
        parse_seeds(text)


def planned(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[ComparisonPlan, str]:
    """Return what `train` with these arguments would do, and the stem of its folder."""
    met: list[Any] = []

    def begin(plan: ComparisonPlan, name: str | None, where: Any, *, stem: str) -> None:  # noqa: ARG001 - as it is called
        met.extend((plan, stem))

    monkeypatch.setattr(train_command, "begin_comparison", begin)
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 0, result.exception
    return met[0], met[1]


def test_it_is_the_comparison_of_the_policy_with_the_usual_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [
        "--seeds",
        "0,3",
        "--set",
        "workload.load.rho=0.9",
        "--set-policy",
        "algorithm.lr=2e-3",
        "--runners",
        "0",
    ]
    plan, stem = planned(monkeypatch, "ether_12", "ppo", *options, "--episodes", "7", "--held-out-seed", "2")
    assert plan.policies == ("ppo", *BASELINES)
    assert (plan.reference, stem) == ("ppo", "ether_12-ppo-seeds")
    assert (plan.episodes, plan.held_out_seed) == (7, 2)
    trainings = trainings_of(plan)
    assert [training.config.training.seed for training in trainings] == [0, 3]
    assert {training.config.algorithm.lr for training in trainings} == {2e-3}
    assert {training.config.training.runners for training in trainings} == {0}
    assert trainings[0].place.config.workload.load.rho == 0.9
    # Written and read again it is the same, and so is a plan that only has their number.
    content = plan.model_dump(mode="json", by_alias=True)
    assert ComparisonPlan.model_validate(content) == plan
    assert ComparisonPlan.model_validate(content | {"training_seeds": 3}).training_seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["ether_12", "ppo", "--seeds", "0:2", "--set-policy", "training.seed=4"],
            "--set-policy training.seed: --seeds",
        ),
        (["ether_12", "ppo", "--seeds", "0:2", "--name", "a", "--or-resume"], "--or-resume: not with --seeds"),
        (["ether_12", "ppo", "--seeds", "0:2", "--runners", "all"], "--runners all: not with --seeds"),
        (["ether_12", "ppo", "--seeds", "0:2", "--dashboard"], "--dashboard: not with --seeds"),
        (["ether_12", "local", "--seeds", "0:2"], "local"),
        (["ether_12", "--seeds", "0:2"], "train needs ENV and POLICY"),
        (["--resume", "somewhere", "--seeds", "0:2"], "--resume takes environment and policy from the run"),
    ],
)
def test_what_does_not_go_with_seeds_is_rejected(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["train", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_all_seeds_are_trained_resumed_shown_and_compared(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "seeds"
    with monkeypatch.context() as patch:
        patch.setattr("offload_rllib.compare.run.train_all", lambda runs, _: not runs)  # as after Ctrl-C
        command = ["train", str(files / "ring.yaml"), str(files / "quick.yaml"), "--seeds", "0,3", "--episodes", "2"]
        begun = CliRunner().invoke(app, [*command, "--name", str(folder)])
    assert begun.exit_code == 130
    assert f"offload-rllib compare --resume {folder}" in begun.output
    status = read_runs(folder)
    assert status["state"] == "interrupted"
    assert list(status["runs"]) == ["quick-ring-seed_0", "quick-ring-seed_3"]
    done = CliRunner().invoke(app, ["train", "--resume", str(folder)])
    assert done.exit_code == 0, done.exception
    comparison = load_comparison(folder)
    assert comparison.matrix("quick", "score_mean_s", comparison.points[0]).shape == (2, 2)
    assert "± 95 %" in done.output
    shown = CliRunner().invoke(app, ["status", str(folder)])
    for part in ("quick-ring-seed_0", "quick-ring-seed_3", "320", "finished"):
        assert part in shown.output
    as_json = json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).output)
    assert {run["state"] for run in as_json["runs"].values()} == {"finished"}
    with pytest.raises(ConfigError, match="is finished; there is nothing to resume"):
        CliRunner().invoke(app, ["train", "--resume", str(folder)], catch_exceptions=False)


def test_status_says_how_far_the_seeds_are(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = planned(monkeypatch, str(files / "ring.yaml"), str(files / "quick.yaml"), "--seeds", "2")
    folder = ComparisonFolder.create(str(tmp_path / "seeds"), plan, "offload-rllib train ...")
    for seed, state in ((0, "finished"), (1, "created")):
        run = folder.path / "runs" / f"quick-ring-seed_{seed}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"state": state}))
    folder.record(state="training")
    assert read_runs(folder.path)["health"].startswith("its process is gone; continue: offload-rllib compare --resume")
    with locked(folder.path, print):
        assert read_runs(folder.path)["health"] == "1 of 2 trainings are finished"
        assert "waits" in CliRunner().invoke(app, ["status", str(folder.path)]).output
        (folder.path / "runs" / "quick-ring-seed_1" / "run.json").write_text('{"state": "finished"}')
        assert read_runs(folder.path)["health"] == "plays held-out episodes"
