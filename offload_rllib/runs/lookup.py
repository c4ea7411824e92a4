"""Policies by what names them: a heuristic, the address of a service, the folder of a run or of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from offload_rllib.config import ConfigError
from offload_rllib.envs.remote.connection import is_service
from offload_rllib.policies.heuristic import HeuristicPolicy, is_heuristic
from offload_rllib.policies.policy import Policy
from offload_rllib.policies.remote import RemotePolicy
from offload_rllib.policies.saved import DESCRIPTION, POLICY_FOLDER, load_saved_policy
from offload_rllib.runs.training_run import RECORD, RunFolder


def trained_policy_folder(path: Path) -> Path:
    """Return the folder with the policy of a run, of a checkpoint, or of a policy folder itself.

    Raises:
        ConfigError: there is none.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder")
    if (path / DESCRIPTION).is_file():
        return path
    if (path / POLICY_FOLDER / DESCRIPTION).is_file():
        return path / POLICY_FOLDER
    if (path / RECORD).is_file():
        return RunFolder.open(path).policy_folder()
    raise ConfigError(f"{path}: neither a run folder nor a checkpoint: it holds no {RECORD} and no {DESCRIPTION}")


def load_policy(policy: str | Path, *, trust: bool = False) -> Policy:
    """Return a policy as a callable ``(observations, masks, deterministic=...) -> actions``, without ray.

    ``load_policy(...).on(env)`` fits it to the agents of a `VectorEnv`, which need not be those of training.

    Args:
        policy: folder of a run or of a checkpoint; the address of a service, ``http://HOST:PORT``; or a heuristic:
            its name, or a function ``package.module:function``.
        trust: run the Python code that a saved policy names (`network.module`).

    Raises:
        ConfigError: there is no such heuristic, or no policy in the folder.
        ServiceError: no service answers at the address.
    """
    if isinstance(policy, str):
        if is_heuristic(policy, "policy"):
            return HeuristicPolicy(policy)
        if is_service(policy):
            return RemotePolicy(policy)
    return load_saved_policy(trained_policy_folder(Path(policy)), trust=trust)
