"""Training that can be stopped at any moment and resumed without a trace.

Ctrl-C and SIGTERM end it after what was reported is also saved; what a killed process had reported beyond its last
checkpoint is removed from the logs when training is resumed, because it is repeated.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from pyarrow import fs
from ray.air.constants import EXPR_RESULT_FILE, TRAINING_ITERATION
from ray.tune import Callback
from ray.tune.logger import JsonLoggerCallback
from ray.tune.result import SHOULD_CHECKPOINT, TIMESTEPS_TOTAL
from rich.console import Console

# Made when imported, from a description of the format: pyright cannot see it.
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from offload_rllib.training.tensorboard_logger import TensorBoardLogger

# Tune's own way to end an experiment and keep its state; it listens to this signal as soon as it runs.
END_OF_EXPERIMENT = signal.SIGUSR1
LOOK_FOR_FILE_S = 0.3
_asked, _ended = threading.Event(), threading.Event()


def ended_early() -> bool:
    """Return whether the present or last experiment was ended by a signal; Tune calls its trials complete then."""
    return _ended.is_set()


def _end() -> None:
    _ended.set()
    signal.raise_signal(END_OF_EXPERIMENT)


@contextmanager
def interruptible(console: Console) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a Tune experiment after its trials are saved (see `SaveWhenAsked`).

    A second signal does not wait for that. Outside the main thread, where Python delivers no signals, nothing changes.

    Args:
        console: where is said that the signal was understood.
    """
    _asked.clear()
    _ended.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(_number: int, _frame: Any) -> None:
        if not _asked.is_set():
            _asked.set()
            console.print("stopping when everything is saved; Ctrl-C again stops at once")
        elif signal.getsignal(END_OF_EXPERIMENT) == signal.SIG_DFL:  # Tune does not run yet, or not any more
            raise KeyboardInterrupt
        else:
            _end()

    tune_listens = os.environ.get("TUNE_DISABLE_SIGINT_HANDLER")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    handlers = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    end_of_experiment = signal.getsignal(END_OF_EXPERIMENT)
    try:
        yield
    finally:
        signal.signal(END_OF_EXPERIMENT, end_of_experiment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if tune_listens is None:
            del os.environ["TUNE_DISABLE_SIGINT_HANDLER"]
        else:
            os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = tune_listens


@contextmanager
def stopped_by(file: Path) -> Iterator[None]:
    """Let a file end the experiment of this process after its trials are saved, from the moment it exists.

    For processes that get no signals: tasks of Ray.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_FOR_FILE_S):
            if file.exists():
                _asked.set()  # again and again: an experiment begins with nothing asked

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def loggers(tensorboard: TensorBoardLogger | None = None) -> list[Callback]:
    """Return what logs results, in an order that matters: rows are trimmed before the loggers open their files.

    Tune's CSV logger is not among them: its columns are those of the first result, and the figures of episodes, which
    come with later ones, would be missing.

    Args:
        tensorboard: what writes for TensorBoard; None takes `TensorBoardLogger`.
    """
    return [TrimRepeated(), JsonLoggerCallback(), tensorboard or TensorBoardLogger(), SaveWhenAsked()]


class SaveWhenAsked(Callback):
    """Saves every trial that has unsaved results once a stop is asked for, and then ends the experiment."""

    def __init__(self) -> None:
        """Begin with nothing to save."""
        self._unsaved: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the state: what was unsaved when the experiment was written is not known any more."""
        return SaveWhenAsked, ()

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """End the experiment before its next step if nothing is left to save."""
        if _asked.is_set() and not self._unsaved:
            _end()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Remember that there is something to save, or ask for it."""
        self._unsaved.add(trial.trial_id)
        if _asked.is_set():
            result[SHOULD_CHECKPOINT] = True

    def on_trial_save(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Forget what is saved now."""
        self._unsaved.discard(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Forget a trial that has ended."""
        self._unsaved.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Forget a trial that has failed."""
        self._unsaved.discard(trial.trial_id)


class TrimRepeated(Callback):
    """Takes out of a trial's logs what it had reported after the checkpoint from which it continues."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Trim the results, and tell TensorBoard from which step on the earlier curve does not count."""
        saved = trial.latest_checkpoint_result
        if saved is None:  # it begins again, and so do its logs
            return
        storage = trial.storage
        first_repeated = trim_results(
            storage.storage_filesystem, storage.trial_fs_path, after=int(saved.metrics[TRAINING_ITERATION])
        )
        if first_repeated is not None:
            purge_curves(storage.storage_filesystem, storage.trial_fs_path, first_repeated)


def trim_results(filesystem: fs.FileSystem, folder: str, *, after: int) -> int | None:
    """Remove the rows of a trial's result.json that follow an iteration, and a last row that was cut short.

    Args:
        filesystem: what holds the trial.
        folder: the trial's folder there.
        after: the last iteration that stays.

    Returns:
        The environment steps of the first row that was removed; None if none was.
    """
    path = f"{folder}/{EXPR_RESULT_FILE}"
    if filesystem.get_file_info(path).type != fs.FileType.File:
        return None
    with filesystem.open_input_stream(path) as file:
        rows = file.read().splitlines(keepends=True)
    kept: list[bytes] = []
    first_repeated = None
    for row in rows:
        if not row.endswith(b"\n"):
            continue
        result = json.loads(row)
        if result[TRAINING_ITERATION] <= after:
            kept.append(row)
        elif first_repeated is None:
            first_repeated = int(result[TIMESTEPS_TOTAL])
    if len(kept) < len(rows):
        _write(filesystem, path, b"".join(kept))
    return first_repeated


def purge_curves(filesystem: fs.FileSystem, folder: str, step: int) -> None:
    """Make TensorBoard restart a trial's curves at a step.

    It reads event files in the order of their names; one that follows those that are there says that a session starts
    at `step`, upon which it forgets what it has read from that step on.
    """
    files = filesystem.get_file_info(fs.FileSelector(folder))
    events = sorted(file.base_name for file in files if "tfevents" in file.base_name)
    if not events:
        return
    content = BytesIO()
    writer = RecordWriter(content)
    writer.write(Event(file_version="brain.Event:2").SerializeToString())
    writer.write(Event(step=step, session_log=SessionLog(status=SessionLog.START)).SerializeToString())
    _write(filesystem, f"{folder}/{events[-1]}.restart", content.getvalue())


def _write(filesystem: fs.FileSystem, path: str, content: bytes) -> None:
    partial = f"{path}.partial"
    with filesystem.open_output_stream(partial) as file:
        file.write(content)
    filesystem.move(partial, path)
