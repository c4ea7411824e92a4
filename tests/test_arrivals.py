"""Arrivals follow the rates that are asked for: counts, dispersion, and the simulator against the slow reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.agreement import run_reference_and_simulator
from helpers.environments import make_env, small_environment
from scipy import integrate, stats

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator import state as states
from offload_rllib.simulator.arrivals import begin_episode, next_arrival
from offload_rllib.simulator.batch import env_slice, shared
from offload_rllib.simulator.jit import kernel

REPLICATIONS = 40
BURSTY = {"kind": "bursty", "states": [{"level": 9, "mean_s": 1}, {"level": 1, "mean_s": 3}]}


@kernel
def collect(scenario, state, n, times, counts):
    """Write into `times` [E, T] when the clients at node `n` make their tasks, and into `counts` [E] how many."""
    for e in range(times.shape[0]):
        environment = env_slice(state, e)
        begin_episode(scenario, environment)  # the reset has drawn the first arrivals already
        now_s = next_arrival(scenario, environment, n, 0.0)
        while now_s <= scenario.settings[0].horizon_s and counts[e] < times.shape[1]:
            times[e, counts[e]] = now_s
            counts[e] += 1
            environment.node["arrivals"][n] += 1
            now_s = next_arrival(scenario, environment, n, now_s)


def with_arrivals(arrivals: dict[str, Any], horizon_s: float, load: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the small environment, without deadlines, with other arrivals."""
    environment = small_environment(horizon_s=horizon_s, decisions={"interval_s": horizon_s})
    environment["workload"] |= {"arrivals": arrivals, "deadline_s": None}
    environment["workload"]["load"] = load or {"tasks_per_second_per_client": 50.0}
    environment["score"] = {"drop_s": horizon_s}
    return environment


def arrival_times(environment: dict[str, Any], node: int = 0, episodes: int = REPLICATIONS) -> list[np.ndarray]:
    """Return when the client at a node makes its tasks, in each of some episodes."""
    scenario = build_scenario(load_environment(environment))
    state = states.allocate(scenario.arrays, episodes, task_slots=16)
    states.reset(shared(scenario.arrays), state, np.arange(episodes), held_out_keys(0, episodes))
    expected = scenario.load.rate_per_client * scenario.config.horizon_s
    times = np.zeros((episodes, int(20 * expected) + 100))
    counts = np.zeros(episodes, np.int64)
    collect(scenario.arrays, state, node, times, counts)
    assert counts.max() < times.shape[1]
    return [row[:count] for row, count in zip(times, counts, strict=True)]


def check(values: np.ndarray, theory: float, tests: int = 1, width: float = 0.01) -> None:
    """Assert that theory lies in the 99 % interval of the mean (of several tests at once), and that it is narrow."""
    half = stats.sem(values) * stats.t.ppf(1 - 0.005 / tests, len(values) - 1)
    assert half < width * theory, (half, theory)
    assert abs(values.mean() - theory) < half, (values.mean(), theory, half)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of levels."""
    path = tmp_path_factory.mktemp("rates") / "levels.csv"
    path.write_text("time_s,level\n0,2\n100,6\n250,0\n300,4\n1000,1\n")
    return path


def triangle(t: float) -> float:
    """Return the wave that starts at 0 and is 1 half a period later."""
    part = t % 1.0
    return 2 * min(part, 1 - part)


RATES: dict[str, tuple[dict[str, Any], Callable[[float], float]]] = {
    "linear": ({"kind": "linear", "first_level": 1, "last_level": 10}, lambda t: 1 + 9 * t / 400),
    "ramp": (
        {"kind": "linear", "first_level": 3, "last_level": 0.5, "ramp_s": 150},
        lambda t: 3 - 2.5 * min(t / 150, 1),
    ),
    "zigzag": ({"kind": "zigzag", "period_s": 180, "phase": 0.3}, lambda t: 1 + 9 * triangle(t / 180 + 0.3)),
    "diurnal": (
        {"kind": "diurnal", "period_s": 250, "phase": 0.6, "amplitude": 0.9},
        lambda t: 1 + 0.9 * math.sin(2 * math.pi * (t / 250 + 0.6)),
    ),
    "diurnal to 0": (
        {"kind": "diurnal", "period_s": 100, "amplitude": 1},
        lambda t: 1 + math.sin(2 * math.pi * t / 100),
    ),
    "steps": ({"kind": "table"}, lambda t: 2 if t < 100 else 6 if t < 250 else 0 if t < 300 else 4),
    "lines": (
        {"kind": "table", "interpolation": "lines"},
        lambda t: float(np.interp(t, [0, 100, 250, 300, 1000], [2, 6, 0, 4, 1])),
    ),
}


@pytest.mark.parametrize("name", RATES)
def test_counts_follow_the_rate(name: str, table: Path) -> None:
    config, level = RATES[name]
    config = config | ({"path": str(table)} if config["kind"] == "table" else {})
    times = arrival_times(with_arrivals(config, 400))
    edges = np.arange(0, 401, 50)
    corners = [100, 150, 250, 300]
    areas = np.array([integrate.quad(level, a, b, points=corners, limit=500)[0] for a, b in pairwise(edges)])
    expected = areas / areas.sum() * 400 * 50.0
    counts = np.array([np.histogram(row, edges)[0] for row in times])
    check(counts.sum(axis=1), 400 * 50.0)
    for slot in np.flatnonzero(expected):
        check(counts[:, slot], expected[slot], tests=len(expected), width=0.05)
    assert (counts[:, expected == 0] == 0).all()


@pytest.mark.parametrize("name", ["zigzag", "diurnal", "diurnal to 0"])
def test_counts_of_a_varying_rate_are_poisson(name: str) -> None:
    config, level = RATES[name]
    times = arrival_times(with_arrivals(config, 400, {"tasks_per_second_per_client": 5.0}), episodes=400)
    edges = np.arange(0, 401, 5)
    areas = np.array([integrate.quad(level, a, b)[0] for a, b in pairwise(edges)])
    expected = areas / areas.sum() * 400 * 5.0
    counts = np.array([np.histogram(row, edges)[0] for row in times])
    # Sum of (N - m)^2 / m, with mean 1 and variance 2 + 1/m each.
    dispersion = ((counts - expected) ** 2 / expected).mean(axis=1)
    check(dispersion, 1.0, width=0.03)
    gaps = np.concatenate([np.diff(row) for row in times])
    assert (gaps > 0).all()


def test_levels_drawn_per_slot_have_their_mean_and_spread() -> None:
    config = {"kind": "uniform", "slot_s": 10.0, "heterogeneous": True}
    load = {"tasks_per_second_per_client": 5.0}
    per_client = {}
    for heterogeneous in (True, False):
        environment = with_arrivals(config | {"heterogeneous": heterogeneous}, 10_000, load)
        per_client[heterogeneous] = [
            np.array([np.histogram(row, np.arange(0, 10_001, 10))[0] for row in arrival_times(environment, node)])
            for node in (0, 2)
        ]
    spread = (81 / 12) / 5.5**2  # variance of the level over its squared mean
    for a, c in per_client.values():
        check(a.mean(axis=1), 50.0)
        check(((a - 50.0) ** 2).mean(axis=1), 50.0 + 50.0**2 * spread, width=0.02)
        check(c.mean(axis=1), 50.0)
    apart = ((per_client[True][0] - 50.0) * (per_client[True][1] - 50.0)).mean(axis=1)
    together = ((per_client[False][0] - 50.0) * (per_client[False][1] - 50.0)).mean(axis=1)
    check(together, 50.0**2 * spread, width=0.02)
    assert abs(apart.mean()) < stats.sem(apart) * stats.t.ppf(0.995, REPLICATIONS - 1)


def test_bursts_have_their_mean_and_index_of_dispersion() -> None:
    """The two-state process in closed form: Heffes, Lucantoni, IEEE JSAC 4(6), 1986."""
    times = arrival_times(with_arrivals(BURSTY, 20_000, {"tasks_per_second_per_client": 6.0}))
    # Levels 9 for a quarter of the time, and 1: mean 3, so twice that are 6 tasks per second.
    high, low, leave_high, leave_low = 18.0, 2.0, 1.0, 1 / 3
    both = leave_high + leave_low
    for slot_s in (0.5, 2.0, 20.0):
        counts = np.array([np.histogram(row, np.arange(0, 20_001, slot_s))[0] for row in times])
        mean = 6.0 * slot_s
        check(counts.mean(axis=1), mean)
        factor = 2 * leave_high * leave_low * (high - low) ** 2 / (both**2 * (high * leave_low + low * leave_high))
        dispersion = 1 + factor * (1 - (1 - math.exp(-both * slot_s)) / (both * slot_s))
        check(((counts - mean) ** 2).mean(axis=1) / mean, dispersion, tests=3, width=0.03)


def test_bursts_of_three_states_spend_their_time_as_the_chain_does() -> None:
    jumps = [[0, 0.9, 0.1], [0.5, 0, 0.5], [1, 0, 0]]
    chain = {
        "kind": "bursty",
        "states": [{"level": 0, "mean_s": 2}, {"level": 5, "mean_s": 1}, {"level": 40, "mean_s": 0.5}],
        "jumps": jumps,
    }
    generator = (np.array(jumps) - np.eye(3)) / np.array([[2.0], [1.0], [0.5]])
    share = np.linalg.matrix_power(np.eye(3) + generator * 0.1, 4096)[0]
    scenario = build_scenario(load_environment(with_arrivals(chain, 1000)))
    mean = share @ [0, 5, 40]
    assert scenario.arrays.burst_state["level"] == pytest.approx(np.array([0, 5, 40]) / mean, rel=1e-9)
    assert scenario.arrays.burst_state["cumulative_start"] == pytest.approx(np.cumsum(share), rel=1e-9)
    times = arrival_times(with_arrivals(chain, 20_000, {"tasks_per_second_per_client": 2.0}))
    check(np.array([len(row) for row in times]), 40_000.0)


@pytest.mark.parametrize("config", [{"kind": "zigzag", "period_s": 90}, {"kind": "diurnal", "period_s": 90}])
def test_heterogeneous_phases_differ_and_have_the_mean_everywhere(config: dict[str, Any]) -> None:
    environment = with_arrivals(config | {"heterogeneous": True}, 100)
    shares = []
    for node in (0, 2):
        counts = np.array([np.histogram(row, 10)[0] for row in arrival_times(environment, node, 400)])
        for slot in range(10):
            check(counts[:, slot], 500.0, tests=20, width=0.15)
        shares.append(counts.argmax(axis=1))
    assert (shares[0] != shares[1]).mean() > 0.5
    assert len(set(shares[0])) > 3


def test_clients_make_tasks_by_their_weights(table: Path) -> None:
    load = {"tasks_per_second_per_client": 50.0, "client_weights": {"a": 3.0}}
    for arrivals in ({"kind": "constant"}, BURSTY, {"kind": "table", "path": str(table)}):
        environment = with_arrivals(arrivals, 1000, load)
        scenario = build_scenario(load_environment(environment))
        assert scenario.arrays.node["arrival_rate"].tolist() == [75.0, 0.0, 25.0, 0.0]
        assert scenario.load.rate_per_client == 50.0
        for node, rate in ((0, 75.0), (2, 25.0)):
            width = 0.03 if arrivals is BURSTY else 0.01
            check(np.array([len(row) for row in arrival_times(environment, node)]), rate * 1000, width=width)
    load["client_weights"] = {"node": 2.0, "a": 4.0}
    environment = with_arrivals({"kind": "constant"}, 100, load)
    environment["topology"]["nodes"][2]["type"] = "sensor"
    rates = build_scenario(load_environment(environment)).arrays.node["arrival_rate"]
    assert rates.tolist() == [80.0, 0.0, 20.0, 0.0]


def test_a_table_of_rates_says_them_for_each_client(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("client,time_s,rate\na,0,10\nc,0,0\na,50,40\nc,20,5\n")
    environment = with_arrivals({"kind": "table", "path": str(path)}, 100)
    del environment["workload"]["load"]
    scenario = build_scenario(load_environment(environment))
    assert scenario.arrays.node["arrival_rate"].tolist() == [25.0, 0.0, 4.0, 0.0]
    assert scenario.load.rate_per_client == 14.5
    times = arrival_times(environment, 2, 2000)
    assert min(row[0] for row in times) >= 20
    check(np.array([len(row) for row in times]), 400.0)
    environment["workload"]["load"] = {"tasks_per_second_per_client": 29.0}
    scaled = build_scenario(load_environment(environment))
    assert scaled.arrays.node["arrival_rate"] == pytest.approx([50.0, 0.0, 8.0, 0.0])


def test_an_episode_draws_its_rate_from_a_range() -> None:
    environment = with_arrivals({"kind": "constant"}, 100, {"tasks_per_second_per_client": {"per_episode": [20, 80]}})
    counts = [np.array([len(row) for row in arrival_times(environment, node, 400)]) for node in (0, 2)]
    check(counts[0] / 100, 50.0, width=0.06)
    assert counts[0].min() < 2_500
    assert counts[0].max() > 7_500
    # All clients meet the same draw.
    assert np.abs(counts[0] - counts[1]).max() < 6 * math.sqrt(2 * 8_000)


@pytest.mark.parametrize(
    "workload",
    [
        {"arrivals": {"kind": "linear"}},
        {"arrivals": {"kind": "linear", "first_level": 2, "last_level": 0, "ramp_s": 30}},
        {"arrivals": {"kind": "zigzag", "period_s": 11, "low_level": 0, "phase": 0.7}},
        {"arrivals": {"kind": "zigzag", "period_s": 170, "heterogeneous": True}},
        {"arrivals": {"kind": "uniform", "slot_s": 3}},
        {"arrivals": {"kind": "uniform", "slot_s": 7, "low_level": 0, "heterogeneous": True}},
        {"arrivals": {"kind": "diurnal", "period_s": 13, "amplitude": 1, "phase": 0.75}},
        {"arrivals": {"kind": "diurnal", "period_s": 90, "heterogeneous": True}},
        {"arrivals": BURSTY | {"heterogeneous": False}},
        {
            "arrivals": {
                "kind": "bursty",
                "states": [{"level": 0, "mean_s": 5}, {"level": 1, "mean_s": 2}, {"level": 9, "mean_s": 0.4}],
                "jumps": [[0, 0.5, 0.5], [1, 0, 0], [0.3, 0.7, 0]],
            }
        },
        {"arrivals": {"kind": "table", "interpolation": "steps"}},
        {"arrivals": {"kind": "table", "interpolation": "lines"}},
        {
            "load": {
                "tasks_per_second_per_client": {"per_episode": [0.5, 2]},
                "client_weights": {"c": 2.5},
            },
            "deadline_s": {"lognormal": {"mean": {"per_episode": [5, 20]}, "cv": 0.5}},
            "jobs": {
                "kind": "mix",
                "types": [
                    {"instructions": {"pareto": {"low": 1e5, "high": 1e7, "shape": {"per_episode": [1.1, 2]}}}},
                    {
                        "instructions": {"lognormal": {"mean": 1e6, "cv": {"per_episode": [0.5, 2]}}},
                        "cycles_per_instruction": 1.5,
                        "bits_in": {"choice": {"values": [1e4, 3e5, 1e6], "weights": [1, 2, 1]}},
                        "deadline_s": {"choice": {"values": [3, 30]}},
                    },
                    {"instructions": 1e5, "bits_out": {"uniform": [0, {"per_episode": [1e5, 4e5]}]}},
                ],
            },
        },
    ],
    ids=str,
)
def test_the_reference_agrees(workload: dict[str, Any], table: Path) -> None:
    environment = small_environment(horizon_s=120, deadlines={"expiry": "abort"})
    environment["workload"] |= workload
    if workload.get("arrivals", {}).get("kind") == "table":
        environment["workload"]["arrivals"] = workload["arrivals"] | {"path": str(table)}
    env = VectorEnv(build_scenario(load_environment(environment)), 1, log=True)
    rng = np.random.default_rng(0)
    for key in (5, 6):
        actions = rng.integers(0, env.num_actions, (env.steps_per_episode, len(env.agents)))
        log = run_reference_and_simulator(env, key, actions)
        assert len(log) > 40


@pytest.mark.parametrize("more", [{}, {"start": "random", "speed": {"per_episode": [0.5, 1.5]}}], ids=str)
def test_the_reference_agrees_on_recordings(more: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    times = np.sort(np.round(rng.uniform(0, 150, 300), 2))
    path = tmp_path / "arrivals.csv"
    path.write_text(
        "time_s,origin,work,bits,deadline,node,kind\n"
        + "".join(
            f"{t},{rng.choice(['a', 'c'])},{rng.exponential(1e6)},{rng.uniform(0, 3e5)},"
            f"{rng.choice(['', '2.5', '9'])},{rng.choice(['', 'a', 'b', 'd'])},{rng.choice(['x', 'z', 'y'])}\n"
            for t in times
        )
    )
    columns = {"origin": "origin", "work": "work", "bits_in": "bits", "bits_out": "bits"}
    columns |= {"deadline": "deadline", "node": "node", "type": "kind"}
    environment = small_environment(horizon_s=60, score={"drop_s": 60})
    environment["workload"] = {"arrivals": {"kind": "replay", "path": str(path), "columns": columns} | more}
    env = VectorEnv(build_scenario(load_environment(environment)), 1, log=True)
    for key in (5, 6):
        actions = rng.integers(0, env.num_actions, (env.steps_per_episode, len(env.agents)))
        log = run_reference_and_simulator(env, key, actions)
        assert len(log) > 50
        assert len(set(log["outcome"])) > 1
        assert set(log["type"]) == {0, 1, 2}


def everything() -> dict[str, Any]:
    """Return the small environment with all that may vary."""
    environment = small_environment()
    workload = environment["workload"]
    workload["arrivals"] = BURSTY
    workload["load"] = {"tasks_per_second_per_client": {"per_episode": [0.5, 3]}, "client_weights": {"a": 2}}
    workload["jobs"]["types"][0] |= {"instructions": {"exponential": {"per_episode": [4e5, 2e6]}}, "deadline_s": 3}
    return environment


def test_the_workload_depends_neither_on_decisions_nor_on_the_batch() -> None:
    logs = []
    for heuristic, batch, place in (("local", 1, 0), ("always_server", 1, 0), ("random", 64, 0), ("random", 64, 63)):
        env = make_env(everything(), batch, log=True)
        keys = held_out_keys(7, batch)
        keys[place] = held_out_keys(0, 1)[0]
        env.reset(keys)
        while not env.step(env.heuristic_actions(heuristic)):
            pass
        log = env.task_log(place)[["created_s", "origin", "deadline_s", "work", "bits_in", "bits_out"]]
        logs.append(log)
    assert all((log == logs[0]).all() for log in logs)
    other = make_env(everything(), log=True)
    other.reset(held_out_keys(1, 1))
    assert other.state.distribution[0, 0, 0]["a"] != env.state.distribution[63, 0, 0]["a"]


@pytest.mark.parametrize(
    ("arrivals", "message"),
    [
        ({"kind": "sometimes"}, r"arrivals: .*'sometimes'.*'constant'"),
        ({"kind": "linear", "first_level": 0, "last_level": 0}, r"both 0: no task would ever arrive"),
        ({"kind": "zigzag"}, r"arrivals.period_s: missing"),
        ({"kind": "zigzag", "period_s": 1, "low_level": 11}, r"zigzag needs low_level <= high_level"),
        ({"kind": "diurnal", "amplitude": 1.5}, r"arrivals.amplitude: .*less than or equal to 1 .*1.5"),
        ({"kind": "bursty", "states": BURSTY["states"][:1]}, r"arrivals.states: .*at least 2"),
        (BURSTY | {"jumps": [[0, 1]]}, r"jumps needs a row for each of the 2 states, has 1"),
        (BURSTY | {"jumps": [[0.5, 0.5], [1, 0]]}, r"jumps row 0 needs 2 probabilities"),
        (
            {"kind": "bursty", "states": [BURSTY["states"][0]] * 4}
            | {"jumps": [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]},
            r"fall into parts that never reach each other",
        ),
        ({"kind": "job_times"}, r"job_times needs jobs.kind: alibaba"),
        ({"kind": "table", "path": "none.csv"}, r"no such file: .*none.csv"),
    ],
    ids=str,
)
def test_rates_that_cannot_be(arrivals: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(with_arrivals(arrivals, 100)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("time_s,rate,level\n0,1,1\n", r"has the columns time_s, one of rate and level"),
        ("time_s,lewel\n0,1\n", r"column 'lewel' is not known. Did you mean 'level'\?"),
        ("time_s,level\n", r"holds no rows"),
        ("time_s,level\n1,1\n", r"row 1: column 'time_s': the first row of a client must be at 0 s"),
        ("time_s,level\n0,1\n0,2\n", r"row 2: column 'time_s': 0 s is not after 0 s"),
        ("time_s,level\n0,nan\n", r"row 1: column 'level': 'nan'; accepted"),
        ("time_s,level\n0,-1\n", r"row 1: column 'level': '-1'; accepted"),
        ("time_s,level\n0\n", r"row 1: has 1 values for 2 columns"),
        ("time_s,level\n0,0\n", r"level is 0 until horizon_s \(100\)"),
        ("time_s,level,client\n0,1,a\n", r"no rows for client 'c'"),
        ("time_s,level,client\n0,1,b\n", r"row 1: column 'client': no client is named 'b'"),
    ],
)
def test_tables_that_cannot_be(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"table.csv: .*" + message):
        build_scenario(load_environment(with_arrivals({"kind": "table", "path": str(path)}, 100)))


def test_a_table_of_levels_needs_a_load(table: Path) -> None:
    environment = with_arrivals({"kind": "table", "path": str(table)}, 100)
    del environment["workload"]["load"]
    with pytest.raises(ConfigError, match=r"workload.load: missing; .*levels.csv gives relative levels"):
        build_scenario(load_environment(environment))


def test_weights_name_clients() -> None:
    load = {"rho": 1, "client_weights": {"b": 2}}
    with pytest.raises(ConfigError, match=r"client_weights.b: no client's node, .*Accepted: a, c, node"):
        build_scenario(load_environment(with_arrivals({"kind": "constant"}, 100, load)))


@pytest.mark.parametrize("kind", ["linear", "zigzag", "diurnal", "uniform", "bursty", "ranges", "pareto"])
def test_the_work_that_arrives_is_the_load_that_was_asked_for(kind: str) -> None:
    arrivals = {"diurnal": RATES["diurnal"][0], "uniform": {"kind": "uniform", "slot_s": 20}, "bursty": BURSTY}
    arrivals |= {name: RATES[name][0] for name in ("linear", "zigzag")}
    environment = with_arrivals(arrivals.get(kind, {"kind": "constant"}), 2000, {"rho": 0.8})
    workload = environment["workload"]
    if kind == "ranges":
        workload["load"] = {"rho": {"per_episode": [0.4, 1.2]}}
        workload["jobs"]["types"][0]["instructions"] = {"exponential": {"per_episode": [4e5, 2e6]}}
    elif kind == "pareto":
        workload["jobs"]["types"] = [{"instructions": {"pareto": {"low": 1e5, "high": 1e8, "shape": 1.5}}}]
        workload["load"]["client_weights"] = {"a": 3}
    for node in environment["topology"]["nodes"]:
        node["queue_capacity"] = 1  # what becomes of the tasks does not matter here
    env = make_env(environment, 60, log=True)
    load = env.scenario.load
    assert load.rho == pytest.approx(0.8)
    while not env.step(env.heuristic_actions("local")):
        pass
    offered = np.array([env.task_log(e)["work"].sum() for e in range(60)]) / 2000 / load.capacity
    check(offered, 0.8, width=0.2 if kind == "ranges" else 0.03)


def test_feasible_work_of_types_with_deadlines_of_their_own() -> None:
    environment = with_arrivals({"kind": "constant"}, 1000, {"rho": 0.5})
    # On d, the fastest, a task takes 1 s: in time for the second type alone. The third has no deadline.
    types = [{"instructions": 4e6, "deadline_s": 0.5}, {"instructions": 4e6, "deadline_s": 2}, {"instructions": 8e6}]
    environment["workload"]["jobs"]["types"] = types
    load = build_scenario(load_environment(environment)).load
    assert load.mean_feasible_work == pytest.approx((4e6 + 8e6) / 3)
    assert load.feasible_share == pytest.approx(2 / 3)
    assert load.rate_per_client * 2 * load.mean_feasible_work / 8e6 == pytest.approx(0.5)
