"""Topologies of every kind, small."""

from __future__ import annotations

from typing import Any

from helpers.environments import small_environment
from offload_rllib.config import load_environment
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology import build_network

DEVICES = [
    {"type": "sensor", "share": 3, "instructions_per_second": 1e6, "client": True, "speed_variation": 0.2},
    {"type": "server", "share": 1, "instructions_per_second": 4e6, "cores": 2, "queue_capacity": 9},
]


TIERS = [
    {"type": "sensor", "nodes": 12, "instructions_per_second": 1e6, "client": True, "uplinks": 2, "peers": 1},
    {"type": "gateway", "nodes": 4, "instructions_per_second": 4e6, "queue_capacity": 7},
    {"type": "server", "nodes": 3, "instructions_per_second": 9e6, "cores": 8},
]


REGIONS = [
    {"name": "dublin", "latitude_deg": 53.3, "longitude_deg": -6.3},
    {"name": "virginia", "latitude_deg": 39.0, "longitude_deg": -77.5, "gateways": 2},
]


GRAPHS: dict[str, dict[str, Any]] = {
    "geometric": {"nodes": 30, "radius_m": 18},
    "full": {"nodes": 8},
    "ring": {"nodes": 9},
    "grid": {"rows": 3, "columns": 4},
    "random": {"nodes": 30, "mean_degree": 2.0},
    "bridged_clusters": {"cluster_sizes": [5, 4, 3], "bridges": 2},
    "barabasi_albert": {"nodes": 20, "links_per_node": 2},
    "watts_strogatz": {"nodes": 16, "neighbours": 2, "rewiring_probability": 0.5},
}


DRAWN: dict[str, dict[str, Any]] = {kind: {"devices": DEVICES, **keys} for kind, keys in GRAPHS.items()} | {
    "tiers": {"tiers": TIERS},
    "ether_clusters": {"rpi3_per_cluster": [3, 2]},
    "ether_urban_sensing": {"sizes": [2, 3, 2]},
    "ether_industrial_iot": {"premises": 2, "servers_per_rack": 2},
    "ether_inter_region": {"regions": REGIONS},
}


def environment(topology: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a short environment with some topology, at rho 0.8."""
    content = small_environment(topology=topology, **changes)
    content["workload"]["load"] = {"rho": 0.8}
    return content


def network_of(topology: dict[str, Any], **changes: Any) -> Network:
    """Return the network of a topology."""
    return build_network(load_environment(environment(topology, **changes)).topology)


def drawn(kind: str, **changes: Any) -> dict[str, Any]:
    """Return a topology that is drawn."""
    return {"kind": kind, **DRAWN[kind], **changes}
