"""The schema of `links` and `link_overrides`: rate, latency, loss and contention."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import (
    ADDED,
    DataFile,
    Decibel,
    Flag,
    Name,
    NonNegative,
    Positive,
    Reference,
    Schema,
)
from offload_rllib.config.duration import Duration

LossProbability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]
BackgroundLoad = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True), ADDED]
Contention = Literal["none", "fifo", "shared"]
Channel = Annotated[Literal["direction", "link", "cell"], ADDED]
Throughput = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=1024), ADDED]


# Below this a link carries nothing in an episode; expected times stay finite.
LEAST_FACTOR = 1e-9
NO_DELAY = Duration(constant=0.0)


class RateSchedule(Schema):
    """Factors of a link's rate that hold one after the other. Give exactly one of: steps, path."""

    steps: tuple[tuple[NonNegative, Positive], ...] | None = None
    """Pairs [time in seconds, factor], the first at 0; each holds until the next. 1e-6 is as good as an outage."""
    path: DataFile | None = None
    """A CSV file with the columns `time_s` and `factor`; relative to this YAML file."""
    period_s: Positive | None = None
    """The schedule begins again after so many seconds; null: its last factor holds on."""

    @model_validator(mode="after")
    def _one_source(self) -> RateSchedule:
        if (self.steps is None) == (self.path is None):
            raise ValueError("give exactly one of: steps, path")
        if self.steps is not None:
            self.check(self.steps)
        return self

    def check(self, steps: tuple[tuple[float, float], ...]) -> None:
        """Raise ValueError if steps cannot be followed."""
        times = [time_s for time_s, _ in steps]
        if not times or times[0] != 0:
            raise ValueError(f"the first step must be at 0 s (given: {f'{times[0]:g} s' if times else 'none'})")
        for earlier, later in pairwise(times):
            if not earlier < later:
                raise ValueError(f"times must increase: {later:g} s is not after {earlier:g} s")
        if self.period_s is not None and times[-1] >= self.period_s:
            raise ValueError(f"period_s ({self.period_s:g}) must be more than the last time ({times[-1]:g})")
        if not all(factor >= LEAST_FACTOR for _, factor in steps):
            raise ValueError(f"factors must be at least {LEAST_FACTOR:g}")


class LinkProperties(Schema):
    """The keys of every kind of link, except its rate. Both directions are alike."""

    latency_s: Duration = NO_DELAY
    """Added to the time of every transfer."""
    jitter_s: Duration = NO_DELAY
    """Added too, drawn apart from the latency."""
    loss_probability: LossProbability = 0.0
    """Of every task and every result, at each link that it crosses."""
    contention: Contention = "none"
    """none: any number of transfers at once, each at the full rate; fifo: one at a time; shared: all at once, with
    equal shares of the rate."""
    channel: Channel = "direction"
    """What transfers contend for: direction: each direction of a link for itself; link: both together (half-duplex);
    cell: all links of a node together."""
    cell_of: Annotated[tuple[Name, ...], Field(min_length=1), ADDED] | None = None
    """With `channel: cell`, the device types of the nodes whose links are a cell. Links of no such node contend by
    direction."""
    throughput: Throughput | None = None
    """With `contention: shared`, what 1, 2, 3, ... transfers at once get together, relative to the rate of the link;
    the last value holds for more. null: the rate of the link, however many."""
    rate_schedule: Annotated[RateSchedule, ADDED] | None = None
    """Factors of the rate that change in time; null: the rate is constant."""
    background_load: BackgroundLoad = 0.0
    """Share of the rate that other traffic takes, which is not simulated: messages are sent in the mean time of an
    M/M/1 queue of that load."""

    @model_validator(mode="after")
    def _contention_fits(self) -> LinkProperties:
        if self.throughput is not None and self.contention != "shared":
            raise ValueError(f"throughput needs contention: shared (given: {self.contention})")
        for count, together in enumerate(self.throughput or (), start=1):
            if together > count:
                raise ValueError(
                    f"throughput: {count} transfers get {together:g} times the rate of the link; at most {count}, for "
                    "none is sent faster than it would be alone"
                )
        if self.channel != "direction" and self.contention == "none":
            raise ValueError(f"channel: {self.channel} needs contention: fifo or shared (given: none)")
        if (self.channel == "cell") != (self.cell_of is not None):
            raise ValueError(f"channel: cell and cell_of need each other (given: channel: {self.channel})")
        return self


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
    fading: Annotated[Literal["rayleigh", "rician"], ADDED] | None = None
    """Each transfer draws its own power: rayleigh: no wave dominates; rician: one does. null: no fading."""
    rician_k_db: Annotated[float, Field(ge=-30, le=20, allow_inf_nan=False, strict=True), ADDED] = 6.0
    """With `fading: rician`, power of the dominant wave over that of all others."""
    shadowing_db: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False, strict=True), ADDED] = 0.0
    """Standard deviation of lognormal shadowing, drawn for each transfer."""

    @property
    def draws(self) -> bool:
        """Whether each transfer draws its own rate."""
        return self.fading is not None or self.shadowing_db > 0

    @model_validator(mode="after")
    def _one_noise(self) -> Wireless:
        if self.draws and self.noise_over == "message":
            raise ValueError("noise_over: message has no fading and no shadowing; accepted: noise_over: bandwidth")
        return self


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
    channel: Channel | None = None
    """What they contend for."""
    throughput: Throughput | None = None
    """What several get together."""
    rate_schedule: Annotated[RateSchedule, ADDED] | None = None
    """Factors of the rate that change in time."""
    background_load: BackgroundLoad | None = None
    """Share of the rate that other traffic takes."""

    @model_validator(mode="after")
    def _one_selection(self) -> LinkOverride:
        if (self.between is None) == (self.between_types is None):
            raise ValueError("give exactly one of: between, between_types")
        return self
