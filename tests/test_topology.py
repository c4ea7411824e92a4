"""Topologies are what their kind says, and follow their seed."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from typing import Any

import networkx as nx
import numpy as np
import pytest
from helpers.topologies import DEVICES, DRAWN, GRAPHS, drawn, environment, network_of
from rich.console import Console

from offload_rllib.config import ConfigError, load_environment, presets
from offload_rllib.envs.vector import held_out_keys, vector_env
from offload_rllib.reporting.topology import print_numbers
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.topology.globe import distance_m
from offload_rllib.scenario.topology.placement import counts_of_shares

NETWORKS = presets("envs")["ether_12"].parent / "networks"


@pytest.mark.parametrize("kind", sorted(DRAWN))
def test_the_seed_decides_and_the_names_do_not_depend_on_it(kind: str) -> None:
    first, again, *others = (network_of(drawn(kind, seed=seed)) for seed in (1, 1, 2, 3, 4, 5))
    assert first == again
    for other in others:
        assert other != first
        assert [node.name for node in other.nodes] == [node.name for node in first.nodes]
        assert nx.is_connected(other.graph())


@pytest.mark.parametrize("kind", sorted(GRAPHS))
def test_devices_have_their_shares_speeds_and_places(kind: str) -> None:
    network = network_of(drawn(kind, area_m=[50, 20]))
    types = Counter(node.type for node in network.nodes)
    assert types["sensor"] == pytest.approx(3 * types["server"], abs=2)
    for node in network.nodes:
        device = next(device for device in DEVICES if device["type"] == node.type)
        variation = device.get("speed_variation", 0)
        assert node.core_speed == pytest.approx(device["instructions_per_second"], rel=variation + 1e-12)
        assert node.cores == device.get("cores", 1)
        assert node.queue_capacity == device.get("queue_capacity")
        assert node.client == device.get("client", False)
        assert 0 <= node.position_m[0] <= 50
        assert 0 <= node.position_m[1] <= 20
    sensors = {node.core_speed for node in network.nodes if node.type == "sensor"}
    assert len(sensors) == types["sensor"]


def test_shares_are_rounded_by_largest_remainders() -> None:
    from offload_rllib.config.devices import DeviceClass

    def counts(shares: list[float], total: int) -> list[int]:
        return counts_of_shares(
            [DeviceClass(type=f"t{i}", share=share, instructions_per_second=1.0) for i, share in enumerate(shares)],
            total,
        )

    assert counts([1, 1, 1], 10) == [4, 3, 3]
    assert counts([0.6, 0.3, 0.1], 11) == [7, 3, 1]
    with pytest.raises(ConfigError, match=r"topology.devices.1.share: 0.01 of 1.01 gives the type 't1' no node of 10"):
        counts([1, 0.01], 10)


def test_shapes_of_the_graphs() -> None:
    def degrees(kind: str, **keys: Any) -> list[int]:
        return sorted(degree for _, degree in network_of(drawn(kind, **keys)).graph().degree)

    assert degrees("full") == [7] * 8
    assert degrees("ring") == [2] * 9
    assert nx.is_isomorphic(network_of(drawn("grid")).graph(), nx.grid_2d_graph(3, 4))
    assert len(network_of(drawn("bridged_clusters")).links) == 10 + 6 + 3 + 2 + 2
    assert len(network_of(drawn("barabasi_albert")).links) == 2 * 18
    assert degrees("watts_strogatz", rewiring_probability=0.0) == [2] * 16
    links = [len(network_of(drawn("random", nodes=200, mean_degree=8.0, seed=seed)).links) for seed in range(30)]
    assert np.mean(links) == pytest.approx(800, abs=5 * 28 / 30**0.5)  # a binomial's deviation is 28


def test_geometric_graphs_link_what_is_near_and_join_pieces_by_the_shortest_links() -> None:
    for seed in range(5):
        network = network_of(drawn("geometric", nodes=12, radius_m=20, seed=seed))
        places = [node.position_m for node in network.nodes]
        pairs = sorted(itertools.combinations(range(12), 2), key=lambda pair: math.dist(*(places[i] for i in pair)))
        near = {pair for pair in pairs if math.dist(*(places[i] for i in pair)) <= 20}
        expected = nx.Graph(near)
        expected.add_nodes_from(range(12))
        for a, b in pairs:  # Kruskal, with all pairs as candidates
            if not nx.has_path(expected, a, b):
                expected.add_edge(a, b)
        assert {tuple(sorted(edge)) for edge in expected.edges} == set(network.links)


def test_tiers_link_to_the_nearest_of_the_next_tier() -> None:
    network = network_of(drawn("tiers"))
    place = {node.name: node.position_m for node in network.nodes}
    linked = {frozenset(network.nodes[i].name for i in pair) for pair in network.links}
    for node in network.nodes:
        if node.type == "server":
            continue
        above = {"sensor": ("gateway", 2), "gateway": ("server", 1)}[node.type]
        nearest = sorted(
            (n for n in place if n.startswith(above[0])), key=lambda n: math.dist(place[n], node.position_m)
        )
        for other in nearest[: above[1]]:
            assert {node.name, other} in linked
    assert sum(name.count("server") == 2 for name in map(" ".join, linked)) == 3
    assert {node.queue_capacity for node in network.nodes if node.type == "gateway"} == {7}


def test_urban_sensing_has_ethers_devices_rates_and_latencies() -> None:
    network = network_of(drawn("ether_urban_sensing"), links={"kind": "topology"})
    assert Counter(node.type for node in network.nodes) == {"rpi3": 14, "nuc": 3, "tx2": 14, "server": 10}
    facts: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    assert network.rates_bps is not None
    assert network.latencies_s is not None
    for (a, b), rates, latency in zip(network.links, network.rates_bps, network.latencies_s, strict=True):
        kinds = network.nodes[a].type, network.nodes[b].type
        facts.setdefault(kinds, []).append((*rates, latency[0]))
    assert {rates[:2] for rates in facts["rpi3", "nuc"]} == {(500e6, 500e6)}
    assert {rates[:2] for rates in facts["nuc", "server"]} == {(25e6, 125e6)}
    # The published files' round trips: 3.8 to 4.7 ms from Pi to NUC, 43 to 60 ms and more from NUC to server.
    assert 1.6e-3 < np.mean([latency for *_, latency in facts["rpi3", "nuc"]]) < 2.5e-3
    assert all(latency > 17e-3 for *_, latency in facts["nuc", "server"])
    drawn_sizes = [
        len(network_of({"kind": "ether_urban_sensing", "seed": seed}, links={"kind": "topology"}).nodes)
        for seed in range(200)
    ]
    # 200 draws of Ether's own generator: at least 37, median 45.
    assert min(drawn_sizes) == 37
    assert np.median(drawn_sizes) == pytest.approx(45, abs=4)


def test_industrial_iot_and_inter_region() -> None:
    plant = network_of({"kind": "ether_industrial_iot"}, links={"kind": "topology"})
    assert Counter(node.type for node in plant.nodes) == {"rpi3": 9, "nuc": 3, "tx2": 3, "server": 45}
    # Dublin to Ashburn is about 5,450 km; a photon in that much fibre takes 27 ms.
    assert distance_m((53.3, -6.3), (39.0, -77.5)) == pytest.approx(5.45e6, rel=0.01)
    regions = network_of(drawn("ether_inter_region", path_stretch=1.0), links={"kind": "topology"})
    names = [node.name for node in regions.nodes]
    assert regions.latencies_s is not None
    between = regions.links.index((names.index("dublin_server_0"), names.index("virginia_server_0")))
    assert regions.latencies_s[between][0] == pytest.approx(0.0273 + 0.001, abs=5e-4)


def test_rates_may_differ_each_way() -> None:
    scenario = build_scenario(load_environment(environment(drawn("ether_urban_sensing"), links={"kind": "topology"})))
    link, nodes = scenario.arrays.link, scenario.network.nodes
    for record in link:
        kinds = nodes[record["source"]].type, nodes[record["destination"]].type
        if kinds in {("nuc", "server"), ("server", "nuc")}:
            assert 1 / record["seconds_per_bit"] == pytest.approx(25e6 if kinds[0] == "nuc" else 125e6)
        back = link[record["reverse"]]
        assert (back["source"], back["destination"]) == (record["destination"], record["source"])


def test_files_describe_the_same_network() -> None:
    tables, graphml = (build_scenario(load_environment(name)).network for name in ("edge_list_7", "graphml_7"))
    assert tables == graphml
    assert tables.rates_bps is not None
    assert len(tables.links) == 7
    cell = build_scenario(load_environment("ether_json_6")).network
    assert [(node.speed, node.queue_capacity, node.client) for node in cell.nodes][2:4] == [
        (4e6, 3, True),
        (4e6, 54, False),
    ]
    assert cell.rates_bps is not None
    assert cell.rates_bps[cell.links.index((0, 5))] == (25e6, 125e6)


def test_ten_thousand_nodes_are_built_in_little_memory() -> None:
    radius_m = 100 * (5 / (math.pi * 10_000)) ** 0.5
    topology = drawn("geometric", nodes=10_000, radius_m=radius_m)
    env = vector_env(environment(topology, decisions={"max_destinations": 6}, links={"kind": "wireless"}))
    env.reset(held_out_keys(0, 1))
    arrays = [*env.state, *env._arrays, env.observations, env.masks, env.rewards]
    assert sum(array.nbytes for array in arrays) < 64 * 1024 * 10_000


def test_a_type_with_and_without_bounded_queues_is_shown_as_such() -> None:
    nodes = [{"name": f"n{i}", "type": "edge", "instructions_per_second": 1e6, "client": True} for i in range(3)]
    topology = {"kind": "manual", "nodes": nodes, "links": [["n0", "n1"], ["n1", "n2"]]}
    for capacities, shown in (((None, 4, 9), "4 to unbounded"), ((7, 4, 9), "4 to 9"), ((None,) * 3, "unbounded")):
        for node, capacity in zip(nodes, capacities, strict=True):
            node["queue_capacity"] = capacity
        assert f"│ {shown} │" in numbers(topology)
    for node in nodes:
        node |= {"queue_capacity": None, "queue_capacity_bits": 6e7}
    assert "│ 60 Mbit │" in numbers(topology)
    nodes[0]["queue_capacity"] = 5
    assert "│ 5 to unbounded, 60 Mbit │" in numbers(topology)


def numbers(topology: dict[str, Any]) -> str:
    """Return what `show` prints of a network, without the padding of its tables."""
    console = Console(record=True, width=140)
    print_numbers(build_scenario(load_environment(environment(topology, score={"drop_s": 100}))), console)
    return re.sub(" +", " ", console.export_text())
