"""Comparisons are paired, their intervals are honest, and the numbers can be had again."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.environments import make_env, small_environment
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.metrics import metric_of
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.evaluation.statistics import paired_difference
from offload_rllib.reporting.report import tables, write_report
from offload_rllib.simulator.heuristics import BASELINES
from offload_rllib.simulator.metrics import BIN_MIDDLES, jain
from offload_rllib.simulator.tasks import histogram_bin
from offload_rllib.simulator.types import QUEUE_FULL


def test_policies_play_the_same_episodes_whatever_the_batch() -> None:
    config = load_environment(small_environment())
    many = evaluate(config, make_contenders(["local", "random"]), episodes=40)
    few = evaluate(config, make_contenders(["random"]), episodes=5)
    created = [many.of(name, "tasks_created") for name in ("local", "random")]
    assert (created[0] == created[1]).all()
    assert len(set(created[0].tolist())) > 5
    figures = list(many.metrics)
    first = (many.episodes["policy"] == "random") & (many.episodes["episode"] < 5)
    np.testing.assert_array_equal(many.episodes[figures].to_numpy()[first], few.episodes[figures].to_numpy())
    again = evaluate(config, make_contenders(["random"]), episodes=5)
    pd.testing.assert_frame_equal(few.episodes, again.episodes)
    other = evaluate(config, make_contenders(["random"]), episodes=5, seed=1)
    assert not few.episodes[figures].equals(other.episodes[figures])


@pytest.mark.parametrize("expiry", ["abort", "never"])
def test_figures_agree_with_the_task_log(expiry: str) -> None:
    environment = small_environment(warmup_s=5, drain_s=12, deadlines={"expiry": expiry})
    environment["workload"]["deadline_s"] = {"uniform": [2, 12]}
    environment["score"] = {"drop_s": None if expiry == "abort" else 50}
    env = make_env(environment, log=True)
    while not env.step(env.heuristic_actions("least_queue")):
        pass
    figures, log = env.episode_metrics(0), env.task_log(0)
    counted = log[(log["created_s"] >= 5) & (log["created_s"] < 28)]
    age = counted["ended_s"] - counted["created_s"]
    finished = counted["outcome"] == 1
    price = counted["deadline_s"] - counted["created_s"] if expiry == "abort" else np.full(len(counted), 50.0)
    score = np.where(finished, age, np.maximum(age, price))
    late = finished & (counted["ended_s"] > counted["deadline_s"])
    assert (late.sum() > 5) == (expiry == "never")
    assert figures["late_share"] == pytest.approx(late.mean())
    assert figures["missed_share"] == pytest.approx((late | ~finished).mean())
    assert figures["tasks_created"] == len(counted)
    assert figures["score_mean_s"] == pytest.approx(score.mean())
    assert figures["response_mean_s"] == pytest.approx(age[finished].mean())
    assert figures["dropped_share"] == pytest.approx((counted["outcome"] > 1).mean())
    assert figures["offloaded_share"] == pytest.approx((counted["hops"] > 0).mean())
    for name, share in (("score_p50_s", 0.5), ("score_p95_s", 0.95)):
        ordered = np.sort(score)
        assert figures[name] == pytest.approx(ordered[int(np.ceil(share * len(ordered))) - 1], rel=0.005)


def test_overload_and_occupancy_are_integrals_of_the_tasks_at_each_node() -> None:
    environment = small_environment(deadlines={"expiry": "never"}, score={"drop_s": 50})
    environment["workload"]["jobs"]["types"][1].pop("bits_out")
    env = make_env(environment, log=True)
    while not env.step(np.zeros((1, 4), np.int64)):  # everything stays where it is made
        pass
    log, full, tasks = env.task_log(0), [], []
    for node, described in enumerate(environment["topology"]["nodes"]):
        here = log[(log["origin"] == node) & (log["outcome"] != QUEUE_FULL)]
        changes = np.concatenate([here["created_s"], here["ended_s"]])
        order = np.argsort(changes, kind="stable")
        inside = np.cumsum(np.repeat([1, -1], len(here))[order])
        lasts = np.diff(np.append(changes[order], 40.0))
        tasks.append(inside @ lasts)
        if "queue_capacity" in described:
            full.append(lasts[inside == described["queue_capacity"]].sum())
    assert min(full[0], full[2]) > 1
    figures = env.episode_metrics(0)
    assert figures["overload"] == pytest.approx(np.mean(full) / 40)
    assert figures["occupancy_tasks"] == pytest.approx(np.mean(tasks) / 40)


def test_fairness_is_jains_index_of_the_means() -> None:
    assert jain(np.array([3.0, 8.0, 1.0]), np.array([3, 8, 1])) == pytest.approx(1)
    assert jain(np.array([6.0, 0.0, 0.0, 0.0]), np.array([2, 5, 5, 5])) == pytest.approx(1 / 4)
    # Means of 1 and 3; the last node counts no task.
    assert jain(np.array([2.0, 3.0, 0.0]), np.array([2, 1, 0])) == pytest.approx(16 / (2 * 10))
    assert np.isnan(jain(np.zeros(2), np.zeros(2)))


def test_histogram_bins_are_narrower_than_a_percent() -> None:
    times = np.exp(np.random.default_rng(0).uniform(np.log(1e-5), np.log(1e7), 5000))
    middles = np.array([BIN_MIDDLES[histogram_bin(time)] for time in times])
    assert np.abs(middles / times - 1).max() < 0.004


def test_a_report_holds_every_episode_and_every_difference(tmp_path: Path) -> None:
    evaluation = evaluate(load_environment(small_environment()), make_contenders(BASELINES), episodes=6)
    paths = write_report(evaluation, "local", tmp_path / "report", "title")
    with paths["episodes"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(BASELINES) * 6
    assert {row["fingerprint"] for row in rows} == {evaluation.environment}
    first = next(row for row in rows if row["policy"] == "random" and row["episode"] == "3")
    assert float(first["score_mean_s"]) == evaluation.of("random", "score_mean_s")[3]
    with paths["summary"].open() as file:
        summary = {(row["policy"], row["metric"]): row for row in csv.DictReader(file)}
    expected = paired_difference(evaluation.of("random", "score_mean_s"), evaluation.of("local", "score_mean_s"))
    assert float(summary["random", "score_mean_s"]["difference_low"]) == pytest.approx(expected.low)
    assert set(evaluation.timings["policy"]) == set(BASELINES)
    assert (evaluation.timings[["decision_wall_us", "decision_cpu_us"]].to_numpy() > 0).all()
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(p.name for p in paths.values())
    assert len(tables(evaluation, "local")) == 2


def test_a_table_is_printed_for_every_type_of_task_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = small_environment()
    environment["workload"]["jobs"]["types"][1]["name"] = "urgent"
    Path("small.yaml").write_text(yaml.safe_dump(environment))
    command = ["evaluate", "small.yaml", "local", "least_queue", "--episodes", "2", "--out"]
    with_types = CliRunner().invoke(app, [*command, "a", "--by-type"]).output
    assert "tasks of type type_0" in with_types
    assert "tasks of type urgent" in with_types
    assert "of type" not in CliRunner().invoke(app, [*command, "b"]).output
    with Path("a/summary.csv").open() as file:
        summary = {(row["policy"], row["metric"]): row for row in csv.DictReader(file)}
    shown = float(summary["local", "missed_share_of_urgent"]["mean"])
    (line,) = [line for line in with_types.split("tasks of type urgent")[1].splitlines() if "local" in line]
    assert f"{100 * shown:.1f} ±" in line
    assert metric_of("missed_share_of_urgent").label == "deadlines missed, urgent, %"


def test_too_few_episodes_or_equal_names_are_refused() -> None:
    config = load_environment(small_environment())
    with pytest.raises(ConfigError, match="at least 2"):
        evaluate(config, make_contenders(["local"]), episodes=1)
    contenders = make_contenders(["local"]) * 2
    with pytest.raises(ConfigError, match="different names; given: local, local"):
        evaluate(config, contenders, episodes=2)


def test_heuristics_do_what_their_names_say() -> None:
    env = make_env("ether_12", 4)
    server = [node.name for node in env.scenario.network.nodes].index("server_0")
    links = env.scenario.arrays.link
    for _ in range(300):
        for e, a in enumerate(env.deciding):
            action = env.heuristic_actions("always_server")[e]
            if env.agents[a] == "server_0":
                assert action == 0
            else:
                assert links[env.scenario.arrays.destination[a, action]]["destination"] == server
        assert (env.heuristic_actions("local") == 0).all()
        drawn = env.heuristic_actions("random")
        assert (np.take_along_axis(env.masks, drawn[..., None], -1) == 1).all()
        env.step(drawn)
