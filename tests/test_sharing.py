"""Tasks that share the cores of a node leave when processor sharing, by its definition, lets them leave."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import log_bytes, make_env, small_environment
from helpers.processor_sharing import shared_departures

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.energy import node_energy
from offload_rllib.simulator.types import FINISHED, QUEUE_FULL

CLOUD = {"vms": 2, "instructions_per_second": 1.0, "link": {"rate_bps": 1.0}}


def one_node(cores: int, tasks_per_core: int | None, **changes: Any) -> dict[str, Any]:
    """Return a node of speed 1 with shared cores at a load of 0.85, and one that nobody sends anything to."""
    return {
        "horizon_s": 1500.0,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "shared", "instructions_per_second": 1.0, "cores": cores, "client": True},
                {"name": "other", "instructions_per_second": 1.0},
            ],
            "links": [["shared", "other"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1.0},
        "service": "shared",
        "tasks_per_core": tasks_per_core,
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": {"lognormal": {"mean": 1.0, "cv": 2.0}}}]},
            "load": {"tasks_per_second_per_client": 0.85 * cores},
        },
        "decisions": {"when": "arrival"},
    } | changes


def replayed(folder: Path, rows: list[tuple[float, float]], cores: int, **changes: Any) -> Any:
    """Return one node that meets tasks of some times and works, at the first decision."""
    file = folder / "tasks.csv"
    file.write_text("\n".join(["time_s,origin,work", *(f"{time},shared,{work}" for time, work in rows)]) + "\n")
    arrivals = {"kind": "replay", "path": str(file), "columns": {"origin": "origin", "work": "work"}}
    environment = one_node(cores, changes.pop("tasks_per_core", None), horizon_s=30.0)
    return make_env(environment | {"workload": {"arrivals": arrivals}} | changes, log=True)


@pytest.mark.parametrize(("cores", "tasks_per_core"), [(1, None), (3, None), (2, 2)])
@pytest.mark.parametrize("when", ["arrival", "interval"])
def test_every_task_leaves_when_the_definition_says(cores: int, tasks_per_core: int | None, when: str) -> None:
    decisions = {"when": when} | ({"interval_s": 0.25, "tasks_per_decision": 16} if when == "interval" else {})
    env = make_env(one_node(cores, tasks_per_core, decisions=decisions), log=True)
    env.play("local")
    log = env.task_log(0)
    until_s = 1490.0  # what is still held at the end has not entered
    log = log[log["created_s"] < until_s]
    entered_s = log["created_s"] if when == "arrival" else np.ceil(log["created_s"] / 0.25) * 0.25
    at_once = math.inf if tasks_per_core is None else cores * tasks_per_core
    left_s = np.array(shared_departures(entered_s.tolist(), log["work"].tolist(), cores, 1.0, at_once))
    done = (log["outcome"] == FINISHED) & (log["ended_s"] < until_s)
    assert done.sum() > 1000 * cores
    assert (np.abs(log["ended_s"] - left_s) <= 1e-9 * np.maximum(1.0, left_s))[done].all()
    assert (log["waiting_s"] > 0).any() == (tasks_per_core is not None)


# Of works 1, 2 and 3 that arrive together at 1 s: on one core, on two, and on two of which each serves one at a time.
@pytest.mark.parametrize(
    ("cores", "tasks_per_core", "ended_s"), [(1, None, [4, 6, 7]), (2, None, [2.5, 3.5, 4.5]), (2, 1, [2, 3, 5])]
)
def test_three_tasks_with_pencil_and_paper(
    tmp_path: Path, cores: int, tasks_per_core: int | None, ended_s: list[float]
) -> None:
    energy = {"kind": "power", "devices": [{"core_busy_w": 1.0}]}
    env = replayed(tmp_path, [(1, 1), (1, 2), (1, 3)], cores, tasks_per_core=tasks_per_core, energy=energy)
    env.play("local")
    assert env.task_log(0)["ended_s"] == pytest.approx(ended_s, abs=1e-12)
    # A core that is busy is busy at full speed, whoever shares it: the energy is that of the work.
    assert node_energy(env.scenario.arrays, env.state, 0)["compute"] == pytest.approx([6.0, 0.0])


def test_one_task_per_core_is_parallel_service() -> None:
    logs = []
    for service, tasks_per_core in (("parallel", None), ("shared", 1)):
        env = make_env(one_node(3, tasks_per_core, service=service), log=True)
        env.play("random")
        logs.append(log_bytes(env, 0))
    assert logs[0] == logs[1]


def shared_network(when: str, **changes: Any) -> dict[str, Any]:
    """Return the small network with shared cores, and a cloud that shares its machines too."""
    cloud = {"vms": 2, "instructions_per_second": 5e5, "service": "shared", "link": {"rate_bps": 1e6}}
    environment = small_environment(service="shared", cloud=cloud, decisions={"when": when}, **changes)
    for node in environment["topology"]["nodes"]:
        node["cores"] = 2
        node["instructions_per_second"] /= 2
    return environment


@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_an_episode_has_the_same_bits_in_any_batch(when: str) -> None:
    logs = set()
    for num_envs in (1, 2, 5):
        env = make_env(shared_network(when), num_envs, log=True)
        env.reset(held_out_keys(0, 5)[5 - num_envs :])
        env.play("shortest_finish")
        logs.add(log_bytes(env, num_envs - 1))
    assert len(logs) == 1


@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_a_node_that_shares_its_cores_still_has_a_capacity(when: str) -> None:
    environment = shared_network(when, score={"drop_s": 40})
    environment["workload"]["load"] = {"tasks_per_second_per_client": 4.0}
    env = make_env(environment, log=True)
    env.play("local")
    log = env.task_log(0)
    assert (log["outcome"] == QUEUE_FULL).sum() > 20
    assert log["waiting_s"].max() == 0.0


def expected_finish_s(env: Any) -> float:
    """Return what the deciding agent expects of keeping its task."""
    shown = float(env.observations[0, env.layout.names.index("row_0.finish")])
    return float(env.scenario.arrays.settings[0]["time_scale_s"]) * shown / (1 - shown)


def test_the_expected_delay_lies_between_that_of_a_short_and_that_of_a_long_task(tmp_path: Path) -> None:
    # Beside works 1 and 3 on one core a task waits 4 s at most for a core of its own; work w is done after 3 w if
    # nobody leaves.
    for work in (0.01, 2.0, 500.0):
        env = replayed(tmp_path, [(0, 1), (0, 3), (0, work)], 1)
        env.step(np.zeros(1))
        env.step(np.zeros(1))
        assert expected_finish_s(env) == pytest.approx(work + 4 * (1 - math.exp(-2 * work / 4)), rel=1e-4)
    # On two cores, both of which are taken: of a core for itself the task has two thirds, until 1 s.
    env = replayed(tmp_path, [(0, 1), (0, 3), (0, 2)], 2)
    env.step(np.zeros(1))
    assert expected_finish_s(env) == pytest.approx(3.0, rel=1e-5)  # a core is idle
    env.step(np.zeros(1))
    assert expected_finish_s(env) == pytest.approx(2 + (1 - math.exp(-1.0)), rel=1e-4)
    # One at a time on each: first come, first served.
    env = replayed(tmp_path, [(0, 1), (0, 3), (0, 2)], 2, tasks_per_core=1)
    env.step(np.zeros(1))
    env.step(np.zeros(1))
    assert expected_finish_s(env) == pytest.approx(3.0, rel=1e-5)


def test_behind_a_bound_the_delay_is_that_of_a_queue_and_then_of_sharing(tmp_path: Path) -> None:
    # Three are there, two of them served: the wait of 6 s for a core is that of three tasks. Two of these thirds are
    # over when the task is served beside another one.
    env = replayed(tmp_path, [(0, 1), (0, 3), (0, 2), (0, 1)], 1, tasks_per_core=2)
    for _ in range(3):
        env.step(np.zeros(1))
    assert expected_finish_s(env) == pytest.approx(1 + 6 - 2 * math.exp(-1 / 2), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks_per_core": 2, "service": "parallel"}, "tasks_per_core: 2 needs service: shared .given: parallel."),
        ({"queue": "sjf"}, "queue: sjf orders waiting tasks, and with service: shared none waits"),
        ({"tasks_per_core": 0}, "tasks_per_core"),
        ({"decisions": {"when": "interval", "offer": "newest"}}, "decisions.offer: newest offers waiting tasks"),
        ({"tick_s": 1.0, "decisions": {"when": "interval"}}, "tick_s needs service: pooled .given: shared."),
        ({"cloud": CLOUD | {"tasks_per_core": 2}}, "cloud.*tasks_per_core: 2 needs service: shared"),
        ({"cloud": CLOUD | {"service": "shared", "queue": "sjf"}}, "cloud.*queue: sjf orders waiting tasks"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(one_node(1, None) | changes))


def test_the_new_keys_count_in_the_fingerprint_where_they_are_used() -> None:
    prints = [fingerprint(load_environment(one_node(1, bound))) for bound in (None, 2, 3)]
    assert len(set(prints)) == 3
    assert fingerprint(load_environment("ether_12")) == "96c1d23e4682"  # as before these keys
