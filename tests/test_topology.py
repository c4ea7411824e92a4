"""Topologies are what their kind says, follow their seed, and can be drawn anew every episode."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from helpers.environments import log_bytes, small_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from offload_rllib.config import ConfigError, load_environment, presets
from offload_rllib.envs.vector import VectorEnv, held_out_keys, vector_env
from offload_rllib.reporting import topology as topology_view
from offload_rllib.reporting.topology import draw, print_numbers
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology import build_network
from offload_rllib.scenario.topology.ether_scenarios import distance_m
from offload_rllib.scenario.topology.placement import counts_of_shares
from offload_rllib.simulator.state import fit

DEVICES = [
    {"type": "sensor", "share": 3, "instructions_per_second": 1e6, "client": True, "speed_variation": 0.2},
    {"type": "server", "share": 1, "instructions_per_second": 4e6, "cores": 2, "queue_capacity": 9},
]
TIERS = [
    {"type": "sensor", "nodes": 12, "instructions_per_second": 1e6, "client": True, "uplinks": 2, "peers": 1},
    {"type": "gateway", "nodes": 4, "instructions_per_second": 4e6, "queue_capacity": 7},
    {"type": "server", "nodes": 3, "instructions_per_second": 9e6, "cores": 8},
]
REGIONS = [
    {"name": "dublin", "latitude_deg": 53.3, "longitude_deg": -6.3},
    {"name": "virginia", "latitude_deg": 39.0, "longitude_deg": -77.5, "gateways": 2},
]
GRAPHS: dict[str, dict[str, Any]] = {
    "geometric": {"nodes": 30, "radius_m": 18},
    "full": {"nodes": 8},
    "ring": {"nodes": 9},
    "grid": {"rows": 3, "columns": 4},
    "random": {"nodes": 30, "mean_degree": 2.0},
    "bridged_clusters": {"cluster_sizes": [5, 4, 3], "bridges": 2},
    "barabasi_albert": {"nodes": 20, "links_per_node": 2},
    "watts_strogatz": {"nodes": 16, "neighbours": 2, "rewiring_probability": 0.5},
}
DRAWN: dict[str, dict[str, Any]] = {kind: {"devices": DEVICES, **keys} for kind, keys in GRAPHS.items()} | {
    "tiers": {"tiers": TIERS},
    "ether_clusters": {"rpi3_per_cluster": [3, 2]},
    "ether_urban_sensing": {"sizes": [2, 3, 2]},
    "ether_industrial_iot": {"premises": 2, "servers_per_rack": 2},
    "ether_inter_region": {"regions": REGIONS},
}
NETWORKS = presets("envs")["ether_12"].parent / "networks"
DOCS = Path(__file__).parents[1] / "docs" / "topologies.md"


def environment(topology: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a short environment with some topology, at rho 0.8."""
    content = small_environment(topology=topology, **changes)
    content["workload"]["load"] = {"rho": 0.8}
    return content


def network_of(topology: dict[str, Any], **changes: Any) -> Network:
    """Return the network of a topology."""
    return build_network(load_environment(environment(topology, **changes)).topology)


def drawn(kind: str, **changes: Any) -> dict[str, Any]:
    """Return a topology that is drawn."""
    return {"kind": kind, **DRAWN[kind], **changes}


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


def documented_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the environment of the example in the docs, its module importable."""
    import yaml

    text = DOCS.read_text()
    module = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def star" in code)
    described = next(code for code in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: python" in code)
    (tmp_path / "my_networks.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return yaml.safe_load(described)


def test_a_function_of_the_users_makes_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = documented_example(tmp_path, monkeypatch)
    scenario = build_scenario(load_environment(environment(**content)))
    assert len(scenario.network.nodes) == 1 + content["topology"]["arguments"]["sensors"]
    env = vector_env(environment(**content), 2)
    env.reset(held_out_keys(0, 2))
    assert env.scenario_of(0).network != env.scenario_of(1).network
    for function, message in (
        ("no_such_module:star", r"topology.function: no_such_module:star: importing no_such_module failed"),
        ("my_networks:ring", r"has no function 'ring'"),
        ("my_networks:Network", r"topology.function: my_networks:Network raised TypeError.*unexpected keyword"),
    ):
        content["topology"]["function"] = function
        with pytest.raises(ConfigError, match=message):
            build_scenario(load_environment(environment(**content)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("nodes[1] = replace(nodes[1], core_speed=0.0)", r"topology: node 'n1': core_speed is 0.0; accepted: 1e-30 to"),
        ("nodes[1] = replace(nodes[1], core_speed=math.nan)", r"node 'n1': core_speed is nan"),
        ("nodes[1] = replace(nodes[1], cores=0)", r"node 'n1': cores is 0; accepted: a whole number from 1 up"),
        ("nodes[0] = replace(nodes[0], queue_capacity=0)", r"node 'n0': queue_capacity is 0; accepted: None, or"),
        ("nodes[0] = replace(nodes[0], position_m=(0.0, math.inf))", r"node 'n0': position_m is \(0.0, inf\)"),
        ("links[0] = (9, 9)", r"the link \(9, 9\) must be a pair of indices"),
        ("links[0] = (1, 0)", r"the link \(1, 0\) must be .* the smaller first"),
        ("nodes[0] / 0", r"bad_networks:pair raised TypeError.*bad_networks.py, line 9\)"),
    ],
)
def test_what_a_users_network_holds_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: str, message: str
) -> None:
    (tmp_path / "bad_networks.py").write_text(
        "import math\n"
        "from dataclasses import replace\n"
        "from offload_rllib.scenario.network import Network, Node\n"
        "def pair(seed):\n"
        "    place = (0.0, 0.0)\n"
        "    nodes = [Node(f'n{i}', 'x', place, cores=1, core_speed=1e6, queue_capacity=3, client=True)\n"
        "             for i in range(2)]\n"
        "    links = [(0, 1)]\n"
        f"    {changes}\n"
        "    return Network(tuple(nodes), tuple(links))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_networks", raising=False)
    with pytest.raises(ConfigError, match=message):
        network_of({"kind": "python", "function": "bad_networks:pair"})
    monkeypatch.delitem(sys.modules, "bad_networks", raising=False)


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
            "latency_s": {"lognormal": {"shape": 0.6, "loc": 0.01, "scale": 0.05}},
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


@pytest.mark.parametrize(
    ("topology", "changes", "message"),
    [
        (drawn("full", nodes=1_000_000), {}, r"topology.nodes: about 1,000,000 nodes and .* links need .* GiB"),
        (drawn("random", nodes=10, mean_degree=10.0), {}, r"mean_degree \(10\) must be at most nodes - 1 \(9\)"),
        (drawn("watts_strogatz", neighbours=3), {}, r"neighbours: .*multiple of 2"),
        (drawn("barabasi_albert", nodes=3, links_per_node=3), {}, r"links_per_node \(3\) must be less than nodes"),
        (drawn("bridged_clusters", cluster_sizes=[1, 2], bridges=3), {}, r"bridges \(3\) must be at most 2"),
        (drawn("geometric", radius_m=0), {}, r"topology.radius_m: .*greater than 0"),
        (drawn("ring", nodes=2), {}, r"topology.nodes: .*greater than or equal to 3"),
        (drawn("ring", devices=[DEVICES[1]]), {}, r"no node has a client"),
        (drawn("ring", devices=[DEVICES[0]] * 2), {}, r"topology.devices: the type 'sensor' is given twice"),
        (
            drawn("ring", devices=[{"type": "x"}]),
            {},
            r"topology.devices.0.instructions_per_second: missing",
        ),
        (drawn("ring", devices=[DEVICES[0] | {"speed_variation": 1.0}]), {}, r"speed_variation: .*less than 1"),
        (drawn("tiers", tiers=[TIERS[0] | {"uplinks": 5}, *TIERS[1:]]), {}, r"tiers.0.uplinks: 5; the next tier has 4"),
        (drawn("tiers", tiers=[TIERS[0], TIERS[0]]), {}, r"two tiers have the type 'sensor'"),
        (drawn("ring"), {"links": {"kind": "topology"}}, r"links.kind: topology: this topology states no rates"),
        (drawn("random", mean_degree=1e-16), {}, r"mean_degree \(1e-16\) must be at least 1e-12 x \(nodes - 1\)"),
        (drawn("random", mean_degree=1e-29), {}, r"mean_degree \(1e-29\) must be at least"),
        (drawn("geometric", radius_m=1e308), {}, r"radius_m: its size must be between 1e-30 and 1e\+30 .*1e\+308"),
        (drawn("random", resample="episode"), {}, r"decisions.max_destinations: must be given with topology.resample"),
        (
            {"kind": "ether_urban_sensing", "resample": "episode"},
            {},
            r"resample: episode needs sizes",
        ),
        ({"kind": "ether_urban_sensing", "sizes": [1]}, {}, r"sizes has 1 entries for neighbourhoods: 3"),
        (drawn("ether_inter_region", regions=[REGIONS[0]] * 2), {}, r"regions.1.name: 'dublin' is given twice"),
        ({"kind": "python", "function": "os.path"}, {}, r"topology.function: .*pattern"),
        ({"kind": "graphml", "path": "nowhere.graphml"}, {}, r"topology.path: no such file: /.*nowhere.graphml"),
    ],
    ids=lambda value: value.get("kind") if isinstance(value, dict) else None,
)
def test_impossible_topologies(topology: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_scenario(load_environment(environment(topology, **changes)))
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "campus_7_nodes.csv",
            "camera_1,camera,4e6",
            "camera_1,camera,",
            r"nodes.csv: line 3: instructions_per_second",
        ),
        ("campus_7_nodes.csv", "name,type", "name,typ", r"line 1: unknown column 'typ'. Did you mean 'type'\?"),
        ("campus_7_nodes.csv", "camera_1,camera,4e6", "camera_1,camera,fast", r"line 3: .*must be a number .*'fast'"),
        ("campus_7_nodes.csv", "\ncamera_1,", "\ncamera_0,camera,1\ncamera_1,", r"line 3: must have 8 values"),
        ("campus_7_nodes.csv", "\ncentre,", "\nhall_0,x,1,,,,,\ncentre,", r"node name 'hall_0' is used more than once"),
        ("campus_7_nodes.csv", "1,10,true,40,0", "1,10,maybe,40,0", r"line 3: client: must be true or false"),
        ("campus_7_nodes.csv", "1,10,true,40,0", "1,10", r"line 3: must have 8 values"),
        ("campus_7_links.csv", "camera_1,hall_0", "camera_1,hall_9", r"links.csv: line 3: no node is named 'hall_9'"),
        ("campus_7_links.csv", "camera_1,hall_0,100e6", "camera_1,hall_0,", r"line 3: rate_bps is missing"),
        ("campus_7_links.csv", "camera_1,hall_0,100e6", "camera_1,hall_0,0", r"rates_bps of .*must be 1e-30 to"),
        ("campus_7_links.csv", "camera_1,", "camera_0,", r"'camera_0' - 'hall_0' is stated twice"),
        ("campus_7_links.csv", "hall_0,hall_1,200e6,0.001\nhall_0,centre,1e9,0.001\n", "", r"in 2 pieces"),
        ("campus_7.graphml", "</graph>", "", r"campus_7.graphml: not valid GraphML"),
        ("campus_7.graphml", '<data key="cores">16</data>', '<data key="cores">0</data>', r"node 'centre': cores: "),
        (
            "campus_7.graphml",
            'attr.name="cores"',
            'attr.name="coress"',
            r"unknown attribute 'coress'. Did you mean 'co",
        ),
        ("campus_7.graphml", 'attr.name="rate_bps"', 'attr.name="rate"', r"link .*: unknown attribute 'rate'. Did you"),
        ("campus_7_nodes.csv", "name,type,", "name,name,", r"line 1: the column 'name' is there more than once"),
        ("cell_6.json", '"path_info"', '"path_infos"', r"links: unknown key 'path_infos'. Did you mean 'path_info'\?"),
        ("cell_6.json", '"memory"', '"memry"', r"rpi3_0: capacity: unknown key 'memry'. Did you mean 'memory'\?"),
        ("cell_6.json", '"capacity"', '"cores": 4, "capacity"', r"nodes.rpi3_0: unknown key 'cores'"),
        ("cell_6.json", '"cpu_milis": 88000', '"cpu_milis": 1e999', r"server_0: cpu_milis: must be finite"),
        ("cell_6.json", '"cpu_milis": 88000', f'"cpu_milis": {"9" * 400}', r"server_0: cpu_milis: must be finite"),
        ("cell_6.json", '"nodes": {', '"nodes": ' + "[" * 100_000 + "{", r"cell_6.json: not valid JSON"),
        ("cell_6.json", '"cpu_milis": 88000, ', "", r"nodes.server_0: cpu_milis: must be int or float"),
        ("cell_6.json", '"coordinates": [5, 5]', '"coordinates": [5]', r"nodes.rpi3_0: coordinates: must be two"),
        ("cell_6.json", '"1": [4, 6]', '"1": [4, 9]', r"links.neighbours.1: no node has the id 9"),
        ("cell_6.json", "}", "", r"cell_6.json: not valid JSON"),
    ],
)
def test_faulty_files_are_named_with_the_place(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    for path in NETWORKS.iterdir():
        text = path.read_text()
        if path.name == name:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / path.name).write_text(text)
    preset = {".csv": "edge_list_7", ".graphml": "graphml_7", ".json": "ether_json_6"}[Path(name).suffix]
    content = load_environment(preset).model_dump(mode="json")
    for key in ("path", "nodes_path", "links_path"):
        if key in content["topology"]:
            content["topology"][key] = str(tmp_path / Path(content["topology"][key]).name)
    with pytest.raises(ConfigError) as error:
        build_scenario(load_environment(content))
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_errors_name_the_key_where_a_kind_is_called_like_a_key() -> None:
    with pytest.raises(ConfigError, match=r"topology.tiers.1.nodes: .*greater than or equal to 1 .*0"):
        load_environment(environment(drawn("tiers")), ["topology.tiers.1.nodes=0"])


def test_more_environments_than_memory_are_refused() -> None:
    scenario = build_scenario(load_environment(environment(drawn("full", nodes=100))))
    with pytest.raises(ConfigError, match=r"num_envs: 100000000 environments of 100 nodes and 100 actions need about"):
        VectorEnv(scenario, 100_000_000)


def test_ten_thousand_nodes_are_built_in_seconds_and_little_memory() -> None:
    radius_m = 100 * (5 / (math.pi * 10_000)) ** 0.5
    topology = drawn("geometric", nodes=10_000, radius_m=radius_m)
    start = time.process_time()
    env = vector_env(environment(topology, decisions={"max_destinations": 6}, links={"kind": "wireless"}))
    assert time.process_time() - start < 20
    env.reset(held_out_keys(0, 1))
    arrays = [*env.state, *env._arrays, env.observations, env.masks, env.rewards]
    assert sum(array.nbytes for array in arrays) < 64 * 1024 * 10_000


@pytest.mark.parametrize("nodes", [10, 1000])
def test_networks_are_drawn_with_and_without_positions(tmp_path: Path, nodes: int) -> None:
    scenario = build_scenario(load_environment(environment(drawn("ring", nodes=nodes))))
    draw(scenario, tmp_path / "ring.png", "ring")
    manual = {
        "kind": "manual",
        "nodes": [{"name": f"n{i}", "instructions_per_second": 1e6, "client": True} for i in range(min(nodes, 100))],
        "links": [[f"n{i}", f"n{i // 2}"] for i in range(1, min(nodes, 100))],
    }
    draw(build_scenario(load_environment(environment(manual))), tmp_path / "tree.png", "tree")
    for name in ("ring", "tree"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_type_with_and_without_bounded_queues_is_shown_as_such() -> None:
    nodes = [{"name": f"n{i}", "type": "edge", "instructions_per_second": 1e6, "client": True} for i in range(3)]
    topology = {"kind": "manual", "nodes": nodes, "links": [["n0", "n1"], ["n1", "n2"]]}
    for capacities, shown in (((None, 4, 9), "4 to unbounded"), ((7, 4, 9), "4 to 9"), ((None,) * 3, "unbounded")):
        for node, capacity in zip(nodes, capacities, strict=True):
            node["queue_capacity"] = capacity
        console = Console(record=True, width=140)
        print_numbers(build_scenario(load_environment(environment(topology))), console)
        assert f"│ {shown} │" in re.sub(" +", " ", console.export_text())


def test_of_a_very_large_network_a_coherent_part_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(drawn("barabasi_albert"))
    assert topology_view.drawn_part(network) is network
    monkeypatch.setattr(topology_view, "MOST_DRAWN", 7)
    part = topology_view.drawn_part(network)
    assert len(part.nodes) == 7
    assert nx.is_connected(part.graph())
    named = {(part.nodes[a].name, part.nodes[b].name) for a, b in part.links}
    assert named <= {(network.nodes[a].name, network.nodes[b].name) for a, b in network.links}
