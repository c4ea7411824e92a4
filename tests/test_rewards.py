"""What agents are paid is what the page on rewards says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, small_environment
from helpers.pages import example
from helpers.peersimgym import recordings

import offload_rllib
from offload_rllib.config import load_environment
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.reward import dense_reward
from offload_rllib.simulator.types import UNBOUNDED

PAGE = Path(__file__).parents[1] / "docs" / "rewards.md"
CASES = recordings() / "dense_reward_cases.json"


def test_peersimgyms_own_reward_on_recorded_cases() -> None:
    count = 0
    for group in json.loads(CASES.read_text())["sets"]:
        config, parameters, derived = group["config"], group["reward_params"], group["derived"]
        per_layer = [int(nodes) for nodes in config["NO_NODES_PER_LAYERS"].split(",")]
        layer = np.repeat(np.arange(len(per_layer)), per_layer)
        speed = np.array([float(f) for f in config["FREQS"].split(",")])
        speed *= [float(cores) for cores in config["NO_CORES"].split(",")]
        capacity = [int(places) for places in config["Q_MAX"].split(",")]
        work, bits = derived["AVERAGE_TASK_INSTR"], 8e6 * derived["AVERAGE_TASK_SIZE"]
        bandwidth_hz = 1e6 * float(config["protocol.props.B"])
        for case in group["cases"]:
            i, j = case["source"], case["target"]
            rate = np.inf
            if case["distance_m"] > 0:
                snr_db = (
                    float(config["protocol.props.P_ti"])
                    + 10 * np.log10(0.125**2 / (16 * np.pi**2))
                    - 20 * np.log10(case["distance_m"])
                    - (-174 + 10 * np.log10(bandwidth_hz))
                )
                rate = bandwidth_hz * np.log2(1 + 10 ** (snr_db / 10))
            takes_tasks = np.isin(layer, [int(x) for x in config["layersThatGetTasks"].split(",")])
            arrived = (
                derived["TASK_ARRIVAL_RATE"]
                / float(config["SCALE"])
                * np.array(derived["clients_per_node"])
                * takes_tasks
            )
            paid = dense_reward(
                float(case["q_source_before"]),
                float(case["q_target_reported"]),
                i == j,
                work,
                speed[layer[i]],
                speed[layer[j]],
                0.0 if i == j else bits / rate,
                arrived[i],
                arrived[j],
                speed[layer[i]] / work,
                speed[layer[j]] / work,
                capacity[layer[i]],
                capacity[layer[j]],
                float(parameters["utility_reward"]),
                parameters["delay_weight"]["queue"],
                parameters["delay_weight"]["comm"],
                parameters["delay_weight"]["exec"],
                float(parameters["overload_weight"]),
                parameters["no_op_reward"],
            )
            assert paid + case["components"].get("F", 0.0) == pytest.approx(case["reward"], abs=1e-9)
            count += 1
    assert count == 240


def test_peersimgyms_reward_in_the_simulator() -> None:
    weights = {
        "utility": 11.0,
        "waiting_weight": 0.2,
        "communication_weight": 0.01,
        "execution_weight": 0.03,
        "overload_weight": 2.0,
        "no_op_reward": -0.5,
    }
    env = make_env(
        small_environment(
            reward={"name": "peersimgym", "scope": "own", **weights},
            information={"kind": "fresh"},
        )
    )
    arrays, mean_work = env.scenario.arrays, env.scenario.load.mean_work
    # Of two types with weights 2 and 1.
    mean_bits = (2 * 2.5e5 + 1e5) / 3
    speed, rate = [1e6, 2e6, 1e6, 4e6], [1.2, 0.0, 1.2, 0.0]
    capacity = [6, 8, 6, UNBOUNDED]
    # a and c make tasks, b and d do not, and a client is next to no other client.
    arrived = rate
    rng = np.random.default_rng(0)
    paid = {"idle": 0, "kept": 0, "sent": 0, "nowhere": 0}
    done = False
    while not done:
        tasks = env.state.node[0]["tasks"].copy()
        actions = rng.integers(0, 3, (1, 4))
        actions[0, 3] = rng.choice([0, 1, 2, 7])
        expected = []
        for i, action in enumerate(actions[0]):
            if action == 7:
                expected.append(-11.0)
                paid["nowhere"] += 1
                continue
            if tasks[i] < 1:
                expected.append(-0.5)
                paid["idle"] += 1
                continue
            j = i if action == 0 else int(arrays.link[arrays.destination[i, action]]["destination"])
            paid["kept" if j == i else "sent"] += 1
            wait = (tasks[i] - 1) * mean_work / speed[i] + (tasks[j] / speed[j] if j != i else 0)
            execution = np.clip(mean_work / speed[j] - mean_work / speed[i], -11 * 0.03, 11 * 0.03)
            communication = min(mean_bits / 1e6, 11 * 0.01) if j != i else 0
            after = tasks[j] + (j != i) + arrived[j] - speed[j] / mean_work
            overload = 0.0
            if capacity[j] != UNBOUNDED:
                after = np.clip(after, 0, capacity[j])
                overload = -np.log10(max((capacity[j] - after) / capacity[j], 0.001))
            expected.append(11 - (min(wait, 11 * 0.2) + execution + communication + 2 * overload))
        done = env.step(actions)
        assert env.rewards[0] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert min(paid.values()) > 5


@pytest.mark.parametrize("potential", ["backlog", "tasks", "unfinished"])
@pytest.mark.parametrize("scope", ["own", "team"])
def test_shaping_telescopes(potential: str, scope: str) -> None:
    gamma, weight = 0.9, 0.25
    plain = make_env(small_environment(reward={"scope": scope, "scale": 2.0}))
    shaping = {"potential": potential, "gamma": gamma, "weight": weight}
    shaped = make_env(small_environment(reward={"scope": scope, "scale": 2.0, "shaping": shaping}))
    for _ in range(2):  # a second episode must begin from the potential of an empty network
        total = np.zeros(4)
        discount = 1.0
        done = False
        while not done:
            actions = plain.heuristic_actions("random")
            plain.step(actions)
            done = shaped.step(actions)
            total += discount * (shaped.rewards[0].astype(float) - plain.rewards[0])
            discount *= gamma
        node = shaped.state.node[0]
        if potential == "backlog":
            last = -shaped.waits(0)
        else:
            last = -node["tasks" if potential == "tasks" else "own_unfinished"].astype(float)
        assert np.abs(last).sum() > 0
        expected = np.full(4, last.mean()) if scope == "team" else last
        # The potential of the first state, an empty network, is 0.
        assert total == pytest.approx(2.0 * weight * discount * expected, abs=2e-4)
        keys = np.array([11], np.uint64)
        plain.reset(keys)
        shaped.reset(keys)


def test_a_wider_scope_pays_the_mean_of_the_nodes_within() -> None:
    own, neighbourhood, team = (
        make_env(small_environment(reward={"scope": scope})) for scope in ("own", "neighbourhood", "team")
    )
    # In a ring everybody has two neighbours.
    within = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]])
    earned, done = np.zeros(4), False
    while not done:
        actions = own.heuristic_actions("random")
        for env in (own, neighbourhood, team):
            done = env.step(actions)
        paid = own.rewards[0].astype(float)
        assert neighbourhood.rewards[0] == pytest.approx(within @ paid / 3, rel=1e-5, abs=1e-5)
        assert team.rewards[0] == pytest.approx(np.full(4, paid.mean()), rel=1e-5, abs=1e-5)
        earned += paid
    assert len(set(earned)) > 2


def test_a_drop_costs_its_penalty() -> None:
    harsh = small_environment()["workload"] | {"deadline_s": {"uniform": [0.5, 2.0]}}
    plain = make_env(small_environment(workload=harsh, reward={"scope": "own", "scale": 2.0}))
    penal = make_env(small_environment(workload=harsh, reward={"scope": "own", "scale": 2.0, "drop_penalty_s": 7.5}))
    drops = np.zeros(4)
    done = False
    while not done:
        actions = plain.heuristic_actions("random")
        plain.step(actions)
        done = penal.step(actions)
        dropped = penal.state.node[0]["own_dropped"].astype(float)
        assert plain.rewards[0] - penal.rewards[0] == pytest.approx(2.0 * 7.5 * dropped, rel=1e-5, abs=1e-4)
        drops += dropped
    assert drops.sum() > 5


def test_the_paper_reward_has_the_range_that_its_page_states() -> None:
    env = make_env(load_environment("ether_12", ["reward={name: paper, scope: own}"]), 8)
    low = high = 0.0
    done = False
    while not done:
        done = env.step(env.heuristic_actions("random"))
        low, high = min(low, float(env.rewards.min())), max(high, float(env.rewards.max()))
    speed, work = env.scenario.arrays.node["speed"], env.scenario.arrays.job[:, 0]
    heaviest_s, median_s = (amount * (1 / speed.min() - 1 / speed.max()) for amount in (work.max(), np.median(work)))
    page = " ".join(PAGE.read_text().split())
    assert f"from -{heaviest_s:,.0f} to +{heaviest_s:,.0f} s" in page
    assert f"at most {math.ceil(median_s)} s for half of the jobs" in page
    assert f"a decision earns up to {10 + heaviest_s:,.0f} with the default weights" in page
    assert 1_000 < high <= 10 + heaviest_s
    assert low < -1_000


def test_paper_pays_for_every_task_of_a_decision() -> None:
    def paid(k: int) -> float:
        environment = small_environment(
            decisions={"tasks_per_decision": k, "interval_s": 4.0}, reward={"name": "paper", "scope": "own"}
        )
        environment["workload"]["load"] = {"tasks_per_second_per_client": 2.0}
        env = make_env(environment)
        env.step(np.zeros(env.masks.shape[:-1]))
        assert env.state.node[0, 0]["held"] > 2
        env.step(np.zeros(env.masks.shape[:-1]))
        return float(env.rewards[0, 0])

    # Kept tasks are priced by the state before the decision, the same for each: their work does not enter.
    assert paid(2) == pytest.approx(2 * paid(1), rel=1e-6)


@pytest.fixture
def rewards_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the example of the page on rewards into the working folder."""
    (tmp_path / "my_rewards.py").write_text(example(PAGE, "my_rewards.py"))
    monkeypatch.chdir(tmp_path)
    return "my_rewards"


@pytest.mark.parametrize("scope", ["own", "neighbourhood", "team"])
def test_a_users_reward_is_shared_scaled_and_shaped_as_any_other(rewards_module: str, scope: str) -> None:
    shaping = {"potential": "tasks", "gamma": 1.0}
    common = {"scope": scope, "scale": 3.0, "shaping": shaping}
    own = make_env(small_environment(reward={"name": "sparse", **common}), 2)
    users = make_env(small_environment(reward={"name": f"{rewards_module}:finished_minus_dropped", **common}), 2)
    done = False
    while not done:
        actions = own.heuristic_actions("random")
        own.step(actions)
        done = users.step(actions)
        assert (own.rewards == users.rewards).all()
    face = offload_rllib.parallel_env(users.scenario.config)
    face.reset(seed=0)
    assert len(face.step({})[1]) == 4


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"name": "profit"}, "reward.name: must be 'delay', .* or package.module:function"),
        ({"name": "json:nothing"}, "reward.name: json:nothing: json has no function"),
        ({"shaping": {"potential": "luck", "gamma": 1.0}}, "reward.shaping.potential: .*'backlog'"),
        ({"shaping": {"potential": "tasks"}}, "reward.shaping.gamma: missing"),
        ({"shaping": {"potential": "tasks", "gamma": 1.1}}, "reward.shaping.gamma: .*less than or equal to 1"),
        ({"drop_penalty_s": -1.0}, "reward.drop_penalty_s: .*greater than or equal to 0"),
        ({"no_op_reward": float("inf")}, "reward.no_op_reward: .*finite"),
    ],
)
def test_rewards_that_cannot_be_are_refused(reward: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_env(small_environment(reward=reward))


def test_what_a_users_reward_returns_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_rewards.py").write_text(
        "import numpy as np\n"
        "def per_agent(view):\n    return np.zeros((1, 2))\n"
        "def nan(view):\n    return np.full((1, 4), np.nan)\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, message in (("per_agent", r"must return numbers of shape \(1, 4\)"), ("nan", "not finite")):
        env = make_env(small_environment(reward={"name": f"bad_rewards:{name}"}))
        with pytest.raises(ConfigError, match=f"bad_rewards:{name} .*{message}|bad_rewards:{name} returned"):
            env.step(np.zeros(env.rewards.shape))
