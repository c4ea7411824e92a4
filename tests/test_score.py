"""Nothing is gained by dropping tasks, every type can be seen and weighed, and percentiles are those of the tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env, small_environment

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.evaluation.task_log import task_table
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.metrics import BIN_MIDDLES, COUNTED_FROM, HISTOGRAM_BINS, percentiles
from offload_rllib.simulator.tasks import histogram_bin
from offload_rllib.simulator.types import FINISHED, NONE, OPEN

LONGEST_S = 20_000.0
DEADLINE = {"uniform": [5, 15]}


def bin_of_waste(load: float, **changes: Any) -> dict[str, Any]:
    """Return a node with a client and a neighbour that holds one task for ever: what is sent there is dropped."""
    return {
        "horizon_s": 200,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "node", "instructions_per_second": 1e6, "client": True},
                {"name": "waste", "instructions_per_second": 1.0, "queue_capacity": 1},
            ],
            "links": [["node", "waste"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e9},
        "workload": {
            "jobs": {"kind": "mix", "types": [{"instructions": {"exponential": 1e6}}]},
            "load": {"tasks_per_second_per_client": load},
        },
        "decisions": {"when": "interval", "interval_s": 1, "max_hops": 1, "tasks_per_decision": 8},
        "reward": {"name": "delay", "scope": "own"},
    } | changes


def offered_types(env: VectorEnv) -> np.ndarray:
    """Return the types [k] of the tasks on offer at the first agent, -1 where there is none."""
    types = np.full(env.tasks_per_decision, -1)
    n = int(env.scenario.arrays.agent_node[0])
    slot = int(env.state.node[0, n]["held_head"])
    for k in range(env.tasks_per_decision):
        if slot == NONE:
            break
        types[k] = env.state.task[0, slot]["type"]
        slot = int(env.state.task[0, slot]["held_next"])
    return types


def play(environment: dict[str, Any], drops: Callable[[np.ndarray, int], np.ndarray]) -> tuple[dict[str, float], float]:
    """Play an episode; return its figures and the sum of its rewards.

    Args:
        environment: see `bin_of_waste`.
        drops: given the types on offer [k] and the step, which of these tasks to throw away.
    """
    env = make_env(environment)
    total, step, done = 0.0, 0, False
    while not done:
        types = offered_types(env)
        done = env.step((drops(types, step) & (types >= 0)).astype(np.int32)[None, None])
        total += float(env.rewards.sum(dtype=np.float64))
        step += 1
    return env.episode_metrics(0), total


def serve(types: np.ndarray, _step: int) -> np.ndarray:
    """Drop nothing."""
    return np.zeros(len(types), bool)


DROPPING: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "all": lambda types, _step: np.ones(len(types), bool),
    "every other": lambda types, step: (np.arange(len(types)) + step) % 2 == 0,
    "one in ten": lambda types, step: np.full(len(types), step % 10 == 0),
    "in the second half": lambda types, step: np.full(len(types), step >= 100),
}


LATE_FINISH = [("never", DEADLINE), ("queued", DEADLINE), ("never", None), ("abort", None)]


@pytest.mark.parametrize(
    ("expiry", "deadline", "load", "policies"),
    [
        ("abort", DEADLINE, 0.5, tuple(DROPPING)),
        *((*late, 0.5, tuple(DROPPING)) for late in LATE_FINISH),
        *((*late, 0.9, tuple(DROPPING)) for late in LATE_FINISH),
        # In overload somebody is dropped or unfinished whatever is done: here those that drop more than must be.
        *((*late, 1.3, ("all", "every other", "in the second half")) for late in LATE_FINISH),
    ],
)
def test_no_policy_gains_by_dropping(
    expiry: str, deadline: dict | None, load: float, policies: tuple[str, ...]
) -> None:
    environment = bin_of_waste(load, deadlines={"expiry": expiry})
    environment["workload"]["deadline_s"] = deadline
    if (expiry, deadline) != ("abort", DEADLINE):
        environment["score"] = {"drop_s": 200}
    served, paid = play(environment, serve)
    assert served["dropped_queue_full_share"] == 0
    for name in policies:
        dropped, paid_for_drops = play(environment, DROPPING[name])
        assert dropped["dropped_queue_full_share"] > 0.02
        assert served["score_mean_s"] < dropped["score_mean_s"], name
        assert paid > paid_for_drops, name


@pytest.mark.parametrize("expiry", ["never", "queued"])
def test_the_price_of_a_drop_does_not_depend_on_the_horizon(expiry: str) -> None:
    scores, paid = [], []
    for horizon_s in (200, 2_000, LONGEST_S):
        environment = bin_of_waste(1.3, horizon_s=horizon_s, deadlines={"expiry": expiry}, score={"drop_s": LONGEST_S})
        environment["workload"]["deadline_s"] = DEADLINE
        figures, total = play(environment, DROPPING["all"])
        served, paid_for_service = play(environment, serve)
        scores.append(figures["score_mean_s"])
        paid.append(total / figures["tasks_created"])
        assert served["score_mean_s"] < scores[-1]
        assert paid_for_service > total
    # But for the one task that the neighbour takes, which is inside to the end and costs its age.
    np.testing.assert_allclose(scores, LONGEST_S, rtol=1e-9)
    np.testing.assert_allclose(paid, -LONGEST_S, rtol=0.02)


def test_a_price_below_a_late_finish_is_no_score() -> None:
    # Whatever is late finishes: what would have paid is refused, and nothing else.
    environment = bin_of_waste(0.5, deadlines={"expiry": "never"}, score={"drop_s": 199})
    environment["workload"]["deadline_s"] = DEADLINE
    message = r"score.drop_s: 199 is less than horizon_s: late tasks \(deadlines.expiry: never\) may finish as late"
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(environment))
    environment["deadlines"] = {"expiry": "abort"}
    build_scenario(load_environment(environment))


def unbounded(**changes: Any) -> dict[str, Any]:
    """Return the small network without bounds and deadlines: nothing is ever dropped."""
    environment = small_environment(**changes)
    environment["workload"]["deadline_s"] = None
    for node in environment["topology"]["nodes"]:
        node["queue_capacity"] = None
    return environment


LINKS, BOUNDED, DUE = (small_environment()[key] for key in ("links", "topology", "workload"))
LAW = {"time_to_failure_s": {"exponential": 20}, "time_to_repair_s": 2}


def lossy(**changes: Any) -> dict[str, Any]:
    """Return what lets one link lose messages."""
    return {"link_overrides": [{"between": ["a", "b"]} | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": BOUNDED}, r"tasks without a deadline .*node 'a' has a queue_capacity"),
        (lossy(loss_probability=0.1), r"tasks without a deadline .*\(links have a loss_probability\)"),
        (lossy(medium=LINKS | {"loss_probability": 1e-3}), r"\(links have a loss_probability\)"),
        ({"failures": {"laws": [LAW]}}, r"tasks without a deadline .*\(nodes have failures\)"),
        (
            {"workload": DUE, "deadlines": {"expiry": "queued"}},
            r"late tasks \(deadlines.expiry: queued\) may .*\(deadlines.expiry: queued\)",
        ),
        (
            {"workload": DUE, "deadlines": {"expiry": "never"}, "topology": BOUNDED},
            r"late tasks \(deadlines.expiry: never\) .*has a queue_capacity",
        ),
    ],
    ids=["queues", "loss", "loss of a medium", "failures", "expiry", "never"],
)
def test_the_price_of_a_drop_must_be_stated_where_late_tasks_finish(changes: dict[str, Any], message: str) -> None:
    environment = unbounded() | changes
    with pytest.raises(ConfigError, match=r"score.drop_s: missing: .*" + message):
        build_scenario(load_environment(environment))
    build_scenario(load_environment(environment | {"score": {"drop_s": 40}}))


def test_nothing_need_be_stated_where_nothing_is_dropped_or_all_is_aborted() -> None:
    for environment in (unbounded(), unbounded(deadlines={"expiry": "never"}), small_environment()):
        build_scenario(load_environment(environment))
    # One type without a deadline is enough.
    environment = small_environment()
    deadline = environment["workload"].pop("deadline_s")
    environment["workload"]["jobs"]["types"][0]["deadline_s"] = deadline
    with pytest.raises(ConfigError, match=r"score.drop_s: missing: tasks without a deadline"):
        build_scenario(load_environment(environment))


def two_types(**changes: Any) -> dict[str, Any]:
    """Return urgent and patient tasks, as many of each, that are aborted at their deadlines."""
    environment = bin_of_waste(0.8, horizon_s=1000, **changes)
    environment["workload"]["jobs"]["types"] = [
        {"name": "urgent", "instructions": 1e6, "deadline_s": 4.0},
        {"name": "patient", "instructions": 1e6, "deadline_s": 60.0},
    ]
    return environment


def sacrifice(types: np.ndarray, _step: int) -> np.ndarray:
    """Drop the urgent tasks."""
    return types == 0


@pytest.mark.parametrize("score", [{"weights": {"urgent": 15.0}}, {"drop_s": 60.0}], ids=["weights", "price"])
def test_urgent_tasks_are_not_worth_sacrificing_where_they_are_priced(score: dict[str, Any]) -> None:
    served, paid = play(two_types(score=score), serve)
    sacrificed, paid_for_sacrifice = play(two_types(score=score), sacrifice)
    assert served["score_mean_s"] < sacrificed["score_mean_s"]
    assert paid > paid_for_sacrifice
    assert sacrificed["missed_share_of_urgent"] == 1
    assert served["missed_share_of_urgent"] < 0.9
    assert sacrificed["missed_share"] < 0.6  # the figure of all tasks does not tell


def test_every_figure_of_tasks_is_given_of_every_type() -> None:
    environment = small_environment(warmup_s=5, drain_s=12, score={"weights": {"light": 0.25}})
    types = environment["workload"]["jobs"]["types"]
    types[0]["name"], types[1]["name"] = "light", "heavy"
    env = make_env(environment, log=True)
    while not env.step(env.heuristic_actions("least_queue")):
        pass
    figures, log = env.episode_metrics(0), env.task_log(0)
    log = log[(log["created_s"] >= 5) & (log["created_s"] < 28)]
    age, finished = log["ended_s"] - log["created_s"], log["outcome"] == FINISHED
    score = np.where(finished, age, log["deadline_s"] - log["created_s"])
    weight = np.array([0.25, 1.0])[log["type"]]
    assert figures["score_mean_s"] == pytest.approx((weight * score).sum() / weight.sum())
    assert figures["score_mean_s"] != pytest.approx(score.mean())
    for i, name in enumerate(("light", "heavy")):
        of = log["type"] == i
        assert figures[f"score_mean_s_of_{name}"] == pytest.approx(score[of].mean())
        assert figures[f"tasks_created_of_{name}"] == of.sum() > 5
        assert figures[f"missed_share_of_{name}"] == pytest.approx((~finished[of]).mean())
        assert figures[f"response_mean_s_of_{name}"] == pytest.approx(age[of & finished].mean())
        assert figures[f"waiting_mean_s_of_{name}"] == pytest.approx(log["waiting_s"][of & finished].mean())
        ordered = np.sort(score[of])
        rank = math.ceil(0.95 * len(ordered)) - 1
        assert figures[f"score_p95_s_of_{name}"] == pytest.approx(ordered[rank], rel=0.004)
    both = {name.rpartition("_of_")[0] for name in figures if name.endswith("_of_heavy")}
    whole_network = {"fairness", "overload", "occupancy_tasks", "masked_actions"}
    assert both == {name for name in figures if "_of_" not in name} - whole_network
    assert set(task_table(env, [{}])["type"].to_pylist()) == {"light", "heavy"}


def test_one_type_has_no_figures_of_its_own() -> None:
    env = make_env(bin_of_waste(0.5, score={"drop_s": 200}))
    while not env.step(np.zeros((1, 1, 8), np.int32)):
        pass
    assert not [name for name in env.episode_metrics(0) if "_of_" in name]


def test_the_account_of_clients_is_weighed() -> None:
    environment = two_types(score={"weights": {"urgent": 3.0}})
    env = make_env(environment, log=True)
    while not env.step(np.zeros((1, 1, 8), np.int32)):
        pass
    log = env.task_log(0)
    score = np.where(log["outcome"] == FINISHED, log["ended_s"], log["deadline_s"]) - log["created_s"]
    weight = np.array([3.0, 1.0])[log["type"]]
    assert env.state.node[0, 0]["score_sum_s"] == pytest.approx((weight * score).sum())
    assert env.state.node[0, 0]["scored"] == weight.sum()


def test_recorded_tasks_have_the_types_of_their_rows(tmp_path: Path) -> None:
    file = tmp_path / "tasks.csv"
    rows = [(0.5, "urgent"), (0.5, "patient"), (3.0, "urgent"), (3.0, "a-1")]
    file.write_text("time_s,work,type\n" + "".join(f"{time},1e6,{name}\n" for time, name in rows))
    columns = {"work": "work", "type": "type"}
    environment = bin_of_waste(0.5, score={"drop_s": 200, "weights": {"urgent": 5.0}})
    environment["workload"] = {"arrivals": {"kind": "replay", "path": str(file), "columns": columns}}
    env = make_env(environment, log=True)
    while not env.step(np.zeros((1, 1, 8), np.int32)):
        pass
    assert env.scenario.arriving.types == ("a-1", "patient", "urgent")
    assert task_table(env, [{}])["type"].to_pylist() == [name for _, name in rows]
    assert env.scenario.arrays.type_weight.tolist() == [1.0, 1.0, 5.0]
    assert env.episode_metrics(0)["tasks_created_of_urgent"] == 2
    for bad, message in (
        ("not this", r"row 2: column 'type': 'not this'; accepted: names of letters, digits, - and _"),
        ("", r"row 2: column 'type': no name; accepted"),
    ):
        file.write_text(f"time_s,work,type\n1,1e6,urgent\n2,1e6,{bad}\n")
        with pytest.raises(ConfigError, match=message):
            build_scenario(load_environment(environment))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": {"weights": {"urgnt": 2.0}}}, r"score.weights: no type of task is called 'urgnt'.*'urgent'"),
        ({"score": {"weights": {"urgent": 0.0}}}, r"score.weights.urgent: .*greater than 0"),
        ({"score": {"drop_s": 0}}, r"score.drop_s: .*greater than 0"),
        ({"score": {"drop": 5}}, r"score.drop"),
    ],
)
def test_what_the_score_cannot_be_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenario(load_environment(two_types() | change))


def test_types_have_names_of_their_own() -> None:
    environment = two_types()
    environment["workload"]["jobs"]["types"][1]["name"] = "urgent"
    with pytest.raises(ConfigError, match="two of them are called 'urgent'"):
        load_environment(environment)
    environment["workload"]["jobs"]["types"][1]["name"] = "sehr dringend"
    with pytest.raises(ConfigError, match=r"workload.jobs.*types.*name"):
        load_environment(environment)


@pytest.mark.parametrize("scale_s", [1e-11, 1e-9, 1e-6, 1.0, 1e7, 1e11])
def test_percentiles_are_right_to_four_in_a_thousand_at_every_scale(scale_s: float) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 19, 20, 21, 100, 5000):
        times = scale_s * rng.lognormal(0, 0.8, count)
        # Of two types; every third task did not finish, which is among the scores alone.
        counts = np.zeros((2, 2, HISTOGRAM_BINS), np.uint32)
        unfinished = np.arange(count) % 3 == 2
        bins = np.array([histogram_bin(time) for time in times])
        np.add.at(counts, (np.arange(count) % 2, unfinished.astype(int), bins), 1)
        shares = np.array([0.5, 0.95, 0.99])
        for found, expected in zip(percentiles(counts, shares), (times[~unfinished], times), strict=True):
            assert found == pytest.approx(np.quantile(expected, shares, method="inverted_cdf"), rel=0.004)


def test_percentiles_of_no_task_are_nan() -> None:
    counts = np.zeros((1, 2, HISTOGRAM_BINS), np.uint32)
    counts[0, 1, 0] = 1
    responses, scores = percentiles(counts, np.array([0.5, 0.99]))
    assert np.isnan(responses).all()
    assert scores == [0.0, 0.0]


def test_times_beyond_the_range_are_none_within_it() -> None:
    for time, shown in ((0.0, 0.0), (1e-300, 0.0), (1e-13, 0.0), (1e300, math.inf), (2.0**40, math.inf)):
        assert BIN_MIDDLES[histogram_bin(time)] == shown
    # In files bins are counted as they always were, from that of 2^-20 s.
    assert BIN_MIDDLES[COUNTED_FROM] == 2.0**-20 * (1 + 0.5 / 128)
    ends = np.array([2.0**-40, np.nextafter(2.0**40, 0)])
    np.testing.assert_allclose(BIN_MIDDLES[np.array([histogram_bin(time) for time in ends])], ends, rtol=0.004)


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_figures_of_very_short_and_very_long_tasks(scale: float) -> None:
    environment = bin_of_waste(0.7 / scale, horizon_s=200 * scale, score={"drop_s": 200 * scale})
    environment["workload"]["jobs"]["types"] = [{"instructions": {"exponential": 1e6 * scale}}]
    environment["decisions"]["interval_s"] = scale
    environment["information"] = {"kind": "fresh"}
    env = make_env(environment, log=True)
    while not env.step(np.zeros((1, 1, 8), np.int32)):
        pass
    log, figures = env.task_log(0), env.episode_metrics(0)
    responses = (log["ended_s"] - log["created_s"])[log["outcome"] == FINISHED]
    for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
        exact = np.quantile(responses, share, method="inverted_cdf")
        assert figures[f"response_{name}_s"] == pytest.approx(exact, rel=0.004)
    assert (log["outcome"] == OPEN).sum() < len(log) / 4
