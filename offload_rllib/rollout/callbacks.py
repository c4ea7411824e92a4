"""What RLlib logs about offloading, and on which axis TensorBoard draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.goal import COST
from offload_rllib.envs.spaces import FIGURES
from offload_rllib.rollout.runner import BatchedEnvRunner
from offload_rllib.scenario.functions import load_function

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


class EpisodeMetrics:
    """RLlib's function `on_episode_end` that logs metrics of the user, each a function of an episode's figures."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        """Take the functions, ``package.module:function`` by the name of the metric, and see that they can be loaded.

        Raises:
            ConfigError: one of them cannot, or has the name of a figure that is logged anyway.
        """
        self._paths = dict(paths)
        for name, path in self._paths.items():
            if name in (*LOGGED, COST):
                raise ConfigError(f"training.metrics.{name}: this figure is logged anyway; choose another name")
            load_function(path, f"training.metrics.{name}")

    def __call__(self, *, episode: Any, env_runner: Any = None, metrics_logger: Any = None, **kwargs: Any) -> None:
        """Log them."""
        figures = figures_of(episode)
        if figures is None or metrics_logger is None:
            return
        # Loaded here, and not kept: runners get a copy of this object, for which there must be no code in it.
        values = {
            name: float(load_function(path, f"training.metrics.{name}")(figures)) for name, path in self._paths.items()
        }
        _log(values, env_runner, metrics_logger)


def _log(values: Mapping[str, float], env_runner: Any, metrics_logger: Any) -> None:
    """Log the mean of each value, of those episodes that have it."""
    if isinstance(env_runner, BatchedEnvRunner):
        env_runner.episode_log.add({(PREFIX, name): value for name, value in values.items()})
        return
    for name, value in values.items():
        if not math.isnan(value):
            metrics_logger.log_value((PREFIX, name), value, reduce="mean")


def figures_of(episode: Any) -> dict[str, float] | None:
    """Return the figures that the environment gives with the last step of an episode, if it has given them."""
    infos = episode.get_infos(-1)
    return next((info[FIGURES] for info in infos.values() if FIGURES in info), None)


def _continue_series(env_runner: Any, env_steps: int) -> None:
    if isinstance(env_runner, BatchedEnvRunner):
        env_runner.continue_series(env_steps)
    elif env_runner.env is not None:
        for environment in env_runner.env.unwrapped.envs:
            environment.unwrapped.continue_series(env_steps)


def _env_steps(algorithm: Any) -> int:
    return int(algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))


class OffloadCallback(RLlibCallback):
    """Logs the figures of finished episodes, sets the x-axis to environment steps, and keeps episodes from repeating.

    A figure is the mean over the episodes that ended in an iteration, of each runner, averaged over the runners.
    """

    def on_episode_end(
        self, *, episode: Any, env_runner: Any = None, metrics_logger: Any = None, **kwargs: Any
    ) -> None:
        """Log the figures that the environment gives with the last step."""
        figures = figures_of(episode)
        if figures is None or metrics_logger is None:
            return
        logged = {name: figures[name] for name in (*LOGGED, COST) if name in figures}
        _log(logged, env_runner, metrics_logger)

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
        """Give Tune's TensorBoard logger its x-axis; without it curves are drawn over iterations."""
        result["timesteps_total"] = int(result[ENV_RUNNER_RESULTS][NUM_ENV_STEPS_SAMPLED_LIFETIME])

    def on_checkpoint_loaded(self, *, algorithm: Any, **kwargs: Any) -> None:
        """Let the runners of a resumed run begin episodes that it has not had."""
        steps = _env_steps(algorithm)
        algorithm.env_runner_group.foreach_env_runner(lambda runner: _continue_series(runner, steps))

    def on_env_runners_recreated(
        self, *, algorithm: Any, env_runner_group: Any, env_runner_indices: list[int], **kwargs: Any
    ) -> None:
        """Let runners that were started again begin episodes that the run has not had."""
        steps = _env_steps(algorithm)
        env_runner_group.foreach_env_runner(
            lambda runner: _continue_series(runner, steps),
            remote_worker_ids=env_runner_indices,
            local_env_runner=False,
        )
