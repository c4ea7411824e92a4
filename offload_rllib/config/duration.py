"""The schema of random lengths of time: latencies, times to failure and repair."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from offload_rllib.config.base import Lognormal, NonNegative, PerEpisode, Positive, Schema, ends


class Duration(Schema):
    """A random length of time, drawn for every use; in YAML a bare number, or one of the keys below."""

    constant: NonNegative | None = None
    """Always this value."""
    exponential: Positive | None = None
    """Exponential with this mean."""
    uniform: tuple[NonNegative, NonNegative] | None = None
    """Uniform from low to high."""
    lognormal: Lognormal | None = None
    """Lognormal with this mean, coefficient of variation and least value; none of them `per_episode`."""

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
        if self.lognormal is not None and any(isinstance(value, PerEpisode) for _, value in self.lognormal):
            raise ValueError("lognormal needs numbers here: durations have no per_episode")
        return self

    @property
    def lognormal_numbers(self) -> tuple[float, float, float]:
        """Mean, coefficient of variation and least value of a `lognormal`.

        Raises:
            TypeError: the duration is none.
        """
        if self.lognormal is None:
            raise TypeError("not a lognormal duration")
        mean, cv, least = (ends(value)[0] for value in (self.lognormal.mean, self.lognormal.cv, self.lognormal.least))
        return mean, cv, least

    @property
    def mean(self) -> float:
        """The mean in seconds."""
        if self.lognormal is not None:
            return self.lognormal_numbers[0]
        if self.uniform is not None:
            return (self.uniform[0] + self.uniform[1]) / 2
        return self.constant if self.constant is not None else float(self.exponential or 0.0)
