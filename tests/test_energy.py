"""Energy is power times time, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, random_actions, refused, small_environment

from offload_rllib.envs.vector import VectorEnv
from offload_rllib.simulator.energy import node_energy
from offload_rllib.simulator.types import FINISHED

POWER = {"idle_w": 2.0, "core_busy_w": 5.0, "transmit_w": 0.5, "transmit_j_per_bit": 1e-6}


def metered(energy: dict[str, Any], **changes: Any) -> VectorEnv:
    """Play the small network, no task dropped, with an account of energy."""
    environment = small_environment(energy=energy) | changes
    environment["workload"]["deadline_s"] = None
    for node in environment["topology"]["nodes"]:
        node |= {"queue_capacity": None, "cores": 2}
    environment["workload"]["load"] = {"tasks_per_second_per_client": 0.6}
    env = make_env(environment, log=True)
    rng = np.random.default_rng(0)
    while not env.step(random_actions(env, rng)):
        pass
    return env


@pytest.mark.parametrize("service", ["pooled", "parallel"])
def test_energy_is_the_power_of_each_use_times_its_duration(service: str) -> None:
    env = metered({"kind": "power", "devices": [POWER]}, service=service)
    used = {use: joules.sum() for use, joules in node_energy(env.scenario.arrays, env.state, 0).items()}
    log, tasks, now_s = env.task_log(0), env.state.task[0], 40.0
    served_s = log["service_s"].sum() + (now_s - tasks["since_s"][tasks["stage"] == 3]).sum()
    cores = 2 if service == "pooled" else 1
    assert used["idle"] == pytest.approx(4 * 2.0 * 40.0)
    assert used["compute"] == pytest.approx(5.0 * cores * served_s)
    done = log[log["outcome"] == FINISHED]
    least_bits = (done["hops"] * (done["bits_in"] + done["bits_out"])).sum()
    all_bits = (log["hops"] * (log["bits_in"] + log["bits_out"])).sum()
    # At 1 Mbit/s, half a watt is half a microjoule per bit. What is on its way at the end is sent in part.
    assert 1.5e-6 * least_bits <= used["transmit"] * (1 + 1e-9)
    assert used["transmit"] <= 1.5e-6 * all_bits * (1 + 1e-9)
    figures = env.episode_metrics(0)
    assert figures["energy_j"] == pytest.approx(sum(used.values()))
    assert figures["energy_per_task_j"] == pytest.approx(figures["energy_j"] / (log["outcome"] == FINISHED).sum())


def test_later_entries_hold_for_their_device_types() -> None:
    environment = small_environment()
    for node, kind in zip(environment["topology"]["nodes"], ("pi", "pi", "pi", "server"), strict=True):
        node["type"] = kind
    environment["energy"] = {"kind": "power", "devices": [{"idle_w": 2.0}, {"types": ["server"], "idle_w": 50.0}]}
    env = make_env(environment)
    env.step(env.heuristic_actions("local"))
    assert node_energy(env.scenario.arrays, env.state, 0)["idle"].tolist() == [2.0, 2.0, 2.0, 50.0]


def test_a_node_that_is_down_draws_nothing() -> None:
    failures = {"laws": [{"time_to_failure_s": 15.0, "time_to_repair_s": 10.0}]}
    env = metered({"kind": "power", "devices": [POWER]}, failures=failures, score={"drop_s": 40})
    # Down from 15 s to 25 s and from the horizon on.
    assert node_energy(env.scenario.arrays, env.state, 0)["idle"] == pytest.approx(2.0 * 30.0)
    assert env.episode_metrics(0)["availability"] == pytest.approx(0.75)


def test_peersimgyms_account_prices_instructions_results_and_broadcasts() -> None:
    env = metered({"kind": "peersimgym", "cost": 10.0}, information={"interval_s": 1.0, "message_bits": 4.16})
    used = {use: cost.sum() for use, cost in node_energy(env.scenario.arrays, env.state, 0).items()}
    log, tasks = env.task_log(0), env.state.task[0]
    served = tasks["stage"] == 3
    speed = env.scenario.arrays.node["core_speed"]
    begun = ((40.0 - tasks["since_s"]) * speed[tasks["node"]])[served].sum()
    processed = log["work"][log["service_s"] > 0].sum()
    assert used["idle"] == 0
    assert used["compute"] == pytest.approx(10.0 * (processed + begun))
    done = log[log["outcome"] == FINISHED]
    results = 10.0 * (done["hops"] * done["bits_out"]).sum() / 8e6
    broadcasts = 10.0 * 40 * 8 * 4.16 / 8e6  # 40 of each node, one to each of two neighbours
    assert used["transmit"] == pytest.approx(results + broadcasts, rel=0.2)
    assert used["transmit"] >= results + broadcasts * 0.99


def test_without_an_account_there_are_no_figures_of_energy() -> None:
    env = make_env(small_environment())
    while not env.step(env.heuristic_actions("local")):
        pass
    assert not [name for name in env.episode_metrics(0) if name.startswith("energy") or name == "availability"]


def test_impossible_accounts() -> None:
    for energy, message in (
        ({"kind": "joules"}, r"energy.*'joules'.*'power', 'peersimgym'"),
        ({"kind": "power", "devices": []}, r"devices: .*at least 1"),
        ({"kind": "power", "devices": [{"idle_w": -1.0}]}, r"idle_w: .*greater than or equal to 0"),
        ({"kind": "power", "devices": [{"types": ["robot"]}]}, r"energy.devices.0.types: no node is of type 'robot'"),
    ):
        refused(small_environment(energy=energy), [], message)
