"""The cloud: a node that is appended to the network once its topology is made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offload_rllib.config.cloud import Cloud
from offload_rllib.config.errors import ConfigError
from offload_rllib.scenario.network import Network, Node

NAME = "cloud"


def _with_access(cloud: Cloud, network: Network) -> list[int]:
    """Return the indices of the nodes that are linked to the cloud.

    Raises:
        ConfigError: a type or a name that no node has.
    """
    if cloud.access.everyone:
        return list(range(len(network.nodes)))
    for key, wanted, existing in (
        ("types", cloud.access.types, {node.type for node in network.nodes}),
        ("nodes", cloud.access.nodes, {node.name for node in network.nodes}),
    ):
        for name in wanted:
            if name not in existing:
                raise ConfigError(
                    f"cloud.access.{key}: no node has the {key.removesuffix('s').replace('node', 'name')} '{name}'. "
                    f"Accepted: {', '.join(sorted(existing))}."
                )
    return [
        i for i, node in enumerate(network.nodes) if node.type in cloud.access.types or node.name in cloud.access.nodes
    ]


def with_cloud(cloud: Cloud | None, network: Network) -> Network:
    """Return the network with the cloud as its last node; the same network if there is no cloud.

    Raises:
        ConfigError: `access` names an unknown node or type, or a node is already called "cloud".
    """
    if cloud is None:
        return network
    if any(node.name == NAME for node in network.nodes):
        raise ConfigError(f"topology: a node is named '{NAME}', which is the name of the node that the key cloud adds")
    place = cloud.position_m
    if place is None:
        x, y = np.mean([node.position_m for node in network.nodes], axis=0)
        place = (float(x), float(y))
    node = Node(
        name=NAME,
        type=NAME,
        position_m=place,
        cores=cloud.vms,
        core_speed=cloud.instructions_per_second,
        queue_capacity=None,
        client=False,
        cloud=True,
    )
    index = len(network.nodes)
    added = [(i, index) for i in _with_access(cloud, network)]
    stated = {}
    if cloud.link is not None:
        # Where the topology states its links, the cloud's are stated too; elsewhere `link_directions` sets them.
        rates, latencies = (cloud.link.rate_bps,) * 2, (cloud.link.latency_s,) * 2
        if network.rates_bps is not None and network.latencies_s is not None:
            stated["rates_bps"] = (*network.rates_bps, *[rates] * len(added))
            stated["latencies_s"] = (*network.latencies_s, *[latencies] * len(added))
    else:
        stated = {"rates_bps": None, "latencies_s": None}
    return replace(network, nodes=(*network.nodes, node), links=(*network.links, *added), **stated)
