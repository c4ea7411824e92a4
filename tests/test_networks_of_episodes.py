"""A network can be drawn anew for every episode, and the order of its nodes changes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import log_bytes
from helpers.topologies import drawn, environment
from hypothesis import given, settings
from hypothesis import strategies as st

from offload_rllib.envs.vector import VectorEnv, held_out_keys, vector_env
from offload_rllib.simulator.state import fit


def play(env: VectorEnv, e: int, steps: int | None = None) -> str:
    """Play with random valid actions and return a hash of all that environment `e` shows and logs."""
    hashed = hashlib.sha256()
    for _ in range(steps or env.steps_per_episode):
        env.step(env.heuristic_actions("random"))
        for array in (env.observations, env.masks, env.rewards):
            hashed.update(array[e].tobytes())
    hashed.update(log_bytes(env, e))
    return hashed.hexdigest()


def resampled(kind: str = "geometric", **changes: Any) -> dict[str, Any]:
    """Return an environment that draws its network anew every episode."""
    decisions = {"max_destinations": 4} if kind not in {"full", "ring", "grid"} else {}
    return environment(drawn(kind, resample="episode"), decisions=decisions, **changes)


@pytest.mark.parametrize("kind", ["geometric", "full", "tiers", "ether_urban_sensing"])
def test_every_episode_has_a_network_of_its_own_with_the_same_sizes(kind: str) -> None:
    env = vector_env(resampled(kind), 6)
    env.reset(held_out_keys(0, 6))
    scenarios = [env.scenario_of(e) for e in range(6)]
    assert len({scenario.network for scenario in scenarios}) == 6
    names = [node.name for node in scenarios[0].network.nodes]
    assert list(env.agents) == names
    for e, scenario in enumerate(scenarios):
        assert [node.name for node in scenario.network.nodes] == names
        assert scenario.load.rho == pytest.approx(0.8)
        assert scenario.arrays.destination.shape == (len(names), env.num_actions)
        assert (env.observations[e] >= -1).all()
        assert (env.observations[e] <= 1).all()
    play(env, 0)
    assert all(env.episode_metrics(e)["tasks_created"] > 0 for e in range(6))


def test_an_episodes_network_is_the_same_in_any_batch() -> None:
    key = held_out_keys(0, 1)
    alone, batch = vector_env(resampled(), 1, log=True), vector_env(resampled(), 16, log=True)
    alone.reset(key)
    expected = play(alone, 0)
    for place in (0, 11, 15):
        keys = held_out_keys(5, 16)
        keys[place] = key[0]
        batch.reset(keys)
        assert play(batch, place) == expected


def test_files_of_a_workload_are_not_read_again_for_every_network(tmp_path: Path) -> None:
    table = tmp_path / "rates.csv"
    table.write_text("time_s,level\n0,1\n10,3\n")
    content = resampled()
    content["workload"]["arrivals"] = {"kind": "table", "path": str(table)}
    env = vector_env(content, 2)
    table.unlink()
    env.reset(held_out_keys(0, 2))
    # Each network has its own rates on the one table.
    rates = {scenario.load.rate_per_client for scenario in map(env.scenario_of, range(2))}
    assert len(rates) == 2
    assert all(scenario.load.rho == pytest.approx(0.8) for scenario in map(env.scenario_of, range(2)))
    play(env, 0)
    assert env.episode_metrics(1)["tasks_created"] > 0


def test_networks_that_need_more_room_do_not_disturb_other_episodes() -> None:
    # Without a bound on latencies the number of remembered broadcasts differs between draws, as links do.
    config = resampled("random", information={"interval_s": 0.25}, links={"kind": "fixed", "rate_bps": 2e3})
    alone, pair = vector_env(config, 1), vector_env(config, 2)
    keys = held_out_keys(1, 2)
    alone.reset(keys[:1])
    expected = play(alone, 0)
    pair.reset(keys)
    first, rooms = "", set()
    hashed = hashlib.sha256()
    for step in range(pair.steps_per_episode):
        if step % 10 == 5:
            pair.reset(held_out_keys(100 + step, 1), np.array([1]))
            if step == 15:  # as a draw with longer latencies would ask for
                arrays = pair.scenario_of(1).arrays
                slow = arrays.link.copy()
                slow["broadcast_delay_s"] *= 16
                pair._state = fit(arrays._replace(link=slow), pair._state)
        rooms.add((pair.state.link.shape[1], pair.state.broadcast.shape[2]))
        pair.step(pair.heuristic_actions("random"))
        for array in (pair.observations, pair.masks, pair.rewards):
            hashed.update(array[0].tobytes())
    hashed.update(log_bytes(pair, 0))
    first = hashed.hexdigest()
    assert len(rooms) > 1, "the networks were meant to outgrow the arrays"
    assert first == expected


# Every feature that has draws of its own, or an order of its own.
FEATURES: dict[str, dict[str, Any]] = {
    "none": {},
    "everything": {
        "links": {
            "kind": "fixed",
            "rate_bps": 1e6,
            "latency_s": {"lognormal": {"mean": 0.07, "cv": 0.56, "least": 0.01}},
            "jitter_s": {"uniform": [0, 0.02]},
            "loss_probability": 0.05,
            "contention": "fifo",
        },
        "failures": {
            "tasks": "returned",
            "laws": [{"time_to_failure_s": {"exponential": 20}, "time_to_repair_s": {"exponential": 3}}],
        },
        "energy": {"kind": "power", "devices": [{"idle_w": 2.0, "core_busy_w": 3.0, "transmit_w": 0.1}]},
        "cloud": {"vms": 2, "instructions_per_second": 5e5, "access": {"nodes": ["n0", "n3"]}}
        | {"link": {"rate_bps": 1e6, "latency_s": 0.1}},
        "queue": "edf",
        "service": "parallel",
        "decisions": {"max_hops": 3},
        "agents": {"nodes": ["n0", "n1", "n3", "n5"], "others": "shortest_finish"},
        "reward": {"name": "delay", "scope": "neighbourhood", "shaping": {"potential": "tasks", "gamma": 0.9}},
    },
    "ticks": {
        "tick_s": 1.0,
        "information": {"interval_s": 1.0},
        "service": "pooled",
        "queue": "lifo",
        "decisions": {"when": "interval", "offer": "newest"},
        "deadlines": {"expiry": "queued", "grace_s": 2.0},
        "score": {"drop_s": 1000.0},
    },
}


@pytest.mark.parametrize("features", FEATURES)
@given(order=st.permutations(list(range(6))), seed=st.integers(0, 100))
@settings(max_examples=8, deadline=None)
def test_the_order_of_the_nodes_changes_nothing_else(features: str, order: list[int], seed: int) -> None:
    nodes = [
        {"name": f"n{i}", "instructions_per_second": 1e6 * (1 + i % 3), "client": i != 2, "queue_capacity": 5}
        for i in range(6)
    ]
    links = [["n0", "n1"], ["n1", "n2"], ["n2", "n3"], ["n3", "n4"], ["n4", "n5"], ["n5", "n0"], ["n1", "n4"]]

    def results(listed: list[dict[str, Any]]) -> dict[Any, Any]:
        topology = {"kind": "manual", "nodes": listed, "links": links}
        env = vector_env(environment(topology, **FEATURES[features]), 1, log=True)
        env.reset(held_out_keys(seed, 1))
        names = [node.name for node in env.scenario.network.nodes]
        link, destination = env.scenario.arrays.link, env.scenario.arrays.destination
        seen: dict[Any, Any] = {}
        for step in range(env.steps_per_episode):
            actions = np.zeros((1, len(env.agents)), np.int32)
            for a, agent in enumerate(env.agents):
                ways = {names[link[d]["destination"]]: k for k, d in enumerate(destination[a]) if d >= 0} | {agent: 0}
                turn = hashlib.sha256(f"{agent} {step}".encode()).digest()[0] % len(ways)
                actions[0, a] = ways[sorted(ways)[turn]] * env.masks[0, a, 1:].max()
            env.step(actions)
            for a, agent in enumerate(env.agents):
                # The mean over a neighbourhood is summed in the order of the nodes.
                seen[agent, step] = round(float(env.rewards[0, a]), 4)
        log = np.sort(env.task_log(0), order="created_s")
        seen["log"] = [
            (
                names[row["origin"]],
                names[row["node"]],
                *(row[key] for key in ("created_s", "ended_s", "outcome", "hops")),
            )
            for row in log
        ]
        return seen

    assert results(nodes) == results([nodes[i] for i in order])
