"""Agents that may reject tasks: the loss is that of theory, and no score is gained by it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env
from scipy import stats

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.build import fitting_rules
from offload_rllib.simulator.types import FINISHED, REJECTED

REPLICATIONS = 40


def one_server(cores: int, rate: float, **changes: Any) -> dict[str, Any]:
    """Return a node of some cores of speed 1 that tasks of mean work 1 enter, and a neighbour out of use."""
    environment: dict[str, Any] = {
        "horizon_s": 4_000.0,
        "warmup_s": 100.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "queue", "instructions_per_second": 1.0, "cores": cores, "client": True},
                {"name": "other", "instructions_per_second": 1.0},
            ],
            "links": [["queue", "other"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e3},
        "service": "parallel",
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": {"exponential": 1.0}}]},
            "load": {"tasks_per_second_per_client": rate},
        },
        "decisions": {"reject": True, "max_hops": 1},
        "score": {"drop_s": 4_000.0},
    }
    return environment | changes


def play(env: ArrivalEnv, choose: Any) -> ArrivalEnv:
    """Play an episode in which `choose` gives the actions [E]."""
    while not env.truncated.all():
        env.step(choose(env))
    return env


@pytest.mark.parametrize(("cores", "places", "rate"), [(1, 1, 0.8), (1, 4, 0.9), (3, 3, 2.4)])
def test_rejecting_beyond_k_tasks_loses_what_theory_says(cores: int, places: int, rate: float) -> None:
    """M/M/c/K, and Erlang's B for K = c (A. K. Erlang, 1917): p_K of the birth and death process."""
    env = make_env(one_server(cores, rate), REPLICATIONS)
    reject = env.num_actions - 1

    def choose(env: ArrivalEnv) -> np.ndarray:
        others = env.state.node["tasks"][:, 0] - 1  # without the one on offer
        return np.where(others >= places, reject, 0)

    play(env, choose)
    lost = np.array([env.episode_metrics(e)["dropped_rejected_share"] for e in range(REPLICATIONS)])
    weights = [math.prod(rate / min(n, cores) for n in range(1, k + 1)) for k in range(places + 1)]
    theory = weights[places] / sum(weights)
    half = stats.sem(lost) * stats.t.ppf(0.995, REPLICATIONS - 1)
    assert half < 0.03 * theory
    assert abs(lost.mean() - theory) < half


def test_a_rejected_task_is_dropped_at_once_and_counted() -> None:
    env = make_env("admission_5", 2, log=True)
    rng = np.random.default_rng(0)
    play(env, lambda env: np.where(rng.random(2) < 0.3, env.num_actions - 1, env.heuristic_actions("random")))
    for e in range(2):
        log, figures = env.task_log(e), env.episode_metrics(e)
        rejected = log[log["outcome"] == REJECTED]
        assert len(rejected) > 100
        assert set(rejected["hops"].tolist()) == {0, 1}  # at the origin and at a gateway
        at_origin = rejected[rejected["hops"] == 0]
        assert (at_origin["ended_s"] == at_origin["created_s"]).all()
        assert (rejected["service_s"] == 0).all()
        episode = env.state.episode[e]
        assert episode["dropped_rejected"] == len(rejected)
        causes = ("queue_full", "expired", "lost", "node_failed", "rejected")
        counts = [episode[f"dropped_{cause}"] for cause in causes]
        inside = (log["outcome"] == 0).sum()
        assert episode["tasks_made"] == episode["finished"] + sum(counts) + inside
        assert figures["dropped_share"] == pytest.approx(sum(figures[f"dropped_{cause}_share"] for cause in causes))
        assert figures["dropped_rejected_share"] > 0.1


@pytest.mark.parametrize("drop_s", [None, 100.0])
def test_nothing_is_gained_by_rejecting(drop_s: float | None) -> None:
    """The tempting case: long tasks on a slow node, which reach their deadline of 30 s and block short ones."""
    environment = one_server(1, 1.2, horizon_s=600.0, score={"drop_s": drop_s})
    environment["workload"] |= {"deadline_s": {"uniform": [1.0, 30.0]}}
    env = make_env(environment, 2, log=True)
    play(env, lambda env: np.full(2, env.num_actions - 1))
    kept = make_env(environment, 2, log=True)
    kept.play("local")
    for e in range(2):
        rejected, other = env.task_log(e), kept.task_log(e)
        assert (rejected["outcome"] == REJECTED).all()
        finished = other["outcome"] == FINISHED
        assert finished.sum() > 100
        # The score of a task that was rejected is never below that of the same task finished.
        latest_s = np.maximum(rejected["deadline_s"] - rejected["created_s"], drop_s or 0.0)
        assert (latest_s[finished] >= (other["ended_s"] - other["created_s"])[finished]).all()
        counted = rejected["created_s"] >= 100.0
        assert env.episode_metrics(e)["score_mean_s"] == pytest.approx(latest_s[counted].mean())
        assert env.episode_metrics(e)["score_mean_s"] > kept.episode_metrics(e)["score_mean_s"]


def test_the_reward_of_rejecting_is_minus_its_score() -> None:
    environment = one_server(1, 1.2, horizon_s=600.0, warmup_s=0.0, score={"drop_s": None}, reward={"scope": "own"})
    environment["workload"] |= {"deadline_s": {"uniform": [1.0, 30.0]}}
    env = make_env(environment, log=True)
    total = 0.0
    while not env.truncated[0]:
        env.step(np.full(1, env.num_actions - 1))
        total += float(env.rewards[0])
    total += float(env.closing(0)[2][0])
    log = env.task_log(0)
    assert total == pytest.approx(-(log["deadline_s"] - log["created_s"]).sum(), rel=1e-5)


def test_agents_see_what_rejecting_costs() -> None:
    env = make_env("admission_5", 1)
    names, scale = env.layout.names, float(env.scenario.arrays.settings[0]["time_scale_s"])
    last = env.num_actions - 1
    seen = 0
    while not env.truncated[0] and seen < 50:
        raw = {name: env.observations[0, names.index(name)] for name in names}
        assert env.masks[0, last] == 1
        assert [raw[f"row_{k}.rejects"] for k in range(1, last + 1)] == [0.0] * (last - 1) + [1.0]
        assert raw[f"row_{last}.valid"] == 1.0
        assert raw[f"row_{last}.finish"] == pytest.approx(
            raw["task.time_left"], rel=1e-6
        )  # the drop scores the deadline
        assert raw[f"row_{last}.slack"] == pytest.approx(0.0, abs=1e-6)
        assert raw[f"row_{last}.speed"] == 0.0
        assert (env.masks[0, 1:last] == [raw[f"row_{k}.valid"] for k in range(1, last)]).all()
        env.step(env.heuristic_actions("random"))
        seen += 1
    assert scale > 0


@pytest.mark.parametrize("rule", fitting_rules(load_environment("admission_5")))
def test_only_rules_of_admission_reject(rule: str) -> None:
    env = make_env("admission_5", 1, log=True)
    env.play(rule)
    rejected = int((env.task_log(0)["outcome"] == REJECTED).sum())
    assert (rejected > 20) == (rule == "admit_if_in_time")
    assert env.episode_metrics(0)["masked_actions"] == 0


def test_admit_if_in_time_rejects_what_is_late_everywhere() -> None:
    env = make_env("admission_5", 1)
    names, reject = env.layout.names, env.num_actions - 1
    slack = [names.index(f"row_{k}.slack") for k in range(reject)]
    rejections = 0
    while not env.truncated[0]:
        action = int(env.heuristic_actions("admit_if_in_time")[0])
        valid = env.masks[0, :reject] == 1
        late = (env.observations[0, slack][valid] < 0).all()
        assert (action == reject) == late
        if not late:
            assert action == int(env.heuristic_actions("shortest_finish")[0])
        rejections += int(late)
        env.step(np.array([action]))
    assert rejections > 20


def test_admission_helps_under_overload() -> None:
    scores = {}
    for rule in ("shortest_finish", "admit_if_in_time"):
        env = make_env("admission_5", 8)
        env.play(rule)
        scores[rule] = np.array([env.episode_metrics(e)["score_mean_s"] for e in range(8)])
    difference = scores["admit_if_in_time"] - scores["shortest_finish"]
    assert difference.mean() + stats.sem(difference) * stats.t.ppf(0.975, 7) < 0


def test_with_a_clock_several_tasks_are_rejected_at_a_time() -> None:
    environment = one_server(1, 2.0, horizon_s=60.0, score={"drop_s": 60.0}, warmup_s=0.0)
    environment["decisions"] = {"when": "interval", "reject": True, "tasks_per_decision": 2, "max_hops": 1}
    env = make_env(environment, log=True)
    assert env.masks[0, 0].tolist() == [[1, 0, 0], [1, 0, 0]]  # nothing is on offer yet
    while not env.step(np.full((1, 1, 2), 2)):
        assert (env.masks[0, 0, :, 2] == env.masks[0, 0, :, 1]).all()
    log = env.task_log(0)
    rejected = log[log["outcome"] == REJECTED]
    assert len(rejected) > 50
    assert (rejected["ended_s"] == np.round(rejected["ended_s"])).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": {}}, "score.drop_s: missing.*decisions.reject"),
        ({"decisions": {"when": "interval", "offer": "newest", "reject": True}}, "reject: true needs offer: arrival"),
        ({"reward": {"name": "paper"}}, "prices a place for every task"),
        ({"agents": {"nodes": ["queue"], "others": "admit_if_in_time"}}, "needs decisions.reject: true, and deadlines"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(one_server(1, 0.5) | changes))
