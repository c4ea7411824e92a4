"""Tiers from the edge to the core."""

from __future__ import annotations

import itertools

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology.graphs import Tiers
from offload_rllib.scenario.network import Network, Node
from offload_rllib.scenario.topology.graphs import anywhere
from offload_rllib.scenario.topology.placement import links_of, nodes_of


def build(config: Tiers, rng: np.random.Generator) -> Network:
    """Return the network: each node linked to the nearest of the next tier and, with peers, of its own.

    It is connected: every node has a link upwards, and the last tier has all links inside it.

    Raises:
        ConfigError: a tier asks for more links than there are nodes to link to.
    """
    nodes: list[Node] = []
    positions: list[np.ndarray] = []
    first = [0]
    for tier in config.tiers:
        positions.append(anywhere(tier.nodes, config.area_m, rng))
        nodes += nodes_of(tier, positions[-1], rng)
        first.append(len(nodes))
    links: set[tuple[int, int]] = set(itertools.combinations(range(first[-2], first[-1]), 2))
    last = len(config.tiers) - 1
    for level, tier in enumerate(config.tiers[:last]):
        above = config.tiers[level + 1].nodes
        if tier.uplinks > above:
            raise ConfigError(f"topology.tiers.{level}.uplinks: {tier.uplinks}; the next tier has {above} nodes")
        if tier.peers >= tier.nodes:
            raise ConfigError(f"topology.tiers.{level}.peers: {tier.peers}; the tier has {tier.nodes} nodes")
        for i, row in enumerate(_nearest(positions[level + 1], positions[level], tier.uplinks).tolist()):
            links |= {(first[level] + i, first[level + 1] + j) for j in row}
        # The nearest of its own tier is the node itself.
        for i, (_, *row) in enumerate(_nearest(positions[level], positions[level], 1 + tier.peers).tolist()):
            links |= {(first[level] + min(i, j), first[level] + max(i, j)) for j in row}
    return Network(tuple(nodes), links_of(links))


def _nearest(points: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Return the indices [n, count] of the points [m, 2] nearest to each of the places [n, 2], the nearest first."""
    from scipy.spatial import KDTree

    return KDTree(points).query(places, count)[1].reshape(len(places), count)
