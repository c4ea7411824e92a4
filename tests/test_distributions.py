"""Sizes and deadlines have the distributions that are asked for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from helpers.distributions import lognormal
from helpers.environments import make_env, small_environment
from scipy import stats

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.base import Distribution
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.workload.distributions import draw, episode_parameters, survival
from offload_rllib.simulator.streams import fill_quantiles

CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "exponential": ({"exponential": 3.0}, stats.expon(scale=3)),
    "uniform": ({"uniform": [1.0, 5.0]}, stats.uniform(1, 4)),
    "lognormal": ({"lognormal": {"mean": 4.0, "cv": 2.5}}, stats.lognorm(*lognormal(4.0, 2.5))),
    "lognormal above 3": (
        {"lognormal": {"mean": 4.0, "cv": 2.5, "least": 3.0}},
        stats.lognorm(*lognormal(4.0, 2.5, 3.0)),
    ),
    "pareto": ({"pareto": {"low": 2.0, "high": 5000.0, "shape": 1.2}}, stats.truncpareto(1.2, 2500, scale=2)),
    "light pareto": ({"pareto": {"low": 2.0, "high": 3.0, "shape": 1.0}}, stats.truncpareto(1.0, 1.5, scale=2)),
}


@pytest.mark.parametrize("name", CASES)
def test_quantiles_means_and_tails(name: str) -> None:
    given, theory = CASES[name]
    distribution = Distribution.model_validate(given)
    u = np.concatenate([[2.0**-53, 1e-12, 1e-6], np.linspace(0.001, 0.999, 999), [1 - 1e-6, 1 - 1e-12, 1 - 2.0**-53]])
    values = np.empty(len(u))
    rng = np.random.default_rng(0)
    fill_quantiles(episode_parameters(distribution, rng, len(u)), np.zeros((0, 2)), u, values)
    # scipy loses digits of the truncated Pareto distribution at its far end.
    digits = 1e-9 if "pareto" not in name else 1e-6
    assert values[:-2] == pytest.approx(theory.ppf(u)[:-2], rel=1e-9)
    assert values[-2:] == pytest.approx(theory.ppf(u)[-2:], rel=max(digits, 1e-3 * ("pareto" in name)))
    assert distribution.mean == pytest.approx(theory.mean(), rel=1e-9)
    x = theory.ppf(np.linspace(0.001, 0.999, 99))
    assert survival(distribution, x, rng) == pytest.approx(theory.sf(x), rel=1e-6)
    assert survival(distribution, np.array([0.0, 1e9]), rng) == pytest.approx([1, 0], abs=1e-9)


def test_an_empirical_distribution_has_its_shares() -> None:
    distribution = Distribution.model_validate({"choice": {"values": [5, 1, 9], "weights": [1, 2, 1]}})
    values, counts = np.unique(draw(distribution, np.random.default_rng(0), 100_000), return_counts=True)
    assert values.tolist() == [1, 5, 9]
    assert stats.chisquare(counts, [50_000, 25_000, 25_000]).pvalue > 0.01
    assert distribution.mean == 4
    assert survival(distribution, np.array([0.5, 1, 1.5, 5, 9, 9.5]), np.random.default_rng(0)).tolist() == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0,
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"per_episode": [1.0, 3.0]},
        {"exponential": {"per_episode": [1.0, 3.0]}},
        {"uniform": [{"per_episode": [0, 1]}, {"per_episode": [1, 4]}]},
        {"lognormal": {"mean": {"per_episode": [1.0, 3.0]}, "cv": {"per_episode": [0.1, 1]}}},
        {"lognormal": {"mean": {"per_episode": [1.0, 3.0]}, "least": {"per_episode": [0.2, 0.9]}}},
        {"pareto": {"low": 1.0, "high": {"per_episode": [10, 90]}, "shape": {"per_episode": [0.5, 2]}}},
    ],
    ids=str,
)
def test_the_mean_over_episodes(given: dict[str, Any]) -> None:
    distribution = Distribution.model_validate(given)
    values = draw(distribution, np.random.default_rng(0), 2**20)
    assert abs(values.mean() - distribution.mean) < 2.58 * stats.sem(values)
    x = np.full(2**16, np.median(values))
    assert survival(distribution, x, np.random.default_rng(1)).mean() == pytest.approx(0.5, abs=0.01)


def test_tasks_of_each_type_have_its_sizes_and_deadline() -> None:
    environment = small_environment(horizon_s=2000, deadlines={"expiry": "never"}, score={"drop_s": 2000})
    environment["workload"] |= {
        "jobs": {
            "kind": "mix",
            "types": [
                {"weight": 1, "instructions": 1.0, "bits_in": {"choice": {"values": [7]}}, "deadline_s": 3.0},
                {"weight": 3, "instructions": 2.0, "bits_in": {"choice": {"values": [8, 9]}}},
            ],
        },
        "load": {"tasks_per_second_per_client": 5.0},
        "deadline_s": None,
    }
    env = make_env(environment, log=True)
    while not env.step(env.heuristic_actions("local")):
        pass
    log = env.task_log(0)
    first = log["work"] == 1
    assert stats.binomtest(int(first.sum()), len(log), 0.25).pvalue > 0.01
    assert (log["bits_in"][first] == 7).all()
    assert set(log["bits_in"][~first]) == {8, 9}
    assert log["deadline_s"][first] == pytest.approx(log["created_s"][first] + 3)
    assert np.isinf(log["deadline_s"][~first]).all()


def test_a_task_without_deadline_scores_its_time_to_the_horizon() -> None:
    environment = small_environment()
    environment["workload"]["jobs"]["types"] = [
        {"instructions": 1e9, "deadline_s": 5.0},
        {"instructions": 2e9},
    ]
    environment["workload"]["deadline_s"] = None
    for node in environment["topology"]["nodes"]:
        node["queue_capacity"] = None
    env = make_env(environment, log=True)
    while not env.step(env.heuristic_actions("local")):
        pass
    log = env.task_log(0)
    log = log[log["created_s"] < 40]
    due = np.isfinite(log["deadline_s"])
    scores = np.where(due, np.maximum(5.0, log["ended_s"] - log["created_s"]), 40 - log["created_s"])
    assert 0 < due.sum() < len(due)
    assert env.episode_metrics(0)["score_mean_s"] == pytest.approx(scores.mean())


def test_ranges_are_drawn_once_per_episode() -> None:
    environment = small_environment(deadlines={"expiry": "never"}, score={"drop_s": 40})
    environment["workload"]["jobs"]["types"] = [{"instructions": {"per_episode": [1e5, 9e5]}}]
    env = make_env(environment, 300, log=True)
    while not env.step(env.heuristic_actions("local")):
        pass
    drawn = [set(env.task_log(e)["work"]) for e in range(300)]
    assert all(len(works) == 1 for works in drawn)
    works = np.array([next(iter(works)) for works in drawn])
    assert stats.kstest(works, stats.uniform(1e5, 8e5).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lognormal": {"mean": 1.0, "cv": 0}}, r"instructions.lognormal.cv: .*greater than 0 .*0"),
        ({"lognormal": {"mean": 1.0, "sigma": 1}}, r"lognormal.sigma: unknown key. Accepted: cv, least, mean"),
        ({"lognormal": {"mean": 1.0, "least": 1.0}}, r"instructions.lognormal: .*needs least < mean"),
        ({"pareto": {"low": 2.0, "high": 1.0, "shape": 1}}, r"pareto needs low < high"),
        ({"choice": {"values": []}}, r"choice.values: .*at least 1"),
        ({"choice": {"values": [1], "weights": [1, 2]}}, r"as many weights as values: 1, not 2"),
        ({"exponential": {"per_episode": [0, 2]}}, r"exponential: per_episode needs 0 < low here"),
        ({"exponential": {"per_episode": [3, 2]}}, r"exponential: per_episode needs low <= high"),
        ({"exponential": {"per_episod": [3, 4]}}, r"per_episod: unknown key. Did you mean 'per_episode'\?"),
        ({"uniform": [{"per_episode": [1, 3]}, 2]}, r"uniform needs low <= high, also where"),
        ({"exponential": 1.0, "constant": 2.0}, r"give a number, or exactly one of: constant, exponential, uniform"),
    ],
    ids=str,
)
def test_distributions_that_cannot_be(given: dict[str, Any], message: str) -> None:
    environment = small_environment()
    environment["workload"]["jobs"]["types"][0]["instructions"] = given
    with pytest.raises(ConfigError) as error:
        build_scenario(load_environment(environment))
    assert re.search(message, str(error.value)), str(error.value)
