"""Destinations that `max_destinations` keeps: drawn among equals, and the load is computed from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import small_environment

from offload_rllib.config import load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.scenario.destinations import offered_links


def full(names: list[str], limit: int | None, **changes: Any) -> BuiltScenario:
    """Return a full graph of equal nodes with equal links, each with a client."""
    nodes = [{"name": name, "instructions_per_second": 1e6, "client": True} for name in names]
    links = [[a, b] for i, a in enumerate(names) for b in names[i + 1 :]]
    jobs = {"kind": "mix", "types": [{"instructions": {"exponential": 1e5}, "bits_in": 1e3}]}
    environment = small_environment(
        horizon_s=400,
        topology={"kind": "manual", "nodes": nodes, "links": links},
        workload={"jobs": jobs, "load": {"rho": 0.8}},
        decisions={"max_destinations": limit, "max_hops": 1, "interval_s": 0.1},
        **changes,
    )
    return build_scenario(load_environment(environment))


def destinations(scenario: BuiltScenario) -> dict[str, set[str]]:
    """Return the names of each agent's destinations."""
    names = [node.name for node in scenario.network.nodes]
    link, rows = scenario.arrays.link, scenario.arrays.destination
    return {
        agent: {names[link[index]["destination"]] for index in rows[a, 1:] if index >= 0}
        for a, agent in enumerate(scenario.agents)
    }


NAMES = [f"node_{i}" for i in range(20)]


def test_equal_links_are_drawn_so_that_no_node_is_everybodys_destination() -> None:
    kept = destinations(full(NAMES, 4))
    assert all(len(names) == 4 for names in kept.values())
    chosen = np.array([sum(name in names for names in kept.values()) for name in NAMES])
    # 20 agents draw 4 of 19 each: a node is chosen 4 times on average, with a standard deviation below 2.
    assert chosen.sum() == 80
    assert chosen.max() <= 10
    assert (chosen > 0).sum() >= 17


def test_the_order_in_which_nodes_are_listed_changes_no_destination() -> None:
    order = np.random.default_rng(0).permutation(NAMES).tolist()
    assert destinations(full(order, 4)) == destinations(full(NAMES, 4))


def test_rounding_of_distances_decides_nothing() -> None:
    scenario = full(NAMES, 4)
    link = scenario.arrays.link.copy()
    link["seconds_per_bit"] *= 1 + 1e-14 * np.arange(len(link))
    law, every = scenario.arrays.link_law, np.ones(len(link), bool)
    expected = offered_links(scenario.arrays.link, law, every, 20, 4)
    assert (offered_links(link, law, every, 20, 4) == expected).all()


LINE: dict[str, Any] = {
    "kind": "manual",
    "nodes": [
        {"name": "a", "instructions_per_second": 1e6, "client": True},
        {"name": "b", "instructions_per_second": 2e6},
        {"name": "c", "instructions_per_second": 4e6},
        {"name": "d", "instructions_per_second": 8e6},
    ],
    "links": [["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"]],
}


@pytest.mark.parametrize(
    ("changes", "capacity"),
    [
        ({}, 15e6),
        ({"decisions": {"max_hops": 1}}, 7e6),
        # The fast link of a leads to b; that of b leads back to a, so that d is out of reach.
        ({"decisions": {"max_destinations": 1}}, 3e6),
        ({"decisions": {"max_destinations": 1}, "link_overrides": [{"between": ["b", "d"], "rate_bps": 1e9}]}, 11e6),
        # b keeps all, so that what is to come to d goes over c alone.
        ({"agents": {"nodes": ["a", "c"]}}, 15e6),
        ({"agents": {"nodes": ["a"]}}, 7e6),
        ({"agents": {"nodes": ["a"], "others": "round_robin"}}, 15e6),
        ({"agents": {"nodes": ["b"]}}, 1e6),
    ],
    ids=str,
)
def test_the_load_counts_what_tasks_can_come_to_by_the_destinations_that_agents_have(
    changes: dict[str, Any], capacity: float
) -> None:
    overrides = [{"between": ["a", "b"], "rate_bps": 1e8}, *changes.get("link_overrides", [])]
    environment = small_environment(topology=LINE, **(changes | {"link_overrides": overrides}))
    environment["workload"]["load"] = {"rho": 0.5}
    environment["workload"]["deadline_s"] = 1e6
    load = build_scenario(load_environment(environment)).load
    assert load.capacity == capacity
    assert load.rho == pytest.approx(0.5)


def test_what_could_meet_a_deadline_is_seen_from_the_destinations_that_agents_have() -> None:
    environment = small_environment(topology=LINE)
    environment["workload"] |= {
        "jobs": {"kind": "mix", "types": [{"instructions": 4e6}]},
        "load": {"tasks_per_second_per_client": 0.1},
        "deadline_s": 1.5,
    }
    overrides = [{"between": ["a", "b"], "rate_bps": 1e8}]
    # Only c and d do the work in time; with one destination, tasks come no further than b.
    assert build_scenario(load_environment(environment | {"link_overrides": overrides})).load.feasible_share == 1
    environment |= {"link_overrides": overrides, "decisions": {"max_destinations": 1}}
    assert build_scenario(load_environment(environment)).load.feasible_share == 0


def test_a_limit_costs_a_good_rule_little_on_a_full_graph() -> None:
    rule = make_contenders(["shortest_finish"])
    scores = {
        limit: evaluate(full(NAMES, limit).config, rule, episodes=4).of("shortest_finish", "score_mean_s").mean()
        for limit in (None, 4)
    }
    # With the lowest indices, which were everybody's destinations, it was 1.95 times as much.
    assert scores[4] < 1.3 * scores[None]
