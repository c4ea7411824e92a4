"""The running score of a recorded episode, from its task log: it ends at the score that an evaluation reports."""

from __future__ import annotations

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.replay.record import Recording
from offload_rllib.simulator.types import EXPIRY_ABORT, FINISHED, Array

# Sums of the same numbers in two orders differ by no more.
ROUNDING = 1e-9


def scores_of(recording: Recording) -> tuple[Array, Array]:
    """Return what each task scores [tasks] in seconds, and its weight: 0 where it does not count.

    The rule is that of `simulator.tasks.score_of_unfinished`: a task that finished scores its response time, any other
    one what a finish as late as could be would have scored, and at least `drop_s`.
    """
    log, arrays = recording.log, recording.scenario.arrays
    settings = arrays.settings[0]
    age_s = log["ended_s"] - log["created_s"]
    latest_s = np.full(len(log), settings["horizon_s"])
    if settings["expiry"] == EXPIRY_ABORT:
        latest_s = np.where(np.isfinite(log["deadline_s"]), log["deadline_s"], latest_s)
    price_s = np.maximum(np.maximum(latest_s - log["created_s"], age_s), settings["drop_s"])
    counts = (log["created_s"] >= settings["score_from_s"]) & (log["created_s"] < settings["score_until_s"])
    weight = np.where(counts, arrays.type_weight[log["type"]], 0.0)
    return np.where(log["outcome"] == FINISHED, age_s, price_s), weight


def running_score(recording: Recording) -> tuple[Array, Array]:
    """Return the times [n] in seconds at which the mean score changes, and the means [n] in seconds from then on.

    A task enters the mean when it ends; what is unfinished enters at the end of the episode.

    Raises:
        ConfigError: the log is not that of the whole episode: its last mean is not what the evaluation reports.
    """
    score_s, weight = scores_of(recording)
    counted = np.flatnonzero(weight > 0)
    order = counted[np.argsort(recording.log["ended_s"][counted], kind="stable")]
    means = np.cumsum(weight[order] * score_s[order]) / np.cumsum(weight[order])
    expected, tasks = recording.figures[SCORE], recording.figures["tasks_created"]
    last = float(means[-1]) if len(means) else float("nan")
    agrees = np.isclose(last, expected, rtol=ROUNDING, atol=0, equal_nan=True)
    if not agrees or len(counted) != tasks:
        raise ConfigError(
            f"the task log of '{recording.policy}' is not that of the whole episode: {len(counted)} tasks with a mean "
            f"score of {last:.6g} s, and the evaluation has {tasks:.0f} with {expected:.6g} s; record it again"
        )
    return recording.log["ended_s"][order], means
