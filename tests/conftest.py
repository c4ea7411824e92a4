"""Fixtures that several tests need: one Ray for the session, and no trust from another test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from offload_rllib.config.trust import TRUST

pytest.register_assert_rewrite("helpers")


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
