"""The starter project is written completely or not at all, and every file of it works."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import parse

import offload_rllib
from offload_rllib.cli import main
from offload_rllib.config import ConfigError
from offload_rllib.config.loading import load_sweep
from offload_rllib.starter.write import write_project
from offload_rllib.sweep.plan import check_plan, plan_sweep

FILES = ["README.md", "compare_rules.py", "environment.yaml", "policy.yaml", "sweep.yaml", "test_project.py"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starter") / "mine"
    write_project(folder)
    return folder


def test_the_verb_writes_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder in ("mine", "empty"):
        monkeypatch.setattr(sys, "argv", ["offload-rllib", "init", folder])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert sorted(path.name for path in Path(folder).iterdir()) == FILES
        printed = capsys.readouterr().out
        assert all(f"written: {folder}/{name}" in printed for name in FILES)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for folder, why in (("mine", "not empty"), ("mine/notes.txt", "is a file"), ("none/mine", "none: no such folder")):
        with pytest.raises(ConfigError, match=why):
            write_project(tmp_path / folder)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["mine", "mine/notes.txt"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("step", ["copy", "move"])
def test_nothing_is_left_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, *, exists: bool
) -> None:
    done = []

    def failing(real: Any) -> Any:
        def fail_at_the_fourth(source: Path, target: Path) -> Any:
            done.append(target)
            if len(done) == 4:
                raise OSError(28, "No space left on device", str(target))
            return real(source, target)

        return fail_at_the_fourth

    place, name = (shutil, "copyfile") if step == "copy" else (Path, "replace")
    monkeypatch.setattr(place, name, failing(getattr(place, name)))
    folder = tmp_path / "mine"
    if exists:
        folder.mkdir()
    with pytest.raises(OSError, match="No space"):
        write_project(folder)
    assert folder.exists() == exists
    assert not exists or not list(folder.iterdir())


def test_the_environment_and_the_policy_pass_their_checks(project: Path) -> None:
    assert offload_rllib.check(project / "environment.yaml").passed
    assert offload_rllib.check(project / "policy.yaml", env=project / "environment.yaml").passed


def test_the_sweep_fits_the_environment_and_the_policy(project: Path) -> None:
    plan = plan_sweep(load_sweep(project / "sweep.yaml"))
    assert not check_plan(plan, 2)
    assert plan.environment.description == "Two sensors, a gateway and a server"


def test_the_script_compares_the_rules(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_rules.py", "2"])
    names = runpy.run_path(str(project / "compare_rules.py"), run_name="__main__")
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["rule", "score,", "s", "minus", "shortest_finish"]
    scores = {row.split()[0]: float(row.split()[1]) for row in rows}
    assert list(scores) == list(names["RULES"])
    assert 0 < scores["shortest_finish"] < scores["random"] < scores["local"]
    assert scores["local"] == pytest.approx(np.mean(names["scores_of"]("local", 2)), abs=0.01)


def test_the_commands_of_its_page_are_commands(project: Path) -> None:
    lines = re.findall(r"^    offload-rllib (.*?)(?: {2,}#.*)?$", (project / "README.md").read_text(), re.MULTILINE)
    assert {line.split()[0] for line in lines} == {"show", "check", "train", "compare", "tune"}
    for line in lines:
        parse(line.split())
    assert all(f"| `{name}` |" in (project / "README.md").read_text() for name in FILES if name != "README.md")


@pytest.mark.slow
def test_the_test_of_the_project_passes(project: Path) -> None:
    subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=project, check=True, timeout=300)
