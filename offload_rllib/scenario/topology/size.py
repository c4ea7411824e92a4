"""The size of a network, before it is built."""

from __future__ import annotations

import math
import os
from typing import Any

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology.ether import EtherIndustrialIoT, EtherInterRegion, EtherUrbanSensing
from offload_rllib.config.topology.graphs import (
    BarabasiAlbert,
    BridgedClusters,
    Full,
    Geometric,
    Grid,
    RandomGraph,
    Ring,
    Tiers,
    WattsStrogatz,
)

# Measured while networks are built: Python objects, the graph, and the arrays of one environment without its agents.
BYTES_PER_NODE = 8_000
BYTES_PER_LINK = 2_000


def physical_memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def expected_size(config: Any) -> tuple[str, int, float]:  # noqa: C901, PLR0911 - one formula per kind of topology
    """Return the key that sets a topology's size, its nodes, and its expected links; 0, 0 where no check is needed.

    Files and networks that are written out have a known size; functions are the user's responsibility.
    """
    if isinstance(config, Grid):
        return "rows", config.rows * config.columns, 2.0 * config.rows * config.columns
    if isinstance(config, BridgedClusters):
        inside = sum(size * (size - 1) / 2 for size in config.cluster_sizes)
        return "cluster_sizes", sum(config.cluster_sizes), inside + config.bridges * len(config.cluster_sizes)
    if isinstance(config, Tiers):
        top = config.tiers[-1].nodes
        lower = sum(tier.nodes * (tier.uplinks + tier.peers) for tier in config.tiers[:-1])
        return "tiers", sum(tier.nodes for tier in config.tiers), lower + top * (top - 1) / 2
    if isinstance(config, EtherUrbanSensing | EtherIndustrialIoT):
        servers = config.racks * config.servers_per_rack
        sites = config.neighbourhoods if isinstance(config, EtherUrbanSensing) else config.premises
        inside = config.racks * config.servers_per_rack**2 / 2
        if isinstance(config, EtherUrbanSensing):
            devices = sum(4 * size + 1 for size in config.sizes or (4,) * sites)
            return "neighbourhoods", devices + servers, devices + sites * servers + inside
        return "premises", sites * (5 + servers), sites * (4 + servers + inside) + sites**2 / 2
    if isinstance(config, EtherInterRegion):
        servers = config.servers_per_region
        gateways = sum(region.gateways for region in config.regions)
        regions = len(config.regions)
        return "regions", gateways + servers * regions, regions**2 / 2 + servers * (gateways + regions * servers / 2)
    if not isinstance(config, Geometric | Full | Ring | RandomGraph | BarabasiAlbert | WattsStrogatz):
        return "", 0, 0.0
    n = config.nodes
    pairs = n * (n - 1) / 2
    if isinstance(config, Geometric):
        width, height = config.area_m
        return "nodes", n, pairs * min(math.pi * config.radius_m**2 / (width * height), 1.0)
    if isinstance(config, Full):
        return "nodes", n, pairs
    if isinstance(config, RandomGraph):
        return "nodes", n, n * config.mean_degree / 2
    if isinstance(config, BarabasiAlbert):
        return "nodes", n, float(n * config.links_per_node)
    return "nodes", n, n * config.neighbours / 2 if isinstance(config, WattsStrogatz) else float(n)


def check_size(config: Any) -> None:
    """Reject a topology that would not fit into memory.

    Raises:
        ConfigError: it would not.
    """
    key, nodes, links = expected_size(config)
    needed, memory = nodes * BYTES_PER_NODE + links * BYTES_PER_LINK, physical_memory_bytes()
    if needed > memory:
        raise ConfigError(
            f"topology.{key}: about {nodes:,} nodes and {links:,.0f} links need {needed / 2**30:,.0f} GiB; this "
            f"machine has {memory / 2**30:,.0f} GiB"
        )
