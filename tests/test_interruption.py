"""A training that is stopped, or killed, goes on without a doubled row and without a lost one."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs
from ray import cloudpickle, tune
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Made when imported, from a description of the format: pyright cannot see it.
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from offload_rllib.training.interruption import interruptible, loggers, purge_curves, trim_results
from offload_rllib.training.train import quieten

LOCAL = fs.LocalFileSystem()
STEPS_PER_ITERATION = 10


# Ray's workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Counter(tune.Trainable):
    """Counts its iterations, and keeps the count in its checkpoints."""

    def step(self) -> dict[str, Any]:
        """Report the environment steps that such a trial would have done."""
        return {"timesteps_total": STEPS_PER_ITERATION * (self.iteration + 1)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: Tune keeps the count."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Load nothing."""


class Signalled(tune.Callback):
    """Sends this process a signal at the third result of each session."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def on_trial_result(self, *, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        """Send it, if it is the third."""
        if result["iterations_since_restore"] == 3:
            signal.raise_signal(self._number)


def rows(trial: Path) -> list[int]:
    """Return the iterations of a trial's results."""
    with (trial / "result.json").open() as file:
        return [json.loads(row)["training_iteration"] for row in file]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_reported_before_a_signal_is_saved(tmp_path: Path, number: signal.Signals) -> None:
    quieten()
    last = 8
    tuner = tune.Tuner(
        Counter,
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(tmp_path),
            stop={"training_iteration": last},
            # Far apart, so that without the signal nothing would be saved for long.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=100, checkpoint_at_end=True),
            callbacks=[Signalled(number), *loggers()],
            verbose=0,
        ),
    )
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(Console(quiet=True)):
        tuner.fit()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    (trial,) = (tmp_path / "tune").glob("Counter_*")
    reached = rows(trial)
    assert reached == list(range(1, len(reached) + 1))
    assert 3 <= len(reached) < last
    assert list(trial.glob("checkpoint_*"))
    written = (trial / "result.json").read_text()

    with interruptible(Console(quiet=True)):  # it is signalled again, three results later
        tune.Tuner.restore(str(tmp_path / "tune"), trainable=Counter, resume_unfinished=True).fit()
    again = rows(trial)
    assert (trial / "result.json").read_text().startswith(written), "nothing that was reported is done again"
    assert again == list(range(1, len(again) + 1)), "no row is doubled"
    assert len(again) >= len(reached) + 3


def test_rows_after_the_checkpoint_and_a_row_cut_short_are_removed(tmp_path: Path) -> None:
    lines = [json.dumps({"training_iteration": i, "timesteps_total": 10 * i}) + "\n" for i in range(1, 6)]
    file = tmp_path / "result.json"
    file.write_text("".join(lines) + '{"training_iteration": 6, "times')
    assert trim_results(LOCAL, str(tmp_path), after=3) == 40
    assert file.read_text() == "".join(lines[:3])
    assert trim_results(LOCAL, str(tmp_path), after=3) is None
    assert file.read_text() == "".join(lines[:3])
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert trim_results(LOCAL, str(tmp_path / "nowhere"), after=3) is None


def test_tensorboard_forgets_what_is_done_again(tmp_path: Path) -> None:
    def log(suffix: str, points: dict[int, float]) -> None:
        writer = EventFileWriter(str(tmp_path), filename_suffix=suffix)
        for step, value in points.items():
            writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag="a", simple_value=value)])))
        writer.close()

    log(".1", {10: 1.0, 20: 2.0, 30: 3.0, 40: 4.0})
    purge_curves(LOCAL, str(tmp_path), 30)
    log(".2", {30: 30.0, 40: 40.0})
    files = sorted(path.name for path in tmp_path.iterdir())
    assert [name.rsplit(".", 1)[1] for name in files] == ["1", "restart", "2"]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("a")] == [(10, 1), (20, 2), (30, 30), (40, 40)]
