"""A comparison is planned before it runs, played in parallel with the same result, resumed, and reported whole."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import small_environment
from rich.console import Console
from test_ppo import policy_config
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.experiment.compare import ComparisonFolder, run_comparison
from offload_rllib.experiment.compare_plan import ComparisonPlan, check_plan, parse_sweep, plan_of
from offload_rllib.experiment.compare_report import finish_comparison
from offload_rllib.experiment.comparison import Comparison, load_comparison
from offload_rllib.experiment.contenders import make_contenders
from offload_rllib.experiment.evaluation import evaluate
from offload_rllib.experiment.tables import transfer_table

HEURISTICS = ["shortest_finish", "random", "local"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two environments and a policy that trains for a moment."""
    folder = tmp_path_factory.mktemp("compare")
    for name, rate in (("ring", 1.2), ("busy", 2.0)):
        environment = small_environment(description=name)
        environment["workload"] = environment["workload"] | {"load": {"tasks_per_second_per_client": rate}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(environment))
    policy = policy_config(env_steps=320).model_dump(mode="json", by_alias=True)
    (folder / "quick.yaml").write_text(yaml.safe_dump(policy))
    return folder


def swept(files: Path, **keys: Any) -> ComparisonPlan:
    """Return a plan of heuristics over three delays."""
    sweep = ["links.latency_s=0.01:0.09:0.04"]
    metrics = ("score_mean_s", "score_p95_s", "dropped_share")
    return plan_of(HEURISTICS, [str(files / "ring.yaml")], sweep=sweep, episodes=4, metrics=metrics, **keys)


def run(plan: ComparisonPlan, path: Path, **how: Any) -> Comparison:
    """Make a comparison's folder and fill it."""
    check_plan(plan)
    folder = ComparisonFolder.create(str(path), plan, "offload-rllib compare ...")
    comparison = run_comparison(folder, Console(quiet=True), **how)
    assert comparison is not None
    finish_comparison(folder, comparison, plan)
    return comparison


@pytest.fixture(scope="module")
def heuristics(files: Path, ray_session: None) -> tuple[Path, Comparison]:  # noqa: ARG001 - a fixture
    """A comparison of heuristics that one worker played."""
    return files / "one", run(swept(files, task_log=True), files / "one", workers=1)


@pytest.mark.usefixtures("ray_session")
def test_any_number_of_workers_gives_the_same_tables(files: Path, heuristics: tuple[Path, Comparison]) -> None:
    run(swept(files, task_log=True), files / "two", workers=2)
    for name in ("episodes.csv", "summary.csv", "differences.csv", "profiles.csv", "tables.md", "tables.tex"):
        assert (files / "two" / name).read_bytes() == (heuristics[0] / name).read_bytes()
    assert pq.read_table(files / "two" / "tasks.parquet").equals(pq.read_table(heuristics[0] / "tasks.parquet"))


def test_the_episodes_are_those_of_evaluate(files: Path, heuristics: tuple[Path, Comparison]) -> None:
    folder, comparison = heuristics
    config = load_environment(files / "ring.yaml", ["links.latency_s=0.05"])
    alone = evaluate(config, make_contenders(HEURISTICS), episodes=4)
    for policy in HEURISTICS:
        assert (comparison.matrix(policy, "score_mean_s", ("ring", 0.05)) == alone.of(policy, "score_mean_s")).all()
    assert load_comparison(folder).summary().equals(comparison.summary())


@pytest.mark.usefixtures("ray_session")
def test_what_was_played_is_not_played_again(heuristics: tuple[Path, Comparison], tmp_path: Path) -> None:
    path = tmp_path / "cut"
    shutil.copytree(heuristics[0], path)
    cells = sorted((path / "cells").glob("*.json"))
    for cell in cells[1::2]:
        cell.unlink()
    kept = {cell: cell.stat().st_mtime_ns for cell in cells[::2]}
    folder = ComparisonFolder.open(path)
    folder.record(state="interrupted")
    again = run_comparison(folder, Console(quiet=True))
    assert again is not None
    assert again.episodes.equals(heuristics[1].episodes)
    assert all(cell.stat().st_mtime_ns == when for cell, when in kept.items())

    other = json.loads(cells[0].read_text()) | {"policy": "another"}
    cells[0].write_text(json.dumps(other))
    with pytest.raises(ConfigError, match=r"00000.json: holds the results of something else"):
        run_comparison(folder, Console(quiet=True))
    content = yaml.safe_load((path / "compare.yaml").read_text())
    content["environments"]["ring"]["links"]["rate_bps"] = 2e6
    (path / "compare.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"had [0-9a-f]{12} when the comparison was begun"):
        run_comparison(folder, Console(quiet=True))


def test_the_report_holds_everything_and_needs_nothing(heuristics: tuple[Path, Comparison]) -> None:
    folder, comparison = heuristics
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((folder / "figures").glob("*.png")))
    assert not re.search(r"(src|href)='?\"?https?:", page)
    assert "offload-rllib compare ..." in page
    assert "latency_s=0.05" in page
    assert "numba" in page
    for kind in ("png", "svg", "pdf"):
        assert (folder / "figures" / f"score_mean_s.{kind}").stat().st_size > 1000
    tex = (folder / "tables.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") == 2 * len(comparison.points)


def test_the_task_log_agrees_with_the_figures(heuristics: tuple[Path, Comparison]) -> None:
    folder, comparison = heuristics
    tasks = pq.read_table(folder / "tasks.parquet").to_pandas()
    counted = tasks[tasks["counts"]].groupby(["latency_s", "policy", "episode"]).size()
    created = comparison.episodes.set_index(["latency_s", "policy", "episode"])["tasks_created"]
    assert (counted.sort_index() == created.sort_index()).all()
    finished = tasks[tasks["counts"] & (tasks["outcome"] == "finished")]
    means = finished.groupby(["latency_s", "policy", "episode"])["response_s"].mean()
    expected = comparison.episodes.set_index(["latency_s", "policy", "episode"])["response_mean_s"]
    assert means.sort_index().to_numpy() == pytest.approx(expected.sort_index().to_numpy(), rel=1e-9)


@pytest.fixture(scope="module")
def trained(files: Path, ray_session: None) -> tuple[Path, Comparison]:  # noqa: ARG001 - a fixture
    """A comparison in each of two environments of a policy that was trained in both, with two seeds."""
    environments = [str(files / "ring.yaml"), str(files / "busy.yaml")]
    plan = plan_of(
        [str(files / "quick.yaml"), "local"],
        environments,
        training_environments=["here"],
        training_seeds=2,
        episodes=2,
        reference="local",
        metrics=("score_mean_s",),
    )
    return files / "trained", run(plan, files / "trained")


def test_policies_are_trained_with_every_seed_and_compared_with_training_there(
    trained: tuple[Path, Comparison],
) -> None:
    folder, comparison = trained
    names = {f"quick from {place}{how}" for place in ("ring", "busy") for how in ("", " (sampled)")}
    assert set(comparison.policies) == names | {"local"}
    assert comparison.matrix("quick from ring", "score_mean_s", ("busy",)).shape == (2, 2)
    table = transfer_table(comparison)
    assert len(table) == 8
    at_home = table[table["trained_on"] == table["environment"]]
    assert list(at_home["difference"]) == [0.0] * 4
    assert list(at_home["mean"]) == pytest.approx(list(at_home["there"]), rel=1e-12)
    runs = sorted(path.name for path in (folder / "runs").iterdir())
    assert runs == [f"quick-{place}-seed_{seed}" for place in ("busy", "ring") for seed in (0, 1)]
    assert "Trained elsewhere" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("rho=0.3:1.2:0.1", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)),
        ("workload.load.rho=0.5,0.8", (0.5, 0.8)),
        ("reward.scope=own,team", ("own", "team")),
        ("rho=1:2:0.4", (1.0, 1.4, 1.8)),
    ],
)
def test_sweeps_name_a_key_and_its_values(text: str, values: tuple[Any, ...]) -> None:
    assert parse_sweep(text).values == values
    assert parse_sweep(text).key in {"workload.load.rho", "reward.scope"}


@pytest.mark.parametrize(
    ("policies", "keys", "message"),
    [
        (["locl"], {}, r"'locl' is neither a heuristic.*Did you mean 'local'"),
        (["local"], {"sweep": ["rho"]}, r"--sweep 'rho': must be KEY=LOW:HIGH:STEP"),
        (["local"], {"sweep": ["rho=1:0:0.1"]}, r"needs LOW <= HIGH"),
        (["local"], {"sweep": ["links.latency=1,2"]}, r"links.latency: unknown key. Did you mean 'latency_s'"),
        (["local"], {"sweep": ["links.latency_s=-1,2"]}, r"latency_s"),
        (["local"], {"metrics": ("score_mean",)}, r"--metric 'score_mean': is no metric.*score_mean_s"),
        (["local"], {"metrics": ("energy_j",)}, r"--metric 'energy_j': is not reported"),
        (["local"], {"reference": "random"}, r"--reference 'random': no policy here"),
        (["local", "runs/none"], {}, r"'runs/none' is neither"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    files: Path, policies: list[str], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_plan(plan_of(policies, [str(files / "ring.yaml")], **keys))


def test_a_policy_that_does_not_fit_is_refused(trained: tuple[Path, Comparison], tmp_path: Path) -> None:
    run = trained[0] / "runs" / "quick-ring-seed_0"
    with pytest.raises(ConfigError, match=r"takes \d+ observations"):
        check_plan(plan_of([str(run)], ["ether_12"]))
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten_and_a_finished_one_not_resumed(heuristics: tuple[Path, Comparison]) -> None:
    folder = ComparisonFolder.open(heuristics[0])
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        ComparisonFolder.create(str(heuristics[0]), folder.plan, "")
    answer = CliRunner().invoke(app, ["compare", "--resume", str(heuristics[0])])
    assert "this comparison is finished; there is nothing to resume" in str(answer.exception)
