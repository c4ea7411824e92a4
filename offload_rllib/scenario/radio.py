"""Rate and latency of links."""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.links import Fixed, StatedLinks, Wireless
from offload_rllib.scenario.network import Network


def wireless_rate_bps(config: Wireless, distance_m: float) -> float:
    """Return the Shannon capacity B log2(1 + SNR) over free space (Friis path loss, unit antenna gains).

    Args:
        config: the radio.
        distance_m: between the antennas; less than `minimum_distance_m` counts as that.
    """
    distance_m = max(distance_m, config.minimum_distance_m)
    gain_db = 20 * math.log10(config.wavelength_m / (4 * math.pi * distance_m))
    noise_dbm = config.noise_dbm_per_hz + 10 * math.log10(config.bandwidth_hz)
    snr_db = config.transmit_power_dbm + gain_db - noise_dbm
    return config.bandwidth_hz * math.log2(1 + 10 ** (snr_db / 10))


def link_rates_and_latencies(config: Wireless | Fixed | StatedLinks, network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Return rate in bit/s and latency in s of each link, in the network's order.

    Returns:
        Two arrays [L], both ways alike, or [L, 2], from the smaller index to the larger and back.

    Raises:
        ConfigError: the topology is to state them, and does not.
    """
    if isinstance(config, StatedLinks):
        if network.rates_bps is None or network.latencies_s is None:
            raise ConfigError(
                "links.kind: topology: this topology states no rates of its links; choose kind wireless or fixed"
            )
        return np.array(network.rates_bps).reshape(-1, 2), np.array(network.latencies_s).reshape(-1, 2)
    if isinstance(config, Fixed):
        rates = np.full(len(network.links), config.rate_bps)
    else:
        rates = np.array(
            [
                wireless_rate_bps(config, math.dist(network.nodes[a].position_m, network.nodes[b].position_m))
                for a, b in network.links
            ]
        )
    return rates, np.full(len(network.links), config.latency_s)
