"""A topology: sensors below gateways below a server, on links whose rates are drawn."""

from __future__ import annotations

import numpy as np

from offload_rllib.scenario.network import Network, Node


def tree(seed: int, gateways: int, sensors_per_gateway: int) -> Network:
    """Return the network of a seed; the same seed gives the same network."""
    rng = np.random.default_rng(seed)
    nodes = [Node("server", "server", (0.0, 0.0), cores=4, core_speed=2e6, queue_capacity=20, client=False)]
    links = []
    for g in range(gateways):
        gateway = len(nodes)
        nodes.append(
            Node(f"gateway_{g}", "gateway", (50.0, 40.0 * g), cores=2, core_speed=1e6, queue_capacity=10, client=False)
        )
        links.append((0, gateway))
        for s in range(sensors_per_gateway):
            place = (100.0, 40.0 * g + 10.0 * s)
            links.append((gateway, len(nodes)))
            nodes.append(
                Node(f"sensor_{g}_{s}", "sensor", place, cores=1, core_speed=1e6, queue_capacity=6, client=True)
            )
    rates = rng.uniform(1e6, 4e6, len(links)).tolist()
    return Network(
        tuple(nodes),
        links=tuple(links),
        rates_bps=tuple((rate, rate) for rate in rates),
        latencies_s=((0.01, 0.01),) * len(links),
    )
