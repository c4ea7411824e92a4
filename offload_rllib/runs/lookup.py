"""Where the trained policy of a run, or of a checkpoint, lies."""

from __future__ import annotations

from pathlib import Path

from offload_rllib.config import ConfigError
from offload_rllib.policies.saved import DESCRIPTION, POLICY_FOLDER
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
