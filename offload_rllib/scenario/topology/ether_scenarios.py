"""Ether's scenarios restated from its device, size and latency tables (see `ether_devices`).

Ether has devices, switches and uplinks. Here only devices are nodes, and a link represents the path between two of
them. Its rate is the smallest on the path. Its latency is the sum of the path's draws, one draw per link, the same in
both directions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology.ether import EtherDevices, EtherIndustrialIoT, EtherInterRegion, EtherUrbanSensing
from offload_rllib.scenario.network import Network, Node
from offload_rllib.scenario.topology.ether_devices import (
    BUSINESS,
    BUSINESS_DOWN_BPS,
    BUSINESS_UP_BPS,
    FIBRE_BPS,
    HOST_BPS,
    LAN,
    MEGABIT,
    MOBILE,
    MOBILE_DOWN_BPS,
    MOBILE_UP_BPS,
    ether_node,
)
from offload_rllib.scenario.topology.globe import EARTH_RADIUS_M, FIBRE_M_PER_S, distance_m

URBAN_CELL_BPS = 500 * MEGABIT
INDUSTRIAL_CELL_BPS = 300 * MEGABIT
URBAN_SIZE_SHAPE, URBAN_SIZE_SHIFT = 0.82, 2.02
# LAN hops: two devices of a box or rack share a switch; others have two switches between them.
SAME_BOX, SAME_SITE = 2, 4
CELL_M = 40.0
RACK_M = 25.0
REGION_M = 6e5  # distance of devices from their region's middle, for the picture


@dataclass
class _Sketch:
    """A network under construction."""

    config: EtherDevices
    rng: np.random.Generator
    nodes: list[Node] = field(default_factory=list)
    facts: dict[tuple[int, int], tuple[tuple[float, float], float]] = field(default_factory=dict)
    numbers: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, position: np.ndarray, *, prefix: str = "", client: bool = False) -> int:
        """Add a device and return its index."""
        name = f"{prefix}{kind}_{self.numbers[prefix + kind]}"
        self.numbers[prefix + kind] += 1
        self.nodes.append(ether_node(self.config, name, kind, position, client=client))
        return len(self.nodes) - 1

    def link(self, a: int, b: int, rate_bps: float, latency_s: float, back_bps: float | None = None) -> None:
        """Link two devices; `rate_bps` from a to b, `back_bps` from b to a if it differs."""
        back_bps = rate_bps if back_bps is None else back_bps
        self.facts[min(a, b), max(a, b)] = ((rate_bps, back_bps) if a < b else (back_bps, rate_bps), latency_s)

    def around(self, middle: np.ndarray, count: int) -> np.ndarray:
        """Return [count, 2] positions on a circle of a cell's size, each moved a little."""
        angles = 2 * np.pi * np.arange(count) / max(count, 1)
        circle = np.column_stack([np.cos(angles), np.sin(angles)]).reshape(-1, 2)
        return middle + CELL_M * circle * self.rng.uniform(0.8, 1.2, (count, 1))

    def cloudlet(self, middle: np.ndarray, racks: int, servers: int) -> list[int]:
        """Add racks of servers, all linked within a rack, and return their indices."""
        indices = []
        for rack in range(racks):
            here = [
                self.add("server", middle + RACK_M * np.array([rack - (racks - 1) / 2, place - (servers - 1) / 2]))
                for place in range(servers)
            ]
            for i, a in enumerate(here):
                for b in here[:i]:
                    self.link(b, a, HOST_BPS, LAN.draw_s(self.rng, SAME_BOX))
            indices += here
        return indices

    def network(self) -> Network:
        """Return the network."""
        links = tuple(sorted(self.facts))
        return Network(
            tuple(self.nodes),
            links,
            rates_bps=tuple(self.facts[link][0] for link in links),
            latencies_s=tuple((self.facts[link][1], self.facts[link][1]) for link in links),
        )


def _ring_of_sites(count: int, radius_m: float) -> np.ndarray:
    """Return [count, 2] middles of sites around the origin, far enough apart to be distinguished."""
    radius_m = max(radius_m, 2 * CELL_M * count / np.pi)
    angles = np.pi / 2 + 2 * np.pi * np.arange(count) / count
    return radius_m * np.column_stack([np.cos(angles), np.sin(angles)])


def urban_sensing(config: EtherUrbanSensing, rng: np.random.Generator) -> Network:
    """Return neighbourhoods of sensor boxes, each with a gateway, and a cloudlet behind their mobile links.

    A size is the whole part of 2.02 + exp(0.82 x standard normal), if none is given.
    """
    sketch = _Sketch(config, rng)
    sizes = config.sizes
    if sizes is None:
        drawn = URBAN_SIZE_SHIFT + rng.lognormal(0, URBAN_SIZE_SHAPE, config.neighbourhoods)
        sizes = tuple(int(size) for size in drawn)
    gateways = []
    # The cloudlet stands in the middle.
    inner_m = 2 * CELL_M + RACK_M * max(config.racks, config.servers_per_rack) / 2
    for size, middle in zip(sizes, _ring_of_sites(config.neighbourhoods, inner_m), strict=True):
        places = sketch.around(middle, 4 * size)
        pis = [sketch.add("rpi3", place, client=True) for place in places[: 2 * size]]
        gateway = sketch.add("nuc", middle)
        gateways.append(gateway)
        for pi in pis:
            sketch.link(pi, gateway, URBAN_CELL_BPS, LAN.draw_s(rng, SAME_SITE))
        for place in places[2 * size :]:
            sketch.link(gateway, sketch.add("tx2", place), HOST_BPS, LAN.draw_s(rng, SAME_BOX))
    for server in sketch.cloudlet(np.zeros(2), config.racks, config.servers_per_rack):
        for gateway in gateways:
            latency_s = MOBILE.draw_s(rng) + LAN.draw_s(rng, SAME_SITE)
            sketch.link(gateway, server, MOBILE_UP_BPS, latency_s, back_bps=MOBILE_DOWN_BPS)
    return sketch.network()


def industrial_iot(config: EtherIndustrialIoT, rng: np.random.Generator) -> Network:
    """Return premises with sensors, a gateway, an accelerator and a cloudlet of their own, on business links."""
    sketch = _Sketch(config, rng)
    gateways: list[int] = []
    apart_m = 2 * CELL_M + RACK_M * max(config.racks, config.servers_per_rack)
    for middle in _ring_of_sites(config.premises, apart_m):
        places = sketch.around(middle, 4)
        pis = [sketch.add("rpi3", place, client=True) for place in places[:3]]
        gateway = sketch.add("nuc", middle)
        for device in [*pis, sketch.add("tx2", places[3])]:
            sketch.link(device, gateway, INDUSTRIAL_CELL_BPS, LAN.draw_s(rng, SAME_SITE))
        cloudlet_middle = middle + np.array([2 * CELL_M + RACK_M * (config.racks - 1) / 2, 0])
        for server in sketch.cloudlet(cloudlet_middle, config.racks, config.servers_per_rack):
            sketch.link(gateway, server, INDUSTRIAL_CELL_BPS, LAN.draw_s(rng, SAME_SITE))
        for other in gateways:
            latency_s = BUSINESS.draw_s(rng, 2) + LAN.draw_s(rng, SAME_SITE)
            sketch.link(other, gateway, min(BUSINESS_UP_BPS, BUSINESS_DOWN_BPS), latency_s)
        gateways.append(gateway)
    return sketch.network()


def inter_region(config: EtherInterRegion, rng: np.random.Generator) -> Network:
    """Return cloudlets far apart, all linked by fibre, each with gateways behind business links.

    Latency between regions = path_stretch x distance on the globe / 2e8 m/s, plus the LAN hops at the ends.

    Raises:
        ConfigError: two regions have the same name.
    """
    names = [region.name for region in config.regions]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(
                f"topology.regions.{index}.name: '{name}' is given twice; regions need names of their own"
            )
    sketch = _Sketch(config, rng)
    heads: list[int] = []
    for index, region in enumerate(config.regions):
        middle = np.radians([region.longitude_deg, region.latitude_deg]) * EARTH_RADIUS_M
        count = region.gateways + config.servers_per_region
        angles = 2 * np.pi * np.arange(count) / count
        places = middle + REGION_M * np.column_stack([np.cos(angles), np.sin(angles)])
        prefix = f"{region.name}_"
        servers = [sketch.add("server", place, prefix=prefix) for place in places[: config.servers_per_region]]
        for i, a in enumerate(servers):
            for b in servers[:i]:
                sketch.link(b, a, HOST_BPS, LAN.draw_s(rng, SAME_BOX))
        for place in places[config.servers_per_region :]:
            gateway = sketch.add("nuc", place, prefix=prefix, client=True)
            for server in servers:
                latency_s = BUSINESS.draw_s(rng) + LAN.draw_s(rng, SAME_BOX)
                sketch.link(gateway, server, BUSINESS_UP_BPS, latency_s, back_bps=BUSINESS_DOWN_BPS)
        for other, head in zip(config.regions[:index], heads, strict=True):
            length_m = config.path_stretch * distance_m(
                (region.latitude_deg, region.longitude_deg), (other.latitude_deg, other.longitude_deg)
            )
            sketch.link(head, servers[0], FIBRE_BPS, length_m / FIBRE_M_PER_S + LAN.draw_s(rng, SAME_BOX))
        heads.append(servers[0])
    return sketch.network()
