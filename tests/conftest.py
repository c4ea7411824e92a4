"""What all tests share: their order, one Ray for the session, and no trust from another test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is loaded. Threads of one process wait for each other by spinning: with 15 processes waiting for two
# cores, 100 gradient steps of 16 units took 4.9 s of CPU time with two threads, 0.07 s with one, to the same bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from offload_rllib.config.trust import TRUST

pytest.register_assert_rewrite("helpers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that processes that share the files end at about the same time."""
    from helpers.order import LONGEST_FIRST

    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(autouse=True)
def _nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a `--trust` of one test say nothing in the next."""
    monkeypatch.setenv(TRUST, "0")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start Ray once, on two CPUs, and stop it at the end."""
    import ray

    # A busy machine takes longer than Ray's default to start its node.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    # Ray gives its workers a niceness of 15: on a busy machine tests would wait for them for minutes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def sweep_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an environment and a policy that trains for a few iterations."""
    from helpers.sweeps import write_files

    return write_files(tmp_path_factory.mktemp("sweeps"))
