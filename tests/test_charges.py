"""Energy and price in the reward: what tasks use is charged to their origins, and sums to the accounts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, refused, small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.scenario.build import check_rule
from offload_rllib.simulator.types import FINISHED

POWER = {"idle_w": 2.0, "core_busy_w": 5.0, "transmit_w": 0.5, "transmit_j_per_bit": 1e-6}
ENERGY = {"kind": "power", "devices": [POWER, {"types": ["server"], "core_busy_w": 9.0, "transmit_w": 0.1}]}
PRICE = {"devices": [{"per_core_s": 0.25, "per_bit": 3e-6}, {"types": ["server"], "per_core_s": 4.0}]}
WEIGHTS = {"energy_weight": 0.7, "price_weight": 11.0}
LINKS = {"kind": "fixed", "rate_bps": 1e6, "latency_s": 0.05}
FAILURES = {"tasks": "returned", "laws": [{"time_to_failure_s": 9.0, "time_to_repair_s": 3.0}]}


def charged_environment(weights: dict[str, float], **changes: Any) -> dict[str, Any]:
    """Return the small network with prices and an account of energy, tasks that take long, and a team's reward."""
    environment = small_environment(energy=ENERGY, price=PRICE, **changes)
    environment["reward"] = {"scope": "team", "name": environment.pop("reward_name", "delay")} | weights
    for node, kind in zip(environment["topology"]["nodes"], ("pi", "pi", "pi", "server"), strict=True):
        node |= {"cores": 2, "type": kind}
    environment["workload"] |= {"deadline_s": {"uniform": [1.0, 6.0]}, "load": {"tasks_per_second_per_client": 2.5}}
    return environment


def play(environment: dict[str, Any]) -> tuple[float, np.ndarray, dict[str, float]]:
    """Return the reward of all nodes over an episode, what their tasks were charged [N + 1], and the figures."""
    env = make_env(environment)
    reward, charged = 0.0, np.zeros(env.state.charged.shape[2])
    clocked = environment["decisions"]["when"] == "interval"
    while not env.truncated[0]:
        env.step(env.heuristic_actions("random"))
        if clocked:
            reward += float(env.rewards[0, 0])
            charged += env.state.charged[0].sum(0)
    if not clocked:
        reward, charged = float(env.step_rewards(0, 1)[0]), env.state.charged[0].sum(0)
    return reward * len(env.agents), charged, env.episode_metrics(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"service": "pooled", "decisions": {"when": "interval"}},
        {"service": "pooled", "tick_s": 0.5, "decisions": {"when": "interval"}},
        {"service": "parallel", "failures": FAILURES, "links": LINKS | {"contention": "fifo"}},
        {"service": "shared", "links": LINKS | {"contention": "shared", "loss_probability": 0.1}},
        {"service": "parallel", "reward_name": "sparse"},
    ],
    ids=["pooled, clocked", "in ticks", "failures, links that are queues", "shared", "sparse"],
)
def test_charges_sum_to_the_weighted_accounts_of_energy_and_price(changes: dict[str, Any]) -> None:
    changes = {"decisions": {"when": "arrival"}, "horizon_s": 30.0} | changes
    if "tick_s" in changes:
        changes["information"] = {"interval_s": 0.5}
    if "failures" in changes:
        changes["score"] = {"drop_s": 30.0}
    without = play(charged_environment({}, **changes))[0]
    reward, charged, figures = play(charged_environment(WEIGHTS, **changes))
    used = figures["energy_compute_j"] + figures["energy_transmit_j"]
    account = WEIGHTS["energy_weight"] * used + WEIGHTS["price_weight"] * figures["price"]
    assert used > 100
    assert figures["price"] == pytest.approx(figures["price_compute"] + figures["price_transmit"])
    assert charged[-1] == pytest.approx(account, rel=1e-9)
    assert charged[:-1].sum() == pytest.approx(account, rel=1e-9)
    assert charged[[1, 3]].tolist() == [0.0, 0.0], "no client is there"
    assert reward == pytest.approx(without - account, rel=1e-5)
    assert figures["price_per_task"] * figures["tasks_finished"] == pytest.approx(figures["price"])


def only_task(folder: Path, **changes: Any) -> Any:
    """Return the environment in which a node's only task is on offer."""
    file = folder / "tasks.csv"
    file.write_text("time_s,origin,work,bits_in,bits_out\n1.0,slow,4.0,2000,500\n")
    columns = {name: name for name in ("origin", "work", "bits_in", "bits_out")}
    environment: dict[str, Any] = {
        "horizon_s": 60.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "slow", "type": "pi", "instructions_per_second": 1.0, "client": True},
                {"name": "fast", "type": "server", "instructions_per_second": 2.0, "cores": 4},
            ],
            "links": [["slow", "fast"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1000.0, "latency_s": 0.25},
        "service": "parallel",
        "workload": {"arrivals": {"kind": "replay", "path": str(file), "columns": columns}},
        "energy": ENERGY,
        "price": PRICE,
        "decisions": {"max_hops": 1},
        "reward": {"scope": "own"} | WEIGHTS,
    }
    return make_env(environment | changes, log=True)


def one_task(folder: Path, action: int, **changes: Any) -> Any:
    """Return the same environment when the task has been decided and has ended, and what was shown first."""
    env = only_task(folder, **changes)
    seen = dict(zip(env.layout.names, env.observations[0].tolist(), strict=True))
    env.step(np.array([action]))
    assert env.truncated[0]
    return env, seen


def test_the_only_task_costs_what_a_pencil_says(tmp_path: Path) -> None:
    kept, seen = one_task(tmp_path, 0)
    at_home = 0.7 * 5.0 * 4.0 + 11.0 * 0.25 * 4.0  # 4 s of a core of 5 W at 0.25 a second
    assert kept.closing(0)[2][0] == pytest.approx(-4.0 - at_home, rel=1e-6)
    sent, _ = one_task(tmp_path, 1)
    # 2 s of a core of 9 W at 4 a second; 2000 bit sent for 2 s at 0.5 W, and 500 bit back for 0.5 s at 0.1 W.
    joules = 9.0 * 2.0 + 0.5 * 2.0 + 1e-6 * 2000 + 0.1 * 0.5
    away = 0.7 * joules + 11.0 * (4.0 * 2.0 + 3e-6 * 2000)
    assert sent.task_log(0)["outcome"][0] == FINISHED
    assert sent.closing(0)[2][0] == pytest.approx(-(0.5 + 2.0 + 2.0 + 0.5) - away, rel=1e-6)
    # The observation shows both before the decision.
    scale_s = float(kept.scenario.arrays.settings[0]["time_scale_s"])
    for name, charge in (("row_0.charge", at_home), ("row_1.charge", away)):
        assert seen[name] == pytest.approx(charge / (scale_s + charge), rel=1e-5)


def test_without_weights_nothing_is_charged_or_shown(tmp_path: Path) -> None:
    env, seen = one_task(tmp_path, 0, reward={"scope": "own"})
    assert not [name for name in seen if "charge" in name]
    assert env.state.charged.size == 0
    assert env.closing(0)[2][0] == pytest.approx(-4.0)
    assert env.episode_metrics(0)["price"] == pytest.approx(1.0)


@pytest.mark.parametrize(("energy_weight", "price_weight", "action"), [(1.0, 0.0, 0), (1.1, 0.0, 1), (1.1, 0.01, 0)])
def test_the_least_cost_weighs_time_energy_and_price(
    tmp_path: Path, energy_weight: float, price_weight: float, action: int
) -> None:
    # Kept: 4 s, 20 J, a price of 1. Sent: 5 s, 19.052 J, a price of 8.006 (see the test of the only task).
    kept = 4.0 + 20.0 * energy_weight + 1.0 * price_weight
    sent = 5.0 + 19.052 * energy_weight + 8.006 * price_weight
    assert (sent < kept) == bool(action)
    weights = {"energy_weight": energy_weight, "price_weight": price_weight}
    env = only_task(tmp_path, reward={"scope": "own"} | weights)
    assert env.heuristic_actions("least_cost").tolist() == [action]
    assert env.heuristic_actions("shortest_finish").tolist() == [0]


def test_the_least_cost_needs_a_weight() -> None:
    with pytest.raises(ConfigError, match=r"'least_cost' needs energy or a price in the reward"):
        check_rule("least_cost", "rule", load_environment(small_environment()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": {"energy_weight": 1.0}}, r"reward.energy_weight: 1 needs energy"),
        ({"reward": {"price_weight": 2.0}}, r"reward.price_weight: 2 needs price"),
        ({"reward": {"name": "paper", "energy_weight": 1.0}, "energy": ENERGY}, r"needs reward.name: delay or sparse"),
        ({"reward": {"price_weight": -1.0}}, r"reward.price_weight.*greater than or equal to 0"),
        ({"price": {"devices": [{"types": ["gpu"]}]}}, r"price.devices.0.types: no node is of type 'gpu'"),
    ],
)
def test_charges_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    if "energy" in changes:
        changes = changes | {"energy": {"kind": "power", "devices": [POWER]}}
    refused(small_environment(**changes), [], message)
