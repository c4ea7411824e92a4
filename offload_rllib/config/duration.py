"""The schema of random lengths of time: latencies, times to failure and repair."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, model_validator

from offload_rllib.config.base import NonNegative, Positive, Schema


class ShiftedLognormal(Schema):
    """loc + scale x exp(shape x Z) with Z standard normal: the parameters of `scipy.stats.lognorm`, and of Ether."""

    shape: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=True)]
    """Standard deviation of the logarithm."""
    loc: NonNegative = 0.0
    """The least value, in the unit of the key that holds the duration."""
    scale: Positive
    """Median above `loc`, in the same unit."""


class Duration(Schema):
    """A random length of time, drawn for every use; in YAML a bare number, or one of the keys below."""

    constant: NonNegative | None = None
    """Always this value."""
    exponential: Positive | None = None
    """Exponential with this mean."""
    uniform: tuple[NonNegative, NonNegative] | None = None
    """Uniform from low to high."""
    lognormal: ShiftedLognormal | None = None
    """Lognormal above a least value."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"constant": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Duration:
        keys = ("constant", "exponential", "uniform", "lognormal")
        if sum(getattr(self, key) is not None for key in keys) != 1:
            raise ValueError(f"give a number, or exactly one of: {', '.join(keys)}")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError("uniform needs low <= high")
        return self

    @property
    def mean(self) -> float:
        """The mean in seconds."""
        if self.lognormal is not None:
            return self.lognormal.loc + self.lognormal.scale * math.exp(self.lognormal.shape**2 / 2)
        if self.uniform is not None:
            return (self.uniform[0] + self.uniform[1]) / 2
        return self.constant if self.constant is not None else float(self.exponential or 0.0)
