"""Queues serve in the order that their discipline promises, the cloud is a cloud, and the newest task is on offer."""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import EXPIRED, FINISHED, NONE, WAITING

# Of the types of `one_queue`.
PRIORITIES = {"type_1": 3, "type_2": -1}
KEYS = {
    "fifo": lambda task: task["number"],
    "lifo": lambda task: -task["number"],
    "edf": lambda task: (task["deadline_s"], task["number"]),
    "sjf": lambda task: (task["work"], task["number"]),
    "priority": lambda task: (-PRIORITIES.get(f"type_{task['type']}", 0), task["number"]),
}


def one_queue(queue: str, **changes: Any) -> VectorEnv:
    """Return a node without an agent, reset, whose client brings twice the work that it can do."""
    environment: dict[str, Any] = {
        "horizon_s": 2000.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "queue", "instructions_per_second": 1.0, "client": True},
                {"name": "other", "instructions_per_second": 1.0},
            ],
            "links": [["queue", "other"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1.0},
        "queue": queue,
        "priorities": PRIORITIES if queue == "priority" else {},
        "workload": {
            # Some jobs are equally long, so that ties are met.
            "jobs": {
                "kind": "mix",
                "types": [{"instructions": {"exponential": 1.0}}, {"instructions": 1.0}, {"instructions": 0.5}],
            },
            "load": {"tasks_per_second_per_client": 2.4},
            "deadline_s": {"uniform": [5.0, 3000.0]},
        },
        "deadlines": {"expiry": "never"},
        "decisions": {"when": "interval", "interval_s": 100.0},
    }
    env = VectorEnv(build_scenario(load_environment(environment | changes)), 1, log=True)
    env.scenario.arrays.node["agent"] = NONE
    env.reset(held_out_keys(1, 1))
    return env


def play(env: VectorEnv) -> np.ndarray:
    while not env.step(np.zeros(env.rewards.shape)):
        pass
    return env.task_log(0)


@pytest.mark.parametrize("queue", sorted(KEYS))
def test_thousands_of_tasks_are_served_in_the_order_of_the_discipline(queue: str) -> None:
    log = play(one_queue(queue))
    assert len(log) > 3900
    known = ("created_s", "deadline_s", "work", "type")
    tasks = [{name: log[name][i] for name in known} | {"number": i} for i in range(len(log))]
    waiting: list[tuple[Any, int]] = []
    free_s, following = 0.0, 0
    while True:
        if not waiting:
            free_s = max(free_s, tasks[following]["created_s"])
        while following < len(tasks) and tasks[following]["created_s"] <= free_s:
            heapq.heappush(waiting, (KEYS[queue](tasks[following]), following))
            following += 1
        _, number = heapq.heappop(waiting)
        began_s, free_s = free_s, free_s + tasks[number]["work"]
        if free_s > 2000.0:
            break
        assert log["outcome"][number] == FINISHED
        assert log["waiting_s"][number] == pytest.approx(began_s - tasks[number]["created_s"], abs=1e-6)
        assert log["ended_s"][number] == pytest.approx(free_s, abs=1e-6)


@pytest.mark.parametrize("queue", sorted(KEYS))
def test_a_task_expires_from_anywhere_in_the_queue(queue: str) -> None:
    workload = one_queue("fifo").scenario.config.model_dump(mode="json")["workload"]
    workload["deadline_s"] = {"uniform": [5.0, 300.0]}
    env = one_queue(queue, workload=workload, deadlines={"expiry": "queued"}, score={"drop_s": 2000.0})
    log = play(env)
    expired = log[log["outcome"] == EXPIRED]
    assert len(expired) > 100
    assert expired["ended_s"] == pytest.approx(expired["deadline_s"], abs=1e-9)
    waiting = env.state.task[0][env.state.task[0]["stage"] == WAITING]
    assert (waiting["deadline_s"] > 2000.0).all()


def test_the_earliest_deadline_is_first_in_first_out_where_all_have_the_same_patience() -> None:
    workload = one_queue("fifo").scenario.config.model_dump(mode="json")["workload"] | {"deadline_s": 50.0}
    logs = [play(one_queue(queue, workload=workload, deadlines={"expiry": "abort"})) for queue in ("fifo", "edf")]
    assert (logs[0] == logs[1]).all()


def test_the_earliest_deadline_first_makes_fewer_tasks_late() -> None:
    workload = one_queue("fifo").scenario.config.model_dump(mode="json")["workload"]
    workload |= {"load": {"tasks_per_second_per_client": 0.9}, "deadline_s": {"uniform": [2.0, 40.0]}}
    late = {}
    for queue in ("fifo", "edf"):
        log = play(one_queue(queue, workload=workload, horizon_s=20_000.0))
        late[queue] = int((log["ended_s"] > log["deadline_s"]).sum())
    assert late["edf"] < 0.7 * late["fifo"]


def test_the_earliest_deadline_needs_deadlines() -> None:
    environment = small_environment(queue="edf")
    del environment["workload"]["deadline_s"]
    with pytest.raises(ConfigError, match=r"queue: edf .* Accepted without: fifo, lifo, sjf, priority"):
        build_scenario(load_environment(environment))
    environment |= {"queue": "fifo", "cloud": CLOUD | {"queue": "edf"}}
    with pytest.raises(ConfigError, match=r"cloud.queue: edf"):
        build_scenario(load_environment(environment))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": "priority"}, r"queue: priority .* go together"),
        ({"priorities": {"type_0": 1}}, r"queue: priority .* go together"),
        ({"queue": "priority", "priorities": {"type_9": 1}}, r"priorities: no type .* 'type_9'.* Accepted: type_0"),
        ({"queue": "priority", "priorities": {"type_0": 1.5}}, "priorities.type_0.*1.5"),
    ],
)
def test_priorities_that_order_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(small_environment(**changes)))


CLOUD: dict[str, Any] = {"vms": 3, "instructions_per_second": 1e6, "link": {"rate_bps": 2e6, "latency_s": 0.5}}


@pytest.mark.parametrize(
    ("access", "linked"),
    [
        ("all", {0, 1, 2, 3}),
        ({"nodes": ["b", "d"]}, {1, 3}),
        ({"types": ["big"]}, {3}),
        ({"types": ["big"], "nodes": ["a"]}, {0, 3}),
    ],
)
def test_the_cloud_is_linked_to_the_nodes_with_access(access: Any, linked: set[int]) -> None:
    environment = small_environment(cloud=CLOUD | {"access": access})
    environment["topology"]["nodes"][3]["type"] = "big"
    scenario = build_scenario(load_environment(environment))
    cloud = scenario.network.nodes[4]
    assert (cloud.name, cloud.type, cloud.cloud, cloud.client, cloud.queue_capacity) == ("cloud",) * 2 + (
        True,
        False,
        None,
    )
    assert {a for a, b in scenario.network.links if b == 4} == linked
    to_cloud = scenario.arrays.link[scenario.arrays.link["destination"] == 4]
    assert (to_cloud["latency_s"] == 0.5).all()
    assert (to_cloud["seconds_per_bit"] == 0.5e-6).all()
    assert "cloud" not in scenario.agents


def test_the_cloud_leaves_agents_and_offered_load_as_they_are() -> None:
    environment = small_environment(decisions={"max_hops": 3})
    environment["workload"]["load"] = {"rho": 0.8}
    without = build_scenario(load_environment(environment))
    with_cloud = build_scenario(load_environment(environment | {"cloud": CLOUD}))
    # The cloud is one more node, which no task enters first.
    assert with_cloud.load == replace(without.load, entry_rates=(*without.load.entry_rates, 0.0))
    assert with_cloud.agents == without.agents


def test_nothing_reaches_an_agent_through_the_cloud() -> None:
    environment = small_environment(decisions={"max_hops": 3}, cloud=CLOUD)
    environment["topology"] = {
        "kind": "manual",
        "nodes": [
            {"name": name, "instructions_per_second": 1e6, "client": name == "a", "queue_capacity": None}
            for name in "abcde"
        ],
        "links": [["a", "b"], ["b", "c"], ["c", "d"], ["d", "e"]],
    }
    # Over the cloud d and e would be two hops from a.
    assert build_scenario(load_environment(environment)).agents == ("a", "b", "c")


@pytest.mark.parametrize("service", ["pooled", "parallel"])
def test_the_cloud_serves_one_task_on_each_machine(service: str) -> None:
    environment = small_environment(service=service, cloud=CLOUD, horizon_s=60, score={"drop_s": 60})
    environment["workload"] |= {
        "jobs": {"kind": "mix", "types": [{"instructions": 4e6, "bits_in": 1e6, "bits_out": 2e6}]},
        "load": {"tasks_per_second_per_client": 0.8},
        "deadline_s": None,
    }
    env = make_env(environment, log=True)
    arrays = env.scenario.arrays
    to_cloud = [np.flatnonzero(arrays.link["destination"][row] == 4)[0] for row in arrays.destination]
    busiest = 0
    while not env.step(np.array([to_cloud])):
        busiest = max(busiest, int(env.state.node[0, 4]["busy"]))
    log = env.task_log(0)
    done = log[(log["outcome"] == FINISHED) & (log["node"] == 4)]
    assert busiest == 3
    assert len(done) > 20
    assert done["transfer_s"] == pytest.approx(1.0)
    assert done["service_s"] == pytest.approx(4.0)
    assert done["return_s"] == pytest.approx(1.5)
    assert (done["waiting_s"] > 0).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"access": {"types": ["serve"]}}, r"cloud.access.types: no node has the type 'serve'. Accepted: node"),
        ({"access": {"nodes": ["x"]}}, r"cloud.access.nodes: no node has the name 'x'. Accepted: a, b, c, d"),
        ({"access": "some"}, r"cloud.access: must be all, or a mapping .* \(given: 'some'\)"),
        ({"link": None}, r"cloud: give link \(rate and latency\), or position_m"),
        ({"vms": 0}, r"cloud.vms: .* greater than or equal to 1"),
    ],
)
def test_a_cloud_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(small_environment(cloud=CLOUD | change)))


def test_the_name_cloud_is_taken() -> None:
    environment = small_environment(cloud=CLOUD)
    environment["topology"]["nodes"][1]["name"] = "cloud"
    environment["topology"]["links"] = [["a", "cloud"], ["cloud", "c"], ["c", "d"], ["d", "a"]]
    with pytest.raises(ConfigError, match="a node is named 'cloud'"):
        build_scenario(load_environment(environment))


def test_over_the_radio_the_clouds_link_follows_from_its_position() -> None:
    scenario = build_scenario(
        load_environment("ether_12", ["cloud={vms: 2, instructions_per_second: 1e7, position_m: [500, 500]}"])
    )
    link = scenario.arrays.link
    cloud = len(scenario.network.nodes) - 1
    assert (
        link["seconds_per_bit"][link["destination"] == cloud].min()
        > link["seconds_per_bit"][link["destination"] != cloud].max() / 2
    )
    assert (link["destination"] == cloud).sum() == cloud


def newest_environment(**changes: Any) -> dict[str, Any]:
    """Return a busy client at a node with one neighbour; agents decide every second, work takes 3 s."""
    environment: dict[str, Any] = {
        "horizon_s": 100.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "a", "instructions_per_second": 1.0, "client": True},
                {"name": "b", "instructions_per_second": 1.0},
            ],
            "links": [["a", "b"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1024.0, "latency_s": 0.25},
        "queue": "lifo",
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": 3.0}]},
            "load": {"tasks_per_second_per_client": 0.9},
        },
        "decisions": {"when": "interval", "offer": "newest", "max_hops": 1},
    }
    return environment | changes


def test_with_offers_of_the_newest_an_idle_server_never_waits() -> None:
    env = make_env(newest_environment(), log=True)
    log = play(env)
    first = log[0]
    assert (first["holding_s"], first["waiting_s"]) == (0.0, 0.0)
    assert first["ended_s"] == first["created_s"] + 3.0


@pytest.mark.parametrize("queue", ["fifo", "lifo", "sjf"])
def test_the_newest_waiting_task_is_on_offer_and_a_kept_one_is_not_offered_again(queue: str) -> None:
    env = make_env(newest_environment(queue=queue), log=True)
    kept: set[int] = set()
    kept_one = moved_one = 0
    for step in range(99):
        tasks = env.state.task[0]
        waiting = tasks[(tasks["stage"] == WAITING) & (tasks["node"] == 0)]
        open_to_decide = sorted(int(number) for number in waiting["number"] if int(number) not in kept)
        assert env.masks[0, 0, 1] == bool(open_to_decide)
        action = step % 3 == 0
        env.step(np.array([[int(action)]]))
        if not open_to_decide:
            continue
        newest = open_to_decide[-1]
        record = env.state.task[0]
        moved = record[(record["number"] == newest) & (record["stage"] != 0)]
        if action:
            assert moved["hops"].tolist() in ([1], [])
            moved_one += 1
        else:
            kept.add(newest)
            kept_one += 1
            assert moved["hops"].tolist() in ([0], [])
    assert min(kept_one, moved_one) > 15
    log = env.task_log(0)
    assert (log["hops"][sorted(kept)] == 0).all()
    assert (log["hops"] == 1).sum() == moved_one


def test_what_an_agent_knows_of_itself_leaves_the_offered_task_out() -> None:
    env = make_env(newest_environment(), log=True)
    names = {name: env.layout.names.index(f"row_0.{name}") for name in ("tasks", "wait")}
    seen = 0
    for _ in range(60):
        env.step(np.array([[0]]))
        node = env.state.node[0, 0]
        offered = int(env.masks[0, 0, 1])
        seen += offered
        unbounded_fill = env.observations[0, 0, names["tasks"]]
        others = int(node["tasks"]) - offered
        # fill = others / (others + 4), shown as x / (1 + 0 |x|)
        assert unbounded_fill == pytest.approx(others / (others + 4.0), rel=1e-6)
        scale_s = float(env.scenario.arrays.settings["time_scale_s"][0])
        left_s = float(env.waits(0)[0]) - 3.0 * offered
        assert env.observations[0, 0, names["wait"]] == pytest.approx(left_s / (left_s + scale_s), rel=1e-5)
    assert seen > 30
