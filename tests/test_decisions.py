"""Every task is a decision, and a decision does what it says."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.environments import make_env, random_actions, small_environment

from offload_rllib.simulator.types import FINISHED, HELD


def test_a_task_is_held_until_its_nodes_next_decision() -> None:
    env = make_env(small_environment(), log=True)
    while not env.step(env.heuristic_actions("local")):
        pass
    log = env.task_log(0)
    finished = log[log["outcome"] == FINISHED]
    decided = finished["created_s"] + finished["holding_s"]
    assert np.allclose(decided, np.round(decided), atol=1e-9)
    assert (finished["holding_s"] > 0).all()


def test_masks_allow_neighbours_only_with_a_task_on_offer() -> None:
    env = make_env(small_environment(), 4)
    rng = np.random.default_rng(0)
    done = False
    while not done:
        held = env.state.node["held"][:, env.scenario.arrays.agent_node] > 0
        assert (env.masks[..., 0] == 1).all()
        exists = env.scenario.arrays.destination[:, 1:] >= 0
        assert (env.masks[..., 1:] == (held[..., None] & exists)).all()
        done = env.step(random_actions(env, rng))


def test_no_task_makes_more_hops_than_allowed() -> None:
    for bound in (1, 2, 3):
        env = make_env(small_environment(decisions={"max_hops": bound}), log=True)
        done = False
        while not done:
            done = env.step(np.where(env.masks[..., -1] == 1, env.num_actions - 1, 0))
        assert env.task_log(0)["hops"].max() == bound


def test_an_action_that_is_not_valid_acts_as_zero_and_is_counted() -> None:
    kept, wild = make_env(small_environment()), make_env(small_environment())
    counted = 0
    done = False
    while not done:
        actions = np.where(wild.masks.sum(-1) == 1, 1, 0)  # a neighbour although nothing is on offer
        actions[0, 0] = 99 if wild.masks[0, 0].sum() == 1 else 0
        counted += int((actions != 0).sum())
        kept.step(np.zeros_like(actions))
        done = wild.step(actions)
        assert (kept.observations == wild.observations).all()
    assert counted > 0
    assert wild.episode_metrics(0)["masked_actions"] == counted
    assert kept.episode_metrics(0)["masked_actions"] == 0


def test_strict_environments_name_the_agent_and_what_is_accepted() -> None:
    env = make_env(small_environment(decisions={"strict": True}))
    with pytest.raises(ValueError, match=r"agent 'a' .* action 7 is not valid now; accepted: \[0\]"):
        env.step(np.array([[7] + [0] * (len(env.agents) - 1)]))


def test_decided_tasks_go_in_order_of_arrival_one_per_decision() -> None:
    environment = small_environment(decisions={"interval_s": 2, "max_hops": 1})
    environment["workload"]["load"] = {"tasks_per_second_per_client": 2.0}
    environment["workload"]["deadline_s"] = None
    environment["score"] = {"drop_s": 40}
    env = make_env(environment, log=True)
    done = False
    while not done:
        before = env.state.node[0]["held"].copy()
        done = env.step(np.zeros(env.rewards.shape))
        stages = env.state.task[0]
        for n in np.unique(stages["node"][stages["stage"] == HELD]):
            waiting = stages[(stages["stage"] == HELD) & (stages["node"] == n)]
            order = []
            slot = int(env.state.node[0, n]["held_head"])
            while slot >= 0:
                order.append(float(stages[slot]["created_s"]))
                slot = int(stages[slot]["held_next"])
            assert order == sorted(order)
            assert len(order) == len(waiting)
        assert (env.state.node[0]["held"] >= before - 1).all()


def test_after_the_end_a_reset_is_needed() -> None:
    env = make_env(small_environment())
    while not env.step(np.zeros(env.rewards.shape)):
        pass
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(env.rewards.shape))


def test_actions_must_have_one_entry_per_environment_and_agent() -> None:
    env = make_env(small_environment())
    with pytest.raises(ValueError, match=r"shape \(1, 4\)"):
        env.step(np.zeros(3))
