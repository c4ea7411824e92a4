"""Wide-area networks: every format gives the same network, latencies follow from distances, faults are named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers.environments import small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology.wide_area_files import Site, read

# Four sites on a square of 2 degrees at the equator; (longitude, latitude).
SITES = {"a": (10.0, -1.0), "b": (12.0, -1.0), "c": (12.0, 1.0), "d": (10.0, 1.0)}
LINES = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]
DEVICES = [{"type": "edge", "instructions_per_second": 1e7, "client": True}]


def native(sites: dict[str, Any], lines: list[tuple[str, str]]) -> str:
    """Return SNDlib's native format."""
    nodes = "\n".join(f"  {name} ( {x} {y} )  # a site" for name, (x, y) in sites.items())
    links = "\n".join(f"  L{i} ( {a} {b} ) 0.0 0.0 0.0 0.0 ( 40.0 1.0 )" for i, (a, b) in enumerate(lines))
    return f"?SNDlib native format; type: network; version: 1.0\n# ours\nNODES (\n{nodes}\n)\nLINKS (\n{links}\n)\n"


def xml(sites: dict[str, Any], lines: list[tuple[str, str]]) -> str:
    """Return SNDlib's XML."""
    nodes = "".join(
        f'<node id="{n}"><coordinates><x>{x}</x><y>{y}</y></coordinates></node>' for n, (x, y) in sites.items()
    )
    links = "".join(
        f'<link id="L{i}"><source>{a}</source><target>{b}</target></link>' for i, (a, b) in enumerate(lines)
    )
    return (
        '<?xml version="1.0"?><network xmlns="http://sndlib.zib.de/network" version="1.0"><networkStructure>'
        f'<nodes coordinatesType="geographical">{nodes}</nodes><links>{links}</links></networkStructure></network>'
    )


def gml(sites: dict[str, Any], lines: list[tuple[str, str]], of_line: str = "") -> str:
    """Return GML as the Topology Zoo writes it: nodes have numbers, and labels that need not differ."""
    numbers = {name: i for i, name in enumerate(sites)}
    nodes = "\n".join(
        f'  node [\n    id {i}\n    label "site"\n'
        + ("" if sites[n][0] is None else f"    Longitude {sites[n][0]}\n    Latitude {sites[n][1]}\n")
        + "  ]"
        for n, i in numbers.items()
    )
    links = "\n".join(f"  edge [\n    source {numbers[a]}\n    target {numbers[b]}\n{of_line}  ]" for a, b in lines)
    return f'graph [\n  multigraph 1\n  label "Ours"\n{nodes}\n{links}\n]\n'


def graphml(sites: dict[str, Any], lines: list[tuple[str, str]]) -> str:
    """Return GraphML as the Topology Zoo writes it."""
    keys = "".join(f'<key attr.name="{n}" attr.type="double" for="node" id="{n}" />' for n in ("Longitude", "Latitude"))
    nodes = "".join(
        f'<node id="{n}"><data key="Longitude">{x}</data><data key="Latitude">{y}</data></node>'
        for n, (x, y) in sites.items()
    )
    edges = "".join(f'<edge source="{a}" target="{b}" />' for a, b in lines)
    return (
        '<?xml version="1.0" encoding="utf-8"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
        f'{keys}<graph edgedefault="undirected">{nodes}{edges}</graph></graphml>'
    )


def topohub(sites: dict[str, Any], lines: list[tuple[str, str]], **of_line: Any) -> str:
    """Return TopoHub's JSON."""
    return json.dumps(
        {
            "directed": False,
            "multigraph": False,
            "graph": {"name": "ours"},
            "nodes": [{"id": name, "pos": list(place)} for name, place in sites.items()],
            "links": [{"source": a, "target": b, **of_line} for a, b in lines],
        }
    )


FORMATS = {"native.txt": native, "native.xml": xml, "zoo.gml": gml, "zoo.graphml": graphml, "hub.json": topohub}


def network_of(text: str, folder: Path, **keys: Any) -> Network:
    """Return the network of a file with this text."""
    path = folder / "network"
    path.write_text(text)
    topology = {"kind": "wide_area", "path": str(path), "devices": DEVICES, **keys}
    environment = load_environment(small_environment(topology=topology, links={"kind": "topology"}))
    return build_scenario(environment).network


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_network(name: str, tmp_path: Path) -> None:
    network = network_of(FORMATS[name](SITES, LINES), tmp_path)
    assert network == network_of(native(SITES, LINES), tmp_path)
    assert len(network.nodes) == 4
    assert len(network.links) == 4


def test_latency_is_length_over_the_speed_of_light_in_fibre(tmp_path: Path) -> None:
    # 2 degrees of a meridian are 2 / 360 of the circumference of a globe of radius 6,371 km.
    meridian_s = 1.5 * 2 / 360 * 2 * math.pi * 6.371e6 / 2e8
    parallel_s = meridian_s * math.cos(math.radians(1))
    found = network_of(native(SITES, LINES), tmp_path).latencies_s
    assert found is not None
    assert sorted(there for there, _ in found) == pytest.approx([parallel_s] * 2 + [meridian_s] * 2, rel=1e-5)
    assert all(there == back for there, back in found)
    straight = network_of(native(SITES, LINES), tmp_path, path_stretch=1.0).latencies_s
    assert straight is not None
    assert [s * 1.5 for s, _ in straight] == pytest.approx([s for s, _ in found])


def test_each_link_has_the_facts_of_its_own_line(tmp_path: Path) -> None:
    """Devices are drawn for the sites, so the links come in another order than the lines."""
    content = json.loads(topohub(SITES, LINES))
    for i, link in enumerate(content["links"]):
        link["dist"] = 100.0 * (i + 1)  # km
    for seed in range(4):
        network = network_of(json.dumps(content), tmp_path, seed=seed)
        assert network.latencies_s is not None
        assert network.rates_bps == ((1e9, 1e9),) * 4
        place = {i: node.position_m for i, node in enumerate(network.nodes)}
        # The corner (x, y) of each site, as -1 or 1 from the middle.
        middle = [sum(p[axis] for p in place.values()) / 4 for axis in (0, 1)]
        corner = {i: tuple(math.copysign(1, p[axis] - middle[axis]) for axis in (0, 1)) for i, p in place.items()}
        of_corner = {(-1, -1): "a", (1, -1): "b", (1, 1): "c", (-1, 1): "d"}
        for (i, j), (there, _) in zip(network.links, network.latencies_s, strict=True):
            line = sorted((of_corner[corner[i]], of_corner[corner[j]]))
            assert there == pytest.approx(1e5 * (1 + LINES.index((line[0], line[1]))) / 2e8)


def test_parallel_lines_are_one_link_and_loops_are_left_out(tmp_path: Path) -> None:
    lines = [*LINES, ("a", "b"), ("c", "c")]
    network = network_of(gml(SITES, lines, "    LinkSpeedRaw 2500000000.0\n"), tmp_path)
    assert network.rates_bps is not None
    assert sorted(there for there, _ in network.rates_bps) == [2.5e9, 2.5e9, 2.5e9, 5e9]


def test_a_site_without_a_place_is_amid_its_neighbours(tmp_path: Path) -> None:
    sites = {**SITES, "b": (None, None)}
    (tmp_path / "zoo.gml").write_text(gml(sites, LINES))
    assert read(tmp_path / "zoo.gml").sites["1"] == Site(None, None)
    network = network_of(gml(sites, LINES), tmp_path)
    # Amid a (10, -1) and c (12, 1): in the centre of the square, half a diagonal from both.
    half_s = 1.5 * math.sqrt(2) / 360 * 2 * math.pi * 6.371e6 / 2e8
    found = sorted(there for there, _ in network.latencies_s or ())
    assert found[:2] == pytest.approx([half_s] * 2, rel=1e-3)


def test_places_are_drawn_and_may_be_drawn_for_every_episode(tmp_path: Path) -> None:
    devices = [*DEVICES, {"type": "core", "share": 0.3, "instructions_per_second": 5e7}]
    places = {
        network_of(native(SITES, LINES), tmp_path, seed=seed, devices=devices).nodes[3].position_m for seed in range(20)
    }
    assert len(places) == 4
    network = network_of(native(SITES, LINES), tmp_path, devices=devices, resample="episode")
    assert [node.name for node in network.nodes] == ["edge_0", "edge_1", "edge_2", "core_0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sites and lines", "network: a format that is not known; accepted: SNDlib"),
        (native(SITES, LINES)[:-60], r"network: ends within the section LINKS: it is cut off"),
        (native(SITES, LINES).replace("12.0 1.0", "12.0"), r"network: line 6: must be NAME \( LONGITUDE LATITUDE \)"),
        (native(SITES, LINES).replace("12.0 1.0", "12.0 91"), r"line 6: latitude is 91; accepted: degrees from -90 to"),
        (
            native(SITES, LINES).replace("12.0 1.0", "12.0 east"),
            r"line 6: latitude: must be a number \(given: 'east'\)",
        ),
        (native(SITES, LINES).replace("a d", "a e"), r"line 13: line 'L3': there is no site 'e'"),
        (native({**SITES, "e": (0, 0)}, LINES), r"network: the lines must connect all sites; .* from the largest: e$"),
        (native({}, []), r"network: the lines must connect all sites; there are 0 pieces"),
        (native(SITES, LINES).replace("  b (", "  a ("), r"line 5: every site must have a name of its own"),
        (xml(SITES, LINES)[:-9], r"network: not valid XML"),
        (xml(SITES, LINES).replace("geographical", "pixel"), r"coordinatesType is 'pixel'; accepted: geographical"),
        ("<html/>", r"network: XML that is not a network of SNDlib"),
        (graphml(SITES, LINES)[:-9], r"network: not valid GraphML"),
        (gml(SITES, LINES)[:-3], r"network: not valid GML"),
        (gml(dict.fromkeys(SITES, (None, None)), LINES), r"network: the site '0' has no longitude and latitude, nor"),
        (gml(SITES, LINES, '    LinkSpeedRaw "fast"\n'), r"line '0' - '1': LinkSpeedRaw: must be a number"),
        (topohub(SITES, LINES)[:-9], r"network: not valid JSON"),
        (topohub(SITES, LINES).replace("nodes", "knots"), r"not a topology of TopoHub: the key 'nodes' is missing"),
        (topohub(SITES, LINES).replace("[10.0, -1.0]", "[10.0]"), r"not a topology of TopoHub: not enough values"),
        (topohub(SITES, LINES, dist="far"), r"line 'a' - 'b': dist: must be a number \(given: 'far'\)"),
        (topohub(SITES, LINES, dist=-5), r"latencies_s of the link .* must be 0 to"),
        ('{"nodes": 3}', r"not a topology of TopoHub: 'int' object is not iterable"),
    ],
)
def test_a_fault_is_named_with_its_place(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        network_of(text, tmp_path)
