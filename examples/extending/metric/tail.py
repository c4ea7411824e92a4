"""A metric: how much longer the slowest tasks take than the middle one.

Training logs it as `offload/tail_ratio`. Evaluations and comparisons compute it with `--metric tail:tail_ratio`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tail_ratio(figures: Mapping[str, Any]) -> float:
    """Return the 95th percentile of the score over its median, from the figures of an episode."""
    return figures["score_p95_s"] / figures["score_p50_s"]
