"""A sweep tries what it was told to, judges trials alike, survives bad ones, and leaves results that can be used."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.environments import small_environment
from helpers.policies import policy_config
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment, load_policy_config, presets
from offload_rllib.config.loading import load_sweep
from offload_rllib.config.sweep import Domain, Metric
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.sweep.folder import SweepFolder
from offload_rllib.sweep.leaderboard import trials_table
from offload_rllib.sweep.outcomes import (
    FAILED,
    FINISHED,
    STOPPED,
    WAITING,
    TrialOutcome,
    best_of,
    pareto_front,
    ranked,
)
from offload_rllib.sweep.plan import SweepPlan, check_plan, option_of, plan_sweep, token_of
from offload_rllib.sweep.plots import importances
from offload_rllib.sweep.report import write_sweep_report
from offload_rllib.sweep.run import NotedLogs, concurrent_trials, sweep
from offload_rllib.sweep.search import RestoredASHA, RestoredMedian, param_space, search_algorithm
from offload_rllib.sweep.study import write_study
from offload_rllib.sweep.trial import mean_of, trial_resources
from offload_rllib.training.recovery import mend_trials, newest_state, recorded_trial
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import check

STEPS = 640


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an environment and a policy that trains for a few iterations."""
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "ring.yaml").write_text(yaml.safe_dump(small_environment(description="a ring of four")))
    policy = policy_config().model_dump(mode="json", by_alias=True)
    (folder / "quick.yaml").write_text(yaml.safe_dump(policy))
    return folder


def plan_of(files: Path, **keys: Any) -> SweepPlan:
    """Return the plan of a small sweep, as if it were a file in `files`."""
    content: dict[str, Any] = {
        "environment": "ring.yaml",
        "policy": "quick.yaml",
        "space": {"policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]}},
        "budget": {"trials": 4, "env_steps": STEPS, "report_env_steps": 160},
        "validation": {"episodes": 2},
    }
    path = files / "sweep.yaml"
    path.write_text(yaml.safe_dump(content | keys))
    return plan_sweep(load_sweep(path))


def run(plan: SweepPlan, path: Path) -> tuple[SweepFolder, list[TrialOutcome], str]:
    """Run a sweep and write its report; return its folder, its trials, and what it printed."""
    folder = SweepFolder.create(str(path), plan, "")
    console = Console(file=io.StringIO(), width=200)
    finished, outcomes = sweep(folder, console)
    assert finished
    write_sweep_report(folder, plan, outcomes)
    return folder, outcomes, console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def rows_of(folder: SweepFolder) -> list[dict[str, str]]:
    with (folder.path / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def hparams_tab(path: Path) -> dict[str, dict[str, Any]]:
    """Return what TensorBoard's HParams tab would show: values and metrics with their step, by trial."""
    from tensorboard import context
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    events = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(path))
    events.Reload()
    provider = data_provider.MultiplexerDataProvider(events, str(path))
    backend = backend_context.Context(base_plugin.TBContext(logdir=str(path), data_provider=provider))
    # Made when imported, from a description of the format: pyright cannot see it.
    request = api_pb2.ListSessionGroupsRequest(  # pyright: ignore[reportAttributeAccessIssue]
        start_index=0, slice_size=100, allowed_statuses=[0, 1, 2, 3], include_metrics=True
    )
    here = context.RequestContext()
    known = backend.experiment_from_metadata(here, "", False, backend.hparams_metadata(here, ""), [])  # noqa: FBT003
    for info in known.hparam_infos:
        request.col_params.add(hparam=info.name)
    answer = list_session_groups.Handler(here, backend, "", request).run()
    return {
        group.name: {
            **{key: getattr(value, value.WhichOneof("kind")) for key, value in group.hparams.items()},
            **{
                metric.name.tag.rpartition("/")[2]: (metric.value, metric.training_step)
                for metric in group.metric_values
            },
        }
        for group in answer.session_groups
    }


@pytest.fixture(scope="module")
def grid(files: Path, ray_session: None) -> tuple[SweepFolder, list[TrialOutcome], str]:  # noqa: ARG001 - a fixture
    """A grid over environment and policy with two training seeds, in which one learning rate cannot work."""
    plan = plan_of(
        files,
        space={
            "policy.algorithm.lr": [1e-3, 1e29],
            "policy.algorithm.batch_env_steps": [160, 320],
            "environment.reward.scope": ["team"],
        },
        search="grid",
        seeds=[0, 5],
        fixed={"policy.algorithm.grad_clip": None, "policy.network.hidden": [8]},
    )
    assert check_plan(plan, 2) == []
    return run(plan, files / "sweeps" / "grid")


def test_sweeps_that_begin_together_do_not_share_what_is_staged(
    grid: tuple[SweepFolder, list[TrialOutcome], str],
) -> None:
    assert re.search(r"/artifacts/[-_\d]+-[\da-f]{8}/tune/", grid[0].entries()["logs"])


def test_one_bad_trial_does_not_end_a_sweep(grid: tuple[SweepFolder, list[TrialOutcome], str]) -> None:
    folder, outcomes, printed = grid
    assert sorted(outcome.state for outcome in outcomes) == [FAILED, FAILED, FINISHED, FINISHED]
    for row in rows_of(folder)[2:]:
        assert row["policy.algorithm.lr"] == "1e+29"
        assert re.search(r"not finite|nan", row["problem"]), row["problem"]
    assert printed.count("finished after 640 env steps: score_mean_s") == 2
    assert printed.count("failed after ") == 2


def test_trials_are_judged_by_the_mean_over_training_seeds_on_the_same_episodes(
    grid: tuple[SweepFolder, list[TrialOutcome], str],
) -> None:
    folder, _outcomes, _ = grid
    best = rows_of(folder)[0]
    by_seed = [float(best[f"score_mean_s_seed_{seed}"]) for seed in (0, 5)]
    assert by_seed[0] != by_seed[1]
    assert float(best["score_mean_s"]) == pytest.approx(np.mean(by_seed), rel=1e-12)
    environment = load_environment(folder.path / "best_environment.yaml")
    for seed, value in zip((0, 5), by_seed, strict=True):
        names = [str(folder.path / "best" / f"seed_{seed}")]
        played = evaluate(environment, make_contenders(names)[1:], episodes=2, seed=1)
        assert played.of(f"seed_{seed} (sampled)", "score_mean_s").mean() == pytest.approx(value, rel=1e-6)


def test_best_yaml_is_a_policy_that_train_takes(grid: tuple[SweepFolder, list[TrialOutcome], str]) -> None:
    folder, outcomes, _ = grid
    best = best_of(folder.plan.config.metrics, outcomes)
    assert best is not None
    policy = load_policy_config(folder.path / "best.yaml")
    assert policy.algorithm.lr == 1e-3
    assert policy.training.env_steps == STEPS
    assert policy == folder.plan.trial(best.values)[1]
    environment = load_environment(folder.path / "best_environment.yaml")
    assert environment.reward.scope == "team"
    check(environment, policy)
    text = (folder.path / "best.yaml").read_text()
    assert "# environment.reward.scope: team" in text
    assert "train it on best_environment.yaml" in text
    assert load_policy_config(folder.path / "tune" / best.name / "policy.yaml") == policy
    for name in ("parallel_coordinates.png", "parallel_coordinates.svg"):
        assert (folder.path / name).stat().st_size > 5000


def test_runs_of_different_batch_size_line_up_and_stand_in_the_hparams_tab(
    grid: tuple[SweepFolder, list[TrialOutcome], str],
) -> None:
    folder, outcomes, _ = grid
    steps = {}
    for outcome in outcomes:
        if outcome.state == FINISHED:
            events = EventAccumulator(str(folder.path / "tune" / outcome.name))
            events.Reload()
            scalars = events.Scalars("ray/tune/validation/score_mean_s")
            steps[outcome.values["policy.algorithm.batch_env_steps"]] = [scalar.step for scalar in scalars]
    assert steps == {160: [160, 320, 480, 640], 320: [320, 640]}
    shown = hparams_tab(folder.path)
    assert set(shown) >= {outcome.name for outcome in outcomes if outcome.state == FINISHED}
    best = best_of(folder.plan.config.metrics, outcomes)
    assert best is not None
    assert shown[best.name]["policy.algorithm.lr"] == 1e-3
    assert shown[best.name]["environment.reward.scope"] == "team"
    value, step = shown[best.name]["score_mean_s"]
    assert value == pytest.approx(best.figure("score_mean_s"), rel=1e-6)
    assert step == STEPS
    assert {"score_p95_s", "dropped_share", "offloaded_share", "overload"} < set(shown[best.name])


def test_a_sweep_is_never_overwritten(grid: tuple[SweepFolder, list[TrialOutcome], str]) -> None:
    folder, _, _ = grid
    with pytest.raises(ConfigError, match=r"grid: this sweep folder exists and is not overwritten.*--resume"):
        SweepFolder.create(str(folder.path), folder.plan, "")
    answer = CliRunner().invoke(app, ["tune", "--resume", str(folder.path)])
    assert "this sweep is finished; there is nothing to resume" in str(answer.exception)


def trials_of(experiment: Path) -> dict[str, Any]:
    """Return the trials of a sweep as Tune has recorded them, by name."""
    state = json.loads(newest_state(experiment).read_text())
    trials = [recorded_trial(record) for record in state["trial_data"]]
    return {trial.storage.trial_dir_name: trial for trial in trials}


def test_unfinished_trials_go_on_from_their_newest_whole_checkpoint(
    grid: tuple[SweepFolder, list[TrialOutcome], str], tmp_path: Path
) -> None:
    """A sweep that was killed: its record is older than its checkpoints, of which one was being removed."""
    experiment = tmp_path / "tune"
    shutil.copytree(grid[0].experiment, experiment)
    good, other = (path.parent for path in sorted(experiment.glob("trial_*/checkpoint_*")))
    (whole,) = good.glob("checkpoint_*")
    newest = whole.rename(good / "checkpoint_000007")
    half = good / "checkpoint_000006"
    shutil.copytree(newest, half)
    (half / "trial.json").unlink()
    (damaged,) = other.glob("checkpoint_*")
    (damaged / "seed_5" / "policy" / "policy.json").unlink()
    finished = sorted(set(trials_of(experiment)) - {good.name, other.name})

    mend_trials(experiment)
    assert half.is_dir(), "finished trials are left alone"
    path = newest_state(experiment)
    state = json.loads(path.read_text())
    for record in state["trial_data"]:
        trial = json.loads(record[0])
        if trial["trial_id"] in {one.trial_id for name, one in trials_of(experiment).items() if name not in finished}:
            trial["status"] = "RUNNING"
            record[0] = json.dumps(trial)
    path.write_text(json.dumps(state))

    mend_trials(experiment)
    trials = trials_of(experiment)
    result = trials[good.name].latest_checkpoint_result
    assert Path(result.checkpoint.path) == newest
    assert result.metrics["training_iteration"] == len((good / "result.json").read_text().splitlines())
    assert trials[good.name].storage.current_checkpoint_index == 7
    assert trials[other.name].latest_checkpoint_result is None
    assert sorted(good.glob("checkpoint_*")) == [newest]
    assert not list(other.glob("checkpoint_*"))


def test_rows_that_a_killed_process_had_written_but_not_copied_are_collected(
    grid: tuple[SweepFolder, list[TrialOutcome], str], tmp_path: Path
) -> None:
    assert Path(grid[0].entries()["logs"]).name == "driver_artifacts"
    shutil.copytree(grid[0].path, tmp_path / "grid")
    folder = SweepFolder.open(tmp_path / "grid")
    good, *_ = sorted(folder.experiment.glob("trial_*"))
    rows = (good / "result.json").read_text()
    staged = tmp_path / "staged" / good.name
    staged.mkdir(parents=True)
    (staged / "result.json").write_text(rows + "{}\n")
    (staged.parent / "trial_of_no_sweep").mkdir()
    folder.record(logs=str(staged.parent))
    NotedLogs(folder).collect()
    assert (good / "result.json").read_text() == rows + "{}\n"
    assert not (folder.experiment / "trial_of_no_sweep").exists()


@pytest.mark.usefixtures("ray_session")
def test_tpe_with_two_metrics_ends_hopeless_trials_early_and_keeps_the_pareto_front(files: Path) -> None:
    plan = plan_of(
        files,
        space={
            "policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]},
            "policy.algorithm.epochs": {"integer": [1, 3]},
            "policy.network.hidden": [[8], [16, 16]],
        },
        metrics=["score_mean_s", {"name": "offloaded_share", "mode": "min"}],
        search={"kind": "optuna", "startup_trials": 2},
        scheduler={"kind": "asha", "grace_env_steps": 160, "reduction_factor": 2},
        budget={"trials": 5, "env_steps": STEPS, "report_env_steps": 160},
    )
    for attempt in range(3):  # if each trial is better than those that happened to report before it, none is hopeless
        folder, outcomes, _ = run(plan, files / "sweeps" / f"tpe_{attempt}")
        assert len(outcomes) == 5
        stopped = [outcome for outcome in outcomes if outcome.state == STOPPED]
        if stopped:
            break
    else:
        pytest.fail("no trial was ended early")
    assert all(160 <= outcome.env_steps < STEPS for outcome in stopped)
    front = pareto_front(plan.config.metrics, outcomes)
    assert [row["trial"] for row in rows_of(folder) if row["pareto"] == "1"] == [
        outcome.name for outcome in ranked(plan.config.metrics, front)
    ]
    hidden = load_policy_config(folder.path / "best.yaml").network.hidden
    assert hidden in ((8,), (16, 16))
    assert set(importances(plan, outcomes)) == set(plan.config.space)
    assert (folder.path / "importance.svg").is_file()


# What needs no Ray


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
def test_what_cannot_be_is_refused_before_anything_runs(files: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_plan(plan_of(files, **keys), 2)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_combinations_that_will_fail_are_announced(files: Path) -> None:
    plan = plan_of(
        files,
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
def test_equal_seeds_try_equal_values(files: Path, search: str) -> None:
    space = {
        "policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]},
        "policy.algorithm.gamma": {"uniform": [0.9, 1.0]},
        "policy.algorithm.epochs": {"integer": [1, 3]},
        "policy.algorithm.minibatch_steps": {"log_integer": [16, 128]},
        "policy.network.hidden": [[8], [16, 16]],
    }

    def tried(seed: int) -> list[Any]:
        plan = plan_of(files, space=space, search={"kind": search, "seed": seed})
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


def test_trials_keep_within_the_machine(files: Path) -> None:
    alone = plan_of(files)
    assert concurrent_trials(alone, 2) == 2
    assert trial_resources(alone, {"policy.algorithm.lr": 1e-3}, 2).required_resources == {"CPU": 1}
    runners = plan_of(files, fixed={"policy.training.runners": 2, "policy.training.envs_per_runner": 4}, seeds=[0, 1])
    needed = trial_resources(runners, {"policy.algorithm.lr": 1e-3}, 2)
    assert len(needed.bundles) == 5, "the trial, and two runners for each of two seeds"
    assert needed.required_resources["CPU"] == pytest.approx(2, abs=0.01)
    assert concurrent_trials(runners, 2) == 1
    shared = plan_of(files, fixed={"policy.training.runners": 1}, concurrent_trials=2)
    assert trial_resources(shared, {"policy.algorithm.lr": 1e-3}, 2).required_resources["CPU"] <= 1
    # A trial that cannot be is not the end of the sweep here, either.
    assert trial_resources(alone, {"policy.algorithm.lr": -1}, 2).required_resources == {"CPU": 1}


def outcome(name: str, state: str, env_steps: int, **figures: float) -> TrialOutcome:
    return TrialOutcome(name, {}, state, env_steps, figures)


def test_the_leaderboard_compares_trials_that_had_the_whole_budget() -> None:
    metrics = (Metric(name="a"), Metric(name="b", mode="max"))
    trials = [
        outcome("lucky", STOPPED, 10, a=0.5, b=9),
        outcome("good", FINISHED, 100, a=1, b=1),
        outcome("other", FINISHED, 100, a=2, b=2),
        outcome("worse", FINISHED, 100, a=1.5, b=0.5),
        outcome("broken", FAILED, 50, a=0, b=10),
        outcome("none", STOPPED, 0),
    ]
    assert [o.name for o in ranked(metrics, trials)] == ["good", "other", "worse", "lucky", "none", "broken"]
    assert {o.name for o in pareto_front(metrics, trials)} == {"good", "other"}
    best = best_of(metrics, trials)
    assert best is not None
    assert best.name == "good"
    assert best_of(metrics, trials[4:]) is None
    assert best_of(metrics[:1], trials[:1] + trials[4:]) is trials[0]
    assert best_of(metrics[1:], trials) is trials[2]


@pytest.mark.parametrize("names", [["score_mean_s"], ["score_mean_s", "offloaded_share"]])
def test_a_sweep_leaves_a_study_that_optuna_opens(files: Path, names: list[str], tmp_path: Path) -> None:
    import optuna

    metrics = [{"name": name, "mode": "min" if i == 0 else "max"} for i, name in enumerate(names)]
    space = {"policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]}, "policy.network.hidden": {"choice": [[8], [8, 8]]}}
    plan = plan_of(files, space=space, metrics=metrics)
    values = {"policy.algorithm.lr": 1e-3, "policy.network.hidden": [8, 8]}
    figures = {"score_mean_s": 2.0, "offloaded_share": 0.5, "response_mean_s": 1.5}
    trials = [
        TrialOutcome("trial_0000", values, FINISHED, STEPS, figures),
        TrialOutcome("trial_0001", values | {"policy.algorithm.lr": 2e-3}, STOPPED, 160, figures),
        TrialOutcome("trial_0002", values, FAILED),
        TrialOutcome("trial_0003", values, WAITING),
    ]
    write_study(tmp_path / "a study.db", plan, trials[:1], "mine")
    path = write_study(tmp_path / "a study.db", plan, trials, "mine")  # that of a sweep that was resumed
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{path}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"][: len(names)]
    assert study.metric_names == names
    first, stopped, _ = study.trials
    assert first.values == [figures[name] for name in names]
    assert first.params == {"policy.algorithm.lr": 1e-3, "policy.network.hidden": token_of([8, 8])}
    assert first.user_attrs["response_mean_s"] == 1.5
    assert first.user_attrs["trial"] == "trial_0000"
    assert stopped.intermediate_values == ({160: 2.0} if len(names) == 1 else {})
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


class EarlierTrial:
    """A trial of Tune's that had reported before an interruption."""

    has_reported_at_least_once = True

    def __init__(self, folder: Path, scores: list[float]) -> None:
        self.trial_id = folder.name
        self.storage = type("Storage", (), {"trial_fs_path": str(folder)})
        folder.mkdir()
        rows = [{"timesteps_total": 100 * i, "validation": {"a": score}} for i, score in enumerate(scores, 1)]
        (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_schedulers_remember_trials_from_before_an_interruption(tmp_path: Path, kind: str) -> None:
    judged: dict[str, Any] = {"time_attr": "timesteps_total", "metric": "validation/a", "mode": "min"}
    if kind == "asha":
        scheduler: Any = RestoredASHA(max_t=900, grace_period=100, reduction_factor=3, **judged)
    else:
        scheduler = RestoredMedian(grace_period=100, min_samples_required=3, **judged)
    for i in range(3):
        scheduler.on_trial_add(None, EarlierTrial(tmp_path / f"trial_{i}", [1.0, 1.0]))
    new = EarlierTrial(tmp_path / "new", [])
    scheduler.on_trial_add(None, new)
    assert scheduler.on_trial_result(None, new, {"timesteps_total": 100, "validation/a": 5.0}) == "STOP"


def test_results_are_merged_leaf_by_leaf() -> None:
    merged = mean_of(
        [
            {"a": 1, "b": {"c": float("nan")}, "d": "text", "steps_lifetime": 9},
            {"a": 2, "b": {"c": 4.0}, "e": np.float32(3)},
        ]
    )
    assert merged == {"a": 1.5, "b": {"c": 4.0}, "e": 3.0}


def test_a_narrow_terminal_shows_values_whole(files: Path) -> None:
    space = {"policy.algorithm.lr": [0.0006466], "policy.algorithm.minibatch_steps": [64, 128]}
    values = {"policy.algorithm.lr": 0.0006466, "policy.algorithm.minibatch_steps": 128}
    trial = TrialOutcome("trial_0001", values, FINISHED, STEPS, {"score_mean_s": 43.98})
    console = Console(file=io.StringIO(), width=66)
    console.print(trials_table(plan_of(files, space=space), [trial], "one trial"))
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    for text in ("0001", "0.0006466", "128", "43.98", "640", "finished"):
        assert f" {text} " in shown, shown


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


@pytest.mark.usefixtures("ray_session")
def test_a_restored_run_goes_on_with_its_own_hyperparameters(tmp_path: Path) -> None:
    def build(lr: float, entropy_coeff: float) -> Any:
        content = policy_config().model_dump(mode="json", by_alias=True)
        content["algorithm"] |= {"lr": lr, "entropy_coeff": entropy_coeff}
        config = algorithm_config(load_environment(small_environment()), load_policy_config(content), cpus=2)
        return config.build_algo()

    donor = build(1e-3, 0.01)
    donor.train()
    donor.save_checkpoint(str(tmp_path))
    donor.stop()
    other = build(1e-5, 0.5)
    other.load_checkpoint(str(tmp_path))
    used: list[float] = []
    for _, optimizer in other.learner_group._learner.get_optimizers_for_module("shared"):
        optimizer.register_step_pre_hook(lambda adam, *_: used.append(adam.param_groups[0]["lr"]))
    first = other.train()
    other.stop()
    assert set(used) == {1e-5}
    assert first["learners"]["shared"]["curr_entropy_coeff"] == 0.5


@pytest.mark.slow
def test_trackers_get_results_over_environment_steps(files: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    plan_of(
        files,
        fixed={"policy.training.tracking": ["wandb", "mlflow"]},
        budget={"trials": 1, "env_steps": STEPS, "report_env_steps": 160},
    )
    store = f"sqlite:///{tmp_path}/mlflow.db"
    # A Ray of its own: what sends to W&B reads its settings where Ray was started.
    subprocess.run(
        [sys.executable, "-m", "offload_rllib", "tune", str(files / "sweep.yaml"), "--name", "tracked"],
        cwd=tmp_path,
        env=os.environ | {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": store},
        check=True,
        timeout=400,
    )
    assert list(tmp_path.glob("sweeps/tracked/tune/trial_*/wandb/offline-run-*/*.wandb"))
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("offload-rllib/tracked")
    (tracked,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(tracked.info.run_id, "validation/score_mean_s")
    assert [point.step for point in history] == [160, 320, 480, 640]
    assert 1e-4 <= float(tracked.data.params["policy.algorithm.lr"]) <= 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl_c", "killed"])
def test_a_stopped_sweep_goes_on_without_doubled_rows(files: Path, number: signal.Signals, tmp_path: Path) -> None:
    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "offload_rllib", "tune", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    plan_of(files, budget={"trials": 3, "env_steps": 3200, "report_env_steps": 160})
    for name in ("ring.yaml", "quick.yaml", "sweep.yaml"):
        shutil.copy(files / name, tmp_path)
    process = start("sweep.yaml", "--name", "cut")
    trials = tmp_path / "sweeps" / "cut" / "tune"

    def steps() -> dict[str, list[int]]:
        return {
            path.parent.name: [json.loads(row)["timesteps_total"] for row in path.read_text().splitlines()]
            for path in sorted(trials.glob("trial_*/result.json"))
        }

    deadline = time.monotonic() + 300
    while sum(map(len, steps().values())) < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # what a terminal does
    else:
        process.kill()
    output = process.communicate(timeout=120)[0]
    if number == signal.SIGINT:
        assert process.returncode == 130, output
        assert "offload-rllib tune --resume sweeps/cut" in output
    process = start("--resume", "sweeps/cut")
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    assert list(steps().values()) == [list(range(160, 3201, 160))] * 3
    with (trials.parent / "leaderboard.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)] == [FINISHED] * 3
