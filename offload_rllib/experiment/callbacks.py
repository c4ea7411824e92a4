"""What RLlib logs about offloading, and on which axis TensorBoard draws it."""

from __future__ import annotations

import math
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

# A fixed set: metrics per agent or per node would grow with the network.
LOGGED = (
    "score_mean_s",
    "score_p95_s",
    "response_mean_s",
    "response_p95_s",
    "dropped_share",
    "dropped_queue_full_share",
    "dropped_expired_share",
    "dropped_lost_share",
    "dropped_node_failed_share",
    "late_share",
    "offloaded_share",
    "overload",
    "occupancy_tasks",
)
PREFIX = "offload"
EPISODES_AVERAGED = 50


class OffloadCallback(RLlibCallback):
    """Logs the figures of finished episodes, and sets the x-axis to environment steps."""

    def on_episode_end(self, *, episode: Any, metrics_logger: Any = None, **kwargs: Any) -> None:
        """Log the figures that the environment gives with the last step."""
        infos = episode.get_infos(-1)
        figures = next((info["episode"] for info in infos.values() if "episode" in info), None)
        if figures is None or metrics_logger is None:
            return
        for name in LOGGED:
            if not math.isnan(figures[name]):
                metrics_logger.log_value((PREFIX, name), figures[name], reduce="mean", window=EPISODES_AVERAGED)

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
        """Give Tune's TensorBoard logger its x-axis; without it curves are drawn over iterations."""
        result["timesteps_total"] = int(result[ENV_RUNNER_RESULTS][NUM_ENV_STEPS_SAMPLED_LIFETIME])
