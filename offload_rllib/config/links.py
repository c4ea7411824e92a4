"""The schema of `links`: rate and latency."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from offload_rllib.config.base import Decibel, NonNegative, Positive, Schema


class Wireless(Schema):
    """Shannon capacity over free-space path loss.

    rate = B log2(1 + SNR), SNR in dB = P + 20 log10(wavelength / (4 pi d)) - (noise + 10 log10 B).
    """

    kind: Literal["wireless"]
    """Chooses this kind."""
    bandwidth_hz: Positive = 2e6
    """Bandwidth B of every link."""
    transmit_power_dbm: Decibel = 20.0
    """Transmit power P of every node."""
    noise_dbm_per_hz: Decibel = -174.0
    """Thermal noise density at room temperature."""
    wavelength_m: Positive = 0.125
    """0.125 m is 2.4 GHz."""
    latency_s: NonNegative = 0.0
    """Added to the time of every transfer."""
    minimum_distance_m: Positive = 1.0
    """Nodes closer than this count as this far apart: the formula has a pole at zero."""


class Fixed(Schema):
    """The same rate and latency on every link."""

    kind: Literal["fixed"]
    """Chooses this kind."""
    rate_bps: Positive
    """Rate of every link, either way."""
    latency_s: NonNegative = 0.0
    """Added to the time of every transfer."""


class StatedLinks(Schema):
    """Every link as the topology states it: the Ether scenarios, files with rates, and functions that give them."""

    kind: Literal["topology"]
    """Chooses this kind."""


Links = Annotated[Wireless | Fixed | StatedLinks, Field(discriminator="kind")]
