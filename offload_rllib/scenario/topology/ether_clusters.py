"""Edge cells around one server, as in the PeersimGym paper's experiments (arXiv 2403.17637).

The devices and their cores and memory are those of the Ether framework (see `ether_devices`). Shape: a Raspberry Pi
and a TX2 reach their cell's NUC and the server; the server reaches all. Positions: one 50 m x 50 m quadrant per cell,
the NUC anywhere in it, its two TX2 within 5 m, the Raspberry Pis in pairs 5 m around a point of the quadrant, the
server at (65, 65) m.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from offload_rllib.config.topology.ether import EtherClusters
from offload_rllib.scenario.network import Network, Node
from offload_rllib.scenario.topology.ether_devices import ether_node

QUADRANT_M = 50.0
SPREAD_M = 5.0
SERVER_M = (65.0, 65.0)
TX2_PER_CLUSTER = 2


def build(config: EtherClusters, rng: np.random.Generator) -> Network:
    """Return the network of a configuration; the same draws give the same positions."""
    nodes: list[Node] = []
    links: list[tuple[int, int]] = []
    numbers: Counter[str] = Counter()

    def add(kind: str, position: np.ndarray) -> int:
        name = f"{kind}_{numbers[kind]}"
        numbers[kind] += 1
        millicores = config.nuc_millicores if kind == "nuc" else None
        nodes.append(ether_node(config, name, kind, position, millicores=millicores, client=kind == "rpi3"))
        return len(nodes) - 1

    for cluster, rpis in enumerate(config.rpi3_per_cluster):
        corner = QUADRANT_M * np.array([cluster % 2, cluster // 2])
        nuc_position = corner + rng.uniform(0, QUADRANT_M, 2)
        pairs = corner + rng.uniform(0, QUADRANT_M, ((rpis + 1) // 2, 2))
        pis = [add("rpi3", pairs[i // 2] + rng.uniform(-SPREAD_M, SPREAD_M, 2)) for i in range(rpis)]
        nuc = add("nuc", nuc_position)
        tx2s = [add("tx2", nuc_position + rng.uniform(-SPREAD_M, SPREAD_M, 2)) for _ in range(TX2_PER_CLUSTER)]
        links += [(min(nuc, other), max(nuc, other)) for other in pis + tx2s]
    server = add("server", np.array(SERVER_M))
    links += [(other, server) for other in range(server)]
    return Network(tuple(nodes), tuple(sorted(links)))
