"""Work in parts: all of it is done, never too much at a time, and nothing goes on behind an error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import cloudpickle

from offload_rllib.cluster.parallel import in_parallel

pytestmark = pytest.mark.usefixtures("ray_session")


def _work(part: int, folder: Path, work_s: float) -> int:
    """Leave a file while at work; return how many are at work."""
    (folder / f"begun-{part}").touch()
    time.sleep(work_s)
    at_work = len(list(folder.glob("begun-*"))) - len(list(folder.glob("ended-*")))
    (folder / f"ended-{part}").touch()
    return at_work


def _work_until_let_go(part: int, folder: Path) -> int:
    """Leave a file while at work; a negative part fails once another is at work."""
    if part < 0:
        _wait_for(lambda: any(folder.glob("begun-*")))
        raise ValueError(f"part {part}")
    (folder / "process").write_text(str(os.getpid()))
    (folder / f"begun-{part}").touch()
    _wait_for((folder / "let-go").exists)
    (folder / f"ended-{part}").touch()
    return part


def _wait_for(happened: Callable[[], bool], timeout_s: float = 300) -> None:
    end_s = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > end_s:
            raise TimeoutError(f"did not happen in {timeout_s:g} s")
        time.sleep(0.05)


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import the tests
work: Any = ray.remote(num_cpus=0)(_work)
until_let_go: Any = ray.remote(num_cpus=0)(_work_until_let_go)


@pytest.mark.parametrize("at_once", [1, 2])
def test_every_part_is_done_and_never_more_than_so_many_at_a_time(tmp_path: Path, at_once: int) -> None:
    with in_parallel(lambda part: work.remote(part, tmp_path, 0.05), range(6), at_once) as ended:
        results = dict(ended)
    assert sorted(results) == list(range(6))
    assert max(results.values()) <= at_once


def test_no_parts_are_no_work() -> None:
    with in_parallel(lambda _: pytest.fail("started"), [], 2) as ended:
        assert list(ended) == []


def test_what_runs_beside_a_failure_is_ended(tmp_path: Path) -> None:
    """The other part works until it is let go; nobody lets it go before its process has ended."""
    with (
        pytest.raises(ValueError, match="part -1"),
        in_parallel(lambda part: until_let_go.remote(part, tmp_path), [7, -1, 8], 2) as ended,
    ):
        list(ended)
    process = int((tmp_path / "process").read_text())
    _wait_for(lambda: not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE, 60)
    assert not (tmp_path / "begun-8").exists()
    assert not list(tmp_path.glob("ended-*"))
