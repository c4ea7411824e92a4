"""The same configuration and seed give the same bits, however they are run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.digests import digest, digest_of_first
from helpers.environments import make_env, small_environment

from offload_rllib.config import load_environment
from offload_rllib.envs.vector import VectorEnv, held_out_keys, training_key
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.simulator.variants import LARGE_NODES, variant

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from helpers.digests import digest_of_first
for heuristic in {heuristics!r}:
    print(digest_of_first(heuristic))
"""


@pytest.mark.parametrize("heuristic", sorted(HEURISTICS))
def test_an_episode_has_the_same_bits_in_a_batch_of_1_and_of_64(heuristic: str) -> None:
    alone = digest_of_first(heuristic)
    for place in (0, 63):
        env = make_env(small_environment(), 64, log=True)
        keys = held_out_keys(5, 64)
        keys[place] = held_out_keys(0, 1)[0]
        env.reset(keys)
        assert digest(env, heuristic, place) == alone


def test_another_process_gives_the_same_bits() -> None:
    folder = str(__import__("pathlib").Path(__file__).parent)
    program = PROGRAM.format(folder=folder, heuristics=sorted(HEURISTICS))
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert other.stdout.split() == [digest_of_first(heuristic) for heuristic in sorted(HEURISTICS)]


def test_growing_arrays_change_nothing() -> None:
    overloaded = small_environment()
    overloaded["workload"]["load"] = {"tasks_per_second_per_client": 20.0}
    overloaded["workload"]["deadline_s"] = None
    for node in overloaded["topology"]["nodes"]:
        node["queue_capacity"] = None
    small, large = make_env(overloaded, 3, log=True), make_env(overloaded, 1, log=True)
    slots = small.state.task.shape[1]
    assert digest(small, "random", 0) == digest(large, "random", 0)
    assert small.state.task.shape[1] > slots, "the scenario was meant to outgrow its arrays"


@pytest.mark.slow  # compiles the kernels for large networks
@pytest.mark.parametrize("features", ["plain", "failures", "ticks"])
def test_kernels_for_large_networks_give_the_same_bits(features: str) -> None:
    law = {"time_to_failure_s": {"exponential": 20}, "time_to_repair_s": {"exponential": 3}}
    changes = {
        "plain": {},
        "failures": {"failures": {"tasks": "returned", "laws": [law]}, "queue": "sjf"},
        "ticks": {"tick_s": 1.0, "information": {"interval_s": 1.0}},
    }[features]
    built = build_scenario(load_environment(small_environment(**changes)))
    large = variant(full=features != "plain", ticks=features == "ticks", nodes=LARGE_NODES)
    assert large.ndim == built.arrays.variant.ndim + 3
    digests = set()
    for arrays in (built.arrays, built.arrays._replace(variant=large)):
        env = VectorEnv(replace(built, arrays=arrays), 2, log=True)
        env.reset(held_out_keys(0, 2))
        digests.add(digest(env, "random", 1))
    assert len(digests) == 1


@pytest.mark.parametrize("information", [{"interval_s": 0.7}, {"kind": "fresh"}])
def test_the_short_way_to_the_fewest_tasks_takes_the_same_actions(information: dict) -> None:
    built = build_scenario(load_environment(small_environment(information=information)))
    short, long = (
        VectorEnv(replace(built, arrays=built.arrays._replace(variant=variant(full=full))), 8) for full in (False, True)
    )
    ended, choices = False, 0
    for env in (short, long):
        env.reset(held_out_keys(0, 8))
    while not ended:
        actions = [env.heuristic_actions("least_queue") for env in (short, long)]
        assert (actions[0] == actions[1]).all()
        assert (short.observations == long.observations).all()
        choices += int((short.masks.sum(-1) > 1).sum())
        for env in (short, long):
            ended = env.step(actions[0])
    assert choices > 100


def test_the_workload_does_not_depend_on_decisions() -> None:
    logs = []
    for heuristic in ("local", "always_server"):
        env = make_env(small_environment(), log=True)
        digest(env, heuristic, 0)
        log = env.task_log(0)
        logs.append(
            np.sort(log[["created_s", "deadline_s", "work", "bits_in", "bits_out", "origin"]], order="created_s")
        )
    assert (logs[0] == logs[1]).all()


def test_episodes_differ_between_seeds_workers_environments_and_purposes() -> None:
    keys = {
        training_key(seed, worker, environment, episode)
        for seed in range(3)
        for worker in range(3)
        for environment in range(3)
        for episode in range(3)
    }
    assert len(keys) == 81
    assert not keys & set(held_out_keys(0, 100).tolist())


def test_resetting_one_environment_leaves_the_others_alone() -> None:
    env = make_env(small_environment(), 2, log=True)
    for _ in range(10):
        env.step(env.heuristic_actions("random"))
    before = env.state.node[1].copy(), env.observations[1].copy()
    env.reset(held_out_keys(9, 1), np.array([0]))
    assert (env.state.node[1] == before[0]).all()
    assert (env.observations[1] == before[1]).all()
    assert env.state.episode["step"].tolist() == [0, 10]
    while not env.step(env.heuristic_actions("random")):
        pass
    assert env.truncated.tolist() == [False, True]
    env.reset(held_out_keys(3, 1), np.array([1]))
    assert not env.step(env.heuristic_actions("random"))
