"""From the configuration of failures, energy and prices to one record per node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from offload_rllib.config.energy import NodePrice, Power, PowerDraw
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.failures import FailureLaw
from offload_rllib.scenario.durations import write_duration
from offload_rllib.scenario.network import Network, Node
from offload_rllib.simulator.types import FAILURE_LAW, POWER

Law = TypeVar("Law", FailureLaw, Power, NodePrice)

BITS_PER_MEGABYTE = 8e6


def _by_node(laws: Sequence[Law], network: Network, where: str) -> list[Law | None]:
    """Return what holds for each node: the last of the laws that name its device type, or that name none.

    Raises:
        ConfigError: a law names a type that no node has.
    """
    known = {node.type for node in network.nodes}
    chosen: list[Law | None] = [None] * len(network.nodes)
    for position, law in enumerate(laws):
        for name in law.types or ():
            if name not in known:
                raise ConfigError(
                    f"{where}.{position}.types: no node is of type '{name}'. Accepted: {', '.join(sorted(known))}"
                )
        for i, node in enumerate(network.nodes):
            if law.types is None or node.type in law.types:
                chosen[i] = law
    return chosen


def failure_laws(config: EnvironmentConfig, network: Network) -> np.ndarray:
    """Return [N] FAILURE_LAW.

    Raises:
        ConfigError: a law names a type that no node has.
    """
    record = np.zeros(len(network.nodes), FAILURE_LAW)
    laws = _by_node(config.failures.laws, network, "failures.laws") if config.failures is not None else []
    for i, law in enumerate(laws):
        if law is not None and not network.nodes[i].cloud:
            record[i]["fails"] = 1
            write_duration(record[i]["up"], law.time_to_failure_s)
            write_duration(record[i]["down"], law.time_to_repair_s)
    return record


def prices(config: EnvironmentConfig, network: Network) -> np.ndarray:
    """Return [N] POWER, in money; [0] without prices.

    Raises:
        ConfigError: an entry names a type that no node has.
    """
    if config.price is None:
        return np.zeros(0, POWER)
    record = np.zeros(len(network.nodes), POWER)
    for i, price in enumerate(_by_node(config.price.devices, network, "price.devices")):
        if price is not None:
            record[i]["server_w"] = price.per_core_s * _cores_of_server(config, network.nodes[i])
            record[i]["j_per_bit"] = price.per_bit
    return record


def _cores_of_server(config: EnvironmentConfig, node: Node) -> int:
    return node.cores if config.service == "pooled" and not node.cloud else 1


def powers(config: EnvironmentConfig, network: Network) -> np.ndarray:
    """Return [N] POWER: what the integrals of a node's use are multiplied with.

    Raises:
        ConfigError: an entry names a type that no node has.
    """
    record = np.zeros(len(network.nodes), POWER)
    if isinstance(config.energy, PowerDraw):
        for i, power in enumerate(_by_node(config.energy.devices, network, "energy.devices")):
            if power is not None:
                record[i]["idle_w"] = power.idle_w
                record[i]["server_w"] = power.core_busy_w * _cores_of_server(config, network.nodes[i])
                record[i]["transmit_w"] = power.transmit_w
                record[i]["j_per_bit"] = power.transmit_j_per_bit
    elif config.energy is not None:
        cost = config.energy.cost
        for i, node in enumerate(network.nodes):
            pooled = config.service == "pooled" and not node.cloud
            record[i]["server_w"] = cost * (node.speed if pooled else node.core_speed)
        record["j_per_result_bit"] = cost / BITS_PER_MEGABYTE
        record["j_per_broadcast"] = cost * config.information.broadcast_bits / BITS_PER_MEGABYTE
    return record
