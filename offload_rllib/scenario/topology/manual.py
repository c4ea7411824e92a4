"""A network whose nodes and links are written out in the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology import Manual, ManualNode
from offload_rllib.scenario.network import Network, Node


def node_of(node: ManualNode) -> Node:
    """Return a described node."""
    return Node(
        name=node.name,
        type=node.type,
        position_m=node.position_m,
        cores=node.cores,
        core_speed=node.instructions_per_second,
        queue_capacity=node.queue_capacity,
        queue_capacity_bits=node.queue_capacity_bits,
        client=node.client,
    )


def indices_of(names: Iterable[str], index: dict[str, int], where: str) -> list[int]:
    """Return the indices of named nodes.

    Raises:
        ConfigError: a node is not there; the message begins with `where`.
    """
    found = []
    for name in names:
        if name not in index:
            shown = sorted(index)
            accepted = ", ".join(shown[:20]) + (", ..." if len(shown) > 20 else "")
            raise ConfigError(f"{where}: no node is named '{name}'. Accepted: {accepted}.")
        found.append(index[name])
    return found


def build(config: Manual) -> Network:
    """Return the network.

    Raises:
        ConfigError: two nodes have one name, or a link names a node that is not there.
    """
    nodes = tuple(node_of(node) for node in config.nodes)
    repeated = [name for name, count in Counter(node.name for node in nodes).items() if count > 1]
    if repeated:
        raise ConfigError(f"topology.nodes: node name '{repeated[0]}' is used more than once")
    index = {node.name: i for i, node in enumerate(nodes)}
    links = []
    for position, pair in enumerate(config.links):
        a, b = sorted(indices_of(pair, index, f"topology.links.{position}"))
        links.append((a, b))
    return Network(nodes, tuple(links))
