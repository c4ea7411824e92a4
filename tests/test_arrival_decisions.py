"""Where decisions have no clock, every task is decided at the moment at which it arrives, with exact times."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import ARRIVAL, at_once, log_bytes, make_env, random_actions, recorded, small_environment
from helpers.information import what_is_known

from offload_rllib.config import ConfigError, load_environment, presets
from offload_rllib.config.decisions import Decisions
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import VectorEnv, held_out_keys, vector_env
from offload_rllib.simulator.types import FINISHED, OPEN

PARTS = ("holding_s", "waiting_s", "service_s", "transfer_s", "return_s")


def open_ended(**changes: Any) -> dict[str, Any]:
    """Return the same without deadlines and bounds, in which every task finishes in time or is still inside."""
    environment = at_once(horizon_s=400, score={"drop_s": 400}, **changes)
    environment["workload"]["deadline_s"] = None
    for node in environment["topology"]["nodes"]:
        node.pop("queue_capacity", None)
    return environment


def pending_task(env: ArrivalEnv, e: int = 0) -> int:
    """Return the number of the task that is to be decided."""
    node = env.scenario.arrays.agent_node[env.deciding[e]]
    return int(env.state.task[e]["number"][env.state.node[e]["held_head"][node]])


def play_through(env: ArrivalEnv, rule: str = "random") -> list[tuple[int, int, int]]:
    """Play the episode of the first environment; return who decided which task how."""
    decided = []
    while not env.truncated[0]:
        actions = env.heuristic_actions(rule)
        decided.append((int(env.deciding[0]), pending_task(env), int(actions[0])))
        env.step(actions)
    return decided


def test_response_times_follow_lindleys_recursion() -> None:
    env = make_env(open_ended(), log=True)
    decided = play_through(env)
    log, arrays = env.task_log(0), env.scenario.arrays
    routes: dict[int, list[int]] = {}
    for agent, task, action in decided:
        if action:
            routes.setdefault(task, []).append(int(arrays.destination[agent, action]))
    arrivals = []
    for number, task in enumerate(log):
        time_s, node, back_s = float(task["created_s"]), int(task["origin"]), 0.0
        for link in routes.get(number, []):
            there, back = arrays.link[link], arrays.link[arrays.link[link]["reverse"]]
            time_s += there["latency_s"] + task["bits_in"] * there["seconds_per_bit"]
            back_s += back["latency_s"] + task["bits_out"] * back["seconds_per_bit"]
            node = int(there["destination"])
        arrivals.append((time_s, number, node, back_s))
    # First come, first served: what is in service or waits goes first (D. V. Lindley, 1952).
    free_s = np.zeros(len(arrays.node))
    checked = 0
    for time_s, number, node, back_s in sorted(arrivals):
        begins_s = max(time_s, free_s[node])
        free_s[node] = begins_s + log[number]["work"] / arrays.node[node]["core_speed"]
        ends_s = free_s[node] + back_s
        if ends_s > 400:
            assert log[number]["outcome"] == OPEN
            continue
        assert log[number]["outcome"] == FINISHED
        assert log[number]["node"] == node
        assert log[number]["ended_s"] == pytest.approx(ends_s, abs=1e-9 * max(1.0, ends_s))
        assert log[number]["waiting_s"] == pytest.approx(begins_s - time_s, abs=1e-9 * max(1.0, ends_s))
        checked += 1
    assert checked > 700
    assert max(len(route) for route in routes.values()) == 2


def test_nothing_is_held_and_the_parts_of_a_response_add_up() -> None:
    env = make_env(at_once(horizon_s=200), log=True)
    play_through(env)
    log = env.task_log(0)
    finished = log[log["outcome"] == FINISHED]
    assert (log["holding_s"] == 0).all()
    response_s = finished["ended_s"] - finished["created_s"]
    assert response_s == pytest.approx(sum(finished[part] for part in PARTS), abs=1e-9 * 200)
    assert len(finished) > 100


def test_a_decision_comes_when_its_task_arrives() -> None:
    env = make_env(at_once(horizon_s=200), 3)
    arrays = env.scenario.arrays
    previous = np.zeros((3, len(env.agents)))
    count = np.zeros(3, int)
    fresh = 0
    while not env.truncated.any():
        for e in range(3):
            agent, node = env.deciding[e], arrays.agent_node[env.deciding[e]]
            assert env.state.node[e]["held"].sum() == 1
            assert env.state.node[e]["held"][node] == 1
            task = env.state.task[e][env.state.node[e]["held_head"][node]]
            assert env.time_s[e] == task["since_s"] == env.state.episode[e]["now_s"]
            fresh += int(task["hops"] == 0)
            assert task["hops"] > 0 or env.time_s[e] == task["created_s"]
            assert env.elapsed_s[e] == pytest.approx(env.time_s[e] - previous[e, agent], abs=1e-12)
            assert env.decisions[e] == count[e]
            previous[e, agent] = env.time_s[e]
        before = env.time_s.copy()
        env.step(random_actions(env, np.random.default_rng(int(count[0]))))
        count += 1
        assert (env.time_s >= before).all()
    assert fresh > 100
    ended = int(np.argmax(env.truncated))
    _, masks, _, elapsed_s = env.closing(ended)
    assert elapsed_s == pytest.approx(200 - previous[ended], abs=1e-12)
    assert (masks[:, 0] == 1).all()
    assert masks[:, 1:].sum() == 0
    assert env.deciding[ended] == -1
    assert env.time_s[ended] == 200
    assert env.state.episode["choices"][ended] == env.decisions[ended]


def test_tasks_of_one_instant_are_decided_one_after_the_other(tmp_path: Path) -> None:
    environment = recorded(tmp_path, 3, decisions=ARRIVAL)
    env = make_env(environment, log=True)
    seen = []
    while not env.truncated[0]:
        node = env.state.node[0, env.scenario.arrays.agent_node[env.deciding[0]]]
        seen.append((float(env.time_s[0]), float(env.elapsed_s[0]), int(node["tasks"])))
        env.step(np.zeros(1, int))
    # The first is served when the second comes, and the second waits: each decision sees those before it.
    assert seen[:3] == [(0.0, 0.0, 1), (0.0, 0.0, 2), (0.0, 0.0, 3)]
    assert [time_s for time_s, _, _ in seen[3:]] == [1.0, 2.5]
    assert env.task_log(0)["waiting_s"].tolist() == [0.0, 1.0, 2.0, 2.0, 1.5]


@pytest.mark.parametrize("rule", ["random", "shortest_finish", "round_robin", "keep_first", "shortest_finish_oracle"])
def test_a_rule_in_the_kernel_and_step_by_step_and_in_any_batch_gives_the_same_bits(rule: str) -> None:
    alone = make_env(at_once(horizon_s=100), log=True)
    play_through(alone, rule)
    expected, figures = log_bytes(alone, 0), alone.episode_metrics(0)
    batch = make_env(at_once(horizon_s=100), 5, log=True)
    keys = held_out_keys(9, 5)
    keys[3] = held_out_keys(0, 1)[0]
    batch.reset(keys)
    batch.play(rule)
    assert batch.truncated.all()
    assert log_bytes(batch, 3) == expected
    assert batch.episode_metrics(3) == figures
    batch.reset(keys)
    while not batch.truncated.all():
        batch.step(batch.heuristic_actions(rule))
    assert log_bytes(batch, 3) == expected


def test_observations_and_rewards_do_not_depend_on_the_batch() -> None:
    alone, batch = make_env(at_once()), make_env(at_once(), 4)
    keys = held_out_keys(9, 4)
    keys[2] = held_out_keys(0, 1)[0]
    batch.reset(keys)
    steps = 0
    while not alone.truncated[0]:
        assert (alone.observations[0] == batch.observations[2]).all()
        assert (alone.masks[0] == batch.masks[2]).all()
        assert alone.rewards[0] == batch.rewards[2]
        assert alone.deciding[0] == batch.deciding[2]
        seen, masks = batch.observe_all(2)
        assert (seen[batch.deciding[2]] == batch.observations[2]).all()
        assert (masks[batch.deciding[2]] == batch.masks[2]).all()
        assert np.delete(masks, batch.deciding[2], axis=0)[:, 1:].sum() == 0
        joint = np.zeros((4, *seen.shape), np.float32)
        batch.observe_joint(joint)
        assert (joint[2] == seen).all()
        alone.step(alone.heuristic_actions("random"))
        batch.step(batch.heuristic_actions("random"))
        steps += 1
    assert steps > 50
    assert batch.truncated[2]
    for one, other in zip(alone.closing(0), batch.closing(2), strict=True):
        assert (one == other).all()


def test_nodes_that_follow_a_rule_decide_as_agents_under_that_rule_would() -> None:
    everyone = make_env(at_once(horizon_s=100), log=True)
    play_through(everyone, "shortest_finish")
    some = make_env(at_once(horizon_s=100, agents={"nodes": ["c"], "others": "shortest_finish"}), log=True)
    decided = play_through(some, "shortest_finish")
    assert {agent for agent, _, _ in decided} == {0}
    assert log_bytes(some, 0) == log_bytes(everyone, 0)


def scope_of(env: ArrivalEnv, agent: int) -> tuple[list[int], int]:
    """Return the nodes that an agent's reward is averaged over, and by what their sum is divided."""
    arrays = env.scenario.arrays
    scope = env.scenario.config.reward.scope
    if scope == "team":
        return list(range(len(arrays.node))), len(env.agents)
    n = int(arrays.agent_node[agent])
    nodes = [n]
    if scope == "neighbourhood":
        nodes += arrays.link["destination"][arrays.link["source"] == n].tolist()
    return nodes, len(nodes)


@pytest.mark.parametrize("scope", ["own", "neighbourhood", "team"])
@pytest.mark.parametrize("expiry", ["abort", "queued", "never"])
def test_delay_is_the_integral_between_decisions_and_sums_to_all_response_times(scope: str, expiry: str) -> None:
    environment = at_once(
        horizon_s=60,
        reward={"name": "delay", "scope": scope, "drop_penalty_s": 0.5},
        deadlines={"expiry": expiry},
        score={"drop_s": 70, "weights": {"type_0": 0.3}},
    )
    env = make_env(environment, log=True)
    earned = []
    since = np.zeros(len(env.agents))
    while not env.truncated[0]:
        agent = int(env.deciding[0])
        earned.append((agent, since[agent], float(env.time_s[0]), float(env.rewards[0])))
        since[agent] = env.time_s[0]
        env.step(env.heuristic_actions("random"))
    closing = env.closing(0)[2]
    earned += [(agent, since[agent], 60.0, float(closing[agent])) for agent in range(len(env.agents))]
    log = env.task_log(0)
    weight = env.scenario.arrays.type_weight[log["type"]]
    ended_s = np.where(log["outcome"] == OPEN, 60.0, log["ended_s"])
    dropped = log["outcome"] > FINISHED
    latest_s = np.where(expiry == "abort", log["deadline_s"], 60.0)
    price_s = np.maximum(np.maximum(latest_s - log["created_s"], ended_s - log["created_s"]), 70.0)
    cost = np.where(dropped, price_s - (ended_s - log["created_s"]) + 0.5, 0.0)
    assert dropped.sum() > 10
    for agent, from_s, until_s, reward in earned:
        nodes, divisor = scope_of(env, agent)
        mine = np.isin(log["origin"], nodes)
        overlap = np.clip(np.minimum(ended_s, until_s) - np.maximum(log["created_s"], from_s), 0.0, None)
        falls_due = (ended_s > from_s) & (ended_s <= until_s)
        expected = -(weight * (overlap + cost * falls_due))[mine].sum() / divisor
        assert reward == pytest.approx(expected, rel=2e-6, abs=1e-5)
    if scope == "own":
        total = sum(reward for _, _, _, reward in earned)
        assert total == pytest.approx(-(weight * (ended_s - log["created_s"] + cost)).sum(), rel=1e-6)


def test_sparse_counts_what_ended_since_the_last_decision() -> None:
    env = make_env(at_once(horizon_s=60, reward={"name": "sparse", "scope": "own"}), log=True)
    total = np.zeros(len(env.agents))
    while not env.truncated[0]:
        total[env.deciding[0]] += env.rewards[0]
        env.step(env.heuristic_actions("random"))
    total += env.closing(0)[2]
    log = env.task_log(0)
    for agent, node in enumerate(env.scenario.arrays.agent_node):
        mine = log["outcome"][log["origin"] == node]
        assert total[agent] == (mine == FINISHED).sum() - (mine > FINISHED).sum()


def test_shaping_discounts_by_the_time_between_decisions() -> None:
    shaping = {"potential": "tasks", "gamma": 0.9, "discount_s": 2.0, "weight": 3.0}
    plain = make_env(at_once(reward={"scope": "own", "scale": 0.5}))
    shaped = make_env(at_once(reward={"scope": "own", "scale": 0.5, "shaping": shaping}))
    before = np.zeros(len(plain.agents))
    steps = 0
    while not plain.truncated[0]:
        agent = int(plain.deciding[0])
        now = -float(plain.state.node[0]["tasks"][plain.scenario.arrays.agent_node[agent]])
        extra = 0.5 * 3.0 * (0.9 ** (plain.elapsed_s[0] / 2.0) * now - before[agent])
        assert shaped.rewards[0] == pytest.approx(plain.rewards[0] + extra, rel=1e-5, abs=1e-5)
        before[agent] = now
        plain.step(plain.heuristic_actions("random"))
        shaped.step(shaped.heuristic_actions("random"))
        steps += 1
    assert steps > 30


def test_paper_pays_for_a_decision_at_the_next_one() -> None:
    reward = {"name": "paper", "scope": "own", "waiting_weight": 0.0, "overload_weight": 0.0, "utility": 3.0}
    env = make_env(at_once(reward=reward))
    arrays = env.scenario.arrays
    owed = np.zeros(len(env.agents))
    while not env.truncated[0]:
        agent = int(env.deciding[0])
        assert env.rewards[0] == pytest.approx(owed[agent], rel=1e-5, abs=1e-5)
        action = int(env.heuristic_actions("random")[0])
        here = arrays.node[arrays.agent_node[agent]]
        task = env.state.task[0][env.state.node[0]["held_head"][arrays.agent_node[agent]]]
        owed[agent] = 3.0
        if action:
            link = arrays.link[arrays.destination[agent, action]]
            speed = arrays.node[link["destination"]]["speed"]
            owed[agent] -= link["latency_s"] + task["bits_in"] * link["seconds_per_bit"]
            owed[agent] -= task["work"] / speed - task["work"] / here["speed"]
        env.step(np.array([action]))
    assert env.closing(0)[2] == pytest.approx(owed, rel=1e-5, abs=1e-5)


def counts_tasks(view: Any) -> np.ndarray:
    """Pay every node the number of tasks there; a reward of a user's own."""
    assert view.observations.shape[1] == view.masks.shape[1] == len(np.unique(view.deciding[:1]))
    return view.state.node["tasks"].astype(float)


def first_numbers(view: Any) -> np.ndarray:
    """Show three of the numbers; an observation of a user's own."""
    return view.observations[..., :3]


def always_last(view: Any) -> np.ndarray:
    """Take the last valid action; a heuristic of a user's own."""
    return view.masks.shape[-1] - 1 - np.argmax(view.masks[..., ::-1], axis=-1)


def test_functions_of_the_users_see_the_deciding_agent() -> None:
    here = "test_arrival_decisions"
    reward = {"name": f"{here}:counts_tasks", "scope": "own"}
    env = make_env(at_once(reward=reward, observe=f"{here}:first_numbers"), 2)
    whole = make_env(at_once(), 2)
    paid = np.zeros((2, len(env.agents)))
    got = np.zeros((2, len(env.agents)))
    nodes = env.scenario.arrays.agent_node
    was_live = np.ones(2, bool)
    while True:
        paid += np.where(was_live[:, None], env.state.node["tasks"][:, nodes], 0)
        for e in np.flatnonzero(~env.truncated):
            got[e, env.deciding[e]] += env.rewards[e]
            assert (env.observations[e] == whole.observations[e, :3]).all()
        if env.truncated.all():
            break
        was_live = ~env.truncated
        actions = env.heuristic_actions(f"{here}:always_last")
        assert (actions[was_live] == env.num_actions - 1).all()
        env.step(actions)
        whole.step(actions)
    for e in range(2):
        assert got[e] + env.closing(e)[2] == pytest.approx(paid[e])


def finished_minus_dropped(view: Any) -> np.ndarray:
    """Pay what `sparse` pays, from the accounts of the step."""
    return view.state.node["own_finished"] - view.state.node["own_dropped"]


@pytest.mark.parametrize("scope", ["neighbourhood", "team"])
def test_a_function_finds_the_accounts_of_the_step(scope: str) -> None:
    own = make_env(at_once(reward={"name": "test_arrival_decisions:finished_minus_dropped", "scope": scope}))
    theirs = make_env(at_once(reward={"name": "sparse", "scope": scope}))
    paid = 0.0
    while not own.truncated[0]:
        assert own.rewards[0] == pytest.approx(theirs.rewards[0], abs=1e-5)
        paid += abs(float(own.rewards[0]))
        for env in (own, theirs):
            env.step(env.heuristic_actions("random"))
    assert own.closing(0)[2] == pytest.approx(theirs.closing(0)[2], abs=1e-5)
    assert paid > 10


def test_neighbours_know_what_was_true_at_the_last_broadcast_that_arrived() -> None:
    information = {"interval_s": 0.7, "message_bits": 1e5}  # 0.15 s on the way
    env = make_env(open_ended(decisions={"when": "arrival", "max_hops": 1}, information=information), log=True)
    arrays = env.scenario.arrays
    told = []
    while not env.truncated[0]:
        agent = int(env.deciding[0])
        for action in (1, 2):
            n, tasks, _, age_s, sent, _, _ = what_is_known(arrays, env.state, 0, agent, action)
            told.append((env.time_s[0], arrays.agent_node[agent], n, tasks, age_s, sent))
        env.step(env.heuristic_actions("random"))
    phase_s = env.state.node[0]["phase_s"]
    log = env.task_log(0)
    enters_s = log["created_s"] + log["transfer_s"]
    leaves_s = np.where(log["outcome"] == FINISHED, log["ended_s"] - log["return_s"], np.inf)
    seen = set()
    for now_s, here, there, tasks, age_s, sent in told:
        over = (log["origin"] == here) & (log["hops"] == 1) & (log["node"] == there) & (log["created_s"] < now_s)
        turn = np.floor((now_s - 0.15 - phase_s[there]) / 0.7)
        stamp_s = phase_s[there] + turn * 0.7
        if turn < 0:
            assert (tasks, age_s, sent) == (0, now_s, over.sum())
            continue
        assert age_s == pytest.approx(now_s - stamp_s, abs=1e-9)
        assert tasks == ((log["node"] == there) & (enters_s <= stamp_s) & (leaves_s > stamp_s)).sum()
        assert sent == (over & (enters_s > stamp_s)).sum()
        seen.add((tasks > 0, sent > 0))
    assert len(seen) == 4
    assert len(told) > 1000


def test_a_shorter_interval_comes_ever_closer() -> None:
    exact = make_env(open_ended(), log=True)
    exact.play("local")
    expected = exact.task_log(0)
    for interval_s in (0.1, 0.01):
        clocked = make_env(open_ended(decisions={"interval_s": interval_s, "max_hops": 2}), log=True)
        while not clocked.step(clocked.heuristic_actions("local")):
            pass
        log = clocked.task_log(0)
        both = (log["outcome"] == FINISHED) & (expected["outcome"] == FINISHED)
        late_s = (log["ended_s"] - expected["ended_s"])[both]
        # A task that is kept begins at most one interval later, and nothing overtakes it.
        assert late_s.min() >= -1e-9
        assert late_s.max() <= interval_s + 1e-9
        assert late_s.mean() > 0.1 * interval_s
        assert both.sum() > 600


def test_an_episode_without_a_decision_has_ended_at_its_reset() -> None:
    environment = at_once()
    environment["workload"]["load"] = {"tasks_per_second_per_client": 1e-9}
    env = make_env(environment, 2)
    assert env.truncated.all()
    assert (env.time_s == 40).all()
    assert (env.closing(1)[3] == 40).all()
    with pytest.raises(RuntimeError, match="all episodes have ended"):
        env.step(np.zeros(2, int))


def test_an_environment_that_has_ended_waits_for_its_reset() -> None:
    env = make_env(at_once(), 3, log=True)
    while env.truncated.sum() < 1:
        env.step(env.heuristic_actions("local"))
    ended = int(np.argmax(env.truncated))
    before = log_bytes(env, ended)
    live = int(np.argmin(env.truncated))
    time_s = env.time_s[live]
    assert env.step(env.heuristic_actions("local"))
    assert log_bytes(env, ended) == before
    assert env.time_s[live] > time_s
    env.reset(held_out_keys(3, 1), np.array([ended]))
    assert not env.truncated[ended]
    assert env.decisions[ended] == 0
    assert env.time_s[live] > time_s


@pytest.mark.parametrize("name", ["delay", "paper", "test_arrival_decisions:counts_tasks"])
def test_nothing_of_an_episode_is_paid_in_the_next(name: str) -> None:
    reward = {"name": name, "scope": "team"}
    new, used = make_env(at_once(reward=reward)), make_env(at_once(reward=reward))
    while not used.truncated[0]:
        used.step(used.heuristic_actions("random"))
    used.reset(held_out_keys(0, 1))
    paid = 0.0
    while not new.truncated[0]:
        assert used.rewards[0] == new.rewards[0]
        assert used.elapsed_s[0] == new.elapsed_s[0]
        paid += abs(float(new.rewards[0]))
        for env in (new, used):
            env.step(env.heuristic_actions("random"))
    assert used.truncated[0]
    assert (used.closing(0)[2] == new.closing(0)[2]).all()
    assert paid > 10


@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_a_copy_goes_on_as_the_original_does(when: str) -> None:
    env = make_env(at_once() if when == "arrival" else small_environment(), 2, log=True)
    for _ in range(20):
        env.step(env.heuristic_actions("random"))
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):  # noqa: S301 - our own
        original = copy.deepcopy(env)
        for _ in range(15):
            for played in (other, original):
                played.step(played.heuristic_actions("random"))
            for name in ("observations", "masks", "rewards"):
                assert (getattr(other, name) == getattr(original, name)).all()
                assert (getattr(other, name) != getattr(env, name)).any() or name == "masks"
        assert log_bytes(other, 1) == log_bytes(original, 1) != log_bytes(env, 1)
        full = other._full[:, 0] if when == "arrival" else other._full
        assert np.shares_memory(other.observations, full)
        assert np.shares_memory(other.masks, other._masks)


def test_growing_arrays_change_nothing() -> None:
    environment = open_ended()
    environment["workload"]["load"] = {"tasks_per_second_per_client": 20.0}
    env, other = make_env(environment, 2, log=True), make_env(environment, 1, log=True)
    slots = env.state.task.shape[1]
    play_through(other, "round_robin")
    env.play("round_robin")
    assert env.state.task.shape[1] > slots, "the scenario was meant to outgrow its arrays"
    assert log_bytes(env, 0) == log_bytes(other, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["decisions.interval_s=0.5"], r"interval_s: 0.5 needs when: interval.*Accepted: no interval_s, or 0"),
        (["decisions.tasks_per_decision=2"], r"tasks_per_decision: 2 needs when: interval.*Accepted: 1"),
        (["decisions.offer=newest"], r"offer: newest needs when: interval.*Accepted: arrival"),
        (["tick_s=1"], r"tick_s: 1 needs decisions.when: interval.*Accepted: no tick_s"),
        (["decisions={when: interval, interval_s: 0}"], r"interval_s: must be above 0 with when: interval"),
        (["decisions.when=sometimes"], r"decisions.when"),
        (
            ["agents={nodes: [a], others: 'test_arrival_decisions:always_last'}"],
            r"agents.others: the function .* needs decisions.when: interval",
        ),
    ],
)
def test_what_needs_a_clock_is_refused_by_name(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vector_env(at_once(), 1, overrides=changes)


def test_tasks_are_decided_when_they_arrive_unless_a_clock_is_asked_for() -> None:
    assert Decisions() == Decisions(when="arrival")
    assert Decisions().interval_s == 0
    assert Decisions(when="interval").interval_s == 1
    assert {name for name in presets("envs") if load_environment(name).decisions.when == "interval"} == {
        "paper_ether_12"
    }


def test_a_resolved_configuration_can_be_read_again() -> None:
    config = load_environment(at_once())
    again = load_environment(config.model_dump(mode="json"))
    assert again == config
    assert again.decisions.interval_s == 0
    assert isinstance(vector_env(again), ArrivalEnv)
    assert isinstance(vector_env(small_environment()), VectorEnv)


def test_a_strict_environment_names_the_agent_that_decides() -> None:
    env = make_env(at_once(decisions=ARRIVAL | {"strict": True}))
    name = env.agents[env.deciding[0]]
    with pytest.raises(ValueError, match=rf"agent '{name}' of environment 0: action 7 is not valid now; accepted: "):
        env.step(np.array([7]))
    several = make_env(at_once(decisions=ARRIVAL | {"strict": True}), 3)
    while not several.truncated.any():
        several.step(several.heuristic_actions("local"))
    several.step(np.where(several.truncated, 7, 0))
    wild = make_env(at_once())
    wild.step(np.array([7]))
    assert wild.state.episode["masked_actions"][0] == 1
    with pytest.raises(ValueError, match=r"actions must have shape \(1,\) \(environments\), is \(1, 1\)"):
        wild.step(np.zeros((1, 1), int))
