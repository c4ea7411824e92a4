"""The schema of devices, common to all kinds of topology."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from offload_rllib.config.base import ADDED, Capacity, Flag, Name, NonNegative, Positive, Schema

# Below 1, so that every node has some speed left.
Variation = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]


class Hardware(Schema):
    """A node's computing power, and whether tasks are created there."""

    instructions_per_second: NonNegative
    """Speed of one core; 0: a node without a processor, which makes tasks or passes them on and processes none."""
    cores: Annotated[int, Field(strict=True, ge=1, le=4096)] = 1
    """Number of cores."""
    queue_capacity: Capacity | None = None
    """Tasks held, waiting and served together; null: unbounded."""
    queue_capacity_bits: Annotated[Positive, ADDED] | None = None
    """Inputs of the tasks held, waiting and served together: a memory. A task that does not fit is dropped. Null:
    unbounded."""
    client: Flag = False
    """Whether a client here creates tasks."""


class Device(Hardware):
    """A type of device; its nodes are named type_0, type_1, ..."""

    type: Name
    """Name of the type."""
    speed_variation: Variation = 0.0
    """Each node's speed is drawn uniformly within this share of `instructions_per_second`, either way."""


class DeviceClass(Device):
    """A type of device and its share of the nodes; its nodes are named type_0, type_1, ..."""

    share: Positive = 1.0
    """Share of the nodes, relative to the other shares; rounded to whole nodes by largest remainders."""
