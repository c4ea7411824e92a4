"""The simulator agrees with queueing theory."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_env
from scipy import optimize, stats

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


def link_queue(sent_probability: float, bits: dict | float) -> VectorEnv:
    """Return replications of a link with contention to which a task is given at each decision with a probability.

    The node holds one task at most, so that at each decision there is one if its client made any since the last one.
    """
    env = make_env(
        {
            "horizon_s": 60_000,
            "warmup_s": 2_000,
            "topology": {
                "kind": "manual",
                "nodes": [
                    {"name": "sender", "instructions_per_second": 1.0, "client": True, "queue_capacity": 1},
                    {"name": "receiver", "instructions_per_second": 1e12},
                ],
                "links": [["sender", "receiver"]],
            },
            "links": {"kind": "fixed", "rate_bps": 1.0, "contention": "fifo"},
            "workload": {
                "jobs": {"kind": "mix", "types": [{"instructions": 1.0, "bits_in": bits}]},
                "load": {"tasks_per_second_per_client": -np.log(1 - sent_probability)},
            },
            "decisions": {"interval_s": 1.0, "max_hops": 1},
        },
        REPLICATIONS,
    )
    while not env.step(np.ones(env.rewards.shape)):
        pass
    return env


@pytest.mark.parametrize(("sent_probability", "mean_sending_s"), [(0.25, 2.0), (0.8, 0.75)])
def test_mean_transfer_over_a_link_with_exponential_messages(sent_probability: float, mean_sending_s: float) -> None:
    env = link_queue(sent_probability, {"exponential": mean_sending_s})
    transfers = np.array([env.episode_metrics(e)["transfer_mean_s"] for e in range(REPLICATIONS)])
    # GI/M/1: E[T] = E[S] / (1 - sigma), sigma = E[exp(-(1 - sigma) gap / E[S])], here with geometric gaps.

    def equation(sigma: float) -> float:
        step = np.exp(-(1 - sigma) / mean_sending_s)
        return sent_probability * step / (1 - (1 - sent_probability) * step) - sigma

    sigma = optimize.root_scalar(equation, bracket=(0.0, 1 - 1e-6)).root
    check(transfers, mean_sending_s / (1 - sigma))


def test_mean_transfer_over_a_link_with_equal_messages() -> None:
    # Geo/D/1 with a service of two slots: E[wait] = p S (S - 1) / (2 (1 - p S)) slots (Bruneel and Kim, "Discrete-Time
    # Models for Communication Systems Including ATM", 1993, with E[S(S - 1)] = S (S - 1)).
    p, sending_s = 0.4, 2.0
    env = link_queue(p, sending_s)
    transfers = np.array([env.episode_metrics(e)["transfer_mean_s"] for e in range(REPLICATIONS)])
    check(transfers, sending_s + p * sending_s * (sending_s - 1) / (2 * (1 - p * sending_s)))
