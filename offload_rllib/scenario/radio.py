"""Rate and delay that the medium of a link gives."""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.config.links import Fibre, Fixed, Medium, Wireless
from offload_rllib.scenario.network import Network


def shannon_rate_bps(bandwidth_hz: float, snr_db: float) -> float:
    """Return the Shannon capacity B log2(1 + SNR)."""
    return bandwidth_hz * math.log2(1 + 10 ** (snr_db / 10))


def received_over_noise_dbhz(config: Wireless, distance_m: float) -> float:
    """Return received power over noise density, P + path gain - N, over free space (Friis, unit antenna gains).

    Args:
        config: the radio.
        distance_m: between the antennas; less than `minimum_distance_m` counts as that.
    """
    distance_m = max(distance_m, config.minimum_distance_m)
    gain_db = 20 * math.log10(config.wavelength_m / (4 * math.pi * distance_m))
    return config.transmit_power_dbm + gain_db - config.noise_dbm_per_hz


def wireless_rate_bps(config: Wireless, distance_m: float) -> float:
    """Return the capacity of a radio link, with the noise of its bandwidth."""
    snr_db = received_over_noise_dbhz(config, distance_m) - 10 * math.log10(config.bandwidth_hz)
    return shannon_rate_bps(config.bandwidth_hz, snr_db)


def link_rates_and_latencies(config: Medium, network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Return rate in bit/s and propagation delay in s of each undirected link, in the network's order."""
    distances_m = [math.dist(network.nodes[a].position_m, network.nodes[b].position_m) for a, b in network.links]
    delays_s = np.zeros(len(distances_m))
    if isinstance(config, Fixed):
        return np.full(len(distances_m), config.rate_bps), delays_s
    if isinstance(config, Fibre):
        if config.propagation_m_per_s is not None:
            delays_s = np.array(distances_m) / config.propagation_m_per_s
        return np.full(len(distances_m), shannon_rate_bps(config.bandwidth_hz, config.snr_db)), delays_s
    return np.array([wireless_rate_bps(config, distance_m) for distance_m in distances_m]), delays_s
