"""From the configuration of links to their arrays: one record per direction, overrides applied."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offload_rllib.config.duration import Duration
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.links import Channel, Contention, LinkOverride, Medium, RateSchedule, Wireless
from offload_rllib.scenario.durations import write_duration
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.radio import link_rates_and_latencies, received_over_noise_dbhz, snr_at, wireless_rate_bps
from offload_rllib.scenario.topology import resamples
from offload_rllib.simulator.streams import stable_hash
from offload_rllib.simulator.types import LINK, LINK_LAW


@dataclass(frozen=True)
class Direction:
    """One direction of a link."""

    rate_bps: float
    propagation_s: float
    latency: Duration
    jitter: Duration
    loss_probability: float
    contention: Contention
    channel: Channel = "direction"
    cell_of: tuple[str, ...] | None = None
    throughput: tuple[float, ...] | None = None
    rate_schedule: RateSchedule | None = None
    background_load: float = 0.0
    radio: Wireless | None = None
    """Of a radio link whose rate is not given; the rate follows from it and the distance."""
    distance_m: float = 0.0
    message_noise_hz: float = 0.0
    """Bandwidth, if the noise is that of the message's bits; otherwise 0."""
    message_snr_bits: float = 0.0
    """SNR of a message of one bit, if the noise is that of the message's bits."""

    @property
    def free_bps(self) -> float:
        """Rate that other traffic leaves."""
        return self.rate_bps * (1 - self.background_load)

    @property
    def mean_latency_s(self) -> float:
        """Mean time that a transfer takes in addition to bits / rate."""
        return self.propagation_s + self.latency.mean + self.jitter.mean

    @property
    def plain(self) -> bool:
        """Whether a transfer takes latency + bits / rate, always, and arrives."""
        drawn = self.latency.constant is None or self.jitter.constant is None
        contends = self.contention != "none"
        varies = self.rate_schedule is not None or (self.radio is not None and self.radio.draws)
        return not (drawn or self.loss_probability or contends or varies or self.message_noise_hz)


def _directions(medium: Medium, network: Network) -> dict[tuple[int, int], Direction]:
    rates_bps, propagation_s = link_rates_and_latencies(medium, network)
    directions = {}
    pairs = [pair for a, b in network.links for pair in ((a, b), (b, a))]
    both_ways = zip(pairs, rates_bps.ravel().tolist(), propagation_s.ravel().tolist(), strict=True)
    for (a, b), rate_bps, delay_s in both_ways:
        radio = medium if isinstance(medium, Wireless) else None
        distance_m = math.dist(network.nodes[a].position_m, network.nodes[b].position_m) if radio else 0.0
        by_message = radio is not None and radio.noise_over == "message"
        directions[a, b] = Direction(
            rate_bps=rate_bps,
            propagation_s=delay_s,
            latency=medium.latency_s,
            jitter=medium.jitter_s,
            loss_probability=medium.loss_probability,
            contention=medium.contention,
            channel=medium.channel,
            cell_of=medium.cell_of,
            throughput=medium.throughput,
            rate_schedule=medium.rate_schedule,
            background_load=medium.background_load,
            radio=radio,
            distance_m=distance_m,
            message_noise_hz=radio.bandwidth_hz if radio and by_message else 0.0,
            message_snr_bits=10 ** (received_over_noise_dbhz(radio, distance_m) / 10) if radio and by_message else 0.0,
        )
    return directions


def _selects(override: LinkOverride, network: Network, source: int, destination: int) -> bool:
    ends = network.nodes[source], network.nodes[destination]
    if override.between is not None:
        wanted, given = override.between, (ends[0].name, ends[1].name)
    else:
        wanted, given = override.between_types, (ends[0].type, ends[1].type)
    return wanted == given or (not override.one_way and wanted == given[::-1])


def _overridden(direction: Direction, override: LinkOverride, of_medium: Direction | None) -> Direction:
    if of_medium is not None:
        direction = of_medium
    if override.rate_bps is not None:
        direction = replace(direction, rate_bps=override.rate_bps, message_noise_hz=0.0, radio=None)
    if override.latency_s is not None:
        direction = replace(direction, latency=override.latency_s, propagation_s=0.0)
    replaced: dict[str, Any] = {
        "jitter": override.jitter_s,
        "loss_probability": override.loss_probability,
        "contention": override.contention,
        "channel": override.channel,
        "throughput": override.throughput,
        "rate_schedule": override.rate_schedule,
        "background_load": override.background_load,
    }
    return replace(direction, **{key: value for key, value in replaced.items() if value is not None})


def link_directions(config: EnvironmentConfig, network: Network) -> dict[tuple[int, int], Direction]:
    """Return both directions of every link by (source, destination), sorted.

    Raises:
        ConfigError: an override matches no link, and will in no other draw of the network; or a rate is zero.
    """
    directions = _directions(config.links, network)
    if config.cloud is not None and config.cloud.link is not None:
        to_cloud = Direction(
            rate_bps=config.cloud.link.rate_bps,
            propagation_s=0.0,
            latency=Duration(constant=config.cloud.link.latency_s),
            jitter=Duration(constant=0.0),
            loss_probability=0.0,
            contention="none",
        )
        ends = [(a, b) for a, b in directions if network.nodes[a].cloud or network.nodes[b].cloud]
        directions |= dict.fromkeys(ends, to_cloud)
    for position, override in enumerate(config.link_overrides):
        selected = [pair for pair in directions if _selects(override, network, *pair)]
        if not selected and not (resamples(config.topology) and _may_select(override, network)):
            raise ConfigError(f"link_overrides.{position}: {_no_link(override, network)}")
        media = {} if override.medium is None else _directions(override.medium, network)
        for pair in selected:
            directions[pair] = _overridden(directions[pair], override, media.get(pair))
    _refuse_silent_draws(config)
    for (a, b), direction in directions.items():
        if not direction.rate_bps > 0:
            raise ConfigError(
                f"links: the link {network.nodes[a].name} - {network.nodes[b].name} would have rate "
                f"{direction.rate_bps:g} bit/s; raise transmit_power_dbm or move the nodes closer"
            )
        _refuse_background(direction, config, f"{network.nodes[a].name} - {network.nodes[b].name}")
    return dict(sorted(directions.items()))


def _refuse_background(direction: Direction, config: EnvironmentConfig, name: str) -> None:
    """Raise ConfigError if a link has a background load, and a rate that is not one number."""
    radio = direction.radio
    drawn = (radio is not None and radio.draws) or direction.message_noise_hz > 0
    if direction.background_load > 0 and (drawn or (radio is not None and config.mobility is not None)):
        raise ConfigError(
            f"links: background_load: {direction.background_load:g} on the link {name}, whose rate changes with each "
            "message, or with the distance; accepted there: 0"
        )


def _may_select(override: LinkOverride, network: Network) -> bool:
    """Return whether another draw of the links may have one that an override selects: nodes and types stay the same."""
    if override.between is not None:
        return override.between[0] != override.between[1] and set(override.between) <= {n.name for n in network.nodes}
    return set(override.between_types or ()) <= {node.type for node in network.nodes}


def _no_link(override: LinkOverride, network: Network) -> str:
    by_name = override.between is not None
    ends = [(network.nodes[a], network.nodes[b]) for a, b in network.links]
    accepted = sorted({f"{a.name} - {b.name}" if by_name else f"{a.type} - {b.type}" for a, b in ends})
    wanted = " - ".join(override.between or override.between_types or ())
    shown = ", ".join(accepted[:20]) + (", ..." if len(accepted) > 20 else "")
    return f"no link {wanted}{'' if by_name else ' between device types'}. Accepted, either way round: {shown}"


def _refuse_silent_draws(config: EnvironmentConfig) -> None:
    """Raise ConfigError if some draw of the network may have a link that is too long to carry anything."""
    area_m = getattr(config.topology, "area_m", None)
    if not resamples(config.topology) or area_m is None:
        return
    diagonal_m = math.hypot(*area_m)
    for key, medium in (("links", config.links), *_media_of_overrides(config)):
        if isinstance(medium, Wireless) and not wireless_rate_bps(medium, diagonal_m) > 0:
            raise ConfigError(
                f"{key}: a link across topology.area_m ({diagonal_m:g} m), which an episode may draw, would have rate "
                "0 bit/s; raise transmit_power_dbm or lessen the area"
            )


def _media_of_overrides(config: EnvironmentConfig) -> list[tuple[str, Medium]]:
    return [
        (f"link_overrides.{position}.medium", override.medium)
        for position, override in enumerate(config.link_overrides)
        if override.medium is not None
    ]


def link_arrays(
    config: EnvironmentConfig, network: Network, directions: dict[tuple[int, int], Direction]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays [M] LINK and [M] LINK_LAW of `link_directions`."""
    index = {pair: i for i, pair in enumerate(directions)}
    link, law = np.zeros(len(directions), LINK), np.zeros(len(directions), LINK_LAW)
    for i, ((source, destination), direction) in enumerate(directions.items()):
        link[i]["source"] = source
        link[i]["destination"] = destination
        link[i]["reverse"] = index[destination, source]
        link[i]["seconds_per_bit"] = 1 / direction.free_bps
        link[i]["latency_s"] = direction.mean_latency_s
        link[i]["broadcast_delay_s"] = direction.mean_latency_s + config.information.broadcast_bits / direction.free_bps
        # The accounts of energy and price need every transfer.
        link[i]["plain"] = direction.plain and config.energy is None and config.price is None
        law[i]["name_hash"] = stable_hash(f"{network.nodes[source].name}\n{network.nodes[destination].name}")
        law[i]["propagation_s"] = direction.propagation_s
        write_duration(law[i]["latency"], direction.latency)
        write_duration(law[i]["jitter"], direction.jitter)
        law[i]["loss_probability"] = direction.loss_probability
        law[i]["contention"] = direction.contention == "fifo"
        law[i]["message_noise_hz"] = direction.message_noise_hz
        law[i]["message_snr_bits"] = direction.message_snr_bits
        if direction.radio is not None:
            _write_radio(law[i], direction.radio, direction.distance_m)
    law["seconds_per_bit"] = link["seconds_per_bit"]
    return link, law


def gains_are_drawn(law: np.ndarray) -> bool:
    """Return whether transfers over some link of [M] LINK_LAW fade, or are shadowed; `is_drawn` says it of one link."""
    return bool(((law["scattered"] > 0) | (law["shadowing_db"] > 0)).any())


def _write_radio(law: np.void, radio: Wireless, distance_m: float) -> None:
    law["bandwidth_hz"] = radio.bandwidth_hz
    law["snr"] = snr_at(radio, distance_m)
    law["snr_m2"] = snr_at(radio, radio.minimum_distance_m) * radio.minimum_distance_m**2
    law["minimum_distance_m"] = radio.minimum_distance_m
    if radio.fading is not None:
        law["scattered"] = 1.0 if radio.fading == "rayleigh" else 1 / (1 + 10 ** (radio.rician_k_db / 10))
    law["shadowing_db"] = radio.shadowing_db
