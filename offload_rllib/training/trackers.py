"""Optional trackers in addition to TensorBoard: Weights & Biases, MLflow. Imported only where a run asks for them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from ray.tune import Callback

from offload_rllib.config import ConfigError

PROJECT = "offload-rllib"


def require_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if a tracker is not installed; each has the extra of its name."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"training.tracking: {name} is not installed: pip install 'offload-rllib[{name}]'")


def trackers(names: Sequence[str], run_name: str) -> list[Callback]:
    """Return Tune's callbacks for trackers.

    Their addresses and keys are set by their own variables: `WANDB_API_KEY`, `WANDB_MODE`, `MLFLOW_TRACKING_URI`.

    Args:
        names: ``wandb``, ``mlflow``.
        run_name: of the folder of the run or the sweep; groups its trials.

    Raises:
        ConfigError: one is not installed.
    """
    require_trackers(names)
    made: dict[str, Any] = {}
    if "wandb" in names:
        wandb = importlib.import_module("ray.air.integrations.wandb")
        made["wandb"] = wandb.WandbLoggerCallback(project=PROJECT, group=run_name)
    if "mlflow" in names:
        mlflow = importlib.import_module("ray.air.integrations.mlflow")
        made["mlflow"] = mlflow.MLflowLoggerCallback(experiment_name=f"{PROJECT}/{run_name}")
    return [made[name] for name in names]
