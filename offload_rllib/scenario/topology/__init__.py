"""Topologies: from a configuration to a `Network`."""

from __future__ import annotations

from typing import Any

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology import EdgeList, GraphML, Manual, PythonTopology
from offload_rllib.config.topology.ether import (
    EtherClusters,
    EtherIndustrialIoT,
    EtherInterRegion,
    EtherJson,
    EtherUrbanSensing,
)
from offload_rllib.config.topology.graphs import Drawn, Full, Grid, Ring, Tiers
from offload_rllib.config.topology.wide_area import WideArea
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology import (
    edge_list,
    ether_clusters,
    ether_json,
    ether_scenarios,
    graphml,
    graphs,
    manual,
    python_function,
    tiers,
    wide_area,
)
from offload_rllib.scenario.topology.size import check_size

# Kinds that describe the whole network, or name a file that does.
WRITTEN_OUT = {Manual: manual.build, EtherJson: ether_json.build, GraphML: graphml.build, EdgeList: edge_list.build}
# Kinds that draw; all others are graphs with devices placed on them.
DRAWN = {
    EtherClusters: ether_clusters.build,
    EtherUrbanSensing: ether_scenarios.urban_sensing,
    EtherIndustrialIoT: ether_scenarios.industrial_iot,
    EtherInterRegion: ether_scenarios.inter_region,
    Tiers: tiers.build,
    WideArea: wide_area.build,
    PythonTopology: python_function.build,
}


def build_network(config: Any, episode_key: int | None = None) -> Network:
    """Return the network of a topology's configuration (a member of `config.topology.Topology`).

    Args:
        config: the topology.
        episode_key: of the episode whose network to draw, for `resample: episode`; None: that of the seed alone.

    Raises:
        ConfigError: the network cannot be made or cannot be simulated (see `Network.check`).
    """
    check_size(config)
    kind = type(config)
    if kind in WRITTEN_OUT:
        network = WRITTEN_OUT[kind](config)
    else:
        address = [config.seed]
        if isinstance(config, EtherClusters):
            address.append(len(config.rpi3_per_cluster))  # networks of different sizes share no positions
        if episode_key is not None:
            address.append(episode_key)
        network = DRAWN.get(kind, graphs.build)(config, np.random.default_rng(address))
    return network.check("topology")


def resamples(config: Any) -> bool:
    """Return whether every episode draws its own network."""
    return isinstance(config, Drawn) and config.resample == "episode"


def most_neighbours(config: Any, network: Network, limit: int | None) -> int:
    """Return a bound on a node's number of neighbours that holds for every draw of a topology.

    Args:
        config: the topology, which resamples.
        network: any draw.
        limit: `decisions.max_destinations`.

    Raises:
        ConfigError: nothing bounds it below the number of nodes, and no limit is given.
    """
    nodes = len(network.nodes)
    bounds: dict[type, int] = {Ring: 2, Grid: 4, Full: nodes - 1}
    if isinstance(config, EtherClusters | EtherUrbanSensing | EtherIndustrialIoT | EtherInterRegion | WideArea):
        bound = max(degree for _, degree in network.graph().degree)  # only speeds, places and latencies are drawn
    else:
        bound = bounds.get(type(config))
    if bound is None and limit is None:
        raise ConfigError(
            f"decisions.max_destinations: must be given with topology.resample: episode and kind {config.kind}: a node "
            f"may have up to {nodes - 1} neighbours, and the number of actions must be the same in every episode"
        )
    return min(n for n in (bound, limit, nodes - 1) if n is not None)
