"""Destinations over routed paths: any node within reach, over links that all messages share."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env
from scipy import stats

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.rendering import _on_the_way  # pyright: ignore[reportPrivateUsage]
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation.lower_bound import lower_bound, recorded_tasks
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import EXPIRED, FINISHED, NONE

REPLICATIONS = 32
KEY = 5


def line(names: str = "abcd", **changes: Any) -> dict[str, Any]:
    """Return nodes in a line, the first with a client; links of 1024 bit/s and 1/4 s, one message at a time."""
    links = changes.pop("links", {})
    environment: dict[str, Any] = {
        "horizon_s": 200.0,
        "topology": {
            "kind": "manual",
            "nodes": [{"name": name, "instructions_per_second": 1.0, "client": name == names[0]} for name in names],
            "links": [list(pair) for pair in pairwise(names)],
        },
        "links": {"kind": "fixed", "rate_bps": 1024.0, "latency_s": 0.25, "contention": "fifo"} | links,
        "service": "shared",
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": 1.0, "bits_in": 512.0, "bits_out": 256.0}]},
            "load": {"tasks_per_second_per_client": 0.05},
        },
        "decisions": {"max_hops": 1, "destinations": "routed"},
    }
    return environment | changes


def always(env: Any, action: int) -> Any:
    """Play an episode in which every task takes an action."""
    while not env.truncated.all():
        env.step(np.full(env.num_envs, action))
    return env


@pytest.mark.parametrize("contention", ["none", "fifo"])
def test_a_task_and_its_result_cross_one_link_after_the_other(contention: str) -> None:
    env = make_env(line(links={"contention": contention}), log=True)
    assert env.destinations_of(0, 0) == ["a", "b", "c", "d"]
    assert (env.scenario.arrays.leg.size > 0) == (contention == "fifo")
    log = always(env, 3).task_log(0)
    finished = log[log["outcome"] == FINISHED]
    first = finished[0]
    assert (first["node"], first["hops"]) == (3, 1)
    assert first["transfer_s"] == pytest.approx(3 * (0.5 + 0.25))
    assert first["return_s"] == pytest.approx(3 * (0.25 + 0.25))


def test_a_tandem_of_links_delays_as_its_first() -> None:
    """M/D/1, then links of the same rate at which no message waits: lambda s^2 / (2 (1 - lambda s)) + 3 s."""
    rate, sending_s = 1.2, 0.5
    environment = line(horizon_s=8_000.0, warmup_s=100.0)
    environment["workload"]["load"]["tasks_per_second_per_client"] = rate
    environment["workload"]["jobs"]["types"][0]["instructions"] = 1e-6
    env = always(make_env(environment, REPLICATIONS), 3)
    transfer_s = np.array([env.episode_metrics(e)["transfer_mean_s"] for e in range(REPLICATIONS)])
    theory = rate * sending_s**2 / (2 * (1 - rate * sending_s)) + 3 * (sending_s + 0.25)
    half = stats.sem(transfer_s) * stats.t.ppf(0.995, REPLICATIONS - 1)
    assert half < 0.01 * theory
    assert abs(transfer_s.mean() - theory) < half


def test_paths_share_their_links() -> None:
    """Two clients behind one link: what each sends waits for the other's messages there."""
    nodes = [{"name": name, "instructions_per_second": 1.0, "client": name in "ab"} for name in "abcd"]
    topology = {"kind": "manual", "nodes": nodes, "links": [["a", "c"], ["b", "c"], ["c", "d"]]}
    environment = line(topology=topology, horizon_s=400.0)
    environment["workload"]["load"]["tasks_per_second_per_client"] = 0.9
    environment["workload"]["jobs"]["types"][0]["instructions"] = 1e-3
    env = make_env(environment, log=True)
    assert env.destinations_of(0, 1) == ["b", "a", "c", "d"]
    log = always(env, 3).task_log(0)
    # Lindley's recursion, of each client's own link and then of the link that both share.
    free = {0: 0.0, 1: 0.0}
    arrived = []
    for number, task in enumerate(log):
        begin_s = max(task["created_s"], free[int(task["origin"])])
        free[int(task["origin"])] = begin_s + 0.5
        arrived.append((begin_s + 0.75, number))
    free_s = 0.0
    expected = np.zeros(len(log))
    for arrived_s, number in sorted(arrived):
        free_s = max(arrived_s, free_s) + 0.5
        expected[number] = free_s + 0.25 - log[number]["created_s"]
    there = log["outcome"] == FINISHED
    assert there.sum() > 300
    assert log["transfer_s"][there] == pytest.approx(expected[there])
    assert expected[there].max() > 3.0


def test_agents_expect_the_way_and_the_wait_for_their_own_link() -> None:
    environment = line()
    environment["workload"]["load"]["tasks_per_second_per_client"] = 5.0
    env = make_env(environment)
    names, scale = env.layout.names, float(env.scenario.arrays.settings[0]["time_scale_s"])
    given_s = []
    for _ in range(4):
        value = float(env.observations[0, names.index("row_3.transfer")])
        now_s = float(env.time_s[0])
        wait_s = max(free_s - now_s, 0.0) if (free_s := max(given_s, default=0.0)) else 0.0
        assert value * scale / (1 - value) == pytest.approx(wait_s + 3 * 0.75, rel=1e-5)
        given_s.append(max(now_s, max(given_s, default=0.0)) + 0.5)
        env.step(np.array([3]))
    back = float(env.observations[0, names.index("row_3.return")])
    assert back * scale / (1 - back) == pytest.approx(3 * 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("decisions", "destinations"),
    [
        ({"reach_hops": 2}, ["a", "b", "c"]),
        ({"reach_hops": 1}, ["a", "b"]),
        ({"max_destinations": 2}, ["a", "b", "c"]),
        ({"reject": True}, ["a", "b", "c", "d"]),
    ],
)
def test_reach_is_bounded(decisions: dict[str, Any], destinations: list[str]) -> None:
    decisions = {"max_hops": 1, "destinations": "routed", **decisions}
    env = make_env(line(decisions=decisions, score={"drop_s": 200.0}))
    assert env.destinations_of(0, 0) == destinations
    assert env.scenario.load.capacity == len(destinations)
    assert env.num_actions == len(destinations) + (1 if "reject" in decisions else 0)


def test_the_shorter_way_in_time_is_taken() -> None:
    topology = line()["topology"] | {"links": [["a", "b"], ["b", "c"], ["a", "c"], ["c", "d"]]}
    slow = [{"between": ["a", "c"], "rate_bps": 100.0}]
    env = make_env(line(topology=topology, link_overrides=slow))
    arrays = env.scenario.arrays
    way = env.scenario.ways[arrays.destination[0, 2] - 2 * 4]
    ends = [(int(arrays.link[i]["source"]), int(arrays.link[i]["destination"])) for i in way]
    assert ends == [(0, 1), (1, 2)]


def test_no_path_leads_through_the_cloud_or_ends_without_a_processor() -> None:
    environment = line("abc")
    environment["topology"]["nodes"][1]["instructions_per_second"] = 0.0
    link = {"rate_bps": 1e9, "latency_s": 0.0}
    cloud = {"vms": 1, "instructions_per_second": 1.0, "access": {"nodes": ["a", "c"]}, "link": link}
    env = make_env(environment | {"cloud": cloud})
    assert env.destinations_of(0, 0) == ["a", "c", "cloud"]
    way = env.scenario.ways[env.scenario.arrays.destination[0, 1] - 2 * 4]
    assert len(way) == 2


def test_a_message_on_its_way_is_aborted_and_lost_like_any_other() -> None:
    environment = line(horizon_s=2_000.0, links={"loss_probability": 0.1}, score={"drop_s": 2_000.0})
    environment["workload"]["deadline_s"] = 3.0
    environment["workload"]["load"]["tasks_per_second_per_client"] = 0.5
    log = always(make_env(environment, log=True), 3).task_log(0)
    expired = log[log["outcome"] == EXPIRED]
    assert len(expired) > 300  # there and back take 3.75 s and a service
    assert expired["ended_s"] - expired["created_s"] == pytest.approx(3.0)
    lost = (log["outcome"] == 4).mean()
    assert 0.2 < lost < 0.35  # three links there, of a tenth each, as far as time allows


def test_what_is_on_a_path_is_drawn_on_its_links() -> None:
    env = make_env(line())
    env.step(np.array([3]))
    on_the_way = _on_the_way(env, 0)
    assert on_the_way.sum() == 1
    assert on_the_way[: 2 * 3].sum() == 0


def test_no_policy_is_below_the_bound() -> None:
    environment = line(service="parallel")
    environment["workload"]["deadline_s"] = 20.0
    config = load_environment(environment)
    arrays, tasks = next(recorded_tasks(config, held_out_keys(0, 1)))
    env = make_env(environment)
    env.play("shortest_finish")
    bound = lower_bound(arrays, tasks)
    assert 0.9 < bound.mean_s <= env.episode_metrics(0)["score_mean_s"]


def test_the_oracle_counts_what_is_on_its_way_over_paths() -> None:
    env = make_env("routed_8", 4, log=True)
    env.play("shortest_finish_oracle")
    figures = [env.episode_metrics(e) for e in range(4)]
    assert np.mean([each["dropped_share"] for each in figures]) < 0.05
    assert (env.scenario.arrays.destination[:, -1] != NONE).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decisions": {"reach_hops": 2}}, "reach_hops: 2 needs destinations: routed"),
        ({"reward": {"name": "peersimgym"}}, "routed does not go with reward.name: peersimgym"),
        (
            {"decisions": {"when": "interval", "destinations": "routed"}, "tick_s": 1.0, "service": "pooled"},
            "routed does not go with tick_s",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(line() | changes))
