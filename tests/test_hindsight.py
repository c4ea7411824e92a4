"""Credit in hindsight is what a decision costs: the total response time with its task minus that without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.rollout.hindsight import charge_delays, decision_costs, hindsight_rewards, require_hindsight
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import FINISHED, NONE
from offload_rllib.training.rllib_config import algorithm_config

# Where decisions have a clock, credit comes at the steps of the decisions.
CLOCK = "decisions={when: interval, interval_s: 0.1, max_hops: 1}"


def waits(joined_s: np.ndarray, service_s: np.ndarray) -> np.ndarray:
    """Return the waits of tasks served in order of arrival by one server: Lindley's recursion."""
    free_s, found = 0.0, []
    for joined, service in zip(joined_s, service_s, strict=True):
        found.append(max(free_s - joined, 0.0))
        free_s = max(free_s, joined) + service
    return np.array(found)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_tasks_cost_is_the_total_time_with_it_minus_the_total_time_without_it(*, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    count = 300
    joined_s, service_s = np.cumsum(rng.exponential(1.1, count)), rng.exponential(1.0, count)
    wait_s = waits(joined_s, service_s)
    response_s = wait_s + service_s
    weight = rng.choice([0.5, 1.0, 8.0], count) if weighted else np.ones(count)
    cost_s = weight * response_s
    scratch = np.full(1, NONE, np.int64), np.full(count, NONE, np.int64), np.zeros(count)
    charge_delays(np.zeros(count, np.int64), wait_s, service_s, weight, *scratch, cost_s)
    without = [np.delete(np.arange(count), i) for i in range(count)]
    left_s = [weight[kept] @ (waits(joined_s[kept], service_s[kept]) + service_s[kept]) for kept in without]
    np.testing.assert_allclose(cost_s, weight @ response_s - np.array(left_s), atol=1e-6)
    assert (cost_s > 1.5 * weight * response_s).mean() > 0.3  # most of the cost is that of others


def test_a_deadline_that_ends_no_task_changes_no_cost() -> None:
    costs, load = [], "workload.load={tasks_per_second_per_client: 0.9}"
    for deadline in ([], ["workload.deadline_s=1", "deadlines.expiry=never"]):
        scenario = build_scenario(load_environment("herd_20", ["horizon_s=100", load, *deadline]))
        require_hindsight(scenario)
        env = ArrivalEnv(scenario, 1, log=True)
        env.reset(held_out_keys(0, 1))
        env.play("random")
        log = env.task_log(0)
        costs.append(decision_costs(scenario, log))
    assert (log["ended_s"] > log["deadline_s"]).sum() > 100
    np.testing.assert_array_equal(*costs)


def test_every_task_is_paid_at_the_step_of_its_decision() -> None:
    scenario = build_scenario(load_environment("herd_20", [CLOCK, "horizon_s=40", "warmup_s=5", "drain_s=5"]))
    env = VectorEnv(scenario, 1, log=True)
    env.reset(held_out_keys(0, 1))
    offered = np.zeros((env.steps_per_episode, len(env.agents)), bool)
    done = False
    while not done:
        offered[int(env.state.episode["step"][0])] = env.masks[0].sum(-1) > 1
        done = env.step(env.heuristic_actions("random"))
    log = env.task_log(0)
    rewards = hindsight_rewards(scenario, log, env.steps_per_episode)
    assert (rewards[offered] < 0).all()
    finished = log[log["outcome"] == FINISHED]
    # Nobody costs less than their own response.
    assert -rewards.sum() / scenario.config.reward.scale >= (finished["ended_s"] - finished["created_s"]).sum()


@pytest.mark.parametrize(
    ("environment", "overrides", "changes", "message"),
    [
        ("herd_20", [], {"gamma": 0.9}, "needs gamma 0"),
        ("herd_20", [CLOCK], {"batch_env_steps": 8000}, "multiple of runners x envs_per_runner"),
        ("ether_12", [], {}, "needs decisions.max_hops: 1"),
    ],
)
def test_credit_in_hindsight_is_refused_where_it_is_not_exact(
    environment: str, overrides: list[str], changes: dict[str, Any], message: str
) -> None:
    algorithm = {"name": "PPO", "gamma": 0.0, "credit": "decisions", "batch_env_steps": 16000} | changes
    policy = {"algorithm": algorithm, "training": {"runners": 0, "envs_per_runner": 8}}
    with pytest.raises(ConfigError, match=message):
        algorithm_config(load_environment(environment, overrides), load_policy_config(policy), cpus=2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["links.loss_probability=0.01"], "loss_probability: 0 on every link .*above 0"),
        (["link_overrides=[{between: [n0, n1], loss_probability: 0.01}]"], "loss_probability: 0 on every link"),
        (["links.contention=fifo"], "contention: none on every link .*fifo"),
        (["link_overrides=[{between: [n0, n1], contention: fifo}]"], "contention: none on every link"),
        (
            ["link_overrides=[{between: [n0, n1], medium: {kind: fixed, rate_bps: 1e6, contention: fifo}}]"],
            "contention: none on every link",
        ),
        ([CLOCK, "tick_s=0.1", "information.interval_s=0.1"], "tick_s: null"),
        (["queue=sjf"], "queue: fifo"),
        (["workload.deadline_s=5"], "workload.deadline_s: null, or deadlines.expiry: never"),
        (["decisions.reject=true"], "decisions.reject: false"),
        (["setup={duration_s: 0.5}"], "setup: null"),
    ],
)
def test_credit_in_hindsight_needs_delays_that_are_all_known(overrides: list[str], message: str) -> None:
    scenario = build_scenario(load_environment("herd_20"))
    require_hindsight(scenario)
    a, b, *_ = (node.name for node in scenario.network.nodes)
    named = [text.replace("n0", a).replace("n1", b) for text in overrides]
    changed = build_scenario(load_environment("herd_20", ["score.drop_s=1000", *named]))
    with pytest.raises(ConfigError, match=f"needs {message}"):
        require_hindsight(changed)


def test_credit_in_hindsight_needs_a_processor_everywhere() -> None:
    scenario = build_scenario(load_environment("relay_8"))
    with pytest.raises(ConfigError, match=r"needs instructions_per_second: above 0 at every node .*given: 0"):
        require_hindsight(scenario)
