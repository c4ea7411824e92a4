"""The faults of `make mutants` can be put into the tree as it is; whether tests notice them, that command says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from mutants import (  # noqa: E402 - a script  # pyright: ignore[reportMissingImports]
    BROKEN,
    KILLED,
    SURVIVED,
    TIMED_OUT,
    Fault,
    load_faults,
    report,
    run_tests,
)

FAULTS = load_faults()
AREAS = (
    "algorithms",
    "rollout",
    "rollout/replay",
    "evaluation/evaluate",
    "evaluation/statistics",
    "sweep/search",
    "envs/reward",
    "simulator",
    "scenario",
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{Path(fault.file).stem}: {fault.name}")
def test_a_fault_applies_and_its_tests_exist(fault: Fault) -> None:
    wrong = fault.applied_to((ROOT / fault.file).read_text(encoding="utf-8"))
    compile(wrong, fault.file, "exec")
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
        assert (ROOT / file).is_file()


def test_there_are_faults_of_every_area() -> None:
    assert len({(fault.file, fault.name) for fault in FAULTS}) == len(FAULTS) >= 60
    for area in AREAS:
        assert any(fault.file.startswith(f"offload_rllib/{area}") for fault in FAULTS), area


@pytest.mark.slow
def test_survivors_are_told_from_what_is_killed(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("from module import value\n\ndef test_it():\n    assert value == 1\n")
    found = []
    for value in ("1", "2", "1 +"):
        (tmp_path / "module.py").write_text(f"value = {value}\n")
        found.append(run_tests(tmp_path, ("test_one.py",), 60)[0])
    assert found == [SURVIVED, KILLED, BROKEN]
    (tmp_path / "test_one.py").write_text("import time\n\ndef test_it():\n    time.sleep(60)\n")
    assert run_tests(tmp_path, ("test_one.py",), 2)[0] == TIMED_OUT


def test_the_figure_decides_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = dict.fromkeys(FAULTS[:40], KILLED)
    assert report(outcomes | {FAULTS[0]: TIMED_OUT, FAULTS[1]: SURVIVED}) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "39 of 40 faults killed (97.5%; 1 of them by the timeout, 0 did not run)"
    assert FAULTS[1].name in printed
    assert report(outcomes | dict.fromkeys(FAULTS[:3], SURVIVED)) == 1
    assert report(outcomes | {FAULTS[0]: BROKEN}) == 1
