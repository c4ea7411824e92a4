"""The functions of the public interface."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from offload_rllib.envs.parallel import parallel_env
from offload_rllib.envs.vector import vector_env

if TYPE_CHECKING:
    from offload_rllib.policies.saved import SavedPolicy

__all__ = ["load_policy", "parallel_env", "register", "vector_env"]


def register() -> list[str]:
    """Register every environment of `envs/` and this project's algorithms with RLlib and Tune.

    Returns:
        The names of the environments.
    """
    from ray.tune.registry import register_trainable

    from offload_rllib.algorithms.ppo import PPO
    from offload_rllib.envs.rllib import register_environments

    register_trainable("OffloadPPO", PPO)
    return register_environments()


def load_policy(run: str | Path) -> SavedPolicy:
    """Return a trained policy as a callable ``(observations, masks, deterministic=...) -> actions``, without ray.

    Args:
        run: folder of a run or of a checkpoint.

    Raises:
        ConfigError: there is no policy in it.
    """
    from offload_rllib.experiment.contenders import trained_policy_folder
    from offload_rllib.policies.saved import load_saved_policy

    return load_saved_policy(trained_policy_folder(Path(run)))
