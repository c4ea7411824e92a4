"""Rules do what they say, and users' own are accepted wherever a rule is."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import RULES_THAT_NEED_MORE, log_bytes, make_env, random_actions, small_environment
from helpers.pages import example

from offload_rllib.config import load_environment
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.scenario.build import check_rule, fitting_rules
from offload_rllib.simulator.batch import env_slice
from offload_rllib.simulator.heuristics import BASELINES, HEURISTICS
from offload_rllib.simulator.information import true_state
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.types import NONE, TRANSFERRED


@kernel
def _true(scenario, state, e, agent, action):
    environment = env_slice(state, e)
    there = true_state(scenario, environment, agent, action, environment.episode[0].now_s)
    return there.wait_s, there.sent_tasks, there.sent_work


PAGE = Path(__file__).parents[1] / "docs" / "heuristics.md"


def rows(env: VectorEnv, name: str) -> np.ndarray:
    """Return one feature [E, A, R] of all rows; infinite where an action is not valid."""
    index = [column for column, feature in enumerate(env.layout.names) if re.fullmatch(rf"row_\d+\.{name}", feature)]
    return np.where(env.masks == 1, env.observations[..., index], np.inf)


def task(env: VectorEnv, name: str) -> np.ndarray:
    return env.observations[..., env.layout.names.index(f"task.{name}")]


def choices_of(rule: str, environment: Any = None, steps: int = 60, envs: int = 8) -> Any:
    """Yield (env, actions, where there is a choice) while an environment is played at random."""
    env = make_env(environment or small_environment(horizon_s=2 * steps), envs)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield env, env.heuristic_actions(rule), env.masks.sum(-1) > 1
        env.step(random_actions(env, rng))


def chosen(values: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, actions[..., None], -1)[..., 0]


@pytest.mark.parametrize(
    ("rule", "feature"), [("least_fill", "tasks"), ("shortest_finish", "finish"), ("size_interval:1e9", "finish")]
)
def test_rules_that_minimise_a_feature(rule: str, feature: str) -> None:
    seen = 0
    for env, actions, choice in choices_of(rule):
        values = rows(env, feature)
        assert (chosen(values, actions)[choice] <= values.min(-1)[choice] + 1e-6).all()
        seen += int(choice.sum())
    assert seen > 300


def test_round_robin_takes_all_actions_in_turn_from_a_random_first_one() -> None:
    env = make_env(small_environment(), 64)
    turns: dict[tuple[int, int], list[int]] = {}
    done = False
    while not done:
        actions = env.heuristic_actions("round_robin")
        for e, a in np.argwhere(env.masks.sum(-1) > 1):
            turns.setdefault((e, a), []).append(int(actions[e, a]))
        done = env.step(actions)
    for taken in turns.values():
        assert taken == [(taken[0] + i) % 3 for i in range(len(taken))]
    first = np.array([taken[0] for taken in turns.values()])
    assert (np.bincount(first, minlength=3) > len(first) / 5).all()


def test_power_of_two_never_takes_the_longest_queue_alone_and_sometimes_not_the_shortest() -> None:
    shortest = total = 0
    for env, actions, choice in choices_of("power_of_two", small_environment(information={"kind": "fresh"}), steps=35):
        arrays, node, link = env.scenario.arrays, env.state.node, env.state.link
        for e, a in np.argwhere(choice):
            queues = [int(node[e, a]["tasks"]) - 1]
            for index in arrays.destination[a, 1:]:
                n = arrays.link[index]["destination"]
                queues.append(int(node[e, n]["tasks"] + link[e, index]["sent"] - link[e, index]["arrived"]))
            mine = queues[actions[e, a]]
            assert sum(queue > mine for queue in queues) > 0 or sum(queue == mine for queue in queues) > 1
            shortest += mine == min(queues)
            total += len(set(queues)) == 3
    # Of three distinct queues the shortest is among two drawn ones with probability 2/3.
    assert total > 20
    assert shortest > total / 2


def test_threshold_keeps_below_its_number_and_probes_one_neighbour_above() -> None:
    environment = small_environment(horizon_s=200, score={"drop_s": 200})
    environment["workload"]["deadline_s"] = None
    environment["workload"]["load"] = {"tasks_per_second_per_client": 2.0}
    kept = sent = 0
    for env, actions, choice in choices_of("threshold:3", environment):
        own = env.state.node["tasks"] - 1
        assert (actions[choice & (own < 3)] == 0).all()
        kept += int((choice & (own < 3)).sum())
        sent += int((actions[choice & (own >= 3)] > 0).sum())
    assert min(kept, sent) > 30


def test_soft_finish_approaches_shortest_finish_and_random() -> None:
    cold = hot = total = 0
    for env, actions, choice in choices_of("soft_finish:1e-6"):
        finish = rows(env, "finish")
        cold += int((chosen(finish, actions)[choice] <= finish.min(-1)[choice] + 1e-6).sum())
        total += int(choice.sum())
    assert cold == total
    counts = np.zeros(3)
    for _env, actions, choice in choices_of("soft_finish:1e6", envs=32):
        counts += np.bincount(actions[choice], minlength=3)
    hot = counts / counts.sum()
    # Three times the standard deviation of a share.
    assert np.abs(hot - 1 / 3).max() < 3 * np.sqrt(2 / 9 / counts.sum())


def test_soft_finish_draws_by_its_softmax() -> None:
    expected, found = np.zeros(3), np.zeros(3)
    for env, actions, choice in choices_of("soft_finish:1", envs=64):
        settings = env.scenario.arrays.settings[0]
        seen = rows(env, "finish")[choice].astype(float)
        finish_s = settings["time_scale_s"] * seen / (1 - seen)
        weight = np.exp(-finish_s / settings["mean_service_s"])
        expected += (weight / weight.sum(-1, keepdims=True)).sum(0)
        found += np.bincount(actions[choice], minlength=3)
    assert np.abs(found - expected).max() < 3 * np.sqrt(found.sum() / 4)
    assert expected.max() > 1.2 * expected.min(), "the test was meant to tell shares apart"


def test_keep_first_keeps_while_the_wait_is_short() -> None:
    stayed = left = 0
    for env, actions, choice in choices_of("keep_first:0.5"):
        settings = env.scenario.arrays.settings[0]
        wait = rows(env, "wait")[..., 0]
        short = wait < 0.5 * settings["mean_service_s"] / (0.5 * settings["mean_service_s"] + settings["time_scale_s"])
        clear = np.abs(wait - 0.5 * settings["mean_service_s"]) > 1e-6
        assert (actions[choice & short & clear] == 0).all()
        stayed += int((choice & short).sum())
        left += int((actions[choice & ~short] > 0).sum())
    assert min(stayed, left) > 20


def test_deadline_finish_keeps_what_can_be_in_time_nowhere() -> None:
    environment = small_environment(horizon_s=200)
    environment["workload"]["deadline_s"] = {"uniform": [1, 4]}
    hopeless = timely = 0
    for env, actions, choice in choices_of("deadline_finish", environment):
        slack, finish = rows(env, "slack"), rows(env, "finish")
        lost = choice & (np.where(np.isinf(slack), -1, slack).max(-1) < -1e-6)
        assert (actions[lost] == 0).all()
        fine = choice & (np.where(np.isinf(slack), -1, slack).max(-1) > 1e-6)
        assert (chosen(finish, actions)[fine] <= finish.min(-1)[fine] + 1e-6).all()
        hopeless, timely = hopeless + int(lost.sum()), timely + int(fine.sum())
    assert min(hopeless, timely) > 20


def test_size_interval_keeps_long_tasks_off_the_fastest_node() -> None:
    long_tasks = short_on_fastest = 0
    for env, actions, choice in choices_of("size_interval:1", envs=32):
        settings = env.scenario.arrays.settings[0]
        mean = settings["mean_work"] / (settings["mean_work"] + settings["work_scale"])
        speeds = np.where(np.isinf(rows(env, "speed")), 0, rows(env, "speed"))
        on_fastest = chosen(speeds, actions) == speeds.max(-1)
        long_one = choice & (task(env, "work") > mean + 1e-6)
        assert not on_fastest[long_one].any()
        long_tasks += int(long_one.sum())
        short_on_fastest += int((on_fastest & choice & ~long_one).sum())
    assert min(long_tasks, short_on_fastest) > 50


def test_always_cloud_goes_to_the_cloud_or_to_its_gate_and_keeps_elsewhere() -> None:
    # A ring a - b - c - d, behind d the cloud: a and c reach it through d, and from b it is too far.
    cloud = {"vms": 2, "instructions_per_second": 1e6, "access": {"nodes": ["d"]}}
    link = {"rate_bps": 1e6, "latency_s": 0.1}
    environment = small_environment(cloud=cloud | {"link": link}, horizon_s=120)
    seen = set()
    for env, actions, choice in choices_of("always_cloud", environment):
        to = env.scenario.arrays.destination
        for e, a in np.argwhere(choice):
            action = actions[e, a]
            node = env.scenario.arrays.link[to[a, action]]["destination"] if action else NONE
            seen.add((env.agents[a], env.scenario.network.nodes[node].name if action else "itself"))
    assert seen == {("a", "d"), ("b", "itself"), ("c", "d"), ("d", "cloud")}


def test_always_cloud_is_refused_where_there_is_no_cloud() -> None:
    message = r"policies: 'always_cloud' needs a cloud, and this environment has none"
    with pytest.raises(ConfigError, match=message):
        evaluate(load_environment(small_environment()), make_contenders(["local", "always_cloud"]), episodes=2)
    with pytest.raises(ConfigError, match=r"agents.others: 'always_cloud' needs a cloud"):
        make_env(small_environment(agents={"nodes": ["a"], "others": "always_cloud"}))


@pytest.mark.parametrize("preset", ["ether_12", "cloud_ether_12"])
def test_the_rules_that_fit_an_environment_are_those_that_it_accepts(preset: str) -> None:
    config = load_environment(preset)
    accepted = []
    for rule in HEURISTICS:
        with contextlib.suppress(ConfigError):
            check_rule(rule, "policies", config)
            accepted.append(rule)
    assert fitting_rules(config) == tuple(accepted)
    assert ("always_cloud" in accepted) == (preset == "cloud_ether_12")
    assert {*HEURISTICS} - {*accepted} <= RULES_THAT_NEED_MORE


def play(environment: Any, rule: str, envs: int) -> VectorEnv:
    env = make_env(environment, envs, log=True)
    while not env.step(env.heuristic_actions(rule)):
        pass
    return env


def test_the_oracle_knows_now_what_others_are_told_later() -> None:
    # Every transfer ends within the step, so that fresh information is the whole truth.
    old, fresh = (
        small_environment(horizon_s=100, information=information)
        for information in ({"kind": "broadcast", "interval_s": 20}, {"kind": "fresh"})
    )
    oracle, informed, late = (
        play(environment, rule, 2)
        for environment, rule in (
            (old, "shortest_finish_oracle"),
            (fresh, "shortest_finish"),
            (old, "shortest_finish"),
        )
    )
    for e in range(2):
        assert log_bytes(oracle, e) == log_bytes(informed, e)
        assert log_bytes(oracle, e) != log_bytes(late, e)


def test_the_oracle_counts_what_is_on_its_way_from_anywhere() -> None:
    environment = small_environment()
    environment["links"] = {"kind": "fixed", "rate_bps": 1e9, "latency_s": 5.0}
    environment["workload"]["deadline_s"] = None
    environment["score"] = {"drop_s": 40}
    env = make_env(environment)
    to_d = {"a": 2, "c": 2}  # a and c both lead to d
    for _ in range(5):
        actions = np.zeros(env.rewards.shape, int)
        for agent, action in to_d.items():
            a = env.agents.index(agent)
            actions[0, a] = action if env.masks[0, a].sum() > 1 else 0
        env.step(actions)
    found = _true(env.scenario.arrays, env.state, 0, env.agents.index("a"), to_d["a"])
    link = env.state.link[0]
    work = sum(float(task["work"]) for task in env.state.task[0] if task["stage"] == TRANSFERRED)
    assert found[1] == int((link["sent"] - link["arrived"]).sum()) >= 3
    assert found[2] == pytest.approx(work)


def test_equals_are_decided_by_lot() -> None:
    environment = small_environment()
    for node in environment["topology"]["nodes"]:
        node |= {"instructions_per_second": 1e6, "queue_capacity": 6, "client": True}
    for rule in ("least_queue", "least_fill", "power_of_two", "always_server"):
        env = make_env(environment, 256)
        env.step(np.zeros(env.rewards.shape))
        choice = env.masks.sum(-1) > 1
        counts = np.bincount(env.heuristic_actions(rule)[choice], minlength=3)
        assert (counts > counts.sum() / 6).all(), (rule, counts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("least_que", r"'least_que' is neither a heuristic, nor a function.*Did you mean 'least_queue'\?"),
        ("soft_finish:cold", r"policies: 'soft_finish:cold': what follows soft_finish: must be a number above 0"),
        ("random:3", r"policies: 'random:3': random takes no parameter"),
        ("json:nothing", r"policies: json:nothing: json has no function 'nothing'"),
        ("no_such_module:rule", r"policies: no_such_module:rule: importing no_such_module failed: ModuleNotFoundError"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_contenders([name])


def test_baselines_are_heuristics_and_the_page_lists_every_rule() -> None:
    assert set(BASELINES) <= set(HEURISTICS)
    table, _, _ = PAGE.read_text().partition("## A custom rule")
    listed = re.findall(r"^\| `(\w+)(?::\w+)?` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(HEURISTICS)


@pytest.fixture
def rules_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the example of the page on heuristics into the working folder."""
    (tmp_path / "my_rules.py").write_text(example(PAGE, "my_rules.py"))
    monkeypatch.chdir(tmp_path)
    return "my_rules"


def test_a_users_rule_plays_in_an_evaluation_and_for_the_other_nodes(rules_module: str) -> None:
    path = f"{rules_module}:least_wait"
    evaluation = evaluate(load_environment(small_environment()), make_contenders([path, "local"]), episodes=4)
    assert evaluation.policies == (path, "local")
    assert evaluation.of(path, "offloaded_share").mean() > 0.1
    assert evaluation.of(path, "masked_actions").sum() == 0
    everyone = make_env(small_environment(), 2)
    some = make_env(small_environment(agents={"nodes": ["b", "c"], "others": path}), 2)
    done = False
    while not done:
        actions = everyone.heuristic_actions(path)
        everyone.step(actions)
        done = some.step(actions[:, 1:3])
        assert (some.observations == everyone.observations[:, 1:3]).all()


def test_what_a_users_rule_returns_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_rules.py").write_text(
        "import numpy as np\n"
        "def flat(view):\n    return np.zeros(3, int)\n"
        "def real(view):\n    return np.zeros(view.masks.shape[:-1])\n"
        "number = 3\n"
    )
    (tmp_path / "broken_rules.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    env = make_env(small_environment())
    with pytest.raises(ConfigError, match=r"bad_rules:flat must return integers of shape \(1, 4\); .*int64 \(3,\)"):
        env.heuristic_actions("bad_rules:flat")
    with pytest.raises(ConfigError, match=r"bad_rules:real must return integers .*float64"):
        env.heuristic_actions("bad_rules:real")
    with pytest.raises(ConfigError, match="bad_rules has no function 'number'"):
        env.heuristic_actions("bad_rules:number")
    with pytest.raises(ConfigError, match="importing broken_rules failed: ZeroDivisionError"):
        env.heuristic_actions("broken_rules:rule")
