"""What evaluations, bounds and sweeps add up, scale and pass on, by values: one wrong sign, key or index is seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.environments import small_environment

from offload_rllib.config import load_environment
from offload_rllib.config.loading import load_sweep
from offload_rllib.config.sweep import Domain, Metric
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation import lower_bound
from offload_rllib.evaluation.evaluate import Cell, Place, Played, assemble
from offload_rllib.evaluation.players import Contender
from offload_rllib.evaluation.results import Comparison, combined, label_of
from offload_rllib.reporting.tables import timings_table
from offload_rllib.simulator.streams import CONSTANT, LOGNORMAL, UNIFORM
from offload_rllib.simulator.types import EXPIRY_ABORT
from offload_rllib.sweep import plots as sweep_plots
from offload_rllib.sweep.outcomes import TrialOutcome, dominates, is_better
from offload_rllib.sweep.plan import plan_sweep
from offload_rllib.sweep.search import metric_path, scheduler, tune_domain

CONFIG = load_environment(small_environment())


def played(score: float, choices: int) -> Played:
    return Played([{"score_mean_s": score}], np.array([choices, 1]), choices, 2.0, 1.0, 3.0)


def assembled() -> Comparison:
    places = [Place("ring", CONFIG, {"rho": rho}) for rho in (0.5, 0.7)]
    cells = [Cell(place, Contender("local", "local"), first, 1, 4) for place in places for first in (0, 32)]
    return assemble(cells, [played(float(i), 100 * (i + 1)) for i in range(4)])


def test_batches_of_a_policy_are_put_together() -> None:
    comparison = assembled()
    assert comparison.episodes["episode"].tolist() == [0, 32, 0, 32]
    assert comparison.episodes["rho"].tolist() == [0.5, 0.5, 0.7, 0.7]
    assert comparison.matrix("local", "score_mean_s", ("ring", 0.7)).tolist() == [[2.0, 3.0]]
    assert (comparison.seed, comparison.episode_count, comparison.metrics) == (4, 2, ("score_mean_s",))
    assert comparison.responses[("ring", 0.5), "local"].tolist() == [300, 2]
    first = comparison.timings.iloc[0]
    assert first["decisions"] == 300
    assert first["decision_wall_us"] == pytest.approx(1e6 * 4 / 300)
    assert first["decision_cpu_us"] == pytest.approx(1e6 * 2 / 300)
    assert first["seconds"] == 6
    (row,) = timings_table(comparison).to_dict("records")
    # Weighted by decisions: 8 s and 4 s of 1,000 decisions.
    assert row == {
        "policy": "local",
        "decisions": "1,000",
        "µs per decision": "8000",
        "CPU µs per decision": "4000",
        "seconds in all": "12",
    }


def test_what_is_put_together_keeps_rows_apart() -> None:
    one = assembled()
    other = Comparison(one.episodes.assign(policy="random"), one.timings.assign(policy="random"), one.sweep)
    both = combined([one, other])
    assert both.policies == ("local", "random")
    assert len(both.episodes) == 8
    assert set(both.responses) == set(one.responses)
    assert both.only(["random"]).episodes["policy"].unique().tolist() == ["random"]
    assert label_of("ring", {"rho": 0.5, "scope": "own"}) == "ring, rho=0.5, scope=own"
    assert set(both.episodes["training_seed"].isna()) == {True}


def test_bounds_of_a_second_batch_are_those_of_its_own_episodes() -> None:
    count = lower_bound.BATCH + 1
    found = lower_bound.bounds_of_episodes(CONFIG, episodes=count, seed=3, slot_s=1.0)
    ((scenario, tasks),) = lower_bound.recorded_tasks(CONFIG, held_out_keys(3, count)[-1:])
    assert found[-1] == lower_bound.lower_bound(scenario, tasks, slot_s=1.0)
    assert found[-1].mean_s != found[0].mean_s
    assert lower_bound.lower_bound(scenario, tasks[:0]).tasks == 0
    assert lower_bound.lower_bound(scenario, tasks).slot_s == pytest.approx(CONFIG.horizon_s / lower_bound.SLOTS)


def test_the_least_time_of_a_law_and_the_penalty_of_a_drop() -> None:
    laws: dict[int, Any] = {CONSTANT: 2.0, UNIFORM: 2.0, LOGNORMAL: 3.0, 99: 0.0}
    for kind, least in laws.items():
        law: Any = {"kind": kind, "a": 2.0, "b": 3.0}
        assert lower_bound._least(law) == least  # pyright: ignore[reportPrivateUsage]
    scenario: Any = SimpleNamespace(settings=[{"horizon_s": 40.0, "expiry": EXPIRY_ABORT, "drop_s": 7.0}])
    tasks: Any = {"created_s": np.array([1.0, 10.0]), "deadline_s": np.array([6.0, np.inf])}
    assert lower_bound._drop_penalties(scenario, tasks).tolist() == [7.0, 30.0]  # pyright: ignore[reportPrivateUsage]
    assert lower_bound._next_decision(np.array([0.0, 0.2, 0.5, 0.51]), 0.5).tolist() == [0, 0.5, 0.5, 1]  # pyright: ignore[reportPrivateUsage]


def test_axes_of_a_sweep_run_from_low_to_high_on_their_scale() -> None:
    axis = sweep_plots._axis_of_key  # pyright: ignore[reportPrivateUsage]
    logarithmic = axis("policy.algorithm.lr", Domain.model_validate({"log_uniform": [1e-4, 1e-2]}), [1e-4, 1e-3, 1e-2])
    np.testing.assert_allclose(logarithmic.heights, [0, 0.5, 1])
    assert logarithmic.label == "algorithm.lr"
    assert [text for _, text in logarithmic.ticks] == ["0.0001", "0.000316", "0.001", "0.00316", "0.01"]
    linear = axis("policy.algorithm.gamma", Domain.model_validate({"uniform": [0.9, 1.0]}), [0.9, 0.925])
    np.testing.assert_allclose(linear.heights, [0, 0.25])
    options = axis("policy.network.hidden", Domain.model_validate([[8], [16], [32]]), [[32], [8]])
    assert options.heights.tolist() == [1, 0]
    values = sweep_plots._axis_of_metric(Metric(name="a"), np.array([3.0, 1.0, 2.0]))  # pyright: ignore[reportPrivateUsage]
    assert values.heights.tolist() == [1, 0, 0.5]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_sweep_ends_trials_by_its_own_metric_and_direction(tmp_path: Path, mode: str) -> None:
    (tmp_path / "ring.yaml").write_text(yaml.safe_dump(small_environment()))
    content = {
        "environment": "ring.yaml",
        "policy": "ppo",
        "space": {"policy.algorithm.lr": [1e-3, 1e-4]},
        "metrics": [{"name": "fairness", "mode": mode}],
        "budget": {"trials": 4, "env_steps": 64_000, "report_env_steps": 8000},
        "scheduler": {"kind": "asha", "grace_env_steps": 16_000, "reduction_factor": 2},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    plan = plan_sweep(load_sweep(tmp_path / "sweep.yaml"))
    asha: Any = scheduler(plan)
    assert asha._metric == metric_path("fairness") == "validation/fairness"
    assert (asha._mode, asha._max_t, asha._time_attr) == (mode, 64_000, "timesteps_total")
    assert asha._reduction_factor == 2
    metric = plan.config.metrics[0]
    assert is_better(metric, 1.0, 2.0) == (mode == "min")
    one, other = (TrialOutcome(str(v), {}, "finished", 1, {"fairness": v}) for v in (1.0, 2.0))
    assert dominates([metric], one, other) == (mode == "min")
    assert not dominates([metric], one, one)


def test_whole_numbers_of_a_search_reach_their_upper_end() -> None:
    domain: Any = tune_domain(Domain.model_validate({"integer": [1, 2]}), grid=False)
    assert {domain.sample(random_state=np.random.RandomState(i)) for i in range(20)} == {1, 2}
    grid = tune_domain(Domain.model_validate([1, [2]]), grid=True)
    assert grid == {"grid_search": [1, "[2]"]}
