"""The columns in which decisions at arrivals are recorded."""

from __future__ import annotations

from typing import NamedTuple

from offload_rllib.simulator.types import Array


class Rows(NamedTuple):
    """Columns of decisions, in the order in which they were taken."""

    agent: Array
    """[n] int64."""
    environment: Array
    """[n] int64."""
    time_s: Array
    """[n] float64, since the episode began."""
    observations: Array
    """[n, F] float32."""
    masks: Array
    """[n, R] int8."""
    actions: Array
    """[n] int32."""
    log_probabilities: Array
    """[n] float32."""
    rewards: Array
    """[n] float32: earned until the successor."""
    costs: Array
    """[n, C] float32: charged until the successor."""
    elapsed_s: Array
    """[n] float64: time until the successor."""
    hindsight: Array
    """[n] float32: minus what the decision has cost all tasks, as a reward; NaN where that is not known."""
    hindsight_costs: Array
    """[n, C] float32: how many more tasks each bounded figure counts because of the decision, where that is known."""
    task: Array
    """[n] int64: number of the task that was decided; where decisions are credited in hindsight."""
    waits: Array
    """[n] bool: its cost in hindsight is not known yet, and will be."""
    following: Array
    """[n] int64: the successor; `NONE` while it is not known."""
