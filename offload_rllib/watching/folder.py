"""Which kind of folder is watched."""

from __future__ import annotations

from pathlib import Path

from offload_rllib.config import ConfigError
from offload_rllib.runs.training_run import RECORD
from offload_rllib.watching.data import Watched, WatchedRun
from offload_rllib.watching.sweep import SWEEP_RECORD, WatchedSweep


def watched(path: Path) -> Watched:
    """Return what is watched in a folder.

    Raises:
        ConfigError: it is neither that of a run nor that of a sweep.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder")
    if (path / RECORD).is_file():
        found: Watched = WatchedRun(path)
    elif (path / SWEEP_RECORD).is_file():
        found = WatchedSweep(path)
    else:
        raise ConfigError(
            f"{path}: neither {RECORD} nor {SWEEP_RECORD} is in it; accepted: the folder of a run or of a sweep, "
            "for example runs/ether_12-ppo-1"
        )
    found.data()
    return found
