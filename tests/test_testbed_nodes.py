"""The code of the nodes, in virtual time without delays, gives every task the fate that the simulator gives it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.policies import kept
from helpers.virtual_testbed import VirtualTestbed

from offload_rllib.config import load_environment
from offload_rllib.config.policy import Network as NetworkConfig
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation.evaluate import Cell, Place, Player, about_episodes
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.heuristics import parse_rule
from offload_rllib.simulator.types import FINISHED
from offload_rllib.testbed.play import contenders_of
from offload_rllib.testbed.recorded import brain_of
from offload_rllib.testbed.results import measured_table, simulated_table
from offload_rllib.testbed.setup import NAMESPACES, REAL, Brain

KEY = int(held_out_keys(0, 1)[0])
SHORT = ("horizon_s=150", "warmup_s=0", "drain_s=0")
TIMES = ("ended_s", "holding_s", "waiting_s", "service_s", "transfer_s", "return_s")
SAME = ("outcome", "node", "hops", "origin", "type")
CASES = {
    "plain": ((), {"finished", "expired", "unfinished"}),
    "overload": (("workload.load.rho=1.5", "links.bandwidth_hz=2e5"), {"finished", "expired", "unfinished"}),
    "full queues": (("workload.load.rho=1.5", "topology.nodes.0.queue_capacity=1"), {"finished", "queue_full"}),
    "queues for links": (("links.contention=fifo", "links.bandwidth_hz=2e5"), {"finished", "expired"}),
    "losses": (("links.loss_probability=0.2",), {"finished", "lost"}),
    "late tasks wait on": (
        ("deadlines.expiry=queued", "score.drop_s=150", "workload.load.rho=1.2"),
        {"finished", "expired"},
    ),
    "late at their node": (
        ("deadlines.expiry=queued", "score.drop_s=150", "links.bandwidth_hz=1e5", "workload.load.rho=1.2"),
        {"finished", "expired"},
    ),
    "no deadline counts": (
        ("deadlines.expiry=never", "score.drop_s=150", "workload.load.rho=1.2"),
        {"finished", "unfinished"},
    ),
    "parallel, earliest deadline": (
        ("service=parallel", "queue=edf", "workload.load.rho=1.2"),
        {"finished", "expired"},
    ),
    "shortest job": (("queue=sjf", "workload.load.rho=1.2"), {"finished", "expired"}),
    "last in first out": (("queue=lifo", "workload.load.rho=1.2"), {"finished", "expired"}),
    "one hop": (("decisions.max_hops=1",), {"finished"}),
}


def compare(overrides: Sequence[str], policy: str, outcomes: set[str]) -> Any:
    """Play a policy on both sides, and compare every task; return the testbed's log."""
    config = load_environment("manual_5", [*SHORT, *overrides])
    scenario = build_scenario(config)
    env = ArrivalEnv(scenario, 1, log=True)
    (contender,) = contenders_of([policy], sampled=False)
    played = VirtualTestbed(env, brain_of(contender, env, 0), KEY).play()
    assert played.problems == ()
    cell = Cell(Place("manual_5", config, {}), contender, 0, 1, 0, log=True)
    ours: Any = measured_table(scenario, played, about_episodes(cell)[0]).to_pandas()
    theirs: Any = simulated_table(Player(scenario).play(cell).tasks).to_pandas()
    for name in SAME:
        assert ours[name].astype(str).tolist() == theirs[name].astype(str).tolist(), name
    ended = ours["outcome"] != "unfinished"
    for name in TIMES:
        np.testing.assert_allclose(ours[name][ended], theirs[name][ended], atol=1e-6, err_msg=name)
    assert outcomes <= set(ours["outcome"])
    return ours


@pytest.mark.parametrize("case", CASES)
def test_without_delays_every_task_has_the_fate_that_it_has_in_the_simulator(case: str) -> None:
    overrides, outcomes = CASES[case]
    tasks = compare(overrides, "shortest_finish", outcomes)
    assert (tasks["hops"] > 0).sum() > 5
    assert (tasks["decision_s"] > 0).any()


def test_what_a_slow_link_cannot_deliver_in_time_ends_at_its_deadline() -> None:
    # A rule that does not ask what is under way: a node knows at once what it has given up itself, a node of the
    # simulator with the next broadcast.
    tasks = compare(("links.bandwidth_hz=3e4",), "always_server", {"finished", "expired"})
    on_a_link = tasks[(tasks["outcome"] == "expired") & (tasks["transfer_s"] > 0) & (tasks["waiting_s"] == 0)]
    assert len(on_a_link) > 3
    assert (on_a_link["ended_s"] - on_a_link["deadline_s"]).abs().max() < 1e-6


@pytest.mark.parametrize(("links", "latency_s"), [(NAMESPACES, 0.5), (REAL, 0.0)])
def test_a_sender_holds_latencies_where_the_kernel_has_the_rates_and_nothing_on_real_links(
    links: str, latency_s: float
) -> None:
    env = ArrivalEnv(build_scenario(load_environment("manual_5", [*SHORT, "links.latency_s=0.5"])), 1, log=True)
    log = VirtualTestbed(env, Brain(rule=parse_rule("always_server")), KEY, links).play().log
    sent = log[(log["hops"] > 0) & (log["outcome"] == FINISHED)]
    assert len(sent) > 5
    for part in ("transfer_s", "return_s"):
        np.testing.assert_allclose(sent[part], latency_s * sent["hops"], atol=1e-3, err_msg=part)


@pytest.mark.parametrize("policy", ["least_queue", "random", "power_of_two", "size_interval", "soft_finish"])
def test_rules_decide_as_in_the_simulator(policy: str) -> None:
    compare((), policy, {"finished"})


@pytest.mark.parametrize("kind", ["mlp", "pointer"])
def test_networks_decide_as_in_the_simulator(kind: Any, tmp_path: Path) -> None:
    env = ArrivalEnv(build_scenario(load_environment("manual_5", SHORT)), 1)
    kept(tmp_path / "trained", env, network=NetworkConfig(kind=kind, hidden=(8,)))
    tasks = compare((), str(tmp_path / "trained"), {"finished"})
    assert (tasks["hops"] > 0).sum() > 5
