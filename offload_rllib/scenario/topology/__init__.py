"""Topologies: from a configuration to a `Network`."""

from __future__ import annotations

from offload_rllib.config.topology import EtherClusters, Manual
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology import ether_clusters, manual


def build_network(config: EtherClusters | Manual) -> Network:
    """Return the network of a topology's configuration.

    Raises:
        ConfigError: the network cannot be simulated (see `Network.check`).
    """
    network = ether_clusters.build(config) if isinstance(config, EtherClusters) else manual.build(config)
    return network.check("topology")
