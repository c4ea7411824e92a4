"""Nothing is lost, nothing is counted twice, and times add up, whatever happens."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.environments import make_env, random_actions, small_environment
from hypothesis import given, settings
from hypothesis import strategies as st

from offload_rllib.simulator.types import FINISHED, FREE, HELD, OPEN, QUEUE_FULL, SERVED, WAITING

EXPIRIES = ("abort", "queued", "never")


@st.composite
def unusual(draw: st.DrawFn) -> dict:
    """Draw links that are not plain, failures, and an account of energy, each or none."""
    parts: dict = {}
    if draw(st.booleans()):
        latency = {"lognormal": {"mean": draw(st.sampled_from([0.05, 1.2])), "cv": 0.6, "least": 0.01}}
        parts["link_overrides"] = [
            {"between": pair, "contention": "fifo", "rate_bps": draw(st.sampled_from([1e5, 1e6]))}
            | {"latency_s": latency, "jitter_s": {"uniform": [0, 0.2]}, "loss_probability": 0.2}
            for pair in draw(st.sampled_from([[["a", "b"]], [["b", "c"], ["c", "d"], ["d", "a"], ["a", "b"]]]))
        ]
    if draw(st.booleans()):
        law = {"time_to_failure_s": {"exponential": draw(st.sampled_from([4.0, 20.0]))}, "time_to_repair_s": 2.0}
        parts["failures"] = {"tasks": draw(st.sampled_from(["lost", "returned"])), "laws": [law]}
    if draw(st.booleans()):
        parts["energy"] = {"kind": "power", "devices": [{"idle_w": 1.0, "core_busy_w": 2.0, "transmit_w": 0.5}]}
    return parts


@st.composite
def environments(draw: st.DrawFn) -> dict:
    """Draw variations of the small network."""
    environment = small_environment()
    environment["deadlines"] = {"expiry": draw(st.sampled_from(EXPIRIES))}
    environment["score"] = {"drop_s": 40, "weights": {"type_0": draw(st.sampled_from([1.0, 0.3]))}}
    environment["queue"] = draw(st.sampled_from(["fifo", "lifo", "edf", "sjf", "priority"]))
    environment["priorities"] = {"type_0": 1} if environment["queue"] == "priority" else {}
    if draw(st.booleans()):
        environment["cloud"] = {
            "vms": draw(st.integers(1, 3)),
            "instructions_per_second": 5e5,
            "queue": draw(st.sampled_from(["fifo", "sjf"])),
            "access": draw(st.sampled_from(["all", {"nodes": ["a", "b"]}])),
            "link": {"rate_bps": 1e6, "latency_s": 0.1},
        }
    environment["service"] = draw(st.sampled_from(["pooled", "parallel", "shared"]))
    environment["workload"]["load"] = {"tasks_per_second_per_client": draw(st.floats(0.1, 4))}
    environment["links"]["latency_s"] = draw(st.sampled_from([0.0, 0.01, 0.7]))
    environment["decisions"] = {
        "when": "interval",
        "interval_s": draw(st.sampled_from([0.5, 1, 4])),
        "max_hops": draw(st.integers(1, 4)),
        "max_destinations": draw(st.sampled_from([None, 1])),
        "offer": draw(st.sampled_from(["arrival", "newest"])),
    }
    environment["information"] = {"kind": draw(st.sampled_from(["broadcast", "fresh"])), "interval_s": 0.3}
    environment |= draw(unusual())
    if draw(st.sampled_from([False, False, True])):
        environment |= {"tick_s": 0.25, "service": "pooled"}
        environment["information"]["interval_s"] = 0.25
    if environment["service"] == "shared":
        environment["tasks_per_core"] = 2
    for node in environment["topology"]["nodes"]:
        node["cores"] = draw(st.integers(1, 3))
        node["queue_capacity"] = draw(st.sampled_from([None, 1, 3]))
        node["queue_capacity_bits"] = draw(st.sampled_from([None, 3e5, 6e5]))
    return environment


@settings(max_examples=60, deadline=None, derandomize=True)
@given(environments(), st.integers(0, 2**31))
def test_tasks_are_conserved_after_every_step(environment: dict, seed: int) -> None:
    env = make_env(environment, 2)
    rng = np.random.default_rng(seed)
    done = False
    while not done:
        done = env.step(random_actions(env, rng))
        for e in range(env.num_envs):
            episode = env.state.episode[e]
            dropped = sum(int(episode[name]) for name in episode.dtype.names if name.startswith("dropped_"))
            inside = int((env.state.task[e]["stage"] != FREE).sum())
            assert episode["tasks_made"] == episode["finished"] + dropped + inside
            assert env.state.task.shape[1] == episode["free_slots"] + inside
            assert env.state.node[e]["own_unfinished"].sum() == inside
            weight = env.scenario.arrays.type_weight[env.state.task[e]["type"]] @ (env.state.task[e]["stage"] != FREE)
            assert env.state.node[e]["own_weight"].sum() == pytest.approx(weight, rel=1e-9, abs=1e-12)
            nodes, tasks = env.state.node[e], env.state.task[e]
            assert nodes["tasks"].sum() == np.isin(tasks["stage"], [HELD, WAITING, SERVED]).sum()
            assert nodes["busy"].sum() == (tasks["stage"] == SERVED).sum()
            undecided = tasks[(tasks["stage"] != FREE) & (tasks["undecided"] == 1)]
            assert nodes["held"].sum() == len(undecided)
            newest = env.scenario.config.decisions.offer == "newest"
            assert (undecided["stage"] == (WAITING if newest else HELD)).all()
            assert (nodes["tasks"] <= env.scenario.arrays.node["capacity"]).all()
            assert (nodes["busy"] <= env.scenario.arrays.node["concurrency"]).all()
            assert not nodes["tasks"][nodes["down"] == 1].any()
            there = np.isin(tasks["stage"], [HELD, WAITING, SERVED])
            bits = np.bincount(tasks["node"][there], tasks["bits_in"][there], len(nodes))
            capacity_bits = env.scenario.arrays.node["capacity_bits"]
            assert (bits <= capacity_bits * (1 + 1e-9)).all()
            if np.isfinite(capacity_bits).any():
                assert nodes["bits"] == pytest.approx(bits, rel=1e-9, abs=1e-3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(environments(), st.integers(0, 2**31))
def test_response_time_is_the_sum_of_its_parts(environment: dict, seed: int) -> None:
    env = make_env(environment, log=True)
    rng = np.random.default_rng(seed)
    while not env.step(random_actions(env, rng)):
        pass
    log = env.task_log(0)
    finished = log[log["outcome"] == FINISHED]
    parts = sum(finished[f"{part}_s"] for part in ("holding", "waiting", "service", "transfer", "return"))
    response = finished["ended_s"] - finished["created_s"]
    assert np.all(np.abs(response - parts) <= 1e-9 * np.maximum(1, finished["ended_s"]))


@pytest.mark.parametrize("weights", [{}, {"type_0": 0.3, "type_1": 7.0}], ids=["alike", "weighted"])
@pytest.mark.parametrize(
    ("expiry", "deadline"), [*((expiry, {"uniform": [2, 12]}) for expiry in EXPIRIES), ("never", None), ("abort", None)]
)
def test_delay_rewards_sum_to_minus_the_scores(expiry: str, deadline: dict | None, weights: dict[str, float]) -> None:
    environment = small_environment(deadlines={"expiry": expiry}, reward={"name": "delay", "scope": "own"})
    environment["workload"]["deadline_s"] = deadline
    environment["workload"]["load"] = {"tasks_per_second_per_client": 3.0}
    aborts = expiry == "abort" and deadline is not None
    environment["score"] = {"drop_s": None if aborts else 50, "weights": weights}
    env = make_env(environment, log=True)
    rng = np.random.default_rng(1)
    total = 0.0
    done = False
    while not done:
        done = env.step(random_actions(env, rng))
        total += float(env.rewards.sum(dtype=np.float64))
    # Tasks that are open at the end have cost their age so far; their score is what a drop would have been.
    log = env.task_log(0)
    still_open = log["outcome"] == OPEN
    age = log["ended_s"] - log["created_s"]
    price = log["deadline_s"] - log["created_s"] if aborts else np.full(len(log), 50.0)
    cost = np.where((log["outcome"] == FINISHED) | still_open, age, price)
    weight = np.array([weights.get(f"type_{kind}", 1.0) for kind in log["type"]])
    assert (log["outcome"] == QUEUE_FULL).sum() > 20
    assert total == pytest.approx(-(weight @ cost), rel=1e-5)  # rewards are float32
    figures = env.episode_metrics(0)
    scores = np.where(still_open, price, cost)
    assert figures["score_mean_s"] == pytest.approx(weight @ scores / weight.sum(), rel=1e-12)


def test_every_drop_has_a_cause_and_an_episode_accounts_for_all_tasks() -> None:
    environment = small_environment()
    environment["workload"]["load"] = {"tasks_per_second_per_client": 4.0}
    env = make_env(environment)
    while not env.step(env.heuristic_actions("local")):
        pass
    figures = env.episode_metrics(0)
    causes = sum(figures[f"dropped_{cause}_share"] for cause in ("queue_full", "expired", "lost", "node_failed"))
    assert figures["dropped_share"] == pytest.approx(causes)
    assert figures["dropped_queue_full_share"] > 0
    assert figures["dropped_expired_share"] > 0
    finished_share = figures["tasks_finished"] / figures["tasks_created"]
    assert finished_share + figures["dropped_share"] + figures["unfinished_share"] == pytest.approx(1)
    assert 0 < figures["overload"] <= 1
