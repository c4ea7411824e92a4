"""A driver that is killed at any moment leaves what a resumed run needs."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.command_line import finish, start
from helpers.environments import small_environment
from helpers.policies import policy_config
from helpers.results import trained_steps
from ray.exceptions import RayActorError

import yaml  # isort: skip

from offload_rllib.algorithms.exchange.answers import LearnersHangError
from offload_rllib.algorithms.sampling import Sampler
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training import train as training_module
from offload_rllib.training.recovery import FIRST_STATE, collect_staged, mend, newest_state, whole_checkpoints
from offload_rllib.training.train import TrainingError

WANTED = 16_000


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_newest_checkpoint_though_records_are_old_or_cut_off(tmp_path: Path) -> None:
    (tmp_path / "ring.yaml").write_text(yaml.safe_dump(small_environment()))
    policy = policy_config(runners=1, env_steps=WANTED).model_dump(mode="json", by_alias=True)
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(policy))
    process = start(tmp_path, "train", "ring.yaml", "quick.yaml", "--name", "cut")
    run = tmp_path / "runs" / "cut"
    experiment = run / "tune"
    deadline = time.monotonic() + 200
    while not (run / "status.json").exists() or json.loads((run / "status.json").read_text())["iteration"] < 20:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest, progress = whole_checkpoints(experiment / "trial")[-1]
    # What a kill in the middle of writing leaves: a record cut off, half a checkpoint, an old record of the logs.
    state = newest_state(experiment)
    assert state is not None
    assert (experiment / FIRST_STATE).is_file()
    state.write_text(state.read_text()[:1000])
    half = newest.with_name(f"checkpoint_{int(newest.name[-6:]) + 1:06d}")
    shutil.copytree(newest, half, dirs_exist_ok=True)  # the kill itself may have left one
    next(half.rglob("*.safetensors")).write_bytes(b"half")

    output = finish(start(tmp_path, "train", "--resume", "runs/cut", "--episodes", "2"))
    assert json.loads((run / "run.json").read_text())["state"] == "finished", output
    steps = trained_steps(run)
    assert steps == list(range(160, WANTED + 1, 160)), "every iteration once, none missing"
    with (experiment / "trial" / "result.json").open() as file:
        rows = [json.loads(line) for line in file]
    first_again = next(row for row in rows if row["iterations_since_restore"] == 1 and row["training_iteration"] > 1)
    assert first_again["training_iteration"] == progress["training_iteration"] + 1
    assert len(RunFolder.open(run).checkpoints()) == 2


def test_a_full_disk_and_storage_that_is_gone_are_named_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(str(tmp_path / "run"), load_environment(small_environment()), policy_config(), "")

    class Tuner:
        def fit(self) -> list[Any]:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(
        TrainingError, match=r"No space left on device\nthe disk that holds .* is full: 0.0 MB are free"
    ):
        training_module._fit(run, Tuner())  # pyright: ignore[reportArgumentType]
    monkeypatch.undo()
    monkeypatch.setattr(
        training_module, "ended_early", lambda: False
    )  # of this process, where other tests may end early
    monkeypatch.setattr(Tuner, "fit", lambda _: [SimpleNamespace(error=None, metrics={})])
    with pytest.raises(TrainingError, match=r"without an error: is .*/tune there, and can it be written\?") as error:
        training_module._fit(run, Tuner())  # pyright: ignore[reportArgumentType]
    assert f"offload-rllib train --resume {run.path}" in str(error.value)
    assert run.state == "failed"


class ToldError(Exception):
    """What Ray tells of an error in another process, after its traceback."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            "The actor died because of an error raised in its creation task, ray::PPO.__init__() (pid=1)\n"
            f"  File 'build.py', line 1\n{type(error).__module__}.{type(error).__qualname__}: {error}"
        )


def test_a_trainer_that_ends_with_what_the_user_gave_wrong_is_not_tried_again(tmp_path: Path) -> None:
    run = RunFolder.create(str(tmp_path / "run"), load_environment(small_environment()), policy_config(), "")

    class Tuner:
        error: Exception = ToldError(ConfigError("topology.path: no such file: /x\nand more"))

        def fit(self) -> list[Any]:
            return [SimpleNamespace(error=ActorDiedError(self.error), metrics={})]

    with pytest.raises(ConfigError, match=r"training failed: topology.path: no such file: /x\nand more$"):
        training_module._fit(run, Tuner())  # pyright: ignore[reportArgumentType]
    assert run.state == "failed"
    Tuner.error = ToldError(ValueError("a node is gone"))
    with pytest.raises(training_module.TrainerLostError):
        training_module._fit(run, Tuner())  # pyright: ignore[reportArgumentType]


def test_a_trainer_whose_learners_hang_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(str(tmp_path / "run"), load_environment(small_environment()), policy_config(), "")
    told = ToldError(LearnersHangError("1 of 2 learners have not answered for 180 s"))
    monkeypatch.setattr(training_module, "ended_early", lambda: False)
    tuner = SimpleNamespace(fit=lambda: [SimpleNamespace(error=told, metrics={})])
    with pytest.raises(training_module.TrainerLostError, match="1 of 2 learners have not answered"):
        training_module._fit(run, tuner)  # pyright: ignore[reportArgumentType]


class ActorDiedError(RayActorError):
    """A lost actor, as Ray tells of it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error_msg = str(error)

    def __str__(self) -> str:
        return self.error_msg


def test_a_runner_that_ends_with_what_the_user_gave_wrong_is_not_asked_again() -> None:
    class Manager:
        error: Exception = ToldError(ConfigError("topology: the draw cannot be"))

        def healthy_actor_ids(self) -> list[int]:
            return [1]

        actor_ids = healthy_actor_ids

        def foreach_actor_async(self, *_: Any, **__: Any) -> None:
            pass

        def fetch_ready_async_reqs(self, **_: Any) -> list[Any]:
            return [SimpleNamespace(actor_id=1, ok=False, get=lambda: self.error)]

    sampler = Sampler(timeout_s=0.1)
    group: Any = SimpleNamespace(_worker_manager=Manager())
    with pytest.raises(ConfigError, match=r"^topology: the draw cannot be$"):
        sampler._ask(group)
    Manager.error = ToldError(ValueError("another"))
    assert sampler._ask(group) == []
    assert sampler.lost == [1]


def test_mending_needs_something_to_go_on_from(tmp_path: Path) -> None:
    assert mend(tmp_path, "trial") is None
    (tmp_path / "experiment_state-1.json").write_text("{")
    assert mend(tmp_path, "trial") is None
    assert not (tmp_path / "experiment_state-1.json").exists()


def test_logs_that_were_written_but_not_copied_are_collected(tmp_path: Path) -> None:
    staged, trial = tmp_path / "staged", tmp_path / "tune" / "trial"
    staged.mkdir()
    trial.mkdir(parents=True)
    (staged / "result.json").write_text("1\n2\n3\n")
    (trial / "result.json").write_text("1\n")
    (staged / "params.pkl").write_text("other")
    collect_staged(tmp_path / "tune", "trial", staged)
    assert (trial / "result.json").read_text() == "1\n2\n3\n"
    assert not (trial / "params.pkl").exists()
    (trial / "result.json").write_text("1\n2\n3\n4\n")
    collect_staged(tmp_path / "tune", "trial", staged)
    assert (trial / "result.json").read_text() == "1\n2\n3\n4\n", "what is longer stays"
    collect_staged(tmp_path / "tune", "trial", tmp_path / "elsewhere")
