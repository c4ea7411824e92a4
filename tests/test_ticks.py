"""In ticks, things happen in random order within each, nodes do the work of one at once, transfers take whole ones."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from conftest import make_env, small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.ticks import moment
from offload_rllib.simulator.types import FINISHED

KEY = held_out_keys(0, 1)[0]


def ticked(**changes: Any) -> dict[str, Any]:
    """Return the small environment in ticks of a second, without deadlines."""
    environment = small_environment(tick_s=1.0, information={"interval_s": 1.0}, horizon_s=400) | changes
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
    environment["decisions"] = {"max_hops": 1}
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tick_s": 0.3}, r"decisions.interval_s \(1\) must be a multiple of tick_s \(0.3\)"),
        ({"service": "parallel"}, r"tick_s needs service: pooled"),
        ({"information": {"interval_s": 2.0}}, r"information.interval_s \(2\) must be 1"),
    ],
)
def test_what_cannot_be_in_ticks(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(ticked(**changes)))
