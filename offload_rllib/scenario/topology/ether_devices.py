"""Devices, links and latencies of the Ether framework, as data.

Figures: Rausch, Lachner, Frangoudis, Raith, Dustdar, "Synthesizing plausible infrastructure configurations for
evaluating edge computing systems", HotEdge 2020, and the framework's tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offload_rllib.config.base import LARGEST_CAPACITY
from offload_rllib.config.topology.ether import EtherDevices
from offload_rllib.scenario.network import Node

MEGABIT = 1e6


@dataclass(frozen=True)
class EtherDevice:
    """One of Ether's device types."""

    cores: int
    memory_bytes: float


RPI3 = EtherDevice(cores=4, memory_bytes=999_036 * 1024)
NUC = EtherDevice(cores=4, memory_bytes=16 * 2**30)
TX2 = EtherDevice(cores=4, memory_bytes=8_047_252 * 1024)
SERVER = EtherDevice(cores=88, memory_bytes=188e9)
DEVICES = {"rpi3": RPI3, "nuc": NUC, "tx2": TX2, "server": SERVER}

HOST_BPS = 1000 * MEGABIT
FIBRE_BPS = 1000 * MEGABIT
MOBILE_UP_BPS, MOBILE_DOWN_BPS = 25 * MEGABIT, 125 * MEGABIT
BUSINESS_UP_BPS, BUSINESS_DOWN_BPS = 50 * MEGABIT, 500 * MEGABIT


@dataclass(frozen=True)
class Latency:
    """A shifted lognormal latency: shift + scale x exp(shape x standard normal), milliseconds one way."""

    shape: float
    shift_ms: float
    scale_ms: float

    def draw_s(self, rng: np.random.Generator, hops: int = 1) -> float:
        """Return the sum of the draws of `hops` hops, in seconds."""
        return float((self.shift_ms + self.scale_ms * rng.lognormal(0, self.shape, hops)).sum() / 1e3)


LAN = Latency(0.25, 0.35, 0.16)
BUSINESS = Latency(0.87, 5.95, 1.21)
MOBILE = Latency(0.49, 16.2, 8.02)


def ether_node(
    config: EtherDevices,
    name: str,
    kind: str,
    position_m: np.ndarray | tuple[float, float],
    *,
    millicores: float | None = None,
    memory_bytes: float | None = None,
    cores: int | None = None,
    client: bool = False,
) -> Node:
    """Return a node of one of Ether's types.

    Args:
        config: how cores and memory become speed and queue.
        name: of the node.
        kind: its type; one of `DEVICES`, unless the three figures are given.
        position_m: of the node.
        millicores: computing power, if it is not that of the type.
        memory_bytes: the same.
        cores: the same.
        client: whether it creates tasks.
    """
    cores = DEVICES[kind].cores if cores is None else cores
    memory_bytes = DEVICES[kind].memory_bytes if memory_bytes is None else memory_bytes
    speed = (cores * 1000 if millicores is None else millicores) * config.instructions_per_second_per_millicore
    capacity = None
    if config.memory_per_task_bytes is not None:
        capacity = min(max(round(memory_bytes / config.memory_per_task_bytes), 1), LARGEST_CAPACITY)
    return Node(
        name=name,
        type=kind,
        position_m=(float(position_m[0]), float(position_m[1])),
        cores=cores,
        core_speed=speed / cores,
        queue_capacity=capacity,
        client=client,
    )
