"""Topologies that cannot be are refused, with the file, the key and what is accepted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.topologies import DEVICES, REGIONS, TIERS, drawn, environment

from offload_rllib.config import ConfigError, load_environment, presets
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.scenario import build_scenario

NETWORKS = presets("envs")["ether_12"].parent / "networks"


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
