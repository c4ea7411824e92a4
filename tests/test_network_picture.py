"""Pictures of networks show links by rate, nodes by load, and names that cover nothing, at 10 to 1,000 nodes."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from helpers.topologies import drawn, environment, network_of
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.reporting import network_picture
from offload_rllib.reporting.network_picture import DPI, LARGEST_AREA, NAMES_OF_LARGE, draw, drawn_part, picture
from offload_rllib.scenario import BuiltScenario, build_scenario

MANUAL = {
    "kind": "manual",
    "nodes": [
        {"name": "a", "type": "edge", "instructions_per_second": 1e6, "client": True, "position_m": [0, 0]},
        {"name": "b", "type": "edge", "instructions_per_second": 2e6, "client": True, "position_m": [10, 0]},
        {"name": "s", "type": "server", "instructions_per_second": 8e6, "position_m": [5, 8]},
    ],
    "links": [["a", "b"], ["a", "s"]],
}


def scenario_of(topology: dict[str, Any], **changes: Any) -> BuiltScenario:
    return build_scenario(load_environment(environment(topology, **changes)))


def collections(figure: Figure, kind: type) -> list[Any]:
    return [each for each in figure.axes[0].collections if isinstance(each, kind)]


@pytest.mark.parametrize(
    ("nodes", "radius_m"), [(10, 60), (60, 25), (100, 20), pytest.param(1000, 6, marks=pytest.mark.slow)]
)
def test_names_and_nodes_do_not_cover_each_other(nodes: int, radius_m: float) -> None:
    figure = picture(scenario_of(drawn("geometric", nodes=nodes, radius_m=radius_m)), "a network")
    figure.draw_without_rendering()
    axis = figure.axes[0]
    places = np.concatenate(
        [axis.transData.transform(np.asarray(each.get_offsets())) for each in collections(figure, PathCollection)]
    )
    assert len(places) == nodes
    boxes = [Text.get_window_extent(name) for name in axis.texts]
    assert len(boxes) >= (0.9 * nodes if nodes <= 60 else 0.5 * NAMES_OF_LARGE)
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert not any(box.contains(x, y) for x, y in places)
        assert axis.get_window_extent().contains(box.x0, box.y0)
        assert axis.get_window_extent().contains(box.x1, box.y1)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(nodes)
    diameter = np.sqrt(LARGEST_AREA * min(1, 60 / nodes)) * DPI / 72
    assert apart.min() > 0.9 * diameter


def test_width_and_colour_of_links_are_their_rates_and_directions_are_separate() -> None:
    scenario = scenario_of(MANUAL)
    link = scenario.arrays.link
    assert list(zip(link["source"], link["destination"], strict=True)) == [(0, 1), (0, 2), (1, 0), (2, 0)]
    link["seconds_per_bit"] = [1e-6, 1e-8, 1e-6, 1 / 4e6]
    figure = picture(scenario, "three")
    (links,) = collections(figure, LineCollection)
    rates = np.asarray(links.get_array()) * 1e6
    assert sorted(rates) == pytest.approx([1e6, 4e6, 1e8]), "one line for a to b, two for a to s"
    widths = np.asarray(links.get_linewidths())
    assert np.argsort(widths).tolist() == np.argsort(rates).tolist()
    # In the middle of their logarithms in width, and darker where faster.
    share = (widths - widths.min()) / np.ptp(widths)
    assert share == pytest.approx(np.log(rates / 1e6) / np.log(100))
    links.update_scalarmappable()
    brightness = links.get_edgecolors()[:, :3].sum(axis=1)
    assert np.argsort(-brightness).tolist() == np.argsort(rates).tolist()
    there, back = (links.get_segments()[np.argmin(np.abs(rates - rate))] for rate in (1e8, 4e6))
    assert there[0] == pytest.approx(back[-1])
    middle = len(there) // 2
    assert np.linalg.norm(there[middle] - back[middle]) == pytest.approx(2 * 0.12 * np.hypot(5, 8), rel=0.05)
    along, aside = there[-1] - there[0], there[middle] - there[0]
    assert along[0] * aside[1] - along[1] * aside[0] < 0, "to the right of its direction"


def test_the_colour_of_a_node_is_its_load_and_a_thick_rim_a_client() -> None:
    scenario = scenario_of(MANUAL)
    edge, server = collections(picture(scenario, "three"), PathCollection)
    load = scenario.load
    work = load.rate_per_client * load.mean_feasible_work
    assert np.asarray(edge.get_array()) == pytest.approx([work / 1e6, work / 2e6])
    assert np.asarray(server.get_array()) == pytest.approx([0.0])
    assert min(edge.get_linewidths()) > max(server.get_linewidths())
    assert not np.array_equal(edge.get_paths()[0].vertices, server.get_paths()[0].vertices)
    assert edge.norm.vmax == server.norm.vmax >= 1


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_it_is_written_in_the_format_of_the_name(tmp_path: Path, ending: str) -> None:
    nodes = [{"name": f"n{i}", "instructions_per_second": 1e6, "client": True} for i in range(4)]
    links = [[nodes[i]["name"], nodes[i // 2]["name"]] for i in range(1, 4)]
    tree = scenario_of({"kind": "manual", "nodes": nodes, "links": links})
    draw(tree, tmp_path / f"tree.{ending}", "<b>&amp; $\\frac$")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    content = (tmp_path / f"tree.{ending}").read_bytes()
    assert content.startswith(start)
    assert b"<b>" not in content, "escaped"
    with pytest.raises(ConfigError, match="accepted endings: png, svg, pdf"):
        draw(tree, tmp_path / "tree.gif", "tree")


def test_of_a_very_large_network_a_coherent_part_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(drawn("barabasi_albert"))
    assert drawn_part(network)[0] is network
    monkeypatch.setattr(network_picture, "MOST_DRAWN", 7)
    part, kept = drawn_part(network)
    assert [node.name for node in part.nodes] == [network.nodes[i].name for i in kept]
    assert len(part.nodes) == 7
    assert nx.is_connected(part.graph())
    named = {(part.nodes[a].name, part.nodes[b].name) for a, b in part.links}
    assert named <= {(network.nodes[a].name, network.nodes[b].name) for a, b in network.links}
    figure = picture(scenario_of(drawn("barabasi_albert")), "part")
    assert "(the 7 nodes nearest to" in figure.axes[0].get_title()
    assert sum(len(each.get_offsets()) for each in collections(figure, PathCollection)) == 7
