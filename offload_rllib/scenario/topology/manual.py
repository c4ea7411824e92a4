"""A network whose nodes and links are written out in the configuration."""

from __future__ import annotations

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology import Manual
from offload_rllib.scenario.network import Network, Node


def build(config: Manual) -> Network:
    """Return the network.

    Raises:
        ConfigError: a link names a node that is not there.
    """
    nodes = tuple(
        Node(
            name=node.name,
            type=node.type,
            position_m=node.position_m,
            cores=node.cores,
            core_speed=node.instructions_per_second,
            queue_capacity=node.queue_capacity,
            client=node.client,
        )
        for node in config.nodes
    )
    index = {node.name: i for i, node in enumerate(nodes)}
    links = []
    for position, pair in enumerate(config.links):
        for name in pair:
            if name not in index:
                raise ConfigError(
                    f"topology.links.{position}: no node is named '{name}'. Accepted: {', '.join(sorted(index))}."
                )
        a, b = sorted(index[name] for name in pair)
        links.append((a, b))
    return Network(nodes, tuple(links))
