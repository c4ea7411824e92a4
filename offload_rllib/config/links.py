"""The schema of `links` and `link_overrides`: rate, latency, loss and contention."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import Decibel, Flag, NonNegative, Positive, Schema

Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]
Name = Annotated[str, Field(min_length=1)]
Contention = Literal["none", "fifo"]


class Lognormal(Schema):
    """loc + scale x exp(shape x Z) with Z standard normal: the parameters of `scipy.stats.lognorm`, and of Ether."""

    shape: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=True)]
    """Standard deviation of the logarithm."""
    loc: NonNegative = 0.0
    """The least value, in the unit of the key that holds the distribution."""
    scale: Positive
    """Median above `loc`, in the same unit."""


class Delay(Schema):
    """A delay, drawn for every transfer; in YAML a bare number, or one of the keys below."""

    constant: NonNegative | None = None
    """Always this value."""
    exponential: Positive | None = None
    """Exponential with this mean."""
    uniform: tuple[NonNegative, NonNegative] | None = None
    """Uniform from low to high."""
    lognormal: Lognormal | None = None
    """Lognormal."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"constant": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Delay:
        keys = ("constant", "exponential", "uniform", "lognormal")
        if sum(getattr(self, key) is not None for key in keys) != 1:
            raise ValueError(f"give a number, or exactly one of: {', '.join(keys)}")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError("uniform needs low <= high")
        return self

    @property
    def mean(self) -> float:
        """The mean, in the unit of the key that holds the delay."""
        if self.lognormal is not None:
            return self.lognormal.loc + self.lognormal.scale * math.exp(self.lognormal.shape**2 / 2)
        if self.uniform is not None:
            return (self.uniform[0] + self.uniform[1]) / 2
        return self.constant if self.constant is not None else float(self.exponential or 0.0)


NO_DELAY = Delay(constant=0.0)


class LinkProperties(Schema):
    """What every kind of link has beside its rate. Both directions are alike."""

    latency_s: Delay = NO_DELAY
    """Added to the time of every transfer."""
    jitter_s: Delay = NO_DELAY
    """Added too, drawn apart from the latency."""
    loss_probability: Probability = 0.0
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


Medium = Wireless | Fixed | Fibre
Links = Annotated[Medium, Field(discriminator="kind")]


class LinkOverride(Schema):
    """What is different on some links; what is left out stays as it is. Later entries go over earlier ones."""

    between: tuple[Name, Name] | None = None
    """The link between two nodes, by name."""
    between_types: tuple[Name, Name] | None = None
    """All links between nodes of two device types."""
    one_way: Flag = False
    """Only from the first to the second."""
    medium: Links | None = None
    """Another kind of link altogether, with all its keys."""
    rate_bps: Positive | None = None
    """Rate."""
    latency_s: Delay | None = None
    """Latency, in place of everything that the link's kind gives."""
    jitter_s: Delay | None = None
    """Jitter."""
    loss_probability: Probability | None = None
    """Probability of a loss."""
    contention: Contention | None = None
    """Whether transfers wait for each other."""

    @model_validator(mode="after")
    def _one_selection(self) -> LinkOverride:
        if (self.between is None) == (self.between_types is None):
            raise ValueError("give exactly one of: between, between_types")
        return self
