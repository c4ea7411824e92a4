"""Networks from public libraries of wide-area networks: devices on the sites, fibre between them."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import find_data
from offload_rllib.config.topology.wide_area import WideArea
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology.globe import EARTH_RADIUS_M, FIBRE_M_PER_S, distance_m
from offload_rllib.scenario.topology.placement import placed
from offload_rllib.scenario.topology.wide_area_files import filled_in, read


def build(config: WideArea, rng: np.random.Generator) -> Network:
    """Return the network of a file, with devices that are drawn for its sites.

    The latency of a line is its length over 2e8 m/s. Its length is the one that the file states, or `path_stretch`
    times the distance of its ends on the globe. Parallel lines are one link, with the sum of their rates and the
    shortest of their lengths; a line from a site to itself is left out.

    Raises:
        ConfigError: the file cannot be read or is damaged, a line ends at no site, the lines do not connect the sites,
            or a type of device is given twice or has no site.
    """
    path = find_data(config.path)
    found = read(path)
    graph = nx.Graph()
    graph.add_nodes_from(found.sites)
    for line in found.lines:
        for name in (line.source, line.target):
            if name not in found.sites:
                raise ConfigError(f"{line.where}: there is no site '{name}'")
        if line.source != line.target:
            rate_bps = config.rate_bps if line.rate_bps is None else line.rate_bps
            length_m = math.inf if line.length_m is None else line.length_m
            known = graph.get_edge_data(line.source, line.target, {"rate_bps": 0.0, "length_m": math.inf})
            graph.add_edge(
                line.source,
                line.target,
                rate_bps=known["rate_bps"] + rate_bps,
                length_m=min(known["length_m"], length_m),
            )
    if not found.sites or not nx.is_connected(graph):
        pieces = [] if not found.sites else sorted(nx.connected_components(graph), key=len)
        where = f"; cut off from the largest: {', '.join(sorted(pieces[0])[:10])}" if pieces else ""
        raise ConfigError(f"{path}: the lines must connect all sites; there are {len(pieces)} pieces{where}")
    places = filled_in(found, {name: list(graph[name]) for name in graph}, path)
    for a, b, facts in graph.edges(data=True):
        length_m = facts["length_m"]
        if math.isinf(length_m):
            (lon_a, lat_a), (lon_b, lat_b) = places[a], places[b]
            length_m = config.path_stretch * distance_m((lat_a, lon_a), (lat_b, lon_b))
        facts["latency_s"] = length_m / FIBRE_M_PER_S
    return placed(
        config.devices,
        nx.convert_node_labels_to_integers(graph),
        _flat(np.array([places[name] for name in found.sites])),
        rng,
    )


def _flat(places: np.ndarray) -> np.ndarray:
    """Return positions [N, 2] in metres for pictures: longitude and latitude, as long as they are in the middle."""
    middle = np.radians((places[:, 1].min() + places[:, 1].max()) / 2)
    return np.radians(places) * EARTH_RADIUS_M * np.array([np.cos(middle), 1.0])
