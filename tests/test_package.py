"""The wheel is whole: presets and command line work outside a checkout. Slow: it builds and unpacks a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_works_outside_a_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(CHECKOUT)]
    subprocess.run(build, check=True, timeout=300)
    wheel = next(tmp_path.glob("offload_rllib-*.whl"))
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    for kind in ("envs", "policies", "tune_configs", "suite"):
        shipped = sorted(path.name for path in (unpacked / "offload_rllib" / "presets" / kind).iterdir())
        assert shipped == sorted(path.name for path in (CHECKOUT / kind).iterdir())
    page = Path("offload_rllib/replay/page")
    assert sorted(path.name for path in (unpacked / page).iterdir()) == ["replay.css", "replay.html", "replay.js"]
    assert not list(unpacked.rglob("tests"))
    program = "import offload_rllib, sys; print(offload_rllib.__file__); from offload_rllib.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program, "evaluate", "ether_12", "local", "random", "--episodes", "2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert str(unpacked) in result.stdout
    assert (tmp_path / "evaluations" / "ether_12-1" / "comparison.png").is_file()
