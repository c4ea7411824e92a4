"""The simulator agrees with queueing theory."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_env
from scipy import stats

from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.simulator.types import NONE

REPLICATIONS = 40


def single_queue(service: str, cores: int, rate: float, work: dict | float) -> VectorEnv:
    """Return replications of one queue whose node has no agent, so that tasks are served at once."""
    env = make_env(
        {
            "horizon_s": 200_000,
            "warmup_s": 2_000,
            "topology": {
                "kind": "manual",
                "nodes": [
                    {"name": "queue", "instructions_per_second": 1.0, "cores": cores, "client": True},
                    {"name": "other", "instructions_per_second": 1.0},
                ],
                "links": [["queue", "other"]],
            },
            "links": {"kind": "fixed", "rate_bps": 1.0},
            "service": service,
            "workload": {
                "jobs": {"kind": "mix", "types": [{"instructions": work}]},
                "load": {"tasks_per_second_per_client": rate},
            },
            "decisions": {"interval_s": 2_000},
        },
        REPLICATIONS,
    )
    env.scenario.arrays.node["agent"] = NONE
    env.reset(held_out_keys(0, REPLICATIONS))
    while not env.step(np.zeros(env.rewards.shape)):
        pass
    return env


def check(values: np.ndarray, theory: float) -> None:
    """Assert that theory lies in the 99 % interval of the replications' mean, and that the interval is narrow."""
    half = stats.sem(values) * stats.t.ppf(0.995, len(values) - 1)
    assert half < 0.01 * theory
    assert abs(values.mean() - theory) < half


def test_mean_response_of_m_m_1() -> None:
    rho = 0.7
    env = single_queue("pooled", 1, rho, {"exponential": 1.0})
    responses = np.array([env.episode_metrics(e)["response_mean_s"] for e in range(REPLICATIONS)])
    check(responses, 1 / (1 - rho))


def test_percentiles_of_m_m_1_within_one_percent() -> None:
    rho = 0.5
    env = single_queue("pooled", 1, rho, {"exponential": 1.0})
    for name, share in (("score_p50_s", 0.5), ("score_p95_s", 0.95), ("score_p99_s", 0.99)):
        values = np.array([env.episode_metrics(e)[name] for e in range(REPLICATIONS)])
        # The response time of M/M/1 is exponential with rate mu - lambda.
        assert values.mean() == pytest.approx(-np.log(1 - share) / (1 - rho), rel=0.01)


def test_mean_response_of_m_d_1() -> None:
    rho = 0.6
    env = single_queue("pooled", 1, rho, 1.0)
    responses = np.array([env.episode_metrics(e)["response_mean_s"] for e in range(REPLICATIONS)])
    check(responses, 1 + rho / (2 * (1 - rho)))


def test_mean_response_of_m_m_2() -> None:
    rho = 0.6  # of each of two servers: E[T] = 1 / (1 - rho^2) mean services
    env = single_queue("parallel", 2, 2 * rho, {"exponential": 1.0})
    responses = np.array([env.episode_metrics(e)["response_mean_s"] for e in range(REPLICATIONS)])
    check(responses, 1 / (1 - rho**2))
