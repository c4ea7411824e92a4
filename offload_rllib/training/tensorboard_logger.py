"""Tune's TensorBoard logger, with the figures of training episodes in front of RLlib's hundreds of tags."""

from __future__ import annotations

import math
from typing import Any

from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS
from ray.tune.logger import TBXLoggerCallback

from offload_rllib.algorithms.constraints import CONSTRAINTS
from offload_rllib.rollout.callbacks import PREFIX

# TensorBoard sorts groups of tags by name: these come before `evaluation` and `ray`.
EPISODES = "episodes"
DROPS = "episodes_drops"
_CAUSE = "dropped_"
_ALL_CAUSES = "dropped_share"


def tag_of(figure: str) -> str:
    """Return the tag of a figure of training episodes; drops by cause have a group of their own."""
    by_cause = figure.startswith(_CAUSE) and figure != _ALL_CAUSES
    return f"{DROPS if by_cause else EPISODES}/{figure}"


def finite(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without numbers that are not finite: means of nothing, as before the first episode has ended."""
    kept = {}
    for key, value in result.items():
        if isinstance(value, dict):
            kept[key] = finite(value)
        elif not isinstance(value, float) or math.isfinite(value):
            kept[key] = value
    return kept


class TensorBoardLogger(TBXLoggerCallback):
    """Writes ``episodes/FIGURE`` for what `OffloadCallback` logs, ``constraints/...``, and all else as RLlib does."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Write one result, at its number of environment steps."""
        result = finite(result)
        bounds = result.pop(CONSTRAINTS, {})
        sampled = dict(result.get(ENV_RUNNER_RESULTS, {}))
        figures = sampled.pop(PREFIX, {})
        super().log_trial_result(iteration, trial, result | {ENV_RUNNER_RESULTS: sampled})
        writer = self._trial_writer[trial]
        for figure, value in figures.items():
            writer.add_scalar(tag_of(figure), value, global_step=result["timesteps_total"])
        for figure, values in bounds.items():
            for name, value in values.items():
                writer.add_scalar(f"{CONSTRAINTS}/{figure}/{name}", value, global_step=result["timesteps_total"])
        writer.flush()
