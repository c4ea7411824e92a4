"""Comparisons are paired, their intervals are honest, and the numbers can be had again."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import make_env, small_environment
from scipy import stats

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.experiment.contenders import make_contenders
from offload_rllib.experiment.evaluation import evaluate
from offload_rllib.experiment.report import tables, write_report
from offload_rllib.experiment.statistics import interval, paired_difference
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.simulator.metrics import BIN_MIDDLES
from offload_rllib.simulator.tasks import histogram_bin


def test_policies_play_the_same_episodes_whatever_the_batch() -> None:
    config = load_environment(small_environment())
    many = evaluate(config, make_contenders(["local", "random"]), episodes=40)
    few = evaluate(config, make_contenders(["random"]), episodes=5)
    created = [many.of(name, "tasks_created") for name in ("local", "random")]
    assert (created[0] == created[1]).all()
    assert len(set(created[0].tolist())) > 5
    np.testing.assert_array_equal(many.values[1, :5], few.values[0])
    again = evaluate(config, make_contenders(["random"]), episodes=5)
    np.testing.assert_array_equal(few.values, again.values)
    other = evaluate(config, make_contenders(["random"]), episodes=5, seed=1)
    assert not np.array_equal(few.values, other.values)


def test_figures_agree_with_the_task_log() -> None:
    environment = small_environment(warmup_s=5, drain_s=12)
    env = make_env(environment, log=True)
    while not env.step(env.heuristic_actions("least_queue")):
        pass
    figures, log = env.episode_metrics(0), env.task_log(0)
    counted = log[(log["created_s"] >= 5) & (log["created_s"] < 28)]
    age = counted["ended_s"] - counted["created_s"]
    finished = counted["outcome"] == 1
    score = np.where(finished, age, np.maximum(age, counted["deadline_s"] - counted["created_s"]))
    assert figures["tasks_created"] == len(counted)
    assert figures["score_mean_s"] == pytest.approx(score.mean())
    assert figures["response_mean_s"] == pytest.approx(age[finished].mean())
    assert figures["dropped_share"] == pytest.approx((counted["outcome"] > 1).mean())
    assert figures["offloaded_share"] == pytest.approx((counted["hops"] > 0).mean())
    for name, share in (("score_p50_s", 0.5), ("score_p95_s", 0.95)):
        ordered = np.sort(score)
        assert figures[name] == pytest.approx(ordered[int(np.ceil(share * len(ordered))) - 1], rel=0.005)


def test_histogram_bins_are_narrower_than_a_percent() -> None:
    times = np.exp(np.random.default_rng(0).uniform(np.log(1e-5), np.log(1e7), 5000))
    middles = np.array([BIN_MIDDLES[histogram_bin(time)] for time in times])
    assert np.abs(middles / times - 1).max() < 0.004
    assert histogram_bin(0.0) == 0
    assert histogram_bin(1e300) == len(BIN_MIDDLES) - 1


@pytest.mark.parametrize("count", [5, 20, 60])
def test_intervals_cover_the_mean_as_often_as_they_say(count: int) -> None:
    rng = np.random.default_rng(0)
    trials = 600
    covered = 0
    for _ in range(trials):
        found = interval(rng.gamma(4, 1, count))
        covered += found.low <= 4 <= found.high
    # 95 % stated; the skew of the gamma distribution and 600 trials leave a few percent.
    assert 0.92 <= covered / trials <= 0.975


def test_small_samples_use_students_t() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    found = interval(values)
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_pairing_removes_what_episodes_share() -> None:
    rng = np.random.default_rng(0)
    episodes = rng.normal(100, 30, 12)
    better = episodes - 2 + rng.normal(0, 0.5, 12)
    assert paired_difference(better, episodes).excludes_zero
    assert interval(better).high > interval(episodes).low, "unpaired, the intervals overlap"
    equal = interval(np.full(30, 0.1) + np.array([0, 1e-17] * 15))
    assert (equal.low, equal.high) == (equal.mean, equal.mean)
    assert np.isnan(interval(np.array([np.nan, 1.0])).low)


def test_a_report_holds_every_episode_and_every_difference(tmp_path: Path) -> None:
    evaluation = evaluate(load_environment(small_environment()), make_contenders(HEURISTICS), episodes=6)
    paths = write_report(evaluation, "local", tmp_path / "report", "title")
    with paths["episodes"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(HEURISTICS) * 6
    assert {row["environment"] for row in rows} == {evaluation.environment}
    first = next(row for row in rows if row["policy"] == "random" and row["episode"] == "3")
    assert float(first["score_mean_s"]) == evaluation.of("random", "score_mean_s")[3]
    with paths["summary"].open() as file:
        summary = {(row["policy"], row["metric"]): row for row in csv.DictReader(file)}
    expected = paired_difference(evaluation.of("random", "score_mean_s"), evaluation.of("local", "score_mean_s"))
    assert float(summary["random", "score_mean_s"]["difference_low"]) == pytest.approx(expected.low)
    for policy in evaluation.policies:
        assert 0 < float(summary[policy, "decision_time_us"]["mean"]) < 1000
    assert paths["plot"].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(p.name for p in paths.values())
    assert len(tables(evaluation, "local")) == 2


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
        choice = env.masks.sum(-1) > 1
        for e, a in np.argwhere(choice):
            agent = env.agents[a]
            action = env.heuristic_actions("always_server")[e, a]
            if agent == "server_0":
                assert action == 0
            else:
                assert links[env.scenario.arrays.destination[a, action]]["destination"] == server
        assert (env.heuristic_actions("local") == 0).all()
        drawn = env.heuristic_actions("random")
        assert (np.take_along_axis(env.masks, drawn[..., None], -1) == 1).all()
        env.step(drawn)
