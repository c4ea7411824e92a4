"""Nodes fail and come back as their configuration says, and no task is forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, random_actions, refused, small_environment
from scipy import stats

from offload_rllib.envs.observation import FIRST_ROW, HERE_SIZE, ROW_SIZE
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.simulator.types import FINISHED, NODE_FAILED

REPLICATIONS = 40


def failing(tasks: str = "lost", up: Any = None, down: Any = 3.0, **changes: Any) -> dict[str, Any]:
    """Return the small network with nodes that fail."""
    law = {"time_to_failure_s": up or {"exponential": 10.0}, "time_to_repair_s": down}
    return small_environment(failures={"tasks": tasks, "laws": [law]}) | changes


def down_nodes(env: VectorEnv, e: int = 0) -> np.ndarray:
    """Return which nodes of an environment are down."""
    return env.state.node[e]["down"] == 1


@pytest.mark.parametrize("tasks", ["lost", "returned"])
def test_a_node_that_is_down_is_empty_and_decides_nothing(tasks: str) -> None:
    env = make_env(failing(tasks), 8)
    rng = np.random.default_rng(0)
    agent_node = env.scenario.arrays.agent_node
    seen = 0
    done = False
    while not done:
        done = env.step(random_actions(env, rng))
        for e in range(env.num_envs):
            down = down_nodes(env, e)
            nodes = env.state.node[e][down]
            assert not nodes["tasks"].any()
            assert not nodes["busy"].any()
            assert not nodes["held"].any()
            for agent in np.flatnonzero(down[agent_node]):
                assert env.masks[e, agent].tolist() == [1] + [0] * (env.num_actions - 1)
            seen += down.sum()
    assert seen > 50


def test_failures_do_not_depend_on_decisions_or_the_batch() -> None:
    histories = []
    for heuristic, count in (("local", 1), ("random", 1), ("least_queue", 5)):
        env = make_env(failing(), count)
        history = []
        done = False
        while not done:
            done = env.step(env.heuristic_actions(heuristic))
            history.append(down_nodes(env).tolist())
        histories.append(history)
    assert histories[0] == histories[1] == histories[2]


def test_alive_is_seen_when_a_broadcast_is_missing() -> None:
    env = make_env(failing(information={"kind": "broadcast", "interval_s": 0.5}), 4)
    arrays = env.scenario.arrays
    assert (env.layout.here_size, env.layout.row_size) == (HERE_SIZE + 1, ROW_SIZE + 1)
    assert env.layout.names[FIRST_ROW + HERE_SIZE] == "row_0.alive"
    rng = np.random.default_rng(0)
    wrong = checked = 0
    for _ in range(39):
        before = [down_nodes(env, e) for e in range(env.num_envs)]
        env.step(random_actions(env, rng))
        for e in range(env.num_envs):
            down = down_nodes(env, e)
            for agent, n in enumerate(arrays.agent_node):
                alive = env.observations[e, agent, env.layout.columns("alive")]
                assert alive[0] == (not down[n])
                for action in range(1, env.num_actions):
                    link = arrays.destination[agent, action]
                    if link < 0:
                        assert alive[action] == 0
                        continue
                    there = arrays.link[link]["destination"]
                    if down[there] == before[e][there]:  # a whole step up, or down, or a change and back
                        checked += 1
                        wrong += alive[action] == down[there]
    assert checked > 500
    assert wrong < 0.02 * checked


def test_fresh_information_knows_at_once_who_is_down() -> None:
    env = make_env(failing(information={"kind": "fresh"}), 2)
    arrays = env.scenario.arrays
    alive = env.layout.names.index("row_1.alive")
    for _ in range(39):
        env.step(env.heuristic_actions("random"))
        for agent in range(len(env.agents)):
            link = arrays.destination[agent, 1]
            assert env.observations[0, agent, alive] != down_nodes(env)[arrays.link[link]["destination"]]


@pytest.mark.parametrize(
    "heuristic", sorted({*HEURISTICS} - {"local", "random", "round_robin", "always_cloud", "recorded"})
)
def test_heuristics_send_nothing_to_a_neighbour_that_they_know_is_down(heuristic: str) -> None:
    env = make_env(failing(information={"kind": "fresh"}), 4)
    arrays = env.scenario.arrays
    chosen = 0
    done = False
    while not done:
        actions = env.heuristic_actions(heuristic)
        for e, agent in np.argwhere(actions > 0):
            there = arrays.link[arrays.destination[agent, actions[e, agent]]]["destination"]
            assert not down_nodes(env, e)[there]
            chosen += 1
        done = env.step(actions)
    assert chosen > 20


def test_tasks_of_a_failed_node_are_lost_or_returned() -> None:
    """The client's node never fails; its neighbour is down from 5.5 s to 105.5 s."""
    environment: dict[str, Any] = {
        "horizon_s": 40.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "a", "instructions_per_second": 1.0, "client": True},
                {"name": "b", "instructions_per_second": 1.0, "type": "server"},
            ],
            "links": [["a", "b"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1000.0, "latency_s": 0.125},
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": 4.0, "bits_in": 250.0, "bits_out": 125.0}]},
            "load": {"tasks_per_second_per_client": 2.0},
        },
        "decisions": {"when": "interval", "max_hops": 1},
        "information": {"message_bits": 125.0},
        "failures": {"laws": [{"types": ["server"], "time_to_failure_s": 5.5, "time_to_repair_s": 100.0}]},
        "score": {"drop_s": 1000.0},
    }
    logs = {}
    for tasks in ("lost", "returned"):
        environment["failures"]["tasks"] = tasks
        env = make_env(environment, log=True)
        for step in range(40):
            env.step(np.full(env.rewards.shape, 1 if step < 8 else 0))
        logs[tasks] = env.task_log(0)
    lost, returned = logs["lost"][:6], logs["returned"][:6]
    # Sent at 1, 2, ... s, arrived 3/8 s later. The first is served from 1.375 to 5.375 s, its result comes back.
    assert lost["outcome"].tolist() == [FINISHED] + 5 * [NODE_FAILED]
    assert lost["ended_s"].tolist() == [5.625, 5.5, 5.5, 5.5, 5.5, 6.375]
    assert lost["service_s"].tolist() == [4.0, 0.125, 0.0, 0.0, 0.0, 0.0]
    # A notice takes 1/4 s; a has the second task again at 5.75 s and holds it behind those that came before.
    assert returned["ended_s"][0] == 5.625
    assert not (logs["returned"]["outcome"] == NODE_FAILED).any()
    again = returned[1]
    assert (again["outcome"], again["hops"], again["node"]) == (FINISHED, 0, 0)
    assert again["service_s"] == 0.125 + 4.0
    assert again["transfer_s"] >= 2 * (0.375 + 0.25) or again["transfer_s"] == 0.375 + 0.25
    parts = sum(again[f"{part}_s"] for part in ("holding", "waiting", "service", "transfer", "return"))
    assert parts == pytest.approx(again["ended_s"] - again["created_s"], abs=1e-9)


def single_node(up: Any, down: Any) -> VectorEnv:
    """Return replications of a client's node and a neighbour under failures, played to the end."""
    environment = failing(up=up, down=down, horizon_s=400_000)
    environment["topology"] |= {"nodes": environment["topology"]["nodes"][:2], "links": [["a", "b"]]}
    environment["workload"]["load"] = {"tasks_per_second_per_client": 0.01}
    environment["decisions"] = {"when": "interval", "interval_s": 1000}
    env = make_env(environment, REPLICATIONS)
    env.reset(held_out_keys(0, REPLICATIONS))
    while not env.step(np.zeros(env.rewards.shape)):
        pass
    return env


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ({"exponential": 80.0}, {"exponential": 20.0}),
        ({"uniform": [20.0, 140.0]}, {"lognormal": {"mean": 24.0, "cv": 0.5}}),
        (80.0, 20.0),
    ],
)
def test_availability_is_mtbf_over_mtbf_and_mttr(up: Any, down: Any) -> None:
    env = single_node(up, down)
    mttr_s = 24.0 if isinstance(down, dict) and "lognormal" in down else 20.0
    theory = 80.0 / (80.0 + mttr_s)
    values = np.array([env.episode_metrics(e)["availability"] for e in range(REPLICATIONS)])
    if isinstance(up, float):
        assert values == pytest.approx(theory)
        return
    half = stats.sem(values) * stats.t.ppf(0.995, REPLICATIONS - 1)
    assert half < 0.01 * theory
    assert abs(values.mean() - theory) < half
    # Tasks find the node down as often as it is (Poisson arrivals see time averages).
    lost = np.array([env.episode_metrics(e)["dropped_node_failed_share"] for e in range(REPLICATIONS)])
    assert lost.mean() > 1 - theory


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("failures={laws: []}", r"failures.laws: .*at least 1"),
        ("failures.tasks=kept", r"failures.tasks: .*'lost' or 'returned'.*kept"),
        ("failures.laws.0.time_to_failure_s=0", r"failures.laws.0: time_to_failure_s must be more than 0 on average"),
        ("failures.laws.0.types=[robot]", r"failures.laws.0.types: no node is of type 'robot'. Accepted: node"),
        ("failures.laws.0.mtbf_s=1", r"mtbf_s: unknown key"),
    ],
)
def test_impossible_failures(override: str, message: str) -> None:
    refused(failing(), [override], message)
