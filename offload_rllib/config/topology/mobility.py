"""The schema of `mobility`: nodes that move, and the access points that they are attached to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import DataFile, Name, NonNegative, Positive, Schema
from offload_rllib.config.duration import Duration


class RandomWaypoint(Schema):
    """A node goes straight to a random point, pauses there, and then goes to the next."""

    kind: Literal["random_waypoint"]
    """Chooses this kind."""
    speed_m_per_s: tuple[Positive, Positive]
    """Slowest and fastest; each leg draws its speed uniformly between them."""
    pause_s: Duration = Duration(constant=0.0)
    """Drawn at each point, the first included."""
    area_m: tuple[Positive, Positive] | None = None
    """Width and height of the area, from (0, 0) on; null: that of the topology."""

    @model_validator(mode="after")
    def _ordered(self) -> RandomWaypoint:
        if self.speed_m_per_s[0] > self.speed_m_per_s[1]:
            raise ValueError("speed_m_per_s needs slowest <= fastest")
        return self


class MovementTrace(Schema):
    """Nodes are where a file says, on straight lines between its rows."""

    kind: Literal["trace"]
    """Chooses this kind."""
    path: DataFile
    """A CSV file with the columns `time_s`, `node`, `x_m` and `y_m`; relative to this YAML file."""


class Mobility(Schema):
    """Nodes that move. Each has a link to every access point, and sends tasks to the nearest alone."""

    types: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Device types of the nodes that move."""
    access_points: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Device types of the nodes that they are attached to."""
    movement: Annotated[RandomWaypoint | MovementTrace, Field(discriminator="kind")]
    """How they move."""
    update_s: Positive = 1.0
    """Positions, rates and access points are looked at once in so many seconds."""
    hysteresis_m: NonNegative = 0.0
    """A node changes to another access point that is nearer by more than this."""
    handover: Literal["make_before_break", "break_before_make"] = "make_before_break"
    """What happens to messages on the link to the former access point that are not sent yet. make_before_break: they
    are sent; break_before_make: they are lost."""
