"""A network: nodes with positions and computing power, and the links between them. No time, no learning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import networkx as nx

from offload_rllib.config.errors import ConfigError


@dataclass(frozen=True)
class Node:
    """One computing node."""

    name: str
    type: str
    position_m: tuple[float, float]
    cores: int
    core_speed: float
    """Instructions per second of one core."""
    queue_capacity: int | None
    """Tasks held, waiting and served together; None: unbounded."""
    client: bool
    cloud: bool = False
    """Serves each task on one core, never decides, never fails, and stands apart in the offered load."""

    @property
    def speed(self) -> float:
        """Instructions per second of all cores."""
        return self.cores * self.core_speed


@dataclass(frozen=True)
class Network:
    """Nodes and undirected links (pairs of node indices, smaller first)."""

    nodes: tuple[Node, ...]
    links: tuple[tuple[int, int], ...]

    def check(self, where: str) -> Network:
        """Return self if the network can be simulated.

        Raises:
            ConfigError: repeated names, a link to itself or twice, no client, or more than one piece.
        """
        repeated = [name for name, count in Counter(node.name for node in self.nodes).items() if count > 1]
        if repeated:
            raise ConfigError(f"{where}: node name '{repeated[0]}' is used more than once; names must be unique")
        for a, b in self.links:
            if a == b:
                raise ConfigError(f"{where}: node '{self.nodes[a].name}' is linked to itself")
        double = [pair for pair, count in Counter(self.links).items() if count > 1]
        if double:
            a, b = (self.nodes[i].name for i in double[0])
            raise ConfigError(f"{where}: the link '{a}' - '{b}' is given more than once")
        if not any(node.client for node in self.nodes):
            raise ConfigError(f"{where}: no node has a client, so no task would ever arrive")
        pieces = list(nx.connected_components(self.graph()))
        if len(pieces) > 1:
            smallest = sorted(self.nodes[i].name for i in min(pieces, key=len))
            raise ConfigError(
                f"{where}: the topology is in {len(pieces)} pieces; cut off from the largest: {', '.join(smallest)}"
            )
        return self

    def graph(self) -> nx.Graph:
        """Return the network as a networkx graph of node indices."""
        graph = nx.Graph()
        graph.add_nodes_from(range(len(self.nodes)))
        graph.add_edges_from(self.links)
        return graph

    def graph_without_cloud(self) -> nx.Graph:
        """Return the graph of the nodes that tasks can pass through: the cloud sends nothing on."""
        graph = self.graph()
        graph.remove_nodes_from([i for i, node in enumerate(self.nodes) if node.cloud])
        return graph
