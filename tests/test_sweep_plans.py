"""What a sweep will try is known, and refused if it cannot be, before anything runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import small_environment
from helpers.policies import policy_config
from helpers.sweeps import plan_of

from offload_rllib.config import ConfigError, load_environment, presets
from offload_rllib.config.loading import load_sweep
from offload_rllib.config.sweep import Domain
from offload_rllib.sweep.plan import check_plan, option_of, plan_sweep, token_of
from offload_rllib.sweep.run import concurrent_trials
from offload_rllib.sweep.search import param_space, search_algorithm
from offload_rllib.sweep.trial import trial_resources
from offload_rllib.training.train import check


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"space": {}}, r"sweep.yaml: space: .*at least 1"),
        (
            {"space": {"policy.algorithm.lrr": [1]}},
            r"space.policy.algorithm.lrr: .*lrr: unknown key. Did you mean 'lr'\? Accepted: ",
        ),
        (
            {"space": {"environment.workload.load.rhoo": [1]}},
            r"load.rhoo: unknown key. Did you mean 'rho'\?",
        ),
        ({"space": {"polcy.algorithm.lr": [1]}}, r"polcy.algorithm.lr: must be 'environment.' or 'policy.'"),
        ({"space": {"policy.algorithm.lr": []}}, r"space.policy.algorithm.lr.choice: .*at least 1"),
        ({"space": {"policy.algorithm.lr": [1e-3, 1e-3]}}, r"lr: choice has a value twice"),
        ({"space": {"policy.algorithm.lr": {"uniform": [2, 1]}}}, r"uniform needs low < high"),
        ({"space": {"policy.algorithm.lr": {"unifrom": [1, 2]}}}, r"unifrom: unknown key. Did you mean 'uniform'\?"),
        ({"space": {"policy.algorithm.lr": {"log_uniform": [0, 1]}}}, r"log_uniform.0: .*greater than 0"),
        ({"space": {"policy.algorithm.lr": [1e-3, 0]}}, r"space.policy.algorithm.lr: .*greater than 0 .*0"),
        ({"space": {"policy.algorithm.epochs": {"uniform": [1, 4]}}}, r"epochs: .*integer"),
        ({"space": {"policy.training.seed": [1, 2]}}, r"policy.training.seed: a sweep sets it itself; use seeds"),
        (
            {"space": {"policy.algorithm.minibatch_steps": [161, 200]}},
            r"none of 64 combinations can be trained.*minibatch_steps \(161\)|minibatch_steps \(200\)",
        ),
        ({"fixed": {"policy.algorithm.gama": 1}}, r"algorithm.gama: unknown key. Did you mean 'gamma'\?"),
        (
            {"fixed": {"policy.algorithm.lr": 1e-3}},
            r"policy.algorithm.lr: either in fixed or in space",
        ),
        (
            {"metrics": ["score_men_s"]},
            r"metrics.0.name: 'score_men_s' is not a figure .* Did you mean 'score_mean_s'\?",
        ),
        ({"metrics": ["energy_per_task_j"]}, r"'energy_per_task_j' is not a figure of this environment"),
        ({"metrics": ["overload", "overload"]}, r"metrics: one is given twice"),
        ({"metrics": [{"name": "overload", "mode": "small"}]}, r"mode: .*'min' or 'max'"),
        ({"search": "grid"}, r"space.policy.algorithm.lr: search: grid needs a list of values"),
        ({"search": "tpe"}, r"search.kind: .*'random', 'grid' or 'optuna'.*tpe"),
        ({"scheduler": "pbt"}, r"scheduler.kind: .*'none', 'asha' or 'median'"),
        ({"budget": {"env_steps": 100, "report_env_steps": 200}}, r"report_env_steps \(200\) must not exceed"),
        ({"budget": {"trials": 0, "env_steps": 100}}, r"budget.trials: .*greater than or equal to 1"),
        ({"concurrent_trials": 50}, r"concurrent_trials: 50 do not fit on 2 CPUs"),
        ({"environment": "rings.yaml"}, r"rings.yaml: no such file"),
        ({"policy": "ppoo"}, r"'ppoo' is not a preset of policies/.*Did you mean 'ppo'\?"),
        ({"seed": 1}, r"seed: unknown key. Did you mean 'seeds'\?"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(sweep_files: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_plan(plan_of(sweep_files, **keys), 2)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_combinations_that_will_fail_are_announced(sweep_files: Path) -> None:
    plan = plan_of(
        sweep_files,
        space={"policy.algorithm.minibatch_steps": [64, 320], "policy.algorithm.batch_env_steps": [160, 320]},
        search="grid",
    )
    (note,) = check_plan(plan, 2)
    assert note.startswith("1 of 4 combinations cannot be trained, and will fail. The first: ")
    assert "minibatch_steps (320) must not exceed batch_env_steps (160)" in note


def test_presets_can_be_loaded_and_planned() -> None:
    names = presets("tune_configs")
    assert set(names) >= {"ppo", "a2c", "ddqn"}
    for name in names:
        plan = plan_sweep(load_sweep(name))
        assert plan.config.description
        check_plan(plan, 2)


def test_values_come_back_as_they_were_given() -> None:
    domain = Domain.model_validate([2, 0.5, True, "2", None, [1, 2], {"kind": "shared"}])
    assert domain.choice is not None
    for option in domain.choice:
        back = option_of(domain, token_of(option))
        assert back == option
        assert type(back) is type(option)


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_equal_seeds_try_equal_values(sweep_files: Path, search: str) -> None:
    space = {
        "policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]},
        "policy.algorithm.gamma": {"uniform": [0.9, 1.0]},
        "policy.algorithm.epochs": {"integer": [1, 3]},
        "policy.algorithm.minibatch_steps": {"log_integer": [16, 128]},
        "policy.network.hidden": [[8], [16, 16]],
    }

    def tried(seed: int) -> list[Any]:
        plan = plan_of(sweep_files, space=space, search={"kind": search, "seed": seed})
        if search == "random":
            state = np.random.RandomState(seed)
            return [{k: d.sample(random_state=state) for k, d in param_space(plan).items()} for _ in range(40)]
        searcher = search_algorithm(plan, 40)
        return [searcher.suggest(str(i)) for i in range(40)]  # pyright: ignore[reportAttributeAccessIssue]

    first = tried(3)
    assert first == tried(3)
    assert first != tried(4)
    assert {values["policy.algorithm.epochs"] for values in first} == {1, 2, 3}
    assert {values["policy.network.hidden"] for values in first} == {"[8]", "[16, 16]"}
    assert all(16 <= values["policy.algorithm.minibatch_steps"] <= 128 for values in first)
    assert all(1e-4 <= values["policy.algorithm.lr"] <= 1e-2 for values in first)


def test_trials_keep_within_the_machine(sweep_files: Path) -> None:
    alone = plan_of(sweep_files)
    assert concurrent_trials(alone, 2) == 2
    assert trial_resources(alone, {"policy.algorithm.lr": 1e-3}, 2).required_resources == {"CPU": 1}
    runners = plan_of(
        sweep_files, fixed={"policy.training.runners": 2, "policy.training.envs_per_runner": 4}, seeds=[0, 1]
    )
    needed = trial_resources(runners, {"policy.algorithm.lr": 1e-3}, 2)
    assert len(needed.bundles) == 5, "the trial, and two runners for each of two seeds"
    assert needed.required_resources["CPU"] == pytest.approx(2, abs=0.01)
    assert concurrent_trials(runners, 2) == 1
    shared = plan_of(sweep_files, fixed={"policy.training.runners": 1}, concurrent_trials=2)
    assert trial_resources(shared, {"policy.algorithm.lr": 1e-3}, 2).required_resources["CPU"] <= 1
    # A trial that cannot be is not the end of the sweep here, either.
    assert trial_resources(alone, {"policy.algorithm.lr": -1}, 2).required_resources == {"CPU": 1}


def test_trackers_are_imported_only_on_demand_and_refused_where_they_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = "import sys, offload_rllib.sweep.run; print({'wandb', 'mlflow'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=200)
    assert printed.stdout.strip() == "set()"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    tracked = policy_config(tracking=["mlflow"])
    with pytest.raises(
        ConfigError, match=r"training.tracking: mlflow is not installed: pip install 'offload-rllib\[mlf"
    ):
        check(load_environment(small_environment()), tracked)
    with pytest.raises(ConfigError, match=r"training.tracking.0: .*'wandb' or 'mlflow'"):
        policy_config(tracking=["aim"])
