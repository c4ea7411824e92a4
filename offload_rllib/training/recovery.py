"""After a driver that ended in the middle of something: Tune's record is made to agree with the checkpoints.

Tune writes its record of an experiment every ten seconds, in place. A driver killed at the wrong moment leaves a record
that is cut off, or one that names checkpoints which have been replaced since; both would end a resumed run.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from offload_rllib.config import ConfigError
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.policies.manifest import MANIFEST, read_manifest

STATES = "experiment_state-*.json"
FIRST_STATE = "first_state.json"


def _parsed(path: Path) -> dict[str, Any] | None:
    try:
        state = read_json(path, "Tune's record of an experiment")
    except ConfigError:
        return None
    return state if state.get("trial_data") else None


def newest_state(experiment: Path) -> Path | None:
    """Return Tune's newest record that can be read."""
    return next((path for path in sorted(experiment.glob(STATES), reverse=True) if _parsed(path)), None)


def keep_first_state(experiment: Path) -> None:
    """Copy Tune's first readable record aside: it states all that a run needs in addition to its checkpoints."""
    kept = experiment / FIRST_STATE
    if not kept.exists() and (state := newest_state(experiment)):
        with written_at_once(kept) as partial:
            shutil.copyfile(state, partial)


def whole_checkpoints(trial: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the checkpoints of a trial whose files are all there, oldest first, with the progress noted in them."""
    return [
        (path, progress) for path in sorted(trial.glob("checkpoint_*")) if (progress := read_manifest(path)) is not None
    ]


def collect_staged(experiment: Path, trial_name: str, staged: Path) -> None:
    """Copy logs that a killed driver had written but Tune had not yet copied, if they are on this machine.

    Args:
        experiment: Tune's folder.
        trial_name: of the trial's folder in it.
        staged: where the driver wrote the trial's logs.
    """
    for source in staged.glob("*") if staged.is_dir() else ():
        target = experiment / trial_name / source.name
        logged = source.name == "result.json" or "tfevents" in source.name
        if logged and source.is_file() and (not target.exists() or target.stat().st_size < source.stat().st_size):
            with written_at_once(target) as partial:
                shutil.copyfile(source, partial)


def mend(experiment: Path, trial_name: str) -> Path | None:
    """Make an experiment of one trial ready to be restored from its newest whole checkpoint.

    Removes records and checkpoints that were cut off; numbers new checkpoints after all that are there.

    Args:
        experiment: Tune's folder.
        trial_name: of the trial's folder in it.

    Returns:
        The checkpoint that the trial continues from; None if Tune's own record stays as it is.
    """
    trial_folder = experiment / trial_name
    whole = whole_checkpoints(trial_folder)
    newest = _remove_cut_off_states(experiment)
    if newest is None and (experiment / FIRST_STATE).is_file():
        newest = experiment / "experiment_state-0000-00-00_00-00-00.json"
        shutil.copyfile(experiment / FIRST_STATE, newest)
    if newest is None or not whole:
        return None
    for path in trial_folder.glob("checkpoint_*"):
        # A run of an earlier version has checkpoints without lists of their files; those are left alone.
        if path not in [kept for kept, _ in whole] and (path / MANIFEST).exists() | (path > whole[0][0]):
            shutil.rmtree(path)
    state = read_json(newest, "Tune's record of an experiment")
    trial = recorded_trial(state["trial_data"][0])
    state["trial_data"][0] = _continued(trial, whole)
    _write(newest, state)
    return whole[-1][0]


def mend_trials(experiment: Path) -> None:
    """Make an experiment of many trials ready to be restored.

    Each unfinished trial continues from its newest whole checkpoint, or begins again if it has none. Removes records,
    and checkpoints of these trials, that were cut off.

    Args:
        experiment: Tune's folder.
    """
    newest = _remove_cut_off_states(experiment)
    if newest is None:
        return
    state = read_json(newest, "Tune's record of an experiment")
    for place, record in enumerate(state["trial_data"]):
        trial = recorded_trial(record)
        if trial.is_finished():
            continue
        folder = experiment / trial.storage.trial_dir_name
        whole = whole_checkpoints(folder)
        for path in folder.glob("checkpoint_*"):
            if path not in [kept for kept, _ in whole]:
                shutil.rmtree(path)
        state["trial_data"][place] = _continued(trial, whole)
    _write(newest, state)


def _remove_cut_off_states(experiment: Path) -> Path | None:
    """Return Tune's newest record of an experiment, after those that cannot be read have been removed."""
    for path in experiment.glob(STATES):
        if _parsed(path) is None:
            path.unlink()
    return newest_state(experiment)


def recorded_trial(record: list[Any]) -> Any:
    """Return the trial that Tune has recorded; such records have no public interface."""
    from ray.tune.experiment import Trial  # noqa: PLC0415 - slow to import

    trial_state, metadata = record
    trial: Any = Trial.from_json_state(trial_state, stub=True)
    trial.restore_run_metadata(metadata)
    return trial


def _continued(trial: Any, whole: list[tuple[Path, dict[str, Any]]]) -> list[Any]:
    """Return Tune's record of a trial that continues from the last of some checkpoints, or begins if there are none."""
    from ray.train._internal.session import _TrainingResult  # noqa: PLC0415 - slow to import
    from ray.tune import Checkpoint  # noqa: PLC0415 - as above

    manager = trial.run_metadata.checkpoint_manager
    results = [_TrainingResult(Checkpoint.from_directory(str(path)), progress) for path, progress in whole]
    manager._checkpoint_results = results  # noqa: SLF001 - Tune has no other way to say which checkpoints there are
    manager._latest_checkpoint_result = results[-1] if results else None  # noqa: SLF001
    trial.storage.current_checkpoint_index = int(whole[-1][0].name.rpartition("_")[2]) if whole else -1
    trial.stub = False  # read as one that needs no algorithm; it is to be run again
    trial.invalidate_json_state()
    return list(trial.get_json_state())


def _write(path: Path, state: dict[str, Any]) -> None:
    with written_at_once(path) as partial:
        partial.write_text(json.dumps(state), encoding="utf-8")
