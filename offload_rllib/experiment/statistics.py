"""Intervals for means over episodes, and for paired differences between policies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# Below this Student's interval is closer to its stated coverage: for gamma(4) values it covers 94 to 95 % at 20 and
# 25 values, the BCa bootstrap 93 to 94 % (600 trials each); the percentile bootstrap of 5 values covers 83 %.
BOOTSTRAP_FROM = 50
RESAMPLES = 10_000
ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def interval(values: np.ndarray) -> Interval:
    """Return the mean of independent values with its 95 % interval; values that are not numbers are left out.

    Student's t below 50 values, the bias-corrected and accelerated bootstrap from there on (Efron 1987), with a
    fixed seed. NaN without two values.
    """
    values = values[np.isfinite(values)]
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else float("nan")
        return Interval(mean, float("nan"), float("nan"))
    mean = float(values.mean())
    if np.ptp(values) <= ROUNDING * np.abs(values).max():
        return Interval(mean, mean, mean)  # equal values, apart from rounding, have no spread to resample
    if len(values) < BOOTSTRAP_FROM:
        half = float(stats.sem(values) * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
        return Interval(mean, mean - half, mean + half)
    resampled = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, rng=np.random.default_rng(0)
    )
    return Interval(mean, float(resampled.confidence_interval.low), float(resampled.confidence_interval.high))


def paired_difference(values: np.ndarray, reference: np.ndarray) -> Interval:
    """Return the mean of values minus reference with its 95 % interval; the same episode in the same place."""
    return interval(values - reference)
