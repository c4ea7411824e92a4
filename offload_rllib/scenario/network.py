"""A network: nodes with positions and computing power, and the links between them. No time, no learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from offload_rllib.config.base import LARGEST, SMALLEST
from offload_rllib.config.errors import ConfigError


@dataclass(frozen=True)
class Node:
    """One computing node."""

    name: str
    type: str
    position_m: tuple[float, float]
    cores: int
    core_speed: float
    """Instructions per second of one core; 0: the node has no processor."""
    queue_capacity: int | None
    """Tasks held, waiting and served together; None: unbounded."""
    client: bool
    queue_capacity_bits: float | None = None
    """Inputs of these tasks together; None: unbounded."""
    cloud: bool = False
    """Serves each task on one core, never decides, never fails, and is not counted in the offered load."""

    @property
    def speed(self) -> float:
        """Instructions per second of all cores."""
        return self.cores * self.core_speed

    def check(self, where: str) -> None:
        """Raise ConfigError if the node is invalid."""
        capacity, bits, speed = self.queue_capacity, self.queue_capacity_bits, self.core_speed
        for what, value, fits, accepted in (
            ("core_speed", speed, speed == 0 or SMALLEST <= speed <= LARGEST, f"0, or {SMALLEST:g} to {LARGEST:g}"),
            ("cores", self.cores, self.cores == int(self.cores) >= 1, "a whole number from 1 up"),
            ("queue_capacity", capacity, capacity is None or capacity == int(capacity) >= 1, "None, or from 1 up"),
            ("queue_capacity_bits", bits, bits is None or SMALLEST <= bits <= LARGEST, f"None, or up to {LARGEST:g}"),
            ("position_m", self.position_m, all(abs(x) <= LARGEST for x in self.position_m), f"up to {LARGEST:g}"),
        ):
            if not fits:
                raise ConfigError(f"{where}: node '{self.name}': {what} is {value}; accepted: {accepted}")


@dataclass(frozen=True)
class Network:
    """Nodes and undirected links (pairs of node indices, smaller first)."""

    nodes: tuple[Node, ...]
    links: tuple[tuple[int, int], ...]
    rates_bps: tuple[tuple[float, float], ...] | None = None
    """Of each link, from its smaller index to its larger and back; None: the topology states none."""
    latencies_s: tuple[tuple[float, float], ...] | None = None
    """As `rates_bps`; None: the topology states none."""

    def check(self, where: str) -> Network:
        """Return self if the network can be simulated.

        Raises:
            ConfigError: invalid nodes, repeated names, a link to itself, twice, or between nodes that do not exist,
                invalid rates or latencies, no client, or more than one piece.
        """
        if not self.nodes:
            raise ConfigError(f"{where}: the network has no nodes")
        for node in self.nodes:
            node.check(where)
        repeated = [name for name, count in Counter(node.name for node in self.nodes).items() if count > 1]
        if repeated:
            raise ConfigError(f"{where}: node name '{repeated[0]}' is used more than once; names must be unique")
        for a, b in self.links:
            if a == b and 0 <= a < len(self.nodes):
                raise ConfigError(f"{where}: node '{self.nodes[a].name}' is linked to itself")
            if not 0 <= a < b < len(self.nodes):
                raise ConfigError(
                    f"{where}: the link {(a, b)} must be a pair of indices of nodes, the smaller first, from 0 to "
                    f"{len(self.nodes) - 1}"
                )
        double = [pair for pair, count in Counter(self.links).items() if count > 1]
        if double:
            a, b = (self.nodes[i].name for i in double[0])
            raise ConfigError(f"{where}: the link '{a}' - '{b}' is given more than once")
        self._check_stated(where, "rates_bps", lambda rate: SMALLEST <= rate <= LARGEST, f"{SMALLEST:g} to {LARGEST:g}")
        self._check_stated(where, "latencies_s", lambda latency: 0 <= latency <= LARGEST, f"0 to {LARGEST:g}")
        if not any(node.client for node in self.nodes):
            raise ConfigError(f"{where}: no node has a client, so no task would ever arrive")
        pieces = list(nx.connected_components(self.graph()))
        if len(pieces) > 1:
            smallest = sorted(self.nodes[i].name for i in min(pieces, key=len))
            shown = ", ".join(smallest[:10]) + (", ..." if len(smallest) > 10 else "")
            raise ConfigError(f"{where}: the topology is in {len(pieces)} pieces; cut off from the largest: {shown}")
        return self

    def _check_stated(self, where: str, what: str, accepted: Callable[[float], bool], said: str) -> None:
        values = getattr(self, what)
        if values is None:
            return
        if len(values) != len(self.links):
            raise ConfigError(f"{where}: {what} has {len(values)} entries for {len(self.links)} links")
        for (a, b), pair in zip(self.links, values, strict=True):
            if not all(accepted(value) for value in pair):
                raise ConfigError(
                    f"{where}: {what} of the link '{self.nodes[a].name}' - '{self.nodes[b].name}' is {pair}; must be "
                    f"{said}"
                )

    def graph(self) -> nx.Graph:
        """Return the network as a networkx graph of node indices, made once; not to be changed."""
        return self._graph

    @cached_property
    def _graph(self) -> nx.Graph:
        graph = nx.Graph()
        graph.add_nodes_from(range(len(self.nodes)))
        graph.add_edges_from(self.links)
        return graph
