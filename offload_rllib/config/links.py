"""The schema of `links` and `link_overrides`: rate, latency, loss and contention."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import Decibel, Flag, Positive, Reference, Schema
from offload_rllib.config.duration import Duration

LossProbability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]
Contention = Literal["none", "fifo"]


NO_DELAY = Duration(constant=0.0)


class LinkProperties(Schema):
    """The keys of every kind of link, except its rate. Both directions are alike."""

    latency_s: Duration = NO_DELAY
    """Added to the time of every transfer."""
    jitter_s: Duration = NO_DELAY
    """Added too, drawn apart from the latency."""
    loss_probability: LossProbability = 0.0
    """Of every task and every result, at each link that it crosses."""
    contention: Contention = "none"
    """none: any number of transfers at once, each at the full rate; fifo: one at a time in each direction."""


class Wireless(LinkProperties):
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
    noise_over: Literal["bandwidth", "message"] = "bandwidth"
    """message: 10 log10 of the message's bits takes the place of 10 log10 B, as in PeersimGym's code."""
    wavelength_m: Positive = 0.125
    """0.125 m is 2.4 GHz."""
    minimum_distance_m: Positive = 1.0
    """Nodes closer than this count as this far apart: the formula has a pole at zero."""


class Fibre(LinkProperties):
    """Shannon capacity at a signal-to-noise ratio that does not depend on the distance."""

    kind: Literal["fibre"]
    """Chooses this kind."""
    bandwidth_hz: Positive = 2e6
    """Bandwidth of every link."""
    snr_db: Decibel = 45.0
    """Signal-to-noise ratio; 45 dB is PeersimGym's."""
    propagation_m_per_s: Positive | None = None
    """Speed of light in the fibre, about 2e8, for a propagation delay over the distance; null: no such delay."""


class Fixed(LinkProperties):
    """The same rate and latency on every link."""

    kind: Literal["fixed"]
    """Chooses this kind."""
    rate_bps: Positive
    """Rate of every link, either way."""


class StatedLinks(LinkProperties):
    """Rate and latency as the topology states them: the Ether scenarios, files with rates, and your own functions."""

    kind: Literal["topology"]
    """Chooses this kind."""


Medium = Wireless | Fixed | Fibre | StatedLinks
Links = Annotated[Medium, Field(discriminator="kind")]


class LinkOverride(Schema):
    """Exceptions on some links; keys that are left out stay unchanged. Later entries override earlier ones."""

    between: tuple[Reference, Reference] | None = None
    """The link between two nodes, by name."""
    between_types: tuple[Reference, Reference] | None = None
    """All links between nodes of two device types."""
    one_way: Flag = False
    """Only from the first to the second."""
    medium: Links | None = None
    """Another kind of link altogether, with all its keys."""
    rate_bps: Positive | None = None
    """Rate."""
    latency_s: Duration | None = None
    """Latency, in place of everything that the link's kind gives."""
    jitter_s: Duration | None = None
    """Jitter."""
    loss_probability: LossProbability | None = None
    """Probability of a loss."""
    contention: Contention | None = None
    """Whether transfers wait for each other."""

    @model_validator(mode="after")
    def _one_selection(self) -> LinkOverride:
        if (self.between is None) == (self.between_types is None):
            raise ValueError("give exactly one of: between, between_types")
        return self
