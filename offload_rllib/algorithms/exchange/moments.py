"""Advantages with mean 0 and spread 1 over the steps with a choice, of one learner or of several."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SPREAD = 1e-4


@dataclass(frozen=True)
class Moments:
    """Mean and spread of numbers."""

    count: float
    """How many they are."""
    mean: float
    spread: float
    """Standard deviation, with count - 1."""

    @classmethod
    def of(cls, advantages: Tensor, has_choice: Tensor) -> Moments:
        """Return those of the advantages [N] whose steps have a choice, [N] bool."""
        count = int(has_choice.sum())
        if count < 2:
            return cls(count, float(advantages[has_choice].sum()), 0.0)
        spread, mean = torch.std_mean(advantages[has_choice])
        return cls(count, float(mean), float(spread))

    @classmethod
    def of_all(cls, parts: Iterable[Moments]) -> Moments:
        """Return those of all numbers together; of a single part they are the same, bit for bit, in float32."""
        parts = list(parts)
        count = sum(part.count for part in parts)
        if count < 2:
            return cls(count, sum(part.mean for part in parts if part.count), 0.0)
        mean = sum(part.count * part.mean for part in parts) / count
        within = sum((part.count - 1) * part.spread**2 for part in parts if part.count)
        between = sum(part.count * (part.mean - mean) ** 2 for part in parts)
        return cls(count, mean, math.sqrt((within + between) / (count - 1)))

    def standardised(self, values: Tensor) -> Tensor:
        """Return values with this mean and spread as if they had 0 and 1; as they are if these are of less than two."""
        if self.count < 2:
            return values
        return (values - self.mean) / max(self.spread, SMALLEST_SPREAD)


def standardised(advantages: Tensor, has_choice: Tensor) -> Tensor:
    """Return advantages [N] with mean 0 and spread 1 over the steps with a choice; as they are if only one has one."""
    return Moments.of(advantages, has_choice).standardised(advantages)
