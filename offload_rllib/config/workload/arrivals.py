"""The schema of `workload.arrivals`: when clients create tasks.

Every kind except `replay` and `job_times` gives the shape of a rate over time; `workload.load` gives its mean.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import (
    ADDED,
    DataFile,
    Flag,
    NonNegative,
    Positive,
    PositiveOrRange,
    Reference,
    Schema,
    Share,
    bare_word_is,
)


class ConstantRate(Schema):
    """A Poisson process of constant rate."""

    kind: Literal["constant"]
    """Chooses this kind."""


class LinearRate(Schema):
    """A rate that goes in a straight line from one level to another, and stays there."""

    kind: Literal["linear"]
    """Chooses this kind."""
    first_level: NonNegative = 1.0
    """Level at the start of the episode; only the ratio of the levels matters."""
    last_level: NonNegative = 10.0
    """Level at the end of the ramp."""
    ramp_s: Positive | None = None
    """Length of the ramp; null: the whole episode."""

    @model_validator(mode="after")
    def _not_nothing(self) -> LinearRate:
        if self.first_level == self.last_level == 0:
            raise ValueError("first_level and last_level are both 0: no task would ever arrive")
        return self


class ZigzagRate(Schema):
    """A rate that goes up and down in straight lines: a triangle wave that starts low."""

    kind: Literal["zigzag"]
    """Chooses this kind."""
    low_level: NonNegative = 1.0
    """Lowest level; only the ratio of the levels matters."""
    high_level: Positive = 10.0
    """Highest level."""
    period_s: Positive
    """From one low to the next."""
    phase: Share = 0.0
    """Phase of the wave at time 0: 0 low and rising, 0.5 high and falling."""
    heterogeneous: Flag = False
    """Each client draws a phase of its own in every episode, in place of `phase`."""

    @model_validator(mode="after")
    def _ordered(self) -> ZigzagRate:
        if self.low_level > self.high_level:
            raise ValueError("zigzag needs low_level <= high_level")
        return self


class UniformRate(Schema):
    """A rate drawn for every time slot, uniformly between two levels."""

    kind: Literal["uniform"]
    """Chooses this kind."""
    low_level: NonNegative = 1.0
    """Lowest level; only the ratio of the levels matters."""
    high_level: Positive = 10.0
    """Highest level."""
    slot_s: Positive = 100.0
    """Length of a slot."""
    heterogeneous: Flag = False
    """Each client draws its own levels; otherwise one draw holds for all."""

    @model_validator(mode="after")
    def _ordered(self) -> UniformRate:
        if self.low_level > self.high_level:
            raise ValueError("uniform needs low_level <= high_level")
        return self


class DiurnalRate(Schema):
    """A rate that follows a sine wave, as between day and night.

    level(t) = 1 + amplitude sin(2 pi (t / period_s + phase)).
    """

    kind: Literal["diurnal"]
    """Chooses this kind."""
    amplitude: Share = 0.8
    """Amplitude around the mean, as a share of it."""
    period_s: Positive = 86400.0
    """Length of a day."""
    phase: Share = 0.0
    """Phase of the wave at time 0: 0 at the mean and rising, 0.75 at the lowest."""
    heterogeneous: Flag = False
    """Each client draws a phase of its own in every episode, in place of `phase`."""


class BurstState(Schema):
    """One state of a bursty rate."""

    level: NonNegative
    """Rate in this state; only the ratio of the levels matters."""
    mean_s: Positive
    """Mean time in this state; the times are exponential."""


class BurstyRate(Schema):
    """A Markov-modulated Poisson process: the rate jumps between states that last exponential times.

    The modulating chain starts in its stationary distribution.
    """

    kind: Literal["bursty"]
    """Chooses this kind."""
    states: tuple[BurstState, ...] = Field(min_length=2, max_length=64)
    """Two states or more."""
    jumps: tuple[tuple[Share, ...], ...] | None = None
    """Row i: probabilities of going from state i to each state; null: to each other state with equal probability."""
    heterogeneous: Flag = True
    """Each client has its own chain; otherwise one chain holds for all."""

    @model_validator(mode="after")
    def _is_a_chain(self) -> BurstyRate:
        count = len(self.states)
        if not any(state.level for state in self.states):
            raise ValueError("all levels are 0: no task would ever arrive")
        for i, row in enumerate(self.jumps or ()):
            if len(row) != count or abs(sum(row) - 1) > 1e-9 or row[i] > 0:
                raise ValueError(
                    f"jumps row {i} needs {count} probabilities that sum to 1, and 0 from the state to itself"
                )
        if self.jumps is not None and len(self.jumps) != count:
            raise ValueError(f"jumps needs a row for each of the {count} states, has {len(self.jumps)}")
        return self


class TableRate(Schema):
    """A rate given by a CSV file with the columns `time_s`, `rate` or `level`, and optionally `client`.

    `rate` is in tasks per second of one client; `workload.load`, if given, scales it. `level` is relative and needs
    `workload.load`. Rows with a client's name (all rows, or none) hold for that client alone.
    """

    kind: Literal["table"]
    """Chooses this kind."""
    path: DataFile
    """The CSV file; relative to this YAML file."""
    interpolation: Literal["steps", "lines"] = "steps"
    """steps: a row holds until the next; lines: straight lines from row to row. The last row holds on."""


class Column(Schema):
    """A column of a file; in YAML its bare name, or a mapping with a factor."""

    column: Reference
    """Name of the column."""
    factor: Positive = 1.0
    """Multiplies the values of the file to convert them to this project's unit (e.g. 8e6 for megabytes to bits)."""

    _from_name = bare_word_is("column")


class Columns(Schema):
    """The columns of a recording."""

    time: Column = Column(column="time_s")
    """When the task enters the network, in seconds from the start of the recording; rows are in order of time."""
    origin: Reference | None = None
    """Name of the node whose client creates the task; null: a client is drawn for each row."""
    work: Column | None = None
    """Instructions; null: work and sizes are drawn from `workload.jobs`."""
    bits_in: Column | None = None
    """Size of the task; null: 0 (where there is a column for the work)."""
    bits_out: Column | None = None
    """Size of the result; null: 0 (where there is a column for the work)."""
    deadline: Column | None = None
    """Seconds from the task's entry to its deadline, empty: none. Null: `workload.deadline_s` holds for all tasks."""
    node: Reference | None = None
    """Name of the node that the task enters first, empty: its origin. Null: always its origin."""
    destination: Annotated[Reference, ADDED] | None = None
    """Name of the node that is to process the task, empty: that which it enters first. The heuristic `recorded` sends
    it there; others do not look at it."""
    type: Reference | None = None
    """Name of the task's type, for `score.weights` and figures per type (where there is a column for the work). Null:
    all are of one type."""

    @model_validator(mode="after")
    def _sizes_need_work(self) -> Columns:
        for key in ("bits_in", "bits_out", "deadline", "type"):
            if getattr(self, key) is not None and self.work is None:
                raise ValueError(f"{key} needs a column for the work: a file says what tasks need, or when they come")
        return self


class _Played(Schema):
    speed: PositiveOrRange = 1.0
    """How fast the recording is played: 2 halves all times between arrivals."""
    start: Literal["beginning", "random"] = "beginning"
    """Where in the recording an episode starts; random: drawn per episode, such that the episode fits into it."""


class Replay(_Played):
    """Arrivals of a CSV or Parquet file, replayed in time."""

    kind: Literal["replay"]
    """Chooses this kind."""
    path: DataFile
    """The file, `.csv` (with a header) or `.parquet`; relative to this YAML file."""
    columns: Columns = Columns()
    """The columns of the file."""


class JobTimes(_Played):
    """The jobs of an `alibaba` trace at the times at which they arrived there, each at a client drawn for it."""

    kind: Literal["job_times"]
    """Chooses this kind."""


Recorded = Replay | JobTimes
Arrivals = Annotated[
    ConstantRate | LinearRate | ZigzagRate | UniformRate | DiurnalRate | BurstyRate | TableRate | Replay | JobTimes,
    Field(discriminator="kind"),
]
