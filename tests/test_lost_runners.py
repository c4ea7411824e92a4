"""A lost runner costs its samples, and no more: the others do not wait for it at every iteration."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from offload_rllib.algorithms import offload_algorithm
from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm
from offload_rllib.algorithms.sampling import Sampler

LOOK_S, WORK_S = 0.1, 0.01


def algorithm_with_a_lost_runner(monkeypatch: pytest.MonkeyPatch, looks: list[float]) -> Any:
    """Return an algorithm whose lost runner lets every look whether it is back wait in vain."""

    def look(_self: Any, _group: Any) -> list[int]:
        looks.append(time.monotonic())
        time.sleep(LOOK_S)
        return []

    monkeypatch.setattr(offload_algorithm.Algorithm, "restore_env_runners", look)
    algorithm = object.__new__(OffloadAlgorithm)
    algorithm.env_runner_group = object()  # pyright: ignore[reportAttributeAccessIssue] - only handed on
    algorithm.sampler = Sampler(1.0)
    return algorithm


def test_short_iterations_are_not_spent_looking_for_a_lost_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    algorithm = algorithm_with_a_lost_runner(monkeypatch, looks)
    began = time.monotonic()
    for _ in range(100):
        assert algorithm.restore_env_runners(algorithm.env_runner_group) == []
        time.sleep(WORK_S)
    passed = time.monotonic() - began
    assert looks
    assert len(looks) <= 1 + passed / (LOOK_S * offload_algorithm.WORK_PER_LOOK)
    algorithm._bring_back()  # where nobody samples there is nothing better to do than to look
    algorithm._bring_back()
    assert len(looks) > 2


def test_a_look_that_costs_nothing_is_taken_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    algorithm = algorithm_with_a_lost_runner(monkeypatch, [])
    monkeypatch.setattr(offload_algorithm.Algorithm, "restore_env_runners", lambda *_: looks.append(1) or [])
    monkeypatch.setattr(offload_algorithm, "time", SimpleNamespace(monotonic=lambda: 5.0))
    for _ in range(10):
        algorithm.restore_env_runners(algorithm.env_runner_group)
    assert len(looks) == 10
