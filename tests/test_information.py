"""Nodes know what has reached them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, random_actions, small_environment
from helpers.information import what_is_known

from offload_rllib.envs.observation import FIRST_ROW, HERE_SIZE, ROW_FEATURES, ROW_SIZE
from offload_rllib.envs.vector import VectorEnv


def neighbours(env: VectorEnv) -> Iterator[tuple[int, int, Any]]:
    """Yield agent, action, and what is known, for every destination of environment 0."""
    for agent in range(len(env.agents)):
        for action in range(1, env.num_actions):
            if env.scenario.arrays.destination[agent, action] >= 0:
                yield agent, action, what_is_known(env.scenario.arrays, env.state, 0, agent, action)


@pytest.mark.parametrize(("interval_s", "latency_s"), [(1.0, 0.05), (0.4, 1.3), (3.0, 0.0)])
def test_broadcasts_have_phase_delay_and_age(interval_s: float, latency_s: float) -> None:
    environment = small_environment(information={"kind": "broadcast", "interval_s": interval_s, "message_bits": 1e4})
    environment["links"]["latency_s"] = latency_s
    env = make_env(environment)
    rng = np.random.default_rng(0)
    delay = latency_s + 1e4 / 1e6
    history: dict[int, list[tuple[int, int]]] = {}
    for step in range(1, 39):
        env.step(random_actions(env, rng))
        for _agent, _action, (node, tasks, _wait, age, _sent, _sent_work, _true) in neighbours(env):
            phase = float(env.state.node[0, node]["phase_s"])
            assert 0 <= phase < interval_s
            if step < phase + delay:
                assert (tasks, age) == (0, step)
                continue
            sent_at = step - age
            turns = (sent_at - phase) / interval_s
            assert turns == pytest.approx(round(turns), abs=1e-9)
            assert delay - 1e-9 <= age < delay + interval_s + 1e-9
            history.setdefault(node, []).append((round(turns), tasks))
    for told in history.values():
        by_turn: dict[int, set[int]] = {}
        for turn, tasks in told:
            by_turn.setdefault(turn, set()).add(tasks)
        assert all(len(tasks) == 1 for tasks in by_turn.values()), "the same broadcast must say the same to all"
        assert len({tasks for _, tasks in told}) > 1


def test_links_too_slow_for_any_broadcast_cost_no_memory() -> None:
    environment = small_environment()
    environment["links"] = {"kind": "fixed", "rate_bps": 1e-3}
    env = make_env(environment)
    assert env.state.broadcast.shape[2] <= 64
    env.step(env.heuristic_actions("local"))
    assert all(found[1] == 0 for _, _, found in neighbours(env))


def test_fresh_information_is_the_true_state() -> None:
    env = make_env(small_environment(information={"kind": "fresh"}))
    rng = np.random.default_rng(0)
    for _ in range(30):
        env.step(random_actions(env, rng))
        for _agent, _action, (node, tasks, wait_s, age, sent, _sent_work, true_wait_s) in neighbours(env):
            assert tasks == env.state.node[0, node]["tasks"]
            assert wait_s == true_wait_s
            assert age == 0
            assert sent >= 0


def test_tasks_sent_are_known_until_a_broadcast_counts_them() -> None:
    environment = small_environment(information={"kind": "broadcast", "interval_s": 5})
    environment["workload"]["load"] = {"tasks_per_second_per_client": 0.4}
    environment["workload"]["deadline_s"] = None
    environment["score"] = {"drop_s": 40}
    environment["decisions"]["max_hops"] = 1
    env = make_env(environment, log=True)
    seen = 0
    for _ in range(39):
        env.step(np.where(env.masks[..., 1] == 1, 1, 0))
        now = float(env.state.episode[0]["now_s"])
        for agent, action, (_node, _tasks, _wait, age, sent, sent_work, _true) in neighbours(env):
            if action != 1:
                assert (sent, sent_work) == (0, 0)
                continue
            log = env.task_log(0)
            log_and_open = [*log[log["outcome"] != 0]] + [
                task for task in env.state.task[0] if task["stage"] != 0 and task["hops"] == 1
            ]
            origin = env.scenario.arrays.agent_node[agent]
            mine = [task for task in log_and_open if task["origin"] == origin and task["hops"] == 1]
            arrived_s = [t["created_s"] + t["holding_s"] + 0.05 + t["bits_in"] / 1e6 for t in mine]
            stamp = now - age
            expected = [task for task, arrival in zip(mine, arrived_s, strict=True) if arrival > stamp]
            assert sent == len(expected)
            assert sent_work == pytest.approx(sum(task["work"] for task in expected), abs=1e-3)
            seen += sent
    assert seen > 0


def test_observations_stay_in_their_range_and_have_names() -> None:
    env = make_env(small_environment(), 4)
    rng = np.random.default_rng(0)
    names = env.layout.names
    assert len(names) == env.observation_size
    assert names[FIRST_ROW + HERE_SIZE] == f"row_1.{ROW_FEATURES[0]}"
    done = False
    while not done:
        done = env.step(random_actions(env, rng))
        assert np.isfinite(env.observations).all()
        assert np.abs(env.observations).max() <= 1
        valid = env.observations[..., FIRST_ROW + HERE_SIZE :: ROW_SIZE]
        assert (valid == env.masks[..., 1:]).all()


def test_shortest_finish_takes_the_row_with_the_smallest_finish() -> None:
    env = make_env(small_environment(), 8)
    finish = env.layout.columns("finish")
    done = False
    chosen = 0
    while not done:
        actions = env.heuristic_actions("shortest_finish")
        rows = np.where(env.masks == 1, env.observations[..., finish], np.inf)
        choice = env.masks.sum(-1) > 1
        taken = np.take_along_axis(rows, actions[..., None], -1)[..., 0]
        assert (taken[choice] <= rows.min(-1)[choice] + 1e-6).all()
        chosen += int(choice.sum())
        done = env.step(actions)
    assert chosen > 100
