"""Radio links whose transfers draw their own power have the rates that theory gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, refused, small_environment
from scipy import integrate, stats

from offload_rllib.simulator.types import FINISHED

REPLICATIONS = 40
BITS, BANDWIDTH_HZ, DISTANCE_M = 1000.0, 1e5, 40.0
SNR = 10 ** ((-30 + 20 * math.log10(0.125 / (4 * math.pi * DISTANCE_M)) + 174) / 10) / BANDWIDTH_HZ


def pair(**links: Any) -> dict[str, Any]:
    """Return a client that sends all its tasks over a radio link."""
    return {
        "horizon_s": 4000.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "a", "instructions_per_second": 1.0, "client": True},
                {"name": "b", "instructions_per_second": 1e9, "cores": 8, "position_m": [DISTANCE_M, 0.0]},
            ],
            "links": [["a", "b"]],
        },
        "links": {"kind": "wireless", "bandwidth_hz": BANDWIDTH_HZ, "transmit_power_dbm": -30.0} | links,
        "service": "parallel",
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": 1.0, "bits_in": BITS}]},
            "load": {"tasks_per_second_per_client": 0.5},
        },
        "decisions": {"when": "arrival", "max_hops": 1},
        "score": {"drop_s": 4000.0},
    }


def drawn_rates(environment: dict[str, Any], count: int = 1) -> list[np.ndarray]:
    """Return the rates of the transfers of each of some episodes, in bit/s."""
    env = make_env(environment, count, log=True)
    env.play("always_server")
    logs = [env.task_log(e) for e in range(count)]
    return [BITS / log["transfer_s"][log["outcome"] == FINISHED] for log in logs]


def rice(k: float) -> Any:
    """Return the distribution of the gain: a non-central chi-squared one with two degrees of freedom, of mean 1."""
    return stats.ncx2(2, 2 * k, scale=1 / (2 * (1 + k))) if k > 0 else stats.expon()


CASES = [
    ({"fading": "rayleigh"}, 0.0, 0.0),
    ({"fading": "rician", "rician_k_db": 7.0}, 10**0.7, 0.0),
    ({"shadowing_db": 6.0}, None, 6.0),
    ({"fading": "rayleigh", "shadowing_db": 4.0}, 0.0, 4.0),
]


def mean_rate_bps(k: float | None, shadowing_db: float) -> float:
    """Return the mean rate by numerical integration over the quantiles of shadowing, then of fading."""

    def given_shadow(snr: float) -> float:
        if k is None:
            return math.log2(1 + snr)
        law = rice(k)
        return integrate.quad(lambda g: math.log2(1 + snr * g) * law.pdf(g), 0, 40, limit=200, points=[0.01, 1.0])[0]

    if shadowing_db == 0:
        return BANDWIDTH_HZ * given_shadow(SNR)
    return (
        BANDWIDTH_HZ
        * integrate.quad(
            lambda z: stats.norm.pdf(z) * given_shadow(SNR * 10 ** (shadowing_db * z / 10)),
            -7,
            7,
            limit=100,
            epsabs=1e-6,
        )[0]
    )


@pytest.mark.parametrize(("links", "k", "shadowing_db"), CASES)
def test_the_mean_rate_is_the_ergodic_capacity(links: dict[str, Any], k: float | None, shadowing_db: float) -> None:
    theory = mean_rate_bps(k, shadowing_db)
    environment = pair(**links)
    means = np.array([rates.mean() for rates in drawn_rates(environment, REPLICATIONS)])
    half = stats.t.ppf(0.995, REPLICATIONS - 1) * stats.sem(means)
    assert half < 0.01 * theory
    assert abs(means.mean() - theory) < half
    # It is what nodes expect.
    link = make_env(environment).scenario.arrays.link
    assert 1 / link["seconds_per_bit"] == pytest.approx(theory, rel=1e-4)


@pytest.mark.parametrize(("links", "k", "shadowing_db"), CASES[:3])
def test_gains_have_their_distribution(links: dict[str, Any], k: float | None, shadowing_db: float) -> None:
    (rates,) = drawn_rates(pair(**links))
    gains = (2 ** (rates / BANDWIDTH_HZ) - 1) / SNR
    assert len(gains) > 1800
    if k is None:
        assert stats.kstest(10 * np.log10(gains), stats.norm(0, shadowing_db).cdf).pvalue > 1e-3
    else:
        assert stats.kstest(gains, rice(k).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(gains[1:], gains[:-1])[0, 1]) < 0.08


def test_rates_that_also_follow_a_schedule_have_its_factor() -> None:
    environment = pair(fading="rayleigh", shadowing_db=3.0)
    (alone,) = drawn_rates(environment)
    for factor in (1.0, 0.25):
        environment["links"]["rate_schedule"] = {"steps": [[0, factor]]}
        (scheduled,) = drawn_rates(environment)
        count = min(len(alone), len(scheduled)) - 20
        assert scheduled[:count] == pytest.approx(factor * alone[:count], rel=1e-6)


def test_without_fading_every_transfer_has_the_shannon_rate() -> None:
    (rates,) = drawn_rates(pair())
    assert rates == pytest.approx(BANDWIDTH_HZ * math.log2(1 + SNR), rel=1e-6)


def test_fading_links_may_wait_for_each_other() -> None:
    environment = pair(fading="rayleigh", contention="fifo")
    env = make_env(environment, log=True)
    env.play("always_server")
    log = env.task_log(0)
    environment["links"]["contention"] = "none"
    (rates,) = drawn_rates(environment)
    free_s = 0.0
    for task, rate in zip(log[: len(rates) - 20], rates, strict=False):
        free_s = max(free_s, task["created_s"]) + BITS / rate
        assert task["created_s"] + task["transfer_s"] == pytest.approx(free_s, abs=1e-6)


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ("{kind: wireless, fading: rice}", r"links.*fading: .*'rayleigh' or 'rician'"),
        ("{kind: wireless, fading: rayleigh, noise_over: message}", r"noise_over: message has no fading"),
        ("{kind: wireless, shadowing_db: -1}", r"shadowing_db.*greater than or equal to 0"),
        ("{kind: fixed, rate_bps: 1, fading: rayleigh}", r"fading: unknown key"),
    ],
)
def test_impossible_fading(links: str, message: str) -> None:
    refused(small_environment(), [f"links={links}"], message)
