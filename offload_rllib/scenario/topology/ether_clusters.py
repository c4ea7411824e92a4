"""Edge cells around one server, as in the PeersimGym paper's experiments (arXiv 2403.17637).

The devices and their cores and memory are those of the Ether framework (Rausch et al., "Synthesizing plausible
infrastructure configurations for evaluating edge computing systems", HotEdge 2020). Shape: a Raspberry Pi and a TX2
reach their cell's NUC and the server; the server reaches all. Positions: one 50 m x 50 m quadrant per cell, the NUC
anywhere in it, its two TX2 within 5 m, the Raspberry Pis in pairs 5 m around a point of the quadrant, the server at
(65, 65) m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offload_rllib.config.base import LARGEST_CAPACITY
from offload_rllib.config.topology import EtherClusters
from offload_rllib.scenario.network import Network, Node

QUADRANT_M = 50.0
SPREAD_M = 5.0
SERVER_M = (65.0, 65.0)
TX2_PER_CLUSTER = 2


@dataclass(frozen=True)
class Device:
    """One of Ether's device types."""

    cores: int
    memory_bytes: float


RPI3 = Device(cores=4, memory_bytes=999_036 * 1024)
NUC = Device(cores=4, memory_bytes=16 * 2**30)
TX2 = Device(cores=4, memory_bytes=8_047_252 * 1024)
SERVER = Device(cores=88, memory_bytes=188e9)


def build(config: EtherClusters) -> Network:
    """Return the network of a configuration; the same seed gives the same positions."""
    rng = np.random.default_rng([config.seed, len(config.rpi3_per_cluster)])
    nodes: list[Node] = []
    links: list[tuple[int, int]] = []

    def add(kind: str, device: Device, position: np.ndarray, millicores: int | None = None) -> int:
        total = (device.cores * 1000 if millicores is None else millicores) * (
            config.instructions_per_second_per_millicore
        )
        capacity = None
        if config.memory_per_task_bytes is not None:
            capacity = min(max(round(device.memory_bytes / config.memory_per_task_bytes), 1), LARGEST_CAPACITY)
        number = sum(node.type == kind for node in nodes)
        nodes.append(
            Node(
                name=f"{kind}_{number}",
                type=kind,
                position_m=(float(position[0]), float(position[1])),
                cores=device.cores,
                core_speed=total / device.cores,
                queue_capacity=capacity,
                client=kind == "rpi3",
            )
        )
        return len(nodes) - 1

    for cluster, rpis in enumerate(config.rpi3_per_cluster):
        corner = QUADRANT_M * np.array([cluster % 2, cluster // 2])
        nuc_position = corner + rng.uniform(0, QUADRANT_M, 2)
        pairs = corner + rng.uniform(0, QUADRANT_M, ((rpis + 1) // 2, 2))
        pis = [add("rpi3", RPI3, pairs[i // 2] + rng.uniform(-SPREAD_M, SPREAD_M, 2)) for i in range(rpis)]
        nuc = add("nuc", NUC, nuc_position, config.nuc_millicores)
        tx2s = [add("tx2", TX2, nuc_position + rng.uniform(-SPREAD_M, SPREAD_M, 2)) for _ in range(TX2_PER_CLUSTER)]
        links += [(min(nuc, other), max(nuc, other)) for other in pis + tx2s]
    server = add("server", SERVER, np.array(SERVER_M))
    links += [(other, server) for other in range(server)]
    return Network(tuple(nodes), tuple(sorted(links)))
