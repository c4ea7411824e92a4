"""A metric: how much longer the slowest tasks take than the middle one.

Training logs it as `offload/tail_ratio`. The same function takes the rows of an evaluation:

    rows = evaluate(environment, contenders).episodes.to_dict("records")
    ratios = [tail_ratio(row) for row in rows]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tail_ratio(figures: Mapping[str, Any]) -> float:
    """Return the 95th percentile of the score over its median, from the figures of an episode."""
    return figures["score_p95_s"] / figures["score_p50_s"]
