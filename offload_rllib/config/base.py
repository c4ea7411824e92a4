"""What every part of the schema is made of: bounded numbers, the base class, distributions."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

LARGEST_CAPACITY = 2**31 - 2

# Strict: neither text nor true passes for a number.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# Beyond any device, and within what 10^(x / 10) can hold.
Decibel = Annotated[float, Field(ge=-300, le=300, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Capacity = Annotated[int, Field(ge=1, le=LARGEST_CAPACITY, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]

# A Python function of the user's: the dotted path of its module, a colon, its name.
FUNCTION_PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


def is_function_path(text: str) -> bool:
    """Return whether a text names a Python function, as ``package.module:function``."""
    return re.fullmatch(FUNCTION_PATH, text) is not None


class Schema(BaseModel):
    """Base of every part of a configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Distribution(Schema):
    """A distribution of a positive quantity; in YAML a bare number, or one of the keys below."""

    constant: NonNegative | None = None
    """Always this value."""
    exponential: Positive | None = None
    """Exponential with this mean."""
    uniform: tuple[NonNegative, NonNegative] | None = None
    """Uniform from low to high."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"constant": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Distribution:
        given = [key for key in ("constant", "exponential", "uniform") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("give a number, or exactly one of: constant, exponential, uniform")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError("uniform needs low <= high")
        return self

    @property
    def mean(self) -> float:
        """The mean, in the unit of the key that holds the distribution."""
        if self.uniform is not None:
            return (self.uniform[0] + self.uniform[1]) / 2
        return self.constant if self.constant is not None else float(self.exponential or 0.0)
