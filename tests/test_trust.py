"""No code that a file of a run names is run, unless the user says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.environments import make_env, small_environment
from helpers.policies import PPO, kept
from typer.testing import CliRunner

import offload_rllib
from offload_rllib.cli import app
from offload_rllib.compare.plan import SweptKey, load_plan, plan_of
from offload_rllib.compare.run import ComparisonFolder
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.trust import functions_of
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.runs.training_run import RunFolder

CODE = """
from pathlib import Path
Path(r"{ran}").touch()

def choose(view):
    return view.masks.argmax(-1)

def see(view):
    return view.observations

def pay(view):
    return view.observations[..., 0]

def network(seed):
    raise ValueError("called")
"""
FUNCTION = "strangers_code"
NAMING: dict[str, dict[str, Any]] = {
    "observe": {"observe": f"{FUNCTION}:see"},
    "reward": {"reward": {"name": f"{FUNCTION}:pay"}},
    "others": {"agents": {"nodes": ["a"], "others": f"{FUNCTION}:choose"}},
    "topology": {"topology": {"kind": "python", "function": f"{FUNCTION}:network"}},
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that is there once the module `strangers_code` of the working folder was imported."""
    (tmp_path / f"{FUNCTION}.py").write_text(CODE.format(ran=tmp_path / "ran"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, FUNCTION, raising=False)
    return tmp_path / "ran"


def run_naming(change: dict[str, Any], folder: Path) -> Path:
    """Return the folder of a run that somebody sent, whose environment names code."""
    run = RunFolder.create(
        str(folder / "sent"), load_environment(small_environment()), load_policy_config(PPO), ""
    ).path
    kept(run / "policy", make_env(small_environment()))
    (run / "environment.yaml").write_text(yaml.safe_dump(small_environment(**change)))
    return run


@pytest.mark.parametrize("named", NAMING)
def test_code_named_by_the_environment_of_a_run_is_refused_unless_trusted(ran: Path, named: str) -> None:
    run = run_naming(NAMING[named], ran.parent)
    path = run / "environment.yaml"
    for refused in (
        lambda: offload_rllib.vector_env(path),
        lambda: offload_rllib.parallel_env(path),
        lambda: offload_rllib.gym_env(path),
        lambda: RunFolder.open(run).environment,
    ):
        with pytest.raises(ConfigError, match=rf"environment.yaml: names Python code \({FUNCTION}:\w+\).*--trust"):
            refused()
    assert not ran.exists()
    offload_rllib.load_policy(run)  # a policy alone names nothing, wherever it was trained
    assert RunFolder.open(run, trust=True).environment
    if named == "topology":
        with pytest.raises(ConfigError, match="called"):
            offload_rllib.vector_env(path, trust=True)
    else:
        env = offload_rllib.vector_env(path, trust=True)
        env.reset(held_out_keys(0, 1))
        env.step(env.heuristic_actions("local"))
    assert ran.exists()


@pytest.mark.parametrize(
    "command",
    [
        ["show", "sent/environment.yaml"],
        ["evaluate", "sent/environment.yaml", "local"],
        ["bound", "sent/environment.yaml"],
        ["train", "sent/environment.yaml", "ppo"],
        ["train", "--resume", "sent"],
        ["compare", "local", "random", "--env", "sent/environment.yaml"],
        ["tune", "sent/sweep.yaml"],
    ],
)
def test_every_command_refuses_such_a_file_without_trust(ran: Path, command: list[str]) -> None:
    run = run_naming(NAMING["observe"], ran.parent)
    sweep = {
        "environment": "environment.yaml",
        "policy": "ppo",
        "space": {"policy.algorithm.lr": [1e-4, 1e-3]},
        "budget": {"trials": 2, "env_steps": 1000},
    }
    (run / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    error = str(CliRunner().invoke(app, command).exception)
    assert "names Python code (strangers_code:see)" in error, error
    assert not ran.exists()


def test_code_in_a_users_own_file_needs_no_word(ran: Path) -> None:
    path = ran.parent / "own.yaml"
    path.write_text(yaml.safe_dump(small_environment(**NAMING["observe"])))
    offload_rllib.vector_env(path)
    run = RunFolder.create("./mine", load_environment(path), load_policy_config(PPO), "")
    assert run.environment.observe == f"{FUNCTION}:see", "who made the run may go on with it"
    assert run.resume_command == "offload-rllib train --resume mine --trust"


def test_code_named_by_a_comparison_is_refused_unless_trusted(ran: Path) -> None:
    (ran.parent / "small.yaml").write_text(yaml.safe_dump(small_environment()))
    plan = plan_of(["local", f"{FUNCTION}:choose"], ["small.yaml"])
    folder = ComparisonFolder.create("./sent", plan, "")
    assert folder.plan == plan
    for refused in (lambda: ComparisonFolder.open("sent").plan, lambda: load_plan("sent/compare.yaml")):
        with pytest.raises(ConfigError, match=r"compare.yaml: names Python code \(strangers_code:choose\)"):
            refused()
    assert ComparisonFolder.open("sent", trust=True).plan == plan
    swept = SweptKey(column="name", key="reward.name", values=(f"{FUNCTION}:pay", "delay"))
    assert functions_of(plan_of(["local"], ["small.yaml"]).model_copy(update={"sweep": (swept,)})) == (
        f"{FUNCTION}:pay",
    )


def test_a_policy_file_of_a_strangers_run_that_names_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    path = tmp_path / "policy.yaml"
    for content in (
        PPO | {"network": {"module": "strangers_code:Module"}},
        PPO | {"algorithm": {"name": "PPO", "implementation": "strangers_code:Config"}},
        PPO | {"training": {"callbacks": ["strangers_code:Callback"]}},
        PPO | {"training": {"metrics": {"mine": "strangers_code:metric"}}},
    ):
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(ConfigError, match=r"names Python code \(strangers_code:"):
            load_policy_config(path)
        refused = CliRunner().invoke(app, ["train", "manual_5", str(path)])
        assert "names Python code" in str(refused.exception)
        assert load_policy_config(path, trust=True)
