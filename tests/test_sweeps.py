"""A sweep tries what it was told to, judges trials alike, survives bad ones, and leaves results that can be used."""

from __future__ import annotations

import csv
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
from helpers.environments import small_environment
from helpers.policies import policy_config
from helpers.sweeps import STEPS, plan_of
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.sweep.folder import SweepFolder
from offload_rllib.sweep.outcomes import (
    FAILED,
    FINISHED,
    STOPPED,
    TrialOutcome,
    best_of,
    pareto_front,
    ranked,
)
from offload_rllib.sweep.plan import SweepPlan, check_plan
from offload_rllib.sweep.plots import importances
from offload_rllib.sweep.report import write_sweep_report
from offload_rllib.sweep.run import NotedLogs, sweep
from offload_rllib.training.recovery import mend_trials, newest_state, recorded_trial
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import check


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
def grid(sweep_files: Path, ray_session: None) -> tuple[SweepFolder, list[TrialOutcome], str]:  # noqa: ARG001 - a fixture
    """A grid over environment and policy with two training seeds, in which one learning rate cannot work."""
    plan = plan_of(
        sweep_files,
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
    return run(plan, sweep_files / "sweeps" / "grid")


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
def test_tpe_with_two_metrics_ends_hopeless_trials_early_and_keeps_the_pareto_front(sweep_files: Path) -> None:
    for attempt in range(3):  # if no trial is worse than those that happened to report before it, none is hopeless
        plan = plan_of(
            sweep_files,
            space={
                "policy.algorithm.lr": {"log_uniform": [1e-4, 1e-2]},
                "policy.algorithm.epochs": {"integer": [1, 3]},
                "policy.network.hidden": [[8], [16, 16]],
                # Scores differ by far more than by what is learned in so few steps.
                "environment.workload.load.tasks_per_second_per_client": {"log_uniform": [0.1, 10]},
            },
            metrics=["score_mean_s", {"name": "offloaded_share", "mode": "min"}],
            search={"kind": "optuna", "startup_trials": 2, "seed": attempt},
            scheduler={"kind": "asha", "grace_env_steps": 160, "reduction_factor": 2},
            budget={"trials": 5, "env_steps": STEPS, "report_env_steps": 160},
        )
        folder, outcomes, _ = run(plan, sweep_files / "sweeps" / f"tpe_{attempt}")
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
def test_trackers_get_results_over_environment_steps(sweep_files: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    plan_of(
        sweep_files,
        fixed={"policy.training.tracking": ["wandb", "mlflow"]},
        budget={"trials": 1, "env_steps": STEPS, "report_env_steps": 160},
    )
    store = f"sqlite:///{tmp_path}/mlflow.db"
    # A Ray of its own: what sends to W&B reads its settings where Ray was started.
    subprocess.run(
        [sys.executable, "-m", "offload_rllib", "tune", str(sweep_files / "sweep.yaml"), "--name", "tracked"],
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
def test_a_stopped_sweep_goes_on_without_doubled_rows(
    sweep_files: Path, number: signal.Signals, tmp_path: Path
) -> None:
    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "offload_rllib", "tune", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    plan_of(sweep_files, budget={"trials": 3, "env_steps": 3200, "report_env_steps": 160})
    for name in ("ring.yaml", "quick.yaml", "sweep.yaml"):
        shutil.copy(sweep_files / name, tmp_path)
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
