"""The unit of time of gamma and lambda follows the deadlines of the environment, unless a policy file states it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import small_environment

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.vector import batch_of
from offload_rllib.scenario import build_scenario
from offload_rllib.training import imitation
from offload_rllib.training.rllib_config import algorithm_config

DEADLINES = {"uniform": [20.0, 40.0]}


@pytest.mark.parametrize("name", ["PPO", "A2C", "DDQN", "APPO"])
@pytest.mark.parametrize(
    ("deadline_s", "given", "expected"),
    [
        (DEADLINES, None, pytest.approx(0.2)),
        ({"uniform": [100.0, 200.0]}, None, 1.0),
        (None, None, 1.0),
        (DEADLINES, 2.5, 2.5),
        (None, 2.5, 2.5),
    ],
)
def test_it_reaches_the_algorithm(name: str, deadline_s: Any, given: float | None, expected: Any) -> None:
    environment = small_environment(score={"drop_s": 50.0} if deadline_s is None else {})
    environment["workload"]["deadline_s"] = deadline_s
    policy = load_policy_config({"algorithm": {"name": name} | ({} if given is None else {"discount_s": given})})
    config: Any = algorithm_config(load_environment(environment), policy, cpus=2)
    assert config.discount_s == expected


def test_critics_are_cloned_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[float] = []

    def watched(steps: Any, _values: Any, *, discount_s: float, **_: Any) -> np.ndarray:
        seen.append(discount_s)
        return np.zeros(len(steps), np.float32)

    monkeypatch.setattr(imitation, "generalised_advantages", watched)
    monkeypatch.setattr(imitation, "ENVIRONMENTS", 2)
    environment = small_environment(decisions={"when": "arrival"})
    policy = load_policy_config(
        {
            "algorithm": {"name": "PPO"},
            "network": {"hidden": [8]},
            "training": {"imitate": {"rule": "local", "decisions": 100, "epochs": 1}},
        }
    )
    env = batch_of(build_scenario(load_environment(environment)), 1)
    imitation.imitate(tmp_path / "start", policy, env)
    assert seen == [pytest.approx(7 / 150)]
