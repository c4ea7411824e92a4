"""The schema of `energy` and `price`: what nodes draw, and what their use costs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from offload_rllib.config.base import NonNegative, Schema
from offload_rllib.config.failures import DeviceTypes


class Power(Schema):
    """The power that some nodes draw."""

    types: DeviceTypes | None = None
    """Device types that this holds for; null: all."""
    idle_w: NonNegative = 0.0
    """Whenever the node is up."""
    core_busy_w: NonNegative = 0.0
    """On top, for every core that works."""
    transmit_w: NonNegative = 0.0
    """On top, while sending, for every transfer."""
    transmit_j_per_bit: NonNegative = 0.0
    """On top, for every bit sent."""


class PowerDraw(Schema):
    """Energy in joules, from the power that nodes draw."""

    kind: Literal["power"]
    """Chooses this kind."""
    devices: tuple[Power, ...] = Field(min_length=1)
    """Which nodes draw what; later entries override earlier ones, and a node without one draws nothing."""


class PeersimGymCost(Schema):
    """PeersimGym's account, without a unit: instructions and megabytes sent at one cost; offloading is free."""

    kind: Literal["peersimgym"]
    """Chooses this kind."""
    cost: NonNegative = 10.0
    """Cost of an instruction processed, and of a megabyte of broadcasts and results."""


class NodePrice(Schema):
    """What the use of some nodes costs, in any one unit of money."""

    types: DeviceTypes | None = None
    """Device types that this holds for; null: all."""
    per_core_s: NonNegative = 0.0
    """For every second for which a task occupies a core."""
    per_bit: NonNegative = 0.0
    """For every bit of tasks and results that the node sends."""


class Price(Schema):
    """What tasks cost."""

    devices: tuple[NodePrice, ...] = Field(min_length=1)
    """Which nodes cost what; later entries override earlier ones, and a node without one is free."""


Energy = Annotated[PowerDraw | PeersimGymCost, Field(discriminator="kind")]
