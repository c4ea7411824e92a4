"""One process at a time works on a run, a sweep or a comparison; what a process left behind is taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.environments import small_environment
from helpers.policies import PPO
from rich.console import Console
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.compare.plan import plan_of
from offload_rllib.compare.run import ComparisonFolder, run_comparison
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.loading import load_sweep
from offload_rllib.runs import lock
from offload_rllib.runs.lock import LOCK, locked
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.sweep.folder import SweepFolder
from offload_rllib.sweep.plan import plan_sweep
from offload_rllib.sweep.run import sweep
from offload_rllib.training.train import train

HOLDER = """
import sys, time
from pathlib import Path
from offload_rllib.runs.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Let another process hold a folder's lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def told(content: dict[str, Any]) -> Callable[[Path], None]:
    """Return what changes who a lock says holds it."""

    def change(folder: Path) -> None:
        path = folder / LOCK
        path.write_text(json.dumps(json.loads(path.read_text()) | content))

    return change


def test_a_folder_is_held_by_one_process_and_taken_over_when_it_is_gone(tmp_path: Path) -> None:
    said: list[str] = []
    holder = hold(tmp_path)
    with (
        pytest.raises(ConfigError, match=rf"process {holder.pid} on .* works on it, since 20"),
        locked(tmp_path, said.append),
    ):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path, said.append):
        assert len(said) == 1
        assert f"process {holder.pid} on" in said[0]
        assert "is gone" in said[0]
        assert "taken over" in said[0]
    assert not (tmp_path / LOCK).exists()
    with locked(tmp_path, said.append):
        assert len(said) == 1


def test_a_holder_on_another_machine_is_believed_while_it_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with locked(tmp_path, print):
        first = (tmp_path / LOCK).stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while (tmp_path / LOCK).stat().st_mtime_ns == first and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / LOCK).stat().st_mtime_ns > first, "no sign of life"
        kept = (tmp_path / LOCK).read_text()
    (tmp_path / LOCK).write_text(kept)
    told({"host": "elsewhere", "pid": 1})(tmp_path)
    with pytest.raises(ConfigError, match="process 1 on elsewhere works on it"), locked(tmp_path, print):
        pass
    then = time.time() - lock.STALE_S - 5
    os.utime(tmp_path / LOCK, (then, then))
    said: list[str] = []
    with locked(tmp_path, said.append):
        assert "process 1 on elsewhere worked on it and is gone" in said[0]


@pytest.mark.parametrize("content", ["", "[", "[]", '{"host": 1}', '{"host": "h", "pid": "x"}', "[" * 9000])
def test_a_lock_that_says_nothing_holds_nobody_up(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    with locked(tmp_path, print):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_number_of_a_process_that_is_used_again_is_no_holder(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    told({"started": "1"})(tmp_path)
    with locked(tmp_path, print):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()


def _folders(tmp_path: Path) -> dict[str, tuple[Path, Callable[[], Any]]]:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_environment()))
    (tmp_path / "sweep.yaml").write_text(
        yaml.safe_dump(
            {
                "environment": str(tmp_path / "small.yaml"),
                "policy": "ppo",
                "space": {"policy.algorithm.lr": [1e-4, 1e-3]},
                "budget": {"trials": 2, "env_steps": 4000},
            }
        )
    )
    run = RunFolder.create(str(tmp_path / "run"), load_environment(small_environment()), load_policy_config(PPO), "")
    swept = SweepFolder.create(str(tmp_path / "sweep"), plan_sweep(load_sweep(tmp_path / "sweep.yaml")), "")
    compared = ComparisonFolder.create(
        str(tmp_path / "comparison"), plan_of(["local", "random"], [str(tmp_path / "small.yaml")]), ""
    )
    console = Console(quiet=True)
    return {
        "run": (run.path, lambda: train(run, console, resume=True)),
        "sweep": (swept.path, lambda: sweep(swept, console, resume=True)),
        "comparison": (compared.path, lambda: run_comparison(compared, console)),
    }


@pytest.mark.parametrize("kind", ["run", "sweep", "comparison"])
def test_going_on_with_what_is_being_done_changes_nothing(tmp_path: Path, kind: str) -> None:
    folder, go_on = _folders(tmp_path)[kind]
    holder = hold(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        with pytest.raises(ConfigError, match=f"process {holder.pid} on .* works on it"):
            go_on()
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize(
    ("verb", "kind", "work"),
    [
        ("train", "run", "offload_rllib.training.train.train"),
        ("tune", "sweep", "offload_rllib.sweep.run.sweep"),
        ("compare", "comparison", "offload_rllib.compare.run.run_comparison"),
    ],
)
def test_what_had_not_begun_survives_the_attempt_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, kind: str, work: str
) -> None:
    folder, _ = _folders(tmp_path)[kind]

    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("nothing to resume")

    monkeypatch.setattr(work, refuse)
    error = CliRunner().invoke(app, [verb, "--resume", str(folder)]).exception
    assert isinstance(error, ConfigError)
    assert "nothing to resume" in str(error)
    assert folder.is_dir()
