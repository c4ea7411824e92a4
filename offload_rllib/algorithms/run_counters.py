"""Counters of a training run among Ray's metrics, which each node offers to Prometheus."""

from __future__ import annotations

import math
from typing import Any

from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.util.metrics import Counter, Gauge

TAG = ("run",)
SCORE = ("offload", "score_mean_s")


class RunCounters:
    """What Prometheus sees of a run, as ``ray_offload_*`` with the label ``run``."""

    def __init__(self, run: str) -> None:
        """Begin to count for a run of a name."""
        self._iterations = Counter("offload_iterations", "Training iterations of the present process.", TAG)
        self._gauges = {
            "env_steps": Gauge("offload_env_steps", "Environment steps of the run, over all its processes.", TAG),
            "score": Gauge("offload_score_mean_seconds", "Mean score of the latest training episodes.", TAG),
            "healthy": Gauge("offload_runners_healthy", "Runners that give samples.", TAG),
            "all": Gauge("offload_runners", "Runners that there should be.", TAG),
            "restarts": Gauge("offload_runner_restarts", "Runners that came back after they were lost.", TAG),
        }
        for metric in (self._iterations, *self._gauges.values()):
            # Ray takes ASCII alone.
            metric.set_default_tags({"run": run.encode("ascii", "backslashreplace").decode("ascii")})

    def update(self, result: dict[str, Any]) -> None:
        """Count a result."""
        sampled = result.get(ENV_RUNNER_RESULTS, {})
        self._iterations.inc()
        self._gauges["env_steps"].set(sampled.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))
        for name in ("healthy", "all", "restarts"):
            self._gauges[name].set(result.get("runners", {}).get(name, 0))
        score = sampled.get(SCORE[0], {}).get(SCORE[1], math.nan)
        if math.isfinite(score):
            self._gauges["score"].set(score)
