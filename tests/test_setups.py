"""Set-ups: cold starts, images and what a node holds warm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env
from scipy import stats

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import EXPIRED, FINISHED

REPLICATIONS = 32


def queue(rate: float, setup: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a node of speed 1 that keeps all its tasks, of exponential work of mean 1, and one out of use."""
    environment: dict[str, Any] = {
        "horizon_s": 20_000.0,
        "warmup_s": 200.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "queue", "instructions_per_second": 1.0, "client": True},
                {"name": "other", "instructions_per_second": 1.0},
            ],
            "links": [["queue", "other"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e6},
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": {"exponential": 1.0}}]},
            "load": {"tasks_per_second_per_client": rate},
        },
        "decisions": {"max_hops": 1},
        "setup": setup,
    }
    return environment | changes


def figures(environment: dict[str, Any], name: str) -> np.ndarray:
    """Return a figure [replications] under the rule that keeps all."""
    env = make_env(environment, REPLICATIONS)
    env.play("local")
    return np.array([env.episode_metrics(e)[name] for e in range(REPLICATIONS)])


def check(values: np.ndarray, theory: float) -> None:
    """Assert that theory lies in the 99 % interval of the mean, and that the interval is narrow."""
    half = stats.sem(values) * stats.t.ppf(0.995, len(values) - 1)
    assert half < 0.02 * theory, f"half-width {half / theory:.2%}"
    assert abs(values.mean() - theory) < half, f"{values.mean():.6g} +- {half:.2g}, theory {theory:.6g}"


@pytest.mark.parametrize("keep_warm_s", [0.5, 2.0])
def test_cold_starts_of_short_services_are_gaps_longer_than_the_keep_alive(keep_warm_s: float) -> None:
    """A renewal process: P(gap > T) = exp(-lambda T) for Poisson arrivals."""
    rate = 0.7
    environment = queue(rate, {"keep_warm_s": keep_warm_s}, horizon_s=5_000.0)
    environment["workload"]["jobs"]["types"][0]["instructions"] = 1e-6
    check(figures(environment, "cold_start_share"), math.exp(-rate * keep_warm_s))


@pytest.mark.parametrize("keep_warm_s", [0.0, 1.0])
def test_a_set_up_in_each_busy_period_is_welchs_exceptional_first_service(keep_warm_s: float) -> None:
    """P. D. Welch, "On a generalized M/G/1 queuing process in which the first customer of each busy period receives
    exceptional service", Operations Research 12(5), 1964.

    The first service is longer by D with probability q = exp(-lambda T). With E[S0] = E[S] + q D and E[S0^2] - E[S^2] =
    q (2 E[S] D + D^2), E[T] = lambda E[S^2] / (2 (1 - rho)) + lambda (E[S0^2] - E[S^2]) / (2 (1 + lambda q D)) + E[S] +
    p q D, where p = (1 - rho) / (1 + lambda q D) is the share of tasks that begin a busy period.
    """
    rate, duration_s = 0.5, 1.5
    setup = {"duration_s": 0.5, "image_bits": 8e6, "fetch_bps": 8e6, "keep_warm_s": keep_warm_s}
    q = math.exp(-rate * keep_warm_s)
    first = (1 - rate) / (1 + rate * q * duration_s)
    response_s = rate * 2 / (2 * (1 - rate)) + rate * q * (2 * duration_s + duration_s**2) / (
        2 * (1 + rate * q * duration_s)
    )
    environment = queue(rate, setup)
    check(figures(environment, "response_mean_s"), response_s + 1 + first * q * duration_s)
    check(figures(environment, "cold_start_share"), first * q)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("cores", [1, 2])
def test_what_is_held_is_what_a_plain_recursion_says(slots: int, cores: int) -> None:
    """Four types on a node with places for fewer: times of all tasks, first come first served, least recently used."""
    if slots < cores:
        pytest.skip("a node must hold what it serves")
    keep_warm_s = 4.0
    types = [{"name": f"f{i}", "weight": 1.0 + i, "instructions": {"exponential": 0.7}} for i in range(4)]
    own = {f"f{i}": {"duration_s": 0.25 * (i + 1)} for i in range(4)}
    setup = {"types": own, "slots": slots, "keep_warm_s": keep_warm_s}
    environment = queue(0.8 * cores, setup, horizon_s=600.0, warmup_s=0.0, service="parallel")
    environment["workload"]["jobs"]["types"] = types
    environment["topology"]["nodes"][0]["cores"] = cores
    environment["topology"]["nodes"][1]["cores"] = 1
    env = make_env(environment, log=True)
    env.play("local")
    log = env.task_log(0)
    free_s = [0.0] * cores
    ready_s, ends_s = dict.fromkeys(range(4), -math.inf), {kind: [] for kind in range(4)}
    held: set[int] = set()
    cold = 0
    for task in log:
        kind, server = int(task["type"]), int(np.argmin(free_s))
        begin_s = max(task["created_s"], free_s[server])
        last = {k: max((end for end in ends_s[k] if end <= begin_s), default=-math.inf) for k in range(4)}
        used = {k for k in range(4) if any(end > begin_s for end in ends_s[k])}
        held = {k for k in held if k in used or begin_s <= last[k] + keep_warm_s}
        if kind not in held:
            cold += 1
            while len(held) >= slots:
                held.remove(min(held - used, key=lambda k: last[k]))
            held.add(kind)
            ready_s[kind] = begin_s + 0.25 * (kind + 1)
        free_s[server] = max(ready_s[kind] - begin_s, 0.0) + begin_s + task["work"]
        ends_s[kind].append(free_s[server])
        if task["outcome"] == FINISHED:
            assert task["waiting_s"] == pytest.approx(begin_s - task["created_s"], abs=1e-9)
            assert task["service_s"] == pytest.approx(free_s[server] - begin_s, abs=1e-9)
    started = int(env.state.warm[0]["starts"].sum())
    assert started > 300
    assert abs(int(env.state.warm[0]["cold"].sum()) - cold) <= len(log) - started
    assert cold > 100


def test_a_node_knows_what_neighbours_hold_by_their_broadcasts() -> None:
    setup = {"duration_s": 5.0, "keep_warm_s": 30.0}
    environment = queue(
        0.05, setup, horizon_s=400.0, warmup_s=0.0, information={"kind": "broadcast", "interval_s": 1.0}
    )
    environment["workload"]["jobs"]["types"] = [{"instructions": 1.0, "bits_in": 1e3}]
    env = make_env(environment, log=True)
    names, scale = env.layout.names, float(env.scenario.arrays.settings[0]["time_scale_s"])
    used_s, seen = -math.inf, {0.0: 0, 1.0: 0}
    while not env.truncated[0]:
        warm = float(env.observations[0, names.index("row_1.warm")])
        service = float(env.observations[0, names.index("row_1.service")])
        now_s = float(env.time_s[0])
        assert service * scale / (1 - service) == pytest.approx(1.0 if warm else 6.0, rel=1e-5)
        assert env.observations[0, names.index("row_0.warm")] == 0.0
        if now_s > used_s + 33.0:
            assert warm == 0.0
        elif used_s + 7.0 < now_s < used_s + 30.0:
            assert warm == 1.0
        seen[warm] += 1
        used_s = now_s
        env.step(np.array([1]))
    assert min(seen.values()) >= 3, seen


def test_waits_count_a_set_up_that_has_begun() -> None:
    environment = queue(2.0, {"duration_s": 50.0}, horizon_s=40.0, warmup_s=0.0)
    environment["workload"]["jobs"]["types"] = [{"instructions": 1.0}]
    env = make_env(environment)
    first_s = float(env.time_s[0])
    kept = 0
    while not env.truncated[0]:
        if kept:
            expected_s = first_s + 51.0 + (kept - 1) - float(env.time_s[0])
            assert env.waits(0)[0] == pytest.approx(expected_s)
        env.step(np.array([0]))
        kept += 1
    assert kept > 30


def test_a_set_up_that_is_aborted_is_done_again() -> None:
    environment = queue(0.1, {"duration_s": 5.0}, horizon_s=2_000.0, warmup_s=0.0)
    environment["workload"]["deadline_s"] = 4.0
    env = make_env(environment, log=True)
    env.play("local")
    log = env.task_log(0)
    assert (log["outcome"] == EXPIRED).sum() == len(log) - (log["ended_s"] == 2_000.0).sum()
    assert env.episode_metrics(0)["cold_start_share"] == 1.0


def test_a_node_that_fails_holds_nothing() -> None:
    law = {"time_to_failure_s": {"constant": 50.0}, "time_to_repair_s": {"constant": 1.0}}
    failures = {"tasks": "lost", "laws": [law]}
    environment = queue(0.5, {"duration_s": 0.1}, horizon_s=1_000.0, failures=failures, score={"drop_s": 1_000.0})
    env = make_env(environment)
    env.play("local")
    warm = env.state.warm[0, 0, 0]
    failed = env.state.usage[0, 0]["failures"]
    assert failed <= warm["cold"] <= failed + 2
    assert warm["starts"] > 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setup": {"image_bits": 1e6}}, "image_bits needs fetch_bps"),
        ({"setup": {"types": {"none": {"duration_s": 1.0}}}}, "no type of task is called 'none'"),
        ({"service": "shared"}, "does not go with service: shared"),
        ({"decisions": {"when": "interval"}, "tick_s": 1.0}, "does not go with tick_s"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(queue(0.5, {"duration_s": 1.0}) | changes))


def test_a_node_must_hold_what_it_serves() -> None:
    environment = queue(0.5, {"duration_s": 1.0, "slots": 1}, service="parallel")
    environment["topology"]["nodes"][0]["cores"] = 3
    with pytest.raises(ConfigError, match="'queue' serves 3 tasks at once"):
        build_scenario(load_environment(environment))
