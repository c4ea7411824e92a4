"""The wait that is shown is the wait that comes: net of work that expires before it is served."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, random_actions, small_environment

from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.simulator.batch import env_slice
from offload_rllib.simulator.events.loop import has_room
from offload_rllib.simulator.heap import KIND_SHIFT
from offload_rllib.simulator.information import known
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.state import grow, lacks_room
from offload_rllib.simulator.types import ARRIVAL, EXPIRED, FINISHED, FREE, OVERDUE, State
from offload_rllib.simulator.waits import advertised_free_at

EXPIRIES = {
    "abort": {"expiry": "abort"},
    "queued": {"expiry": "queued", "grace_s": 0.5},
    "never": {"expiry": "never"},
}


@kernel
def _known_wait(scenario, state, e, agent, action):
    environment = env_slice(state, e)
    return known(scenario, environment, agent, action, environment.episode[0].now_s).wait_s


@kernel
def _advertised_free_at(scenario, state, e, n):
    environment = env_slice(state, e)
    return advertised_free_at(scenario, environment, n, environment.episode[0].now_s)


def crowded(**changes: Any) -> dict[str, Any]:
    """Return a small network where queues are long, and many tasks expire in them."""
    environment = small_environment(**({"horizon_s": 120} | changes))
    for node in environment["topology"]["nodes"]:
        node.pop("queue_capacity", None)
        node["cores"] = 3
        node["instructions_per_second"] /= 6
    environment["workload"]["load"] = {"tasks_per_second_per_client": 1.5}
    environment["workload"]["jobs"]["types"][0]["instructions"] = {"exponential": 1.5e6}
    environment["workload"]["deadline_s"] = {"uniform": [1, 15]}
    environment["score"] = {"drop_s": max(240, environment["horizon_s"])}
    return environment


@pytest.mark.parametrize("expiry", EXPIRIES)
@pytest.mark.parametrize("service", ["pooled", "parallel"])
def test_a_task_that_is_kept_waits_as_long_as_was_shown(expiry: str, service: str) -> None:
    env = make_env(crowded(deadlines=EXPIRIES[expiry], service=service), log=True)
    rng = np.random.default_rng(0)
    nodes = env.scenario.arrays.agent_node
    shown: dict[int, float] = {}
    done = False
    while not done:
        actions = random_actions(env, rng)
        actions[rng.random(actions.shape) < 0.5] = 0
        waits = env.waits(0)
        for agent, action in enumerate(actions[0]):
            slot = env.state.node[0, nodes[agent]]["held_head"]
            if slot >= 0 and (action == 0 or not env.masks[0, agent, action]):
                shown[int(env.state.task[0, slot]["number"])] = float(waits[nodes[agent]])
                assert _known_wait(env.scenario.arrays, env.state, 0, agent, 0) == waits[nodes[agent]]
        done = env.step(actions)
    log = env.task_log(0)
    served = expired = 0
    for number, wait_s in shown.items():
        task = log[number]
        if task["outcome"] == FINISHED:
            assert task["waiting_s"] == pytest.approx(wait_s, abs=1e-9)
            served += wait_s > 0
        elif task["outcome"] == EXPIRED and task["service_s"] == 0:
            assert task["waiting_s"] <= wait_s + 1e-9
            expired += 1
    assert served > 5
    assert (expired > 5) == (expiry != "never")


def without_arrivals(env: VectorEnv) -> VectorEnv:
    """Return a copy of environment 0 in which clients make no more tasks."""
    copy = VectorEnv(env.scenario, 1, log=True)
    copy.reset(held_out_keys(0, 1))
    copy._state = State(*(array.copy() for array in env.state))
    episode, heap = copy.state.episode[0], copy.state.heap[0]
    events = heap[: episode["heap_size"]]
    events = events[events["key"] >> KIND_SHIFT != ARRIVAL]
    events = events[np.lexsort((events["key"], events["time_s"]))]  # what is sorted is a heap
    heap[: len(events)] = events
    episode["heap_size"] = len(events)
    return copy


def last_ends(env: VectorEnv, n: int, since_s: float) -> list[float]:
    """Play on, keeping everything, and return when tasks left the servers of node `n`, the last first."""
    while not env.step(np.zeros(env.masks.shape[:-1])):
        pass
    log = env.task_log(0)
    served = (log["node"] == n) & (log["service_s"] > 0) & (log["ended_s"] >= since_s)
    left_s = log["created_s"] + log["holding_s"] + log["waiting_s"] + log["service_s"] + log["transfer_s"]
    return sorted(left_s[served].tolist(), reverse=True)


@pytest.mark.parametrize("expiry", ["abort", "queued"])
@pytest.mark.parametrize(
    ("queue", "service", "offer"),
    [
        ("fifo", "pooled", "arrival"),
        ("fifo", "parallel", "arrival"),
        ("edf", "pooled", "arrival"),
        ("sjf", "parallel", "arrival"),
        ("lifo", "pooled", "newest"),
        ("fifo", "parallel", "newest"),
        ("fifo", "shared", "arrival"),
        ("edf", "shared, two per core", "arrival"),
        ("sjf", "shared, two per core", "newest"),
    ],
)
def test_a_node_is_free_when_it_has_told_so(queue: str, service: str, offer: str, expiry: str) -> None:
    # The simulator itself tells the truth: everything is kept, nothing more comes, and its servers fall idle.
    tasks = 1 if offer == "newest" else 8
    decisions = {"offer": offer, "tasks_per_decision": tasks, "max_hops": 1}
    changes = {"queue": queue, "service": service, "deadlines": EXPIRIES[expiry], "decisions": decisions}
    if service == "shared, two per core":
        changes |= {"service": "shared", "tasks_per_core": 2}
    # Long enough for all to be served: where cores are shared, tasks of early steps are still in service at 240 s.
    env = make_env(crowded(horizon_s=480 if "shared" in service else 240, **changes), log=True)
    rng = np.random.default_rng(1)
    compared = held = 0
    for step in range(100):
        env.step(rng.integers(0, env.num_actions, env.masks.shape[:-1]) * (rng.random(env.masks.shape[:-1]) < 0.3))
        now_s = float(env.state.episode[0]["now_s"])
        for n in range(4) if step % 5 == 4 else ():
            node = env.state.node[0, n]
            if queue != "fifo" and node["held"] and offer == "arrival":
                continue  # held tasks are placed behind the queue, whatever its order
            free_s = _advertised_free_at(env.scenario.arrays, env.state, 0, n)
            incoming = env.scenario.arrays.link["destination"] == n
            if (env.state.link[0]["sent"] - env.state.link[0]["arrived"])[incoming].any():
                continue
            servers = int(env.scenario.arrays.node[n]["servers"])
            ends = last_ends(without_arrivals(env), n, now_s)
            truth_s = ends[servers - 1] if len(ends) >= servers else now_s
            assert max(free_s, now_s) == pytest.approx(max(truth_s, now_s), abs=1e-8)
            compared += free_s > now_s
            held += int(node["held"])
    assert compared > 10
    assert held > 0 or queue != "fifo"


def test_in_ticks_the_wait_is_right_to_three_ticks() -> None:
    environment = crowded(horizon_s=240, queue="lifo", tick_s=0.5, deadlines=EXPIRIES["queued"])
    environment["decisions"] = {"when": "interval", "offer": "newest", "interval_s": 0.5, "max_hops": 1}
    environment["information"] = {"kind": "broadcast", "interval_s": 0.5}
    env = make_env(environment, log=True)
    compared = 0
    for step in range(160):
        env.step(np.zeros(env.rewards.shape))
        now_s = float(env.state.episode[0]["now_s"])
        for n in (0, 2) if step % 10 == 9 else ():
            free_s = max(_advertised_free_at(env.scenario.arrays, env.state, 0, n), now_s)
            ends = last_ends(without_arrivals(env), n, now_s)
            assert free_s == pytest.approx(max([now_s, *ends[:1]]), abs=1.5)
            compared += free_s > now_s + 2
    assert compared > 5


def test_no_wait_is_shown_where_a_core_is_idle() -> None:
    env = make_env(crowded(service="parallel", decisions={"interval_s": 2.0}))
    idle = 0
    for _ in range(50):
        env.step(env.heuristic_actions("local"))
        waits = env.waits(0)
        for agent, n in enumerate(env.scenario.arrays.agent_node):
            node = env.state.node[0, n]
            if node["busy"] < 3:
                assert waits[n] == _known_wait(env.scenario.arrays, env.state, 0, agent, 0) == 0
                assert env.observations[0, agent, env.layout.names.index("row_0.wait")] == 0
                idle += node["held"] > 1 and node["busy"] > 0
    assert idle > 5


@pytest.mark.parametrize("expiry", ["abort", "queued"])
def test_a_node_awaits_its_tasks_until_it_can_know_better(expiry: str) -> None:
    environment = small_environment(deadlines=EXPIRIES[expiry], horizon_s=100, score={"drop_s": 100})
    for node in environment["topology"]["nodes"]:
        node["queue_capacity"] = 2
    environment["workload"]["load"] = {"tasks_per_second_per_client": 3.0}
    env = make_env(environment, log=True)
    rng = np.random.default_rng(0)
    grace_s = env.scenario.config.deadlines.grace_s
    unknown = 0
    done = False
    while not done:
        done = env.step(random_actions(env, rng))
        now_s = float(env.state.episode[0]["now_s"])
        log = env.task_log(0)
        open_ = np.isin(np.arange(len(log)), env.state.task[0]["number"][env.state.task[0]["stage"] != FREE])
        overdue = log["deadline_s"] + grace_s <= now_s
        # What ended elsewhere without a result is awaited until its deadline has passed.
        elsewhere = ~open_ & (log["outcome"] != FINISHED) & ((log["node"] != log["origin"]) | (log["transfer_s"] > 0))
        created = env.state.task[0][env.state.task[0]["stage"] != FREE]
        for n in range(4):
            inside = created[(created["origin"] == n) & (created["deadline_s"] + grace_s > now_s)]
            vanished = elsewhere & (log["origin"] == n) & (log["hops"] > 0) & ~overdue
            awaited = int(env.state.node[0, n]["own_awaited"])
            assert len(inside) <= awaited <= len(inside) + int(vanished.sum())
            certain = vanished & (log["node"] != n)
            assert awaited >= len(inside) + int(certain.sum())
            unknown += int(certain.sum())
    assert unknown > 20
    pending = env.state.heap[0][: env.state.episode[0]["heap_size"]]
    assert (pending["key"] >> KIND_SHIFT == OVERDUE).sum() == env.state.episode[0]["overdue_in_heap"]


@pytest.mark.parametrize("reason", ["free_slots", "expiries_in_heap", "overdue_in_heap"])
def test_arrays_grow_whatever_they_lack(reason: str) -> None:
    env = make_env(small_environment())
    slots = env.state.task.shape[1]
    env.state.episode[reason] = {"free_slots": 0, "expiries_in_heap": 2 * slots, "overdue_in_heap": slots}[reason]
    assert not has_room(env_slice(env.state, 0))
    assert lacks_room(env.state, 0)
    assert grow(env.scenario.arrays, env.state).task.shape[1] == 2 * slots
