"""Rate and delay of a link's medium."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import i0e

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.links import Fibre, Fixed, Medium, StatedLinks, Wireless
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


def snr_at(config: Wireless, distance_m: float) -> float:
    """Return the mean signal-to-noise ratio of a radio link, with the noise of its bandwidth."""
    return 10 ** (received_over_noise_dbhz(config, distance_m) / 10) / config.bandwidth_hz


def wireless_rate_bps(config: Wireless, distance_m: float) -> float:
    """Return the capacity of a radio link, with the noise of its bandwidth."""
    snr_db = received_over_noise_dbhz(config, distance_m) - 10 * math.log10(config.bandwidth_hz)
    return shannon_rate_bps(config.bandwidth_hz, snr_db)


def _of_gain(config: Wireless) -> tuple[np.ndarray, np.ndarray]:
    """Return gains of the power that transfers draw, on a grid of their logarithm, and the probability of each [G].

    Of Rice fading with a ratio K of the dominant wave's power to that of the others, the gain g has the density
    (1 + K) exp(-K - (1 + K) g) I0(2 sqrt(K (1 + K) g)); Rayleigh fading is K = 0.
    """
    step = 0.02
    log_gain = np.arange(-40.0, 5.0, step)
    gain = np.exp(log_gain)
    probability = np.zeros(len(gain))
    if config.fading is None:
        probability[np.argmin(np.abs(log_gain))] = 1.0
    else:
        k = 0.0 if config.fading == "rayleigh" else 10 ** (config.rician_k_db / 10)
        root = 2 * np.sqrt(k * (1 + k) * gain)
        probability = gain * (1 + k) * np.exp(root - k - (1 + k) * gain) * i0e(root)
    if config.shadowing_db > 0:
        sigma = config.shadowing_db * math.log(10) / 10
        reach = math.ceil(8 * sigma / step)
        normal = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / sigma) ** 2)
        probability = np.convolve(probability, normal)
        log_gain = log_gain[0] + step * (np.arange(len(probability)) - reach)
        gain = np.exp(log_gain)
    return gain, probability / probability.sum()


def mean_rates_bps(config: Wireless, snr: np.ndarray) -> np.ndarray:
    """Return the mean of the rates that transfers draw over links with a mean signal-to-noise ratio [L], in bit/s."""
    gain, probability = _of_gain(config)
    return np.array([config.bandwidth_hz / math.log(2) * (np.log1p(x * gain) @ probability) for x in snr])


def link_rates_and_latencies(config: Medium, network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Return rate in bit/s and propagation delay in s of each link, in the network's order.

    Returns:
        Two arrays [L, 2]: from the smaller index to the larger, and back.

    Raises:
        ConfigError: `links.kind` is `topology`, and the topology states none.
    """
    if isinstance(config, StatedLinks):
        if network.rates_bps is None or network.latencies_s is None:
            raise ConfigError(
                "links.kind: topology: this topology states no rates of its links; choose kind wireless, fibre or "
                "fixed; with a cloud, state cloud.link"
            )
        return np.array(network.rates_bps).reshape(-1, 2), np.array(network.latencies_s).reshape(-1, 2)
    rates_bps, delays_s = _alike_both_ways(config, network)
    return np.column_stack([rates_bps, rates_bps]), np.column_stack([delays_s, delays_s])


def _alike_both_ways(config: Wireless | Fixed | Fibre, network: Network) -> tuple[np.ndarray, np.ndarray]:
    distances_m = [math.dist(network.nodes[a].position_m, network.nodes[b].position_m) for a, b in network.links]
    delays_s = np.zeros(len(distances_m))
    if isinstance(config, Fixed):
        return np.full(len(distances_m), config.rate_bps), delays_s
    if isinstance(config, Fibre):
        if config.propagation_m_per_s is not None:
            delays_s = np.array(distances_m) / config.propagation_m_per_s
        return np.full(len(distances_m), shannon_rate_bps(config.bandwidth_hz, config.snr_db)), delays_s
    if config.draws:
        return mean_rates_bps(config, np.array([snr_at(config, distance_m) for distance_m in distances_m])), delays_s
    return np.array([wireless_rate_bps(config, distance_m) for distance_m in distances_m]), delays_s
