"""The clairvoyant bound is what it says: met where the optimum is known, and beaten by no policy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.environments import RULES_THAT_NEED_MORE, make_env, small_environment
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.lower_bound import dual_bound, lower_bound, recorded_tasks
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.runs.folder import write_results
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.heuristics import HEURISTICS

RULES = [name for name in HEURISTICS if name not in RULES_THAT_NEED_MORE]
SCORE = "score_mean_s"


def two_nodes(folder: Path, rows: list[tuple[float, str, float]], **changes: Any) -> dict[str, Any]:
    """Return a slow and a fast node, one link between, and tasks: time, node, seconds of work at the slow one."""
    file = folder / "tasks.csv"
    lines = [f"{time},{node},{1e6 * work},100000,0" for time, node, work in rows]
    file.write_text("\n".join(["time_s,origin,work,bits_in,bits_out", *lines]) + "\n")
    columns = {name: name for name in ("origin", "work", "bits_in", "bits_out")}
    return {
        "horizon_s": 60,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "slow", "instructions_per_second": 1e6, "client": True},
                {"name": "fast", "instructions_per_second": 2e6, "client": True},
            ],
            "links": [["slow", "fast"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e6, "latency_s": 0.25},
        "workload": {"arrivals": {"kind": "replay", "path": str(file), "columns": columns}},
        "decisions": {"when": "interval", "interval_s": 0.5, "max_hops": 1, "tasks_per_decision": 8},
    } | changes


def bounds(environment: Any, episodes: int, **options: Any) -> np.ndarray:
    config = load_environment(environment)
    return np.array(
        [lower_bound(*each, **options).mean_s for each in recorded_tasks(config, held_out_keys(0, episodes))]
    )


def dual_bounds(environment: Any, episodes: int) -> np.ndarray:
    config = load_environment(environment)
    return np.array([dual_bound(*each).mean_s for each in recorded_tasks(config, held_out_keys(0, episodes))])


def best_of_all_decisions(environment: Any, decisions: int) -> float:
    """Return the best score of a replayed episode over every way to decide its tasks, each once."""
    env = VectorEnv(build_scenario(load_environment(environment)), 2**decisions)
    env.reset(np.repeat(held_out_keys(0, 1), env.num_envs))
    plan = np.arange(env.num_envs)
    done = False
    while not done:
        masks = env.masks if env.masks.ndim == 4 else env.masks[:, :, None]
        actions = np.zeros(masks.shape[:-1], np.int32)
        for agent, k in np.ndindex(actions.shape[1:]):
            choice = masks[:, agent, k].sum(-1) > 1
            actions[:, agent, k] = choice & (plan & 1)
            plan = np.where(choice, plan >> 1, plan)
        done = env.step(actions.reshape(env.masks.shape[:-1]))
    return min(env.episode_metrics(e)[SCORE] for e in range(env.num_envs))


def test_equal_tasks_at_one_queue_meet_the_bound(tmp_path: Path) -> None:
    # The link takes longer than everything else, so the fast node serves its tasks one after the other: 1, 2, 3, 4 s.
    far = {"kind": "fixed", "rate_bps": 1e6, "latency_s": 50}
    environment = two_nodes(tmp_path, [(0.5, "fast", 2.0)] * 4, links=far)
    best = best_of_all_decisions(environment, 4)
    assert best == pytest.approx(2.5)
    assert bounds(environment, 1, slot_s=0.1)[0] == pytest.approx(2.5, abs=0.002)
    assert bounds(environment, 1, slot_s=0.1)[0] <= 2.5


def test_unequal_tasks_are_bounded_by_the_shortest_first(tmp_path: Path) -> None:
    # 2, 1 and 0.5 s of service at once: shortest first 0.5, 1.5, 3.5 s, whatever the order of the queue.
    far = {"kind": "fixed", "rate_bps": 1e6, "latency_s": 50}
    environment = two_nodes(tmp_path, [(0.5, "fast", work) for work in (4.0, 2.0, 1.0)], links=far)
    expected = (0.5 + 1.5 + 3.5) / 3
    assert best_of_all_decisions(environment, 3) == pytest.approx((2.0 + 3.0 + 3.5) / 3)
    assert best_of_all_decisions(environment | {"queue": "sjf"}, 3) >= expected
    assert bounds(environment, 1, slot_s=0.05)[0] == pytest.approx(expected, abs=0.002)


def test_a_task_alone_is_as_fast_as_its_best_way(tmp_path: Path) -> None:
    # Decided at 1.5 s; kept 4 s; sent 0.35 s there, 2 s of service, 0.25 s back.
    environment = two_nodes(tmp_path, [(1.2, "slow", 4.0)])
    assert bounds(environment, 1, slot_s=1.0)[0] == pytest.approx(0.3 + 0.35 + 2.0 + 0.25, rel=1e-5)


def test_two_nodes_meet_the_bound(tmp_path: Path) -> None:
    # Three tasks of 1 s at the fast and 2 s at the slow node, at once, and a link that takes no time.
    near = {"kind": "fixed", "rate_bps": 1e12, "latency_s": 0.0}
    environment = two_nodes(tmp_path, [(0.5, "slow", 2.0)] * 3, links=near)
    assert best_of_all_decisions(environment, 3) == pytest.approx((1 + 2 + 2) / 3)
    assert bounds(environment, 1, slot_s=0.05, whole=True)[0] == pytest.approx(5 / 3, abs=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_no_sequence_of_decisions_beats_the_bound_and_the_best_comes_close(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, 8, 9))
    rows = [(time, str(rng.choice(["slow", "fast"])), rng.uniform(0.5, 4)) for time in times.tolist()]
    environment = two_nodes(tmp_path, rows, queue=str(rng.choice(["fifo", "sjf"])))
    best = best_of_all_decisions(environment, len(rows))
    linear, whole = (bounds(environment, 1, slot_s=0.25, whole=whole)[0] for whole in (False, True))
    assert linear <= whole * (1 + 1e-5)
    assert whole <= best
    assert linear > 0.75 * best
    assert whole > 0.85 * best


def test_without_slots_capacity_is_what_lies_between_the_first_and_the_last_moment(tmp_path: Path) -> None:
    # Service takes 1 s, and all must be back by 3.5 s: of four or five tasks at 0.5 s three can be served.
    far = {"kind": "fixed", "rate_bps": 1e6, "latency_s": 50}
    for count in (3, 4, 5):
        environment = two_nodes(tmp_path, [(0.5, "fast", 2.0)] * count, links=far)
        environment["workload"]["deadline_s"] = 3.0
        expected = (3 * 1.0 + (count - 3) * 3.0) / count
        assert dual_bounds(environment, 1)[0] == pytest.approx(expected, rel=1e-4)
        assert dual_bounds(environment, 1)[0] <= expected


VARIANTS: dict[str, dict[str, Any]] = {
    "deadlines abort": {},
    "deadlines are counted": {"deadlines": {"expiry": "never"}, "score": {"drop_s": 40}},
    "waiting tasks expire": {"deadlines": {"expiry": "queued", "grace_s": 1}, "score": {"drop_s": 40}},
    "one type counts more": {"score": {"weights": {"type_1": 5}}},
    "drops cost more than a deadline": {"score": {"drop_s": 30}},
    "the newest task on offer": {"decisions": {"when": "interval", "offer": "newest"}},
    "parallel service": {"service": "parallel"},
    "shared cores": {"service": "shared"},
    "warm-up and drain": {"warmup_s": 5, "drain_s": 12},
    "contention, jitter and loss": {
        "links": {"kind": "fixed", "rate_bps": 1e6, "latency_s": 0.05, "contention": "fifo", "loss_probability": 0.05}
    },
    "failures": {
        "failures": {
            "tasks": "returned",
            "laws": [{"time_to_failure_s": {"exponential": 20}, "time_to_repair_s": {"exponential": 5}}],
        }
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_heuristic_beats_the_bound(variant: str) -> None:
    environment = small_environment(**VARIANTS[variant])
    bound = bounds(environment, 3, slot_s=0.25)
    dual = dual_bounds(environment, 3)
    evaluation = evaluate(load_environment(environment), make_contenders(RULES), episodes=3)
    assert (bound > 0.2).all()
    # The dual of a program with one slot is at least as tight as that program, if the best prices have been found.
    assert (dual >= bounds(environment, 3, slot_s=environment["horizon_s"]) * (1 - 1e-3)).all()
    assert all((evaluation.of(rule, SCORE) >= dual).all() for rule in RULES)
    for rule in RULES:
        assert (evaluation.of(rule, SCORE) >= bound).all(), rule
    best = min(evaluation.of(rule, SCORE).mean() for rule in RULES)
    # The bound leaves out full queues, whose drops count the more the higher their price is.
    assert bound.mean() > (0.1 if "drop_s" in environment.get("score", {}) else 0.3) * best


def test_no_heuristic_beats_the_bound_in_a_network_that_every_episode_draws() -> None:
    environment = small_environment(
        topology={
            "kind": "geometric",
            "nodes": 6,
            "radius_m": 60,
            "devices": [{"type": "any", "instructions_per_second": 1e6, "client": True, "speed_variation": 0.5}],
            "resample": "episode",
        },
        decisions={"max_destinations": 3},
    )
    bound = bounds(environment, 3, slot_s=0.25)
    evaluation = evaluate(load_environment(environment), make_contenders(RULES), episodes=3)
    for rule in RULES:
        assert (evaluation.of(rule, SCORE) >= bound).all(), rule


def test_recorded_tasks_are_those_that_policies_meet() -> None:
    environment = small_environment(warmup_s=5, drain_s=12)
    ((_, tasks),) = recorded_tasks(load_environment(environment), held_out_keys(0, 1))
    env = make_env(environment, log=True)
    while not env.step(env.heuristic_actions("random")):
        pass
    log = env.task_log(0)
    log = log[(log["created_s"] >= 5) & (log["created_s"] < 28)]
    assert len(log) == len(tasks) == env.episode_metrics(0)["tasks_created"]
    for name in ("created_s", "work", "bits_in", "bits_out", "deadline_s", "origin"):
        assert (tasks[name] == log[name]).all(), name


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("links={kind: fixed, rate_bps: 1e6, rate_schedule: {steps: [[0, 1], [9, 2]]}}", "links.rate_schedule"),
        ("links={kind: wireless, shadowing_db: 4}", "links with fading or shadowing_db"),
    ],
)
def test_links_whose_best_rate_is_not_known_are_refused(override: str, key: str) -> None:
    config = load_environment(small_environment(), [override])
    with pytest.raises(ConfigError, match=f"bound: {key}: the best rate"):
        list(recorded_tasks(config, held_out_keys(0, 1)))


def test_programs_that_would_not_end_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"needs more than 1,500,000 variables: take longer slots, a shorter horizon_s"
    ):
        bounds(small_environment(horizon_s=2000), 1, slot_s=0.001)
    with pytest.raises(ConfigError, match="the slot must be above 0 s, is 0"):
        bounds(small_environment(), 1, slot_s=0.0)


def test_the_verb_says_how_far_policies_are_from_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_environment()))
    command = ["bound", "small.yaml", "shortest_finish", "local", "--episodes", "3", "--slot", "0.5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    with (tmp_path / "evaluations" / "small-bound-1" / "bound.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["bound_s"]) for row in rows], bounds(small_environment(), 3, slot_s=0.5))
    for row in rows:
        assert float(row["bound_s"]) < min(float(row["shortest_finish"]), float(row["local"]))
    assert "shortest_finish" in result.output
    for options, message in (
        (["--out", "evaluations/small-bound-1"], "evaluations/small-bound-1: exists and is not overwritten"),
        (["--slot", "0"], "--slot 0: must be above 0 s"),
        (["--time-limit", "5"], "--time-limit: only with --whole"),
        (["--dual"], "--dual: has no slots and no whole tasks"),
    ):
        assert message in str(CliRunner().invoke(app, [*command, *options]).exception)


def test_results_that_are_written_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "figures").touch()

    folders = [write_results(None, tmp_path / "evaluations", "small", write)[0] for _ in range(2)]
    assert [folder.name for folder in folders] == ["small-1", "small-2"]
    with pytest.raises(ConfigError, match="small-1: exists and is not overwritten; choose another --out"):
        write_results(folders[0], tmp_path, "small", write)
    (tmp_path / "file").touch()
    for out, parent in ((tmp_path / "file" / "results", tmp_path), (None, tmp_path / "file")):
        with pytest.raises(NotADirectoryError, match="file"):
            write_results(out, parent, "small", write)
