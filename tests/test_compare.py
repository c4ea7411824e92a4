"""A comparison is planned before it runs, played in parallel with the same result, resumed, and reported whole."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from helpers.command_line import finish, start
from helpers.environments import small_environment
from helpers.policies import policy_config
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.compare import run as compare_run
from offload_rllib.compare.plan import (
    ComparisonPlan,
    check_plan,
    contenders_at,
    parse_sweep,
    places_of,
    plan_of,
)
from offload_rllib.compare.report import finish_comparison
from offload_rllib.compare.run import ComparisonFolder, run_comparison
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.interval_text import with_half_width
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.evaluation.results import Comparison, combined, load_comparison
from offload_rllib.evaluation.statistics import interquartile_mean
from offload_rllib.reporting.tables import transfer_table
from scripts.results.plan import STUDIES

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


def test_results_of_another_simulator_are_not_mixed(heuristics: tuple[Path, Comparison], tmp_path: Path) -> None:
    shutil.copytree(heuristics[0], tmp_path / "old")
    folder = ComparisonFolder.open(tmp_path / "old")
    folder.record(state="interrupted", simulator="0123456789abcdef")
    with pytest.raises(ConfigError, match=r"begun with another version of the simulator \(sources 0123456789abcdef"):
        run_comparison(folder, Console(quiet=True))
    mine = load_comparison(heuristics[0])
    other = replace(mine, record=mine.record | {"simulator": "0123456789abcdef"})
    with pytest.raises(ConfigError, match="the version of the simulator differ"):
        combined([mine, other])
    renamed = replace(mine, episodes=mine.episodes.assign(policy=mine.episodes["policy"] + " again"))
    assert len(combined([mine, renamed]).policies) == 2 * len(mine.policies)
    elsewhere = replace(renamed, episodes=renamed.episodes.assign(fingerprint="0123456789ab"))
    with pytest.raises(ConfigError, match="results of different versions of this environment"):
        combined([mine, elsewhere])


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_played(files: Path, tmp_path: Path) -> None:
    command = ["compare", *HEURISTICS, "--env", str(files / "ring.yaml"), "--sweep", "links.latency_s=0.01:0.09:0.02"]
    command += ["--episodes", "320", "--metric", "score_mean_s", "--workers", "1", "--name"]
    process = start(tmp_path, *command, "cut")
    cells = tmp_path / "comparisons" / "cut" / "cells"
    while len(list(cells.glob("*.json"))) < 1:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output = finish(process, 100)
    assert process.returncode == 130, output
    assert "offload-rllib compare --resume comparisons/cut" in output
    kept = {cell: cell.stat().st_mtime_ns for cell in cells.glob("*.json")}
    assert len(kept) < 15 * 10, "it was stopped before its end"
    finish(start(tmp_path, "compare", "--resume", "comparisons/cut"))
    finish(start(tmp_path, *command, "whole"))
    assert all(cell.stat().st_mtime_ns == when for cell, when in kept.items())
    for name in ("episodes.csv", "summary.csv", "differences.csv", "tables.md"):
        again = (tmp_path / "comparisons" / "cut" / name).read_bytes()
        assert again == (tmp_path / "comparisons" / "whole" / name).read_bytes()


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
    # In short, means, robust statistics and differences of each point; means and differences of each metric over all.
    tables = 4 * len(comparison.points) + 2 * 3
    assert len(re.findall(r"^% .*intervals", tex, re.MULTILINE)) >= tables
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") >= tables
    assert (folder / "tables.md").read_text().count("### ") == tables
    middle = interquartile_mean(comparison.matrix("local", "score_mean_s", ("ring", 0.05)))
    assert f"{with_half_width(middle)} |" in re.sub(" +", " ", (folder / "tables.md").read_text())


def test_tensorboard_shows_the_network_and_response_times(heuristics: tuple[Path, Comparison]) -> None:
    folder, comparison = heuristics
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    events.Reload()
    (picture,) = events.Images("evaluation/topology/ring")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    shown = events.Histograms("evaluation/response_time_s/ring/local")
    assert [one.step for one in shown] == list(range(len(comparison.points)))
    for one, point in zip(shown, comparison.points, strict=True):
        counts = comparison.responses[point, "local"]
        assert one.histogram_value.num == counts.sum() == comparison.matrix("local", "tasks_finished", point).sum()
        mean = one.histogram_value.sum / one.histogram_value.num
        finished = comparison.matrix("local", "tasks_finished", point)
        expected = (comparison.matrix("local", "response_mean_s", point) * finished).sum() / finished.sum()
        assert mean == pytest.approx(expected, rel=0.005), "bins are narrower than 1 %"


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


def test_several_runs_are_one_policy(trained: tuple[Path, Comparison], files: Path, tmp_path: Path) -> None:
    runs = trained[0] / "runs"
    environments = [str(files / "ring.yaml"), str(files / "busy.yaml")]
    folders = [runs / f"quick-ring-seed_{seed}" for seed in (0, 1)]
    # Of two batches, so that workers have something to share.
    grouped = plan_of(
        [f"mine={folders[0]},{folders[1]}", "local"], environments, episodes=34, metrics=("score_mean_s",)
    )
    check_plan(grouped)
    found = contenders_at(grouped, places_of(grouped)[0])
    assert [(one.name, one.training_seed) for one in found] == [
        *(("mine", 0), ("mine", 1), ("mine (sampled)", 0), ("mine (sampled)", 1)),
        ("local", None),
    ]
    assert {one.trained_on for one in found[:4]} == {"ring"}
    for workers in (1, 2):
        run(grouped, tmp_path / f"saved-{workers}", workers=workers)
    for name in ("episodes.csv", "summary.csv", "differences.csv", "tables.md"):
        assert (tmp_path / "saved-1" / name).read_bytes() == (tmp_path / "saved-2" / name).read_bytes()
    first, second = (compare_run.weights_of(one) for one in found[:2])
    assert first != second, "a cell of other weights is not used again"
    mixed = f"mine={folders[0]},{runs / 'quick-busy-seed_1'}"
    with pytest.raises(ConfigError, match=r"are not one policy with different training seeds: environment"):
        check_plan(plan_of([mixed], environments))
    with pytest.raises(ConfigError, match=r"takes \d+ observations"):
        check_plan(plan_of([str(folders[0])], ["ether_12"]))


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


def test_swept_keys_that_end_alike_have_columns_of_their_own(files: Path) -> None:
    sweep = ["workload.lifetime_s=1,2", "topology.lifetime_s=3"]
    plan = plan_of(["local"], [str(files / "ring.yaml")], sweep=[*sweep, "rho=0.5"])
    assert [swept.column for swept in plan.sweep] == ["workload.lifetime_s", "topology.lifetime_s", "rho"]


@pytest.mark.parametrize(
    ("policies", "keys", "message"),
    [
        (["locl"], {}, r"'locl' is neither a heuristic.*Did you mean 'local'"),
        (["local"], {"sweep": ["rho"]}, r"--sweep 'rho': must be KEY=LOW:HIGH:STEP"),
        (["local"], {"sweep": ["rho=1:0:0.1"]}, r"needs LOW <= HIGH"),
        (["local"], {"sweep": ["links.latency=1,2"]}, r"links.latency: unknown key. Did you mean 'latency_s'"),
        (["local"], {"sweep": ["links.latency_s=-1,2"]}, r"--sweep: ring with links.latency_s=-1: .*latency_s"),
        (["local"], {"sweep": ["horizon_s=9,x"]}, r"--sweep: ring with horizon_s=x: .*horizon_s: "),
        (["local"], {"sweep": ["rho=0.5", "workload.load.rho=0.8"]}, r"--sweep: workload.load.rho is given twice"),
        (["local"], {"metrics": ("score_mean",)}, r"--metric 'score_mean': is not a metric.*score_mean_s"),
        (["local"], {"metrics": ("energy_j",)}, r"--metric 'energy_j': is not reported"),
        (["local"], {"reference": "random"}, r"--reference 'random': no policy here"),
        (["local"], {"training_environments": ["ether_19"]}, r"--train-env: nothing is trained here: local need"),
        (["local"], {"policy_overrides": ["algorithm.lr=1"]}, r"--set-policy: nothing is trained here"),
        (["local"], {"train_at_every_point": True}, r"--train-at-every-point: nothing is trained here"),
        (["local", "runs/none"], {}, r"'runs/none' is neither"),
        (["mine=runs/none", "local"], {}, r"'mine=runs/none': runs/none is not a run folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    files: Path, policies: list[str], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_plan(plan_of(policies, [str(files / "ring.yaml")], **keys))


def test_a_policy_that_will_not_fit_is_refused_before_it_is_trained(files: Path, tmp_path: Path) -> None:
    policy, ring = str(files / "quick.yaml"), str(files / "ring.yaml")
    with pytest.raises(
        ConfigError, match=r"'quick', trained on ring, does not fit ether_12: this policy takes \d+ obs"
    ):
        check_plan(plan_of([policy], ["ether_12"], training_environments=[ring]))
    check_plan(plan_of([policy], [str(files / "busy.yaml")], training_environments=[ring]))
    pointer = yaml.safe_load((files / "quick.yaml").read_text())
    pointer["network"] = pointer["network"] | {"kind": "pointer"}
    (tmp_path / "pointer.yaml").write_text(yaml.safe_dump(pointer))
    clocked = load_environment("ether_12", ["decisions={when: interval}"]).model_dump(mode="json")
    (tmp_path / "clocked.yaml").write_text(yaml.safe_dump(clocked))
    elsewhere = str(tmp_path / "clocked.yaml")
    check_plan(plan_of([str(tmp_path / "pointer.yaml")], [elsewhere], training_environments=[ring]))
    with pytest.raises(
        ConfigError, match=r"'pointer', trained on ring, does not fit ether_12: this policy was trained with decisions"
    ):
        check_plan(plan_of([str(tmp_path / "pointer.yaml")], ["ether_12"], training_environments=[ring]))
    pointer["sharing"] = "per_node"
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump(pointer))
    with pytest.raises(ConfigError, match=r"'nodes', trained on ring, does not fit clocked"):
        check_plan(plan_of([str(tmp_path / "nodes.yaml")], [elsewhere], training_environments=[ring]))


def test_a_folder_is_never_overwritten_and_a_finished_one_not_resumed(heuristics: tuple[Path, Comparison]) -> None:
    folder = ComparisonFolder.open(heuristics[0])
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        ComparisonFolder.create(str(heuristics[0]), folder.plan, "")
    answer = CliRunner().invoke(app, ["compare", "--resume", str(heuristics[0])])
    assert "this comparison is finished; there is nothing to resume" in str(answer.exception)


def test_every_part_of_the_results_page_is_a_comparison_that_is_accepted() -> None:
    for study in STUDIES:
        check_plan(study.plan())


def test_a_sweep_of_the_load_over_a_recording_says_what_to_sweep_instead() -> None:
    with pytest.raises(ConfigError, match=r"--sweep workload.arrivals.speed=0.5,1,2"):
        check_plan(plan_of(["local"], ["replay_4"], sweep=["rho=0.3,0.6"]))
    plan = plan_of(["local"], ["replay_4"], sweep=["workload.arrivals.speed=0.5,2"], episodes=2)
    check_plan(plan)
    assert [place.values for place in places_of(plan)] == [{"speed": 0.5}, {"speed": 2}]


def test_folders_are_called_after_environments_and_policies(files: Path, trained: tuple[Path, Comparison]) -> None:
    ring, run = str(files / "ring.yaml"), str(trained[0] / "runs" / "quick-ring-seed_0")
    for policies, environments, name in (
        (["local", "size_interval:5"], [ring], "ring-local-size_interval_5"),
        ([f"mine={run}", run, "random", "local"], [ring, "ether_12"], "ring-ether_12-mine-quick-ring-seed_0-2_more"),
    ):
        assert compare_run.default_name(plan_of(policies, environments)) == name


def test_a_finished_comparison_is_drawn_again_without_playing(trained: tuple[Path, Comparison], tmp_path: Path) -> None:
    folder, out = trained[0], tmp_path / "again"
    curves = sorted(path.name for path in (folder / "figures").glob("training_*.png"))
    assert curves == ["training_busy.png", "training_ring.png"]
    assert "Scores while they were trained: ring" in (folder / "report.html").read_text()
    command = ["report", str(folder), "--out", str(out), "--metric", "score_p95_s", "--policy", "quick from ring"]
    result = CliRunner().invoke(app, [*command, "--reference", "local"])
    assert result.exit_code == 0, result.output
    names = {path.name for path in (out / "figures").iterdir()}
    assert {"score_p95_s.pdf", "profiles.svg", "training_ring.png"} < names
    assert not any(name.startswith("score_mean_s") for name in names)
    text = (out / "tables.md").read_text()
    assert "quick from ring (sampled)" in text
    assert "quick from busy" not in text
    assert not (out / "cells").exists()
    failed = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "not"), "--policy", "nobody"])
    assert failed.exit_code != 0
    assert not (tmp_path / "not").exists()
    for options, message in (
        (["--out", str(out)], "exists and is not overwritten"),
        (["--policy", "quick"], r"'quick': no policy of this comparison"),
        (["--metric", "nothing"], r"--metric 'nothing': is not a metric"),
        (["--reference", "nobody"], r"--reference 'nobody': no policy here"),
    ):
        failed = CliRunner().invoke(app, ["report", str(folder), *options])
        assert re.search(message, str(failed.exception)), failed.exception


def test_tables_on_a_narrow_terminal_are_split_and_cut_no_name(
    heuristics: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    from offload_rllib.commands import compare as verb

    narrow = Console(width=60, file=io.StringIO())
    monkeypatch.setattr(verb, "console", narrow)
    verb._print(heuristics[1], "shortest_finish")  # pyright: ignore[reportPrivateUsage]
    text = narrow.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "(1 of 2)" in text
    for policy in HEURISTICS:
        assert re.search(rf"│ {policy} +│ +\d", text), policy
    assert text.count("latency_s=") >= 6
