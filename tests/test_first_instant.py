"""What arrives at the very start of an episode is decided by the first decision of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.agreement import KEY, run_reference_and_simulator
from helpers.environments import make_env, recorded

from offload_rllib.config import load_environment
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.scenario import build_scenario


def test_a_task_at_the_start_is_offered_in_the_first_observation(tmp_path: Path) -> None:
    env = make_env(recorded(tmp_path, 1), log=True)
    a = env.agents.index("a")
    assert env.masks[0, a].sum() == 3
    assert env.state.node[0, 0]["held"] == 1
    while not env.step(env.heuristic_actions("local")):
        pass
    # At 0 s and 1 s a decision is due, at 2.5 s it is half a second away.
    assert env.task_log(0)["holding_s"].tolist() == [0.0, 0.0, 0.5]


def test_the_reference_decides_it_at_once_too(tmp_path: Path) -> None:
    env = VectorEnv(build_scenario(load_environment(recorded(tmp_path, 3))), 1, log=True)
    actions = np.ones((env.steps_per_episode, len(env.agents)), np.int64)
    log = run_reference_and_simulator(env, KEY, actions)
    # Decided at 0, 1 and 2 s, sent within 0.15 s, and held at the neighbour until the next whole second.
    assert log["holding_s"][:3] == pytest.approx([0.85, 1.85, 2.85])


@pytest.mark.parametrize("log", [False, True])
def test_the_arrays_grow_for_what_comes_at_once(tmp_path: Path, log: bool) -> None:  # noqa: FBT001
    environment = recorded(tmp_path, 500)
    environment["topology"]["nodes"][0].pop("queue_capacity")
    env = make_env(environment, 2, log=log)
    assert env.state.episode["tasks_made"].tolist() == [500, 500]
    assert env.state.node[0, 0]["tasks"] == 500


def test_what_is_dropped_at_the_start_is_charged_to_the_first_step(tmp_path: Path) -> None:
    env = make_env(recorded(tmp_path, 10, reward={"name": "delay", "scope": "own"}))
    env.step(env.heuristic_actions("local"))
    # Six places: four of ten tasks are dropped at age 0 at the price of their deadline; the others age by a second.
    assert env.rewards[0, env.agents.index("a")] == pytest.approx(-(4 * 20 + 6))


def test_shaping_counts_from_what_is_there_at_the_start(tmp_path: Path) -> None:
    reward = {"name": "sparse", "scope": "own", "shaping": {"potential": "tasks", "gamma": 1.0}}
    env = make_env(recorded(tmp_path, 4, reward=reward))
    env.step(np.zeros((1, len(env.agents)), np.int32))
    # The first task ends at 1 s, when another arrives: 4 tasks before, 4 after, 1 finished.
    assert env.rewards[0, env.agents.index("a")] == pytest.approx(1.0)
