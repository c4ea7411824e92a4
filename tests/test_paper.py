"""The reproduction of the PeersimGym paper: what is played, how its figures are reduced, and that it can be resumed."""

from __future__ import annotations

import csv
import json
import runpy
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from offload_rllib.config import ConfigError
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.scenario import build_scenario
from scripts.paper import plan
from scripts.paper import run as paper_run
from scripts.paper.estimate import hours_by_folder
from scripts.paper.metrics import PANELS, paper_reduction, play
from scripts.paper.plan import (
    BUDGETS,
    CELLS,
    LOADS,
    PAPER_RULES,
    Budget,
    pieces,
    settings_of,
    training_configs,
)
from scripts.paper.report import Results, read, verdicts, write_report
from scripts.paper.run import PIECES, POLICIES, run

SCRIPT = Path(__file__).parents[1] / "scripts" / "paper" / "__main__.py"
SMALLEST = replace(
    BUDGETS["quick"],
    training_episodes=1,
    long_training_episodes=0,
    tiers_training_episodes=0,
    seeds=2,
    episodes=2,
    loads=(0.5,),
    rhos=(),
    trained_there=(),
    growth=(),
)


def test_the_settings_are_those_of_the_paper() -> None:
    standard = BUDGETS["standard"]
    loads, sizes = settings_of("A", standard), settings_of("B", standard)
    assert tuple(loads) == LOADS
    assert sizes[12] == loads[0.5]
    agents = {12: 9, 19: 14, 28: 21, 31: 22}
    for nodes, setting in sizes.items():
        scenario = build_scenario(setting.environment())
        assert len(scenario.network.nodes) == nodes
        assert len(scenario.agents) == agents[int(nodes)]
        assert {name.partition("_")[0] for name in scenario.agents} == {"rpi3", "nuc"}
        assert scenario.load.rate_per_client == pytest.approx(0.5)
        assert scenario.config.horizon_s == 1000
    # The load of all tasks over all nodes' capacity, as published.
    plain = [build_scenario(loads[load].environment()).load.rho_of_all_tasks for load in (0.01, 0.1)]
    np.testing.assert_allclose(plain, (0.37, 3.7), rtol=0.06)


@pytest.mark.parametrize("name", BUDGETS)
def test_every_piece_of_a_budget_can_be_trained_and_played(name: str) -> None:
    budget = BUDGETS[name]
    planned = list(pieces(budget))
    assert len({piece.name for piece in planned}) == len(planned)
    played = {setting.name for piece in planned for setting in piece.plays}
    assert played == {setting.name for e in "ABCDEV" for setting in settings_of(e, budget).values()}
    for piece in {(piece.label, piece.trained_on): piece for piece in planned if piece.trained_on}.values():
        environment, policy = training_configs(piece, budget)
        assert policy.training.env_steps == piece.steps > 0
        assert environment.reward.name in ("peersimgym", "delay")
        if budget.as_published:
            assert policy.sharing.kind == "per_node"
            assert policy.training.env_steps == 300_000
            assert policy.network.hidden == (
                (512, 256, 128) if piece.label == "PPO" else (512, 512, 256, 256, 128, 128)
            )


def test_the_papers_reduction_mixes_mean_and_deviation_and_favours_early_episodes() -> None:
    figures = {"response_node_mean": [1.0, 3.0], "response_node_std": [0.0, 2.0], "dropped": [1.0, 3.0]}
    # Running means of (1, 3) are 1 and 2, of (0, 2) are 0 and 1.
    assert paper_reduction(figures, "response") == pytest.approx((1 + 2 + 0 + 1) / 4)
    assert paper_reduction(figures, "dropped") == 2.0


def test_panels_add_up() -> None:
    scenario = build_scenario(settings_of("A", BUDGETS["quick"])[0.5].environment())
    figures = play(scenario, make_contenders(["random"])[0], episodes=3)
    assert set(figures) >= {key for _, key, _ in PANELS}
    total, finished, dropped = (np.array(figures[key]) for key in ("total", "finished", "dropped"))
    assert (finished + dropped <= total).all()
    # What is still inside at the end fits into the queues.
    assert (total - finished - dropped < 1000).all()
    np.testing.assert_allclose(total, 4000, rtol=0.1)
    np.testing.assert_allclose(np.array(figures["occupancy"]), 100 * np.array(figures["occupancy_node_mean"]))


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[tuple[Path, Budget]]:  # noqa: ARG001 - Ray must run
    """Return the folder of a finished run of the smallest budget, of one setting, and the budget."""
    folder = tmp_path_factory.mktemp("paper") / "run"
    patch = pytest.MonkeyPatch()
    patch.setattr(paper_run, "AUTHORS_EPISODES", 2)
    patch.setitem(BUDGETS, "quick", SMALLEST)
    patch.setattr(plan, "VARIANTS", {"as coded": ()})
    for nodes in (19, 28, 31):
        patch.delitem(CELLS, nodes)
    run(folder, SMALLEST, Console(quiet=True))
    yield folder, SMALLEST
    patch.undo()


def test_a_run_writes_its_tables_and_figures(smallest: tuple[Path, Budget]) -> None:
    folder, _ = smallest
    written = write_report(folder)
    assert {path.name for path in written} >= {"report.md", "results.csv", "A.png", "A.svg", "A_paper.png", "B.png"}
    assert all(path.stat().st_size > 1000 for path in written)
    with (folder / "results.csv").open() as file:
        rows = {(r["policy"], r["seed"], r["figure"]): float(r["value"]) for r in csv.DictReader(file)}
    results = read(folder)
    assert rows["random", "0", "dropped"] == results.values("A-0.5", "random", "dropped")[0]
    assert rows["random", "0", "paper_response"] == results.reduced("A-0.5", "random", "response")[0]
    # Sent to the server, tasks come back sooner than kept: that much of the paper holds whatever is learned.
    for rule in ("local", "random", "least_queue"):
        assert results.difference("A-0.5", "always_server", rule, "response_s").mean < -1
    assert results.difference("A-0.5", "local", "random", "dropped").mean > 1
    report = (folder / "report.md").read_text()
    for name in ("DDQN", "A2C", "PPO", "always_server", "1,719"):
        assert name in report


def test_a_run_goes_on_where_it_stopped_and_refuses_another_budget(smallest: tuple[Path, Budget]) -> None:
    folder, budget = smallest
    lost = folder / PIECES / "A-0.5-a2c-1.json"
    kept = folder / PIECES / "A-0.5-a2c-0.json"
    before, untouched = lost.read_text(), kept.stat().st_mtime_ns
    policy = next((folder / POLICIES / "A-0.5-a2c-1").glob("*.safetensors")).read_bytes()
    lost.unlink()
    run(folder, budget, Console(quiet=True))
    # The policy was kept, so that it is not trained again; what it plays is the same to the last digit.
    assert lost.read_text().partition("figures")[2] == before.partition("figures")[2]
    assert next((folder / POLICIES / "A-0.5-a2c-1").glob("*.safetensors")).read_bytes() == policy
    assert kept.stat().st_mtime_ns == untouched
    with pytest.raises(ConfigError, match=r"holds a run with another budget \(episodes\); take another --out"):
        run(folder, replace(budget, episodes=3), Console(quiet=True))


def test_the_authors_evaluation_takes_seconds(smallest: tuple[Path, Budget]) -> None:
    # 100 episodes of 1,000 steps on 12 nodes, one core: they needed 1,719 to 4,869 s.
    folder, _ = smallest
    scenario = build_scenario(settings_of("A", BUDGETS["standard"])[0.5].environment())
    limits = {"random": 5.0, "least_queue": 5.0, str(folder / POLICIES / "A-0.5-ddqn-0"): 20.0}
    for policy, limit_s in limits.items():
        began = time.process_time()
        play(scenario, make_contenders([policy])[0], episodes=100)
        assert time.process_time() - began < limit_s, policy


def test_a_claim_holds_only_if_seeds_and_episodes_leave_no_doubt() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(100, 1, 20)

    def played(differences: np.ndarray) -> dict[int, dict[str, list[float]]]:
        return {seed: {"score_mean_s": (hard + row).tolist()} for seed, row in enumerate(differences)}

    rules = {rule: {0: {"score_mean_s": hard.tolist()}} for rule in PAPER_RULES}
    sure = np.full((3, 20), -5.0) + rng.normal(0, 0.1, (3, 20))
    # All seeds agree to a hundredth on the mean, which half of the episodes contradict.
    torn = np.where(np.arange(20) % 2, -30.0, 28.0) + rng.normal(0, 0.01, (3, 20))
    # All episodes agree, but one seed in three contradicts.
    unlucky = np.array([[-5.0], [-6.0], [4.0]]) + rng.normal(0, 0.01, (3, 20))
    learners = {"sure": played(sure), "torn": played(torn), "unlucky": played(unlucky), "worse": played(-sure)}
    results = Results(SMALLEST, {"S": rules | learners}, {}, {})
    found = {name: verdicts(results, ["S"], [name], "score_mean_s")["S", name] for name in learners}
    doubt = "same or undecided"
    assert found == {"sure": "lower", "torn": doubt, "unlucky": doubt, "worse": "higher"}
    # One comparison of three would be certain, p = 0.03, and is not among so many.
    row = np.linspace(-1, 1, 20)
    close = {"close": played(np.array([row * 4 + 1.26]))}
    results = Results(SMALLEST, {"S": rules | close}, {}, {})
    assert 0.02 < results.difference("S", "close", PAPER_RULES[0], "score_mean_s").p < 0.05
    assert verdicts(results, ["S"], ["close"], "score_mean_s") == {("S", "close"): doubt}


def test_the_cost_of_a_budget_follows_from_a_finished_one(smallest: tuple[Path, Budget]) -> None:
    folder, budget = smallest
    times = [json.loads(path.read_text()) for path in (folder / PIECES).glob("*.json")]
    spent_s = sum(content["training_cpu_s"] + sum(content["playing_cpu_s"].values()) for content in times)
    hours = hours_by_folder(folder, budget)
    # The dearest of the seeds stands for all.
    assert spent_s <= 3600 * sum(hours.values()) * 1.0001 < 3 * spent_s
    more = hours_by_folder(folder, replace(budget, training_episodes=40, seeds=1))
    assert more["DDQN"] > 3 * hours["DDQN"]
    with pytest.raises(ConfigError, match="'PPO, pointer' was not measured"):
        hours_by_folder(folder, replace(budget, rhos=(0.8,), long_training_episodes=1, growth=(1,)))
    lost = folder / PIECES / "A-0.5-ppo-1.json"
    kept = lost.read_text()
    lost.unlink()
    try:
        with pytest.raises(ConfigError, match=r"A-0.5-ppo-1.json: missing, or without times"):
            hours_by_folder(folder, budget)
    finally:
        lost.write_text(kept)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="exists and is not a run of this script"):
        run(tmp_path, SMALLEST, Console(quiet=True))


def test_the_script_is_thin_and_loads() -> None:
    assert isinstance(runpy.run_path(str(SCRIPT)), dict)
    assert len(SCRIPT.read_text().splitlines()) < 80
