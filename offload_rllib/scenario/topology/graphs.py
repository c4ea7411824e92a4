"""Topologies that are a graph with devices placed on it. Graphs are networkx's; positions lie in the area."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np

from offload_rllib.config.topology.graphs import (
    BarabasiAlbert,
    BridgedClusters,
    Full,
    Geometric,
    Grid,
    RandomGraph,
    Ring,
    WattsStrogatz,
)
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology.joining import join_at_random, join_nearest
from offload_rllib.scenario.topology.placement import placed

GraphTopology = Geometric | Full | Ring | Grid | RandomGraph | BridgedClusters | BarabasiAlbert | WattsStrogatz


def anywhere(count: int, area_m: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Return [count, 2] positions, uniform in the area."""
    return rng.uniform((0, 0), area_m, (count, 2))


def on_ellipse(count: int, area_m: tuple[float, float]) -> np.ndarray:
    """Return [count, 2] positions on the ellipse that touches the area's sides."""
    angles = 2 * np.pi * np.arange(count) / count
    return (1 + np.column_stack([np.cos(angles), np.sin(angles)])) * np.array(area_m) / 2


def geometric(config: Geometric, rng: np.random.Generator) -> tuple[nx.Graph, np.ndarray]:
    """Return the graph of nodes that are near enough, its pieces joined, and their positions."""
    from scipy.spatial import KDTree

    positions = anywhere(config.nodes, config.area_m, rng)
    graph = nx.empty_graph(config.nodes)
    pairs = KDTree(positions).query_pairs(config.radius_m, output_type="ndarray")
    graph.add_edges_from(pairs.tolist())
    join_nearest(graph, positions)
    return graph, positions


def grid(config: Grid) -> tuple[nx.Graph, np.ndarray]:
    """Return the lattice and its positions; a single row or column stands in the middle."""
    graph = nx.convert_node_labels_to_integers(nx.grid_2d_graph(config.rows, config.columns), ordering="sorted")
    axes = [
        np.linspace(0, side, count) if count > 1 else np.array([side / 2])
        for side, count in zip(config.area_m, (config.columns, config.rows), strict=True)
    ]
    x, y = np.meshgrid(*axes)
    return graph, np.column_stack([x.ravel(), y.ravel()])


def bridged_clusters(config: BridgedClusters, rng: np.random.Generator) -> tuple[nx.Graph, np.ndarray]:
    """Return full clusters in vertical strips of the area, and bridges between neighbouring ones."""
    graph = nx.disjoint_union_all([nx.complete_graph(size) for size in config.cluster_sizes])
    width, height = config.area_m
    ends = np.concatenate([[0], np.cumsum(config.cluster_sizes)])
    strip = width / len(config.cluster_sizes)
    positions = np.concatenate(
        [
            anywhere(size, (0.8 * strip, height), rng) + np.array([strip * index, 0])
            for index, size in enumerate(config.cluster_sizes)
        ]
    )
    for index, (size, following) in enumerate(itertools.pairwise(config.cluster_sizes)):
        for pair in rng.choice(size * following, config.bridges, replace=False).tolist():
            graph.add_edge(int(ends[index] + pair // following), int(ends[index + 1] + pair % following))
    return graph, positions


def graph_and_positions(config: GraphTopology, rng: np.random.Generator) -> tuple[nx.Graph, np.ndarray]:
    """Return the graph of a configuration and the positions [N, 2] of its vertices."""
    if isinstance(config, Geometric):
        return geometric(config, rng)
    if isinstance(config, Grid):
        return grid(config)
    if isinstance(config, BridgedClusters):
        return bridged_clusters(config, rng)
    if isinstance(config, Ring):
        return nx.cycle_graph(config.nodes), on_ellipse(config.nodes, config.area_m)
    seed = int(rng.integers(2**31))  # networkx draws with Python's generator
    if isinstance(config, WattsStrogatz):
        graph = nx.watts_strogatz_graph(config.nodes, config.neighbours, config.rewiring_probability, seed)
        join_at_random(graph, rng)
        return graph, on_ellipse(config.nodes, config.area_m)
    if isinstance(config, Full):
        graph = nx.complete_graph(config.nodes)
    elif isinstance(config, BarabasiAlbert):
        graph = nx.barabasi_albert_graph(config.nodes, config.links_per_node, seed)
    else:
        graph = nx.fast_gnp_random_graph(config.nodes, config.mean_degree / (config.nodes - 1), seed)
        join_at_random(graph, rng)
    return graph, anywhere(config.nodes, config.area_m, rng)


def build(config: GraphTopology, rng: np.random.Generator) -> Network:
    """Return the network of a configuration.

    Raises:
        ConfigError: a type of device is given twice, or has no node.
    """
    graph, positions = graph_and_positions(config, rng)
    return placed(config.devices, graph, positions, rng)
