"""Credit in hindsight is what a decision costs: the total response time with its task minus that without it."""

from __future__ import annotations

import copy
import heapq
from typing import Any

import numpy as np
import pytest

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.costs import COUNTED, cost_table
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.rollout import hindsight
from offload_rllib.rollout.externalities import Course, Joined, charge_externalities, empty_course
from offload_rllib.rollout.hindsight import Present, decision_costs, hindsight_rewards, require_hindsight
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.simulator.types import EXPIRED, FINISHED, LATE, OPEN, QUEUE_FULL, SERVED, WAITING
from offload_rllib.training.rllib_config import algorithm_config

# Where decisions have a clock, credit comes at the steps of the decisions.
CLOCK = "decisions={when: interval, interval_s: 0.1, max_hops: 1}"

# End of the episode in which tasks join one node.
HORIZON_S = 210.0


def played_log(scenario: BuiltScenario) -> np.ndarray:
    """Return the log of an episode in which agents act at random."""
    env = ArrivalEnv(scenario, 1, log=True)
    env.reset(held_out_keys(0, 1))
    env.play("random")
    return env.task_log(0)


def fates(tasks: list[dict[str, float]], *, servers: int, capacity: int, bits: float) -> dict[int, tuple[float, int]]:
    """Return the weighted score of each task, and how it ends, by its number.

    A node that serves in order of arrival, event by event.
    """
    found: dict[int, tuple[float, int]] = {}
    events = [(task["joined_s"], 2, n) for n, task in enumerate(tasks)]
    heapq.heapify(events)
    waiting: list[int] = []
    served: set[int] = set()
    while events:
        now_s, kind, n = heapq.heappop(events)
        task = tasks[n]
        drop = task["weight"] * task["unfinished_s"]
        if kind == 2:  # joins
            inside = [*waiting, *served]
            if len(inside) >= capacity or sum(tasks[m]["bits"] for m in inside) + task["bits"] > bits:
                found[int(task["number"])] = drop, QUEUE_FULL
                continue
            waiting.append(n)
            heapq.heappush(events, (task["begin_until_s"], 1, n))
        elif kind == 1 and n in waiting:  # is late, and waits still
            waiting.remove(n)
            found[int(task["number"])] = drop, EXPIRED if now_s < HORIZON_S else OPEN
        elif kind == 0:  # leaves its server
            served.remove(n)
            end_s = now_s + task["return_s"]
            in_time = now_s == task["done_s"] and end_s <= task["end_until_s"]
            if in_time:
                outcome = LATE if end_s > task["deadline_s"] else FINISHED
                found[int(task["number"])] = task["weight"] * (end_s - task["created_s"]), outcome
            else:
                found[int(task["number"])] = drop, EXPIRED if task["end_until_s"] < HORIZON_S else OPEN
        while waiting and len(served) < servers:
            first = waiting.pop(0)
            served.add(first)
            tasks[first]["done_s"] = now_s + tasks[first]["service_s"]
            heapq.heappush(events, (min(tasks[first]["done_s"], tasks[first]["end_until_s"]), 0, first))
    return found


def joined(seed: int, *, deadlines: str, weighted: bool) -> Joined:
    """Return tasks that join one node."""
    rng = np.random.default_rng(seed)
    count = 200
    created_s = np.cumsum(rng.exponential(1.1, count))
    joined_s = created_s + rng.uniform(0.0, 0.3, count)
    order = np.argsort(joined_s)
    expires_s = created_s + rng.uniform(3.0, 9.0, count)
    never = np.full(count, np.inf)
    columns = Joined(
        joined_s=joined_s,
        service_s=rng.exponential(1.0, count),
        bits=rng.uniform(1.0, 2.0, count),
        begin_until_s=never if deadlines == "never" else expires_s,
        end_until_s=np.minimum(expires_s, HORIZON_S) if deadlines == "abort" else np.full(count, HORIZON_S),
        created_s=created_s,
        return_s=rng.uniform(0.0, 0.5, count),
        unfinished_s=np.full(count, 12.0),
        weight=rng.choice([0.5, 1.0, 8.0], count) if weighted else np.ones(count),
        deadline_s=expires_s,
        type=rng.integers(0, 2, count),
    )
    return Joined(*(column[order] for column in columns))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("deadlines", ["never", "queued", "abort"])
@pytest.mark.parametrize(
    ("servers", "capacity", "bits"),
    [(1, 1000, np.inf), (1, 4, np.inf), (3, 1000, np.inf), (2, 5, np.inf), (1, 50, 7.0)],
)
def test_what_a_task_costs_others_is_their_score_with_it_minus_that_without_it(
    servers: int, capacity: int, bits: float, deadlines: str, *, weighted: bool
) -> None:
    queue = joined(servers + capacity, deadlines=deadlines, weighted=weighted)
    if servers > 1:
        queue = queue._replace(service_s=servers * queue.service_s)
    count = len(queue.joined_s)
    charges, _ = cost_table([*COUNTED, "missed_share_of_b"], ["a", "b"])
    cost_s, counted = np.zeros(count), np.zeros((count, len(charges)))
    course = empty_course(count)
    scratch = empty_course(count), np.zeros((count + 1, servers)), np.zeros(servers)
    charge_externalities(queue, charges, capacity, bits, HORIZON_S, course, *scratch, cost_s, counted)
    tasks = [dict(zip((*Joined._fields, "number"), row, strict=True)) for row in zip(*queue, range(count), strict=True)]
    node = {"servers": servers, "capacity": capacity, "bits": bits}
    with_all = fates(copy.deepcopy(tasks), **node)
    np.testing.assert_allclose(queue.weight * course.score_s, [with_all[n][0] for n in range(count)], atol=1e-9)
    assert course.outcome.tolist() == [with_all[n][1] for n in range(count)]
    expected = []
    expected_counts = np.zeros(counted.shape)
    for n in range(count):
        without = fates(copy.deepcopy(tasks[:n] + tasks[n + 1 :]), **node)
        expected.append(sum(with_all[m][0] - score for m, (score, _) in without.items()))
        for m, (_, outcome) in without.items():
            expected_counts[n] += charges[:, queue.type[m], with_all[m][1]] - charges[:, queue.type[m], outcome]
    np.testing.assert_allclose(cost_s, expected, atol=1e-6)
    np.testing.assert_array_equal(counted, expected_counts)
    assert (cost_s > 0.5).mean() > 0.1
    # A task makes others be dropped, late or unfinished; one that is dropped for it may make room for others.
    assert (counted > 0).any()


@pytest.mark.parametrize(
    ("environment", "overrides"),
    [
        ("full_10", []),
        ("ether_12", []),
        ("relay_8", []),
        ("admission_5", []),
        ("memory_5", []),
        ("herd_20", ["horizon_s=100"]),
        ("ring_12", ["deadlines.expiry=queued", "score.drop_s=400"]),
    ],
)
def test_queues_are_played_as_they_were(
    environment: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[tuple[Joined, Course]] = []

    def watched(
        queue: Joined, charges: np.ndarray, tasks: int, bits: float, horizon_s: float, course: Course, *rest: Any
    ) -> None:
        charge_externalities(queue, charges, tasks, bits, horizon_s, course, *rest)
        played.append((queue, course))

    monkeypatch.setattr(hindsight, "charge_externalities", watched)
    scenario = build_scenario(load_environment(environment, overrides))
    log = played_log(scenario)
    decision_costs(scenario, log)
    ours = np.concatenate([course.score_s for _, course in played])
    joined_s, created_s = (np.concatenate([queue[at] for queue, _ in played]) for at in (0, 5))
    own = dict(zip(log["created_s"], log["ended_s"] - log["created_s"], strict=True))
    finished = set(log["created_s"][log["outcome"] == FINISHED])
    # Tasks that are unfinished at the end are left out, and those behind them find a shorter queue.
    until_s = min(log["created_s"][log["outcome"] == OPEN], default=np.inf)
    known = np.array([c in finished for c in created_s]) & (joined_s < until_s)
    expected = np.array([own[c] for c in created_s])
    # What expires on its way back has a result whose travel nobody has seen the end of.
    assert (np.abs(ours - expected)[known] < 1e-6).mean() > 0.98
    assert known.sum() > 50


def test_a_deadline_that_ends_no_task_changes_no_cost() -> None:
    costs, load = [], "workload.load={tasks_per_second_per_client: 0.9}"
    for deadline in ([], ["workload.deadline_s=1", "deadlines.expiry=never"]):
        scenario = build_scenario(load_environment("herd_20", ["horizon_s=100", load, *deadline]))
        require_hindsight(scenario)
        log = played_log(scenario)
        costs.append(decision_costs(scenario, log).score_s)
    assert (log["ended_s"] > log["deadline_s"]).sum() > 100
    np.testing.assert_array_equal(*costs)


def test_a_task_is_counted_itself() -> None:
    """Where few tasks meet, nearly all that a decision costs is what becomes of its own task."""
    overrides = ["workload.load={tasks_per_second_per_client: 0.005}", "workload.deadline_s={uniform: [0.5, 20]}"]
    overrides += ["score.drop_s=400"]
    for expiry in ("never", "abort"):
        scenario = build_scenario(load_environment("full_10", [*overrides, f"deadlines.expiry={expiry}"]))
        charges, _ = cost_table(["dropped_share", "late_share", "dropped_expired_share"], scenario.arriving.types)
        log = played_log(scenario)
        counted = decision_costs(scenario, log, charges=charges).counted
        dropped = ~np.isin(log["outcome"], (FINISHED, OPEN))
        late = (log["outcome"] == FINISHED) & (log["ended_s"] > log["deadline_s"])
        expected = np.stack([dropped, late, log["outcome"] == EXPIRED], 1)
        assert (counted == expected).all(1).mean() > 0.95
        assert 0.1 < (dropped | late).mean() < 0.9
        assert (late if expiry == "never" else dropped).any()


@pytest.mark.parametrize(
    ("environment", "rule", "overrides", "share", "within"),
    [
        ("full_10", "shortest_finish", [], 0.9, 0.0),
        ("ring_12", "shortest_finish", [], 0.9, 0.0),
        # What comes later still joins the queues of an overloaded network. In the first half of the tasks wait still.
        ("rush_9", "local", ["workload.load={tasks_per_second_per_client: 1.5}"], 0.99, 0.1),
        ("manual_5", "random", ["workload.load.rho=1.5", "drain_s=10"], 0.9, 0.1),
        ("triage_6", "random", ["workload.load.rho=1.5", "drain_s=10"], 0.85, 0.1),
    ],
)
def test_costs_are_mostly_known_when_drain_s_has_passed(
    environment: str, rule: str, overrides: list[str], share: float, within: float
) -> None:
    scenario = build_scenario(load_environment(environment, overrides))
    env = ArrivalEnv(scenario, 1, log=True)
    for key in held_out_keys(0, 2):  # nothing of the first episode is left in the second
        if env.state.episode["tasks_made"][0]:
            env.play("shortest_finish")
        env.reset(np.array([key]))
    until_s = 0.6 * (scenario.config.horizon_s - scenario.config.drain_s)
    while env.time_s[0] < until_s:
        env.step(env.heuristic_actions(rule))
    present, early = Present(float(env.time_s[0]), env.tasks_inside(0)), env.task_log(0)
    assert early["ended_s"].max() <= present.time_s
    env.play(rule)
    late = env.task_log(0)
    settled = np.flatnonzero(late["created_s"][: len(early)] < present.time_s - scenario.config.drain_s)
    # Who is unfinished at the end is known at the end.
    charges, _ = cost_table(["dropped_share"], scenario.arriving.types)
    of_early, of_late = (
        decision_costs(scenario, log, until, charges) for log, until in ((early, present), (late, None))
    )
    found, expected = of_early.score_s[settled], of_late.score_s[settled]
    assert len(settled) > 50
    counts, expected_counts = of_early.counted[settled], of_late.counted[settled]
    # Unfinished tasks count for the decisions on them alone, however many others they keep from finishing.
    unfinished, _ = cost_table(["unfinished_share"], scenario.arriving.types)
    assert np.isin(decision_costs(scenario, early, present, unfinished).counted, (0.0, 1.0)).all()
    dropping = expected_counts != 0
    assert environment == "rush_9" or (counts == expected_counts)[dropping].mean() > 0.8
    assert (counts == expected_counts).mean() > share
    if not within:  # where queues are short, what will become of those that wait is known
        waits = present.inside["number"][np.isin(present.inside["stage"], (WAITING, SERVED))]
        assert (of_early.counted[waits] == of_late.counted[waits]).mean() > share
    assert np.isclose(found, expected, rtol=within, atol=1e-6).mean() > share
    assert found.mean() == pytest.approx(expected.mean(), rel=0.1)


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
    charges, _ = cost_table(["missed_share", "dropped_share"], scenario.arriving.types)
    rewards, costs = hindsight_rewards(scenario, log, env.steps_per_episode, charges)
    assert (rewards[offered] < 0).all()
    found = decision_costs(scenario, log, charges=charges)
    at = np.rint((log["created_s"] + log["holding_s"]) / scenario.config.decisions.interval_s).astype(int)
    agent = log["origin"]
    for task in np.flatnonzero(at < env.steps_per_episode):
        assert costs[at[task], agent[task]] == pytest.approx(found.counted[task])
    assert (costs > 0).any()
    finished = log[log["outcome"] == FINISHED]
    # Nobody costs less than their own response.
    assert -rewards.sum() / scenario.config.reward.scale >= (finished["ended_s"] - finished["created_s"]).sum()


@pytest.mark.parametrize(
    ("environment", "overrides", "changes", "message"),
    [
        ("herd_20", [], {"gamma": 0.9}, "needs gamma 0"),
        ("herd_20", [CLOCK], {"batch_env_steps": 8000}, "multiple of runners x envs_per_runner"),
        ("ether_12", ["decisions={when: interval, max_hops: 2}"], {}, "needs decisions.max_hops: 1 with"),
        ("herd_20", [CLOCK, "tick_s=0.1", "information.interval_s=0.1"], {}, "tick_s: null"),
        ("priced_7", [], {}, "needs reward.energy_weight and price_weight: 0"),
        ("objectives_6", [], {}, "needs reward.energy_weight and price_weight: 0"),
    ],
)
def test_credit_in_hindsight_is_refused_where_costs_are_not_known(
    environment: str, overrides: list[str], changes: dict[str, Any], message: str
) -> None:
    algorithm = {"name": "PPO", "gamma": 0.0, "credit": "decisions", "batch_env_steps": 16000} | changes
    policy = {"algorithm": algorithm, "training": {"runners": 0, "envs_per_runner": 8}}
    with pytest.raises(ConfigError, match=message):
        algorithm_config(load_environment(environment, overrides), load_policy_config(policy), cpus=2)


@pytest.mark.parametrize(
    ("environment", "overrides", "constraints", "expected"),
    [
        ("ether_12", [], [], ("annealed", 0.99)),
        ("ether_12", [], ["dropped_share"], ("decisions", 0.0)),
        ("memory_5", [], ["dropped_share"], ("steps", 0.99)),
        ("ether_12", ["decisions={when: interval, interval_s: 1}"], [], ("steps", 0.99)),
        ("ether_12", ["reward={name: peersimgym}"], [], ("steps", 0.99)),
        ("herd_20", [], [], ("decisions", 0.0)),
        ("herd_20", [], ["dropped_share"], ("decisions", 0.0)),
        ("herd_20", ["reward.scope=team"], [], ("annealed", 0.99)),
        ("objectives_6", [], [], ("steps", 0.99)),
        ("memory_5", [], [], ("steps", 0.99)),
    ],
)
def test_auto_is_hindsight_where_costs_are_known(
    environment: str, overrides: list[str], constraints: list[str], expected: tuple[str, float]
) -> None:
    bounds = [{"figure": figure, "at_most": 0.02} for figure in constraints]
    policy = load_policy_config({"algorithm": {"name": "PPO", "credit": "auto", "constraints": bounds}})
    config: Any = algorithm_config(load_environment(environment, overrides), policy, cpus=2)
    assert (config.env_config["credit"], config.gamma) == expected
