"""Nodes without a processor make tasks or pass them on, and never process any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env
from scipy import stats

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation.lower_bound import lower_bound, recorded_tasks
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.build import fitting_rules
from offload_rllib.simulator.types import FINISHED

REPLICATIONS = 32


def node(name: str, speed: float = 0.0, **more: Any) -> dict[str, Any]:
    """Return a node, of one core, without a processor unless it has a speed."""
    return {"name": name, "instructions_per_second": speed, **more}


def network(nodes: list[dict[str, Any]], links: list[list[str]], **changes: Any) -> dict[str, Any]:
    """Return an environment of nodes, with links of 1 kbit/s and 1/4 s, and tasks of one instruction and 512 bits."""
    environment: dict[str, Any] = {
        "horizon_s": 200.0,
        "topology": {"kind": "manual", "nodes": nodes, "links": links},
        "links": {"kind": "fixed", "rate_bps": 1024.0, "latency_s": 0.25},
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": 1.0, "bits_in": 512.0, "bits_out": 256.0}]},
            "load": {"tasks_per_second_per_client": 0.05},
        },
        "decisions": {"max_hops": 2},
    }
    return environment | changes


def line(**changes: Any) -> dict[str, Any]:
    """Return a source, a relay and a server in a line."""
    nodes = [node("source", client=True), node("relay"), node("server", 1.0)]
    return network(nodes, [["source", "relay"], ["relay", "server"]], **changes)


def test_a_star_of_sources_and_a_server_is_one_queue() -> None:
    """M/M/1: E[T] = 1 / (mu - lambda), and the way there and back."""
    rate, sources = 0.5, 4
    nodes = [node(f"source_{i}", client=True) for i in range(sources)] + [node("server", 1.0)]
    environment = network(nodes, [[f"source_{i}", "server"] for i in range(sources)], horizon_s=40_000, warmup_s=200)
    environment["workload"]["jobs"]["types"][0]["instructions"] = {"exponential": 1.0}
    environment["workload"]["load"]["tasks_per_second_per_client"] = rate / sources
    env = make_env(environment, REPLICATIONS)
    assert env.scenario.load.capacity == 1.0
    assert env.scenario.load.rho == pytest.approx(rate)
    env.play("random")
    response_s = np.array([env.episode_metrics(e)["response_mean_s"] for e in range(REPLICATIONS)])
    half = stats.sem(response_s) * stats.t.ppf(0.995, REPLICATIONS - 1)
    theory = 1 / (1 - rate) + 0.75 + 0.5
    assert half < 0.01 * theory
    assert abs(response_s.mean() - theory) < half


def test_users_behind_an_access_link_reach_their_site_that_much_later() -> None:
    access = {"between_types": ["users", "site"], "rate_bps": 2048.0, "latency_s": 0.01}
    nodes = []
    for name, speed in (("a", 1.0), ("b", 2.0)):
        nodes += [node(f"users_{name}", type="users", client=True), node(f"site_{name}", speed, type="site")]
    environment = network(
        nodes,
        [["users_a", "site_a"], ["users_b", "site_b"], ["site_a", "site_b"]],
        link_overrides=[access],
        agents={"types": ["site"]},
        horizon_s=400.0,
    )
    environment["workload"]["jobs"]["types"][0]["instructions"] = {"exponential": 1.0}
    environment["workload"]["load"]["tasks_per_second_per_client"] = 0.7
    env = make_env(environment, log=True)
    assert env.agents == ("site_a", "site_b")
    decided = 0
    while not env.truncated[0]:
        env.step(np.zeros(1, np.int32))
        decided += 1
    log = env.task_log(0)
    for users, site, speed in ((0, 1, 1.0), (2, 3, 2.0)):
        of_site = log[log["origin"] == users]
        assert len(of_site) > 200
        assert (of_site["node"][of_site["outcome"] == FINISHED] == site).all()
        free_s = 0.0  # one server, first come, first served (Lindley's recursion)
        for task in of_site:
            free_s = max(free_s, task["created_s"] + 0.01 + 512 / 2048) + task["work"] / speed
            if task["outcome"] == FINISHED:
                assert task["ended_s"] == pytest.approx(free_s + 0.01 + 256 / 2048, abs=1e-9)
    assert abs(decided - len(log)) <= 4, "one decision per task, of its site"


def test_a_relay_passes_on_what_it_holds_and_never_serves() -> None:
    env = make_env(line(), log=True)
    env.play("shortest_finish")
    log = env.task_log(0)
    finished = log[log["outcome"] == FINISHED]
    assert len(finished) > 5
    assert (finished["node"] == 2).all()
    assert (finished["hops"] == 2).all()
    assert finished["transfer_s"] == pytest.approx(2 * 0.75)
    assert finished["return_s"] == pytest.approx(2 * 0.5)


def test_agents_see_what_lies_behind_a_relay() -> None:
    env = make_env(line(workload=line()["workload"] | {"deadline_s": 100.0}))
    seen, layout = env.observations[0], env.layout
    scale = float(env.scenario.arrays.settings[0]["time_scale_s"])

    def raw(name: str) -> float:
        value = float(seen[layout.names.index(name)])
        return value * scale / (1 - value)

    # Two links there, the server's second, two links back.
    assert raw("row_1.transfer") == pytest.approx(1.5, rel=1e-5)
    assert raw("row_1.service") == pytest.approx(1.0, rel=1e-5)
    assert raw("row_1.return") == pytest.approx(1.0, rel=1e-5)
    assert raw("row_1.finish") == pytest.approx(3.5, rel=1e-5)
    for name in ("row_0.finish", "row_0.service", "row_0.speed", "row_1.speed", "row_1.wait"):
        assert seen[layout.names.index(name)] == 0.0, name
    assert env.masks.tolist() == [[0, 1]]


@pytest.mark.parametrize("rule", fitting_rules(load_environment("relay_8")))
def test_no_rule_keeps_a_task_where_nothing_is_processed(rule: str) -> None:
    env = make_env("relay_8", 2, log=True)
    env.play(rule)
    for e in range(2):
        log = env.task_log(e)
        equipped = env.scenario.arrays.node["speed"][log["node"]] > 0
        assert (equipped | (log["outcome"] != FINISHED)).all()
        assert log["service_s"][~equipped].sum() == 0
        assert env.episode_metrics(e)["masked_actions"] == 0
        assert (log["outcome"] == FINISHED).sum() > 100


def test_an_action_that_is_not_valid_acts_as_the_first_that_is() -> None:
    wrong, right = make_env(line(), log=True), make_env(line(), log=True)
    decisions = 0
    while not right.truncated.all():
        decisions += 1
        right.step(right.masks.argmax(-1))
        wrong.step(np.zeros(1, int))
    assert (wrong.task_log(0)["ended_s"] == right.task_log(0)["ended_s"]).all()
    assert (wrong.task_log(0)["outcome"] == FINISHED).sum() > 5
    assert wrong.episode_metrics(0)["masked_actions"] == decisions
    assert right.episode_metrics(0)["masked_actions"] == 0


def test_a_way_that_takes_too_many_hops_is_no_destination() -> None:
    nodes = [node("source", client=True), node("relay"), node("server", 1.0)]
    links = [["source", "relay"], ["source", "server"], ["relay", "server"]]
    env = make_env(network(nodes, links, decisions={"max_hops": 1}))
    assert env.destinations_of(0, 0) == ["source", "server"]
    env = make_env(network(nodes, links))
    assert env.destinations_of(0, 0) == ["source", "relay", "server"]
    assert env.masks.tolist() == [[0, 1, 1]]
    env.step(np.array([1]))  # at the relay there is one hop left, which must not lead back
    while env.agents[env.deciding[0]] != "relay":
        env.step(np.array([1]))
    assert env.destinations_of(0, int(env.deciding[0])) == ["relay", "source", "server"]
    assert env.masks.tolist() == [[0, 0, 1]]


def test_with_a_clock_an_agent_with_nothing_on_offer_does_nothing() -> None:
    env = make_env(line(decisions={"when": "interval", "max_hops": 2}), log=True)
    assert env.masks[0].tolist() == [[1, 0], [1, 0]]
    while not env.step(env.heuristic_actions("shortest_finish")):
        offered = env.masks[0, :, 0] == 0
        assert (env.masks[0].sum(-1) >= 1).all()
        assert (env.observations[0, :, env.layout.names.index("task.offered")] == offered).all()
    log = env.task_log(0)
    assert (log["outcome"] == FINISHED).sum() > 5
    assert (log["node"][log["outcome"] == FINISHED] == 2).all()


def test_a_node_that_is_no_agent_passes_tasks_on() -> None:
    env = make_env(line(agents={"nodes": ["relay"], "others": "local"}), log=True)
    env.play("shortest_finish")
    log = env.task_log(0)
    assert env.scenario.others == ("source",)
    assert (log["node"][log["outcome"] == FINISHED] == 2).all()
    assert (log["outcome"] == FINISHED).sum() > 5


def test_the_cloud_counts_in_the_load_where_nothing_else_processes_tasks() -> None:
    nodes = [node("source", client=True), node("relay")]
    cloud = {
        "vms": 4,
        "instructions_per_second": 2.0,
        "access": {"nodes": ["relay"]},
        "link": {"rate_bps": 1e3, "latency_s": 0.1},
    }
    env = make_env(network(nodes, [["source", "relay"]], cloud=cloud), log=True)
    assert env.scenario.load.capacity == 8.0
    env.play("always_cloud")
    log = env.task_log(0)
    assert (log["node"][log["outcome"] == FINISHED] == 2).all()


def test_no_policy_is_below_the_bound() -> None:
    environment = line(horizon_s=200.0, workload=line()["workload"] | {"deadline_s": 20.0})
    config = load_environment(environment)
    arrays, tasks = next(recorded_tasks(config, held_out_keys(0, 1)))
    env = make_env(environment)
    env.play("shortest_finish")
    bound = lower_bound(arrays, tasks)
    assert bound.tasks == len(tasks) > 0
    assert 3.4 < bound.mean_s <= env.episode_metrics(0)["score_mean_s"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decisions": {"max_hops": 1}}, "'source', which has no processor .*max_hops: 1"),
        ({"decisions": {"when": "interval", "offer": "newest"}}, "decisions.offer: newest needs a processor"),
        ({"decisions": {"when": "interval"}, "tick_s": 1.0}, "tick_s needs a processor"),
        ({"reward": {"name": "paper"}}, "reward.name: paper needs a processor"),
        ({"reward": {"name": "peersimgym"}}, "reward.name: peersimgym needs a processor"),
    ],
)
def test_what_needs_a_processor_everywhere_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(line() | changes))


def test_a_network_without_any_processor_is_refused() -> None:
    nodes = [node("source", client=True), node("relay")]
    with pytest.raises(ConfigError, match="no node has a processor"):
        build_scenario(load_environment(network(nodes, [["source", "relay"]])))
