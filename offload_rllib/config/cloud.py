"""The schema of `cloud`: a data centre behind the network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import Finite, NonNegative, Positive, Schema


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
    """A node with many virtual machines, one task each, and an unbounded queue; it never creates or decides tasks."""

    vms: Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
    """Tasks served at once."""
    instructions_per_second: Positive
    """Speed of one virtual machine."""
    queue: Literal["fifo", "lifo", "edf", "sjf"] = "fifo"
    """Order in which waiting tasks are served, as for other nodes."""
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
        return self
