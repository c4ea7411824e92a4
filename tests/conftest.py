"""What several tests need: small scenarios, and one Ray for the session."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from offload_rllib.config import load_environment
from offload_rllib.config.trust import TRUST
from offload_rllib.envs.vector import VectorEnv, batch_of, held_out_keys
from offload_rllib.scenario import build_scenario


def small_environment(**changes: Any) -> dict[str, Any]:
    """Return a ring of four nodes, two of them with clients, with short tasks and generous deadlines.

    Agents decide every second, unless `decisions` among the changes says `when: arrival`.
    """
    environment: dict[str, Any] = {
        "horizon_s": 40,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "a", "instructions_per_second": 1e6, "client": True, "queue_capacity": 6},
                {"name": "b", "instructions_per_second": 2e6, "queue_capacity": 8},
                {"name": "c", "instructions_per_second": 1e6, "client": True, "queue_capacity": 6},
                {"name": "d", "instructions_per_second": 4e6},
            ],
            "links": [["a", "b"], ["b", "c"], ["c", "d"], ["d", "a"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e6, "latency_s": 0.05},
        "workload": {
            "jobs": {
                "kind": "mix",
                "types": [
                    {"weight": 2, "instructions": {"exponential": 8e5}, "bits_in": {"uniform": [1e5, 4e5]}},
                    {"instructions": 2e6, "bits_in": 1e5, "bits_out": 2e5},
                ],
            },
            "load": {"tasks_per_second_per_client": 1.2},
            "deadline_s": {"uniform": [2, 12]},
        },
    }
    return environment | changes | {"decisions": {"when": "interval"} | changes.get("decisions", {})}


def make_env(environment: Any, num_envs: int = 1, *, log: bool = False) -> Any:
    """Return a native environment, reset to the first held-out episodes: clocked, or with `decisions.when: arrival`."""
    env = batch_of(build_scenario(load_environment(environment)), num_envs, log=log)
    env.reset(held_out_keys(0, num_envs))
    return env


def random_actions(env: VectorEnv, rng: np.random.Generator) -> np.ndarray:
    """Return actions of which some are valid and some are not."""
    return rng.integers(0, env.num_actions, env.rewards.shape)


def log_bytes(env: VectorEnv, e: int) -> bytes:
    """Return the task log of an episode as bytes, without the padding between its records, which is undefined."""
    log = env.task_log(e)
    return b"".join(log[name].tobytes() for name in log.dtype.names or ())


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
