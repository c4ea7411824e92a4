"""The schema of `failures`: nodes that go down and up again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import Schema
from offload_rllib.config.duration import Duration

DeviceTypes = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class FailureLaw(Schema):
    """How often some nodes fail, and for how long. Nodes fail independently of each other and of their load."""

    types: DeviceTypes | None = None
    """Device types that this holds for; null: all."""
    time_to_failure_s: Duration
    """From the start, or a repair, to the next failure; its mean is the MTBF. A constant fails all nodes at once."""
    time_to_repair_s: Duration
    """From a failure to the repair; its mean is the MTTR."""

    @model_validator(mode="after")
    def _time_passes(self) -> FailureLaw:
        if not self.time_to_failure_s.mean > 0:
            raise ValueError("time_to_failure_s must be more than 0 on average")
        return self


class Failures(Schema):
    """Nodes go down and up again."""

    tasks: Literal["lost", "returned"] = "lost"
    """What happens to the tasks at a node that fails, and to those that reach it while it is down. lost: they are
    dropped. returned: they return to the node that sent them."""
    laws: tuple[FailureLaw, ...] = Field(min_length=1)
    """Which nodes fail how; later entries override earlier ones, and a node without one does not fail."""
