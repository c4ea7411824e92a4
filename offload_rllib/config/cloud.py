"""The schema of `cloud`: a data centre behind the network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import ADDED, Finite, NonNegative, Positive, Schema

TasksPerCore = Annotated[int, Field(strict=True, ge=1, le=1_000_000), ADDED]


Queue = Literal["fifo", "lifo", "edf", "sjf", "priority"]


def check_sharing(service: str, tasks_per_core: int | None, queue: str) -> None:
    """Check what is said of shared cores and of the queue behind them.

    Raises:
        ValueError: it does not fit together; the message says what is accepted.
    """
    if service != "shared":
        if tasks_per_core is not None:
            raise ValueError(f"tasks_per_core: {tasks_per_core} needs service: shared (given: {service})")
    elif tasks_per_core is None and queue != "fifo":
        raise ValueError(
            f"queue: {queue} orders waiting tasks, and with service: shared none waits; accepted: queue: fifo, or "
            "tasks_per_core"
        )


class CloudAccess(Schema):
    """The nodes with a link to the cloud; in YAML the word `all`, or the keys below."""

    types: tuple[str, ...] = ()
    """Every node of these device types."""
    nodes: tuple[str, ...] = ()
    """The nodes with these names. With neither types nor nodes: every node."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value != "all":
                raise ValueError("must be all, or a mapping with the keys types, nodes or both")
            return {}
        return value

    @property
    def everyone(self) -> bool:
        """Whether every node has a link to the cloud."""
        return not self.types and not self.nodes


class CloudLink(Schema):
    """Rate and latency of every link to the cloud, either way."""

    rate_bps: Positive
    """Rate."""
    latency_s: NonNegative = 0.0
    """Added to the time of every transfer."""


class Cloud(Schema):
    """A node with many virtual machines and an unbounded queue; it never creates or decides tasks."""

    vms: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    """Number of virtual machines; with `service: parallel` the tasks served at once."""
    instructions_per_second: Positive
    """Speed of one virtual machine."""
    queue: Queue = "fifo"
    """Order in which waiting tasks are served, as for other nodes."""
    service: Annotated[Literal["parallel", "shared"], ADDED] = "parallel"
    """parallel: one task on each machine; shared: all tasks at once, with equal shares of the machines, each at most
    one."""
    tasks_per_core: TasksPerCore | None = None
    """With `service: shared`, so many tasks per machine are served at once, and the others wait; null: all of them."""
    access: CloudAccess = CloudAccess()
    """Which nodes have a link to the cloud."""
    link: CloudLink | None = None
    """Of every node with access; null: as `links` says, over the distance from `position_m`."""
    position_m: tuple[Finite, Finite] | None = None
    """Coordinates x, y; needed without `link`."""

    @model_validator(mode="after")
    def _reachable(self) -> Cloud:
        if self.link is None and self.position_m is None:
            raise ValueError("give link (rate and latency), or position_m (the links then follow from the distance)")
        check_sharing(self.service, self.tasks_per_core, self.queue)
        return self
