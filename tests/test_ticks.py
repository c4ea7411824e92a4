"""In ticks, things happen in random order within each, nodes do the work of one at once, transfers take whole ones."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, small_environment
from helpers.peersimgym_ticks import told_at

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.ticks import moment
from offload_rllib.simulator.types import FINISHED, WAITING

KEY = held_out_keys(0, 1)[0]


def ticked(**changes: Any) -> dict[str, Any]:
    """Return the small environment in ticks of a second, without deadlines."""
    environment = small_environment(**({"tick_s": 1.0, "information": {"interval_s": 1.0}, "horizon_s": 400} | changes))
    environment["workload"]["deadline_s"] = None
    for node in environment["topology"]["nodes"]:
        node.pop("queue_capacity", None)
    return environment


def test_every_order_of_a_tick_is_equally_likely() -> None:
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(permutations(["decision", "work", "message"]), 0)
    ticks = 6000
    for tick in range(ticks):
        times = {"decision": float(tick)} | {name: moment(KEY, rng.random(), tick, 1.0) for name in ("work", "message")}
        assert max(abs(time - tick) for time in times.values()) <= 0.5
        counts[tuple(sorted(times, key=times.__getitem__))] += 1
    # Six orders, each with a standard deviation of 29 around 1000.
    assert max(abs(count - ticks / 6) for count in counts.values()) < 4 * 29, counts


def test_a_node_does_the_work_of_a_tick_at_one_moment_of_it() -> None:
    environment = ticked()
    environment["workload"]["load"] = {"tasks_per_second_per_client": 4.0}
    env = make_env(environment, log=True)
    while not env.step(env.heuristic_actions("local")):
        pass
    log = env.task_log(0)
    for node, speed in ((0, 1e6), (2, 1e6)):
        done = log[(log["outcome"] == FINISHED) & (log["node"] == node)]
        by_tick = np.floor(done["ended_s"] + 0.5).astype(int)
        moments = [set(done["ended_s"][by_tick == tick]) for tick in np.unique(by_tick)]
        assert max(map(len, moments)) == 1
        assert max(np.bincount(by_tick)) > 1
        # More arrives than it can do, so it does what it can: in the ticks from the first task on.
        ticks = 400 - by_tick.min()
        assert done["work"].sum() == pytest.approx(speed * ticks, rel=0.02)


def test_transfers_take_whole_ticks() -> None:
    environment = ticked(links={"kind": "fixed", "rate_bps": 1e6, "latency_s": 2.3})
    environment["decisions"]["max_hops"] = 1
    env = make_env(environment, log=True)
    while not env.step(np.ones(env.rewards.shape)):
        pass
    log = env.task_log(0)
    sent = log[(log["hops"] == 1) & (log["outcome"] == FINISHED)]
    assert len(sent) > 300
    # Sent at a decision: 2.3 s and up to 0.4 s for the bits make 2 or 3 ticks.
    ticks = np.floor(2.3 + sent["bits_in"] / 1e6 + 0.5)
    assert (np.abs(sent["transfer_s"] - ticks) <= 0.5).all()
    assert set(ticks) == {2, 3}
    served = np.floor(sent["ended_s"] - sent["return_s"] + 0.5)
    back = np.floor(sent["ended_s"] + 0.5) - served
    assert (back == np.floor(2.3 + sent["bits_out"] / 1e6 + 0.5)).all()


def with_cloud(**changes: Any) -> dict[str, Any]:
    cloud = {"vms": 1, "instructions_per_second": 4e6, "link": {"rate_bps": 1e7, "latency_s": 0.05}}
    return ticked(cloud=cloud, **changes)


@pytest.mark.parametrize("order", ["random", "fixed"])
def test_every_node_broadcasts_once_a_tick_the_cloud_too(order: str) -> None:
    environment = with_cloud(tick_order=order, energy={"kind": "peersimgym", "cost": 1.0}, horizon_s=50)
    env = make_env(environment)
    cloud = env.scenario.arrays.node["cloud"].argmax()
    told = []
    for step in range(50):
        env.step(env.heuristic_actions("always_cloud"))
        known = env.state.broadcast[0, :, step & 1]  # of tick `step`, told before the decision at step + 1
        if step > 0:
            stamps_s = [told_at(env.scenario.arrays, env.state, n, step) for n in range(len(known))]
            assert np.abs(np.array(stamps_s) - step).max() <= 0.5
            told.append(known["tasks"][cloud])
    assert max(told) >= 2
    # At the last instant some may still have to, in random order.
    assert set(env.state.usage[0]["broadcasts"]) <= ({50} if order == "fixed" else {49, 50})


def test_what_the_cloud_has_done_is_known() -> None:
    env = make_env(with_cloud(horizon_s=200), log=True)
    while not env.step(env.heuristic_actions("least_queue")):
        pass
    log = env.task_log(0)
    cloud = env.scenario.arrays.node["cloud"].argmax()
    # Taken for full of all that was ever sent there, it would soon get nothing.
    assert ((log["node"] == cloud) & (log["outcome"] == FINISHED) & (log["created_s"] > 100)).mean() > 0.1


def test_tasks_of_clients_join_the_queue_in_even_ticks() -> None:
    environment = ticked(tick_order="fixed", decisions={"offer": "newest"}, queue="lifo", horizon_s=100)
    environment["workload"]["load"] = {"tasks_per_second_per_client": 3.0}
    env = make_env(environment)
    waiting_to_join = np.zeros(2, int)
    for tick in range(1, 100):
        env.step(env.heuristic_actions("local"))
        tasks = env.state.task[0]
        came_before_work = (tasks["stage"] == WAITING) & (tasks["received"] == 1) & (tasks["since_s"] < tick - 0.25)
        waiting_to_join[tick % 2] += came_before_work.sum()
    # All have joined when the nodes have worked in an even tick; those of two clients in the other ticks.
    assert waiting_to_join[0] == 0
    assert waiting_to_join[1] > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tick_s": None, "tick_order": "fixed"}, r"tick_order: fixed needs tick_s"),
        ({"tick_s": 0.3}, r"decisions.interval_s \(1\) must be a multiple of tick_s \(0.3\)"),
        ({"service": "parallel"}, r"tick_s needs service: pooled"),
        ({"information": {"interval_s": 2.0}}, r"information.interval_s \(2\) must be 1"),
    ],
)
def test_what_cannot_be_in_ticks(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(ticked(**changes)))
