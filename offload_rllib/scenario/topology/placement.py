"""Which node is which device, and its position: the common part of all generated topologies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx
import numpy as np

from offload_rllib.config.devices import Device, DeviceClass
from offload_rllib.config.errors import ConfigError
from offload_rllib.scenario.network import Network, Node

STATED = ("rate_bps", "latency_s")  # attributes of edges that links state


def counts_of_shares(devices: Sequence[DeviceClass], total: int) -> list[int]:
    """Return the number of nodes of each class: shares of `total`, rounded by largest remainders.

    Raises:
        ConfigError: a class would have no node.
    """
    shares = np.array([device.share for device in devices])
    exact = total * shares / shares.sum()
    counts = np.floor(exact).astype(int)
    # Stable, so that of equal remainders the class listed first is rounded up.
    for index in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    for index, count in enumerate(counts):
        if count == 0:
            raise ConfigError(
                f"topology.devices.{index}.share: {devices[index].share:g} of {shares.sum():g} gives the type "
                f"'{devices[index].type}' no node of {total}; raise the share or the number of nodes"
            )
    return counts.tolist()


def nodes_of(device: Device, positions: np.ndarray, rng: np.random.Generator) -> list[Node]:
    """Return one node of a type at each position [count, 2]; their speeds vary as the type says."""
    factors = rng.uniform(1 - device.speed_variation, 1 + device.speed_variation, len(positions))
    return [
        Node(
            name=f"{device.type}_{number}",
            type=device.type,
            position_m=(x, y),
            cores=device.cores,
            core_speed=device.instructions_per_second * factor,
            queue_capacity=device.queue_capacity,
            queue_capacity_bits=device.queue_capacity_bits,
            client=device.client,
        )
        for number, ((x, y), factor) in enumerate(zip(positions.tolist(), factors.tolist(), strict=True))
    ]


def placed(devices: Sequence[DeviceClass], graph: nx.Graph, positions: np.ndarray, rng: np.random.Generator) -> Network:
    """Return a network of devices on the vertices of a graph; which one is where is drawn.

    Nodes are listed by class, so that names and their order do not depend on the draw.

    Args:
        devices: the classes.
        graph: vertices 0 to N - 1; what its edges say as `rate_bps` and `latency_s`, the links state both ways.
        positions: [N, 2] of the vertices.
        rng: draws the places and the speeds.
    """
    types = [device.type for device in devices]
    if len(set(types)) < len(types):
        repeated = next(name for name in types if types.count(name) > 1)
        raise ConfigError(f"topology.devices: the type '{repeated}' is given twice; types name the nodes")
    vertex_of_node = rng.permutation(len(positions))
    nodes: list[Node] = []
    for device, count in zip(devices, counts_of_shares(devices, len(positions)), strict=True):
        places = vertex_of_node[len(nodes) : len(nodes) + count]
        nodes += nodes_of(device, positions[places], rng)
    node_of_vertex = np.argsort(vertex_of_node)
    ends = node_of_vertex[np.array(graph.edges, np.int64).reshape(-1, 2)]
    links = links_of(ends)
    edge_of_link = dict(zip(map(tuple, np.sort(ends, axis=1).tolist()), graph.edges, strict=True))
    rates_bps, latencies_s = (_stated(graph, [edge_of_link[link] for link in links], key) for key in STATED)
    return Network(tuple(nodes), links, rates_bps, latencies_s)


def _stated(graph: nx.Graph, edges: Iterable[tuple[int, int]], key: str) -> tuple[tuple[float, float], ...] | None:
    """Return what each edge says, for both ways; None if edges say nothing."""
    said = [graph.edges[edge] for edge in edges]
    if not all(key in facts for facts in said) or not said:
        return None
    return tuple((float(facts[key]), float(facts[key])) for facts in said)


def links_of(pairs: np.ndarray | Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return pairs of indices as links: the smaller first, in order."""
    array = np.sort(np.array(pairs if isinstance(pairs, np.ndarray) else list(pairs), np.int64).reshape(-1, 2), axis=1)
    return tuple((a, b) for a, b in array[np.lexsort((array[:, 1], array[:, 0]))].tolist())
