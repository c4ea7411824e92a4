"""Rules with a parameter are tuned as learners are trained: on training episodes, and judged elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from helpers.environments import small_environment
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.algorithms import Constraint
from offload_rllib.envs.vector import VectorEnv, held_out_keys, training_key
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.evaluation.rule_tuning import TunedRule, rank_rules, tune_rule, values_around
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.build import fitting_rules

CONFIG = load_environment(small_environment())


def scores_of(rule: str, keys: np.ndarray, metric: str = "score_mean_s") -> np.ndarray:
    env = VectorEnv(build_scenario(CONFIG), len(keys))
    env.reset(keys)
    while not env.step(env.heuristic_actions(rule)):
        pass
    return np.array([env.episode_metrics(e)[metric] for e in range(len(keys))])


def test_a_rule_is_tuned_on_training_episodes_and_on_no_held_out_ones() -> None:
    # More than one batch.
    tuned = tune_rule(CONFIG, "keep_first", values=[0.2, 3.0], episodes=35, seed=4)
    assert tuned.values == (0.2, 0.5, 3.0), "the default is always tried"
    keys = np.array([training_key(4, 0, 0, e) for e in range(35)], np.uint64)
    assert not set(keys.tolist()) & set(held_out_keys(4, 1000).tolist())
    for value, row in zip(tuned.values, tuned.figures, strict=True):
        np.testing.assert_array_equal(row, scores_of(f"keep_first:{value:g}", keys))
    assert tuned.chosen == tuned.values[tuned.figures.mean(axis=1).argmin()]
    assert make_contenders([tuned.name])[0].name == tuned.name
    held_out = evaluate(CONFIG, make_contenders([tuned.name]), episodes=2)
    assert held_out.matrix(tuned.name, "score_mean_s").shape == (1, 2)


def test_all_rules_are_ranked_each_with_its_best_parameter() -> None:
    ranked = rank_rules(CONFIG, episodes=3, seed=4)
    of = {name.partition(":")[0]: name for name in ranked.names}
    assert set(of) == set(fitting_rules(CONFIG)) - {"shortest_finish_oracle"}, "no agent sees the true state"
    assert of["keep_first"] == tune_rule(CONFIG, "keep_first", episodes=3, seed=4).name
    keys = np.array([training_key(4, 0, 0, e) for e in range(3)], np.uint64)
    for name, row in zip(ranked.names, ranked.figures, strict=True):
        np.testing.assert_array_equal(row, scores_of(name, keys))
    means = ranked.figures.mean(axis=1)
    assert (np.diff(means) >= 0).all()
    assert means[0] < means[-1]
    assert ranked.best == ranked.names[0]
    finished = rank_rules(CONFIG, metric="tasks_finished", episodes=2).figures.mean(axis=1)
    assert (np.diff(finished) <= 0).all(), "where more is better the first has the most"
    assert finished[0] > finished[-1]


def test_rules_within_bounds_rank_first_and_then_the_nearest_to_them() -> None:
    free = rank_rules(CONFIG, episodes=3, seed=4)
    keys = np.array([training_key(4, 0, 0, e) for e in range(3)], np.uint64)
    dropped = {name: float(np.mean(scores_of(name, keys, "dropped_share"))) for name in free.names}
    assert len(set(dropped.values())) > 2
    at_most = float(np.median(list(dropped.values())))
    bound = Constraint(figure="dropped_share", at_most=at_most)
    ranked = rank_rules(CONFIG, bounds=(bound,), episodes=3, seed=4)
    of = {name: float(np.mean(scores_of(name, keys, "dropped_share"))) for name in ranked.names}
    excesses = [max(of[name] - at_most, 0.0) for name in ranked.names]
    assert excesses == sorted(excesses)
    assert excesses[-1] > 0
    within = [name for name, excess in zip(ranked.names, excesses, strict=True) if not excess]
    scores = [float(np.mean(scores_of(name, keys))) for name in within]
    assert scores == sorted(scores)
    assert len(within) >= 2
    # Among the values of a parameter as among rules.
    variants = [f"keep_first:{value:g}" for value in values_around("keep_first")]
    shares = [float(np.mean(scores_of(name, keys, "dropped_share"))) for name in variants]
    chosen = next(name for name in ranked.names if name.startswith("keep_first"))
    means = [float(np.mean(scores_of(name, keys))) for name in variants]
    standings = [(max(share - at_most, 0.0), mean) for share, mean in zip(shares, means, strict=True)]
    assert variants.index(chosen) == standings.index(min(standings))


def test_where_more_is_better_the_largest_mean_is_chosen() -> None:
    tuned = tune_rule(CONFIG, "threshold", metric="tasks_finished", episodes=8)
    means = tuned.figures.mean(axis=1)
    assert means.min() < means.max()
    assert tuned.chosen == tuned.values[means.argmax()]
    assert tuned.differences[tuned.values.index(2.0)].mean == 0


def test_values_are_tried_from_a_quarter_to_four_times_the_default() -> None:
    assert values_around("size_interval") == (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 16)
    assert values_around("threshold") == (1, 2, 3, 4, 6, 8), "tasks are counted in whole numbers"


def test_a_choice_among_equal_values_is_not_called_certain() -> None:
    rng = np.random.default_rng(3)
    tables = [
        TunedRule("size_interval", "score_mean_s", tuple(range(12)), rng.normal(size=(12, 12)), 0, 0)
        for _ in range(200)
    ]
    assert sum(any(table.differs) for table in tables) <= 0.08 * len(tables)
    sure = TunedRule("size_interval", "score_mean_s", (1, 2), np.array([[1.0, 1.1, 1.2], [3.0, 3.3, 3.1]]), 1, 1)
    assert sure.differs == [False, True]
    assert sure.at_the_end


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("size_intervall", {}, r"'size_intervall' is not a heuristic.*Did you mean 'size_interval'"),
        ("local", {}, r"'local' takes no parameter; rules that do: .*size_interval"),
        ("size_interval", {"values": [-1.0]}, r"size_interval:-1.*must be a number above 0"),
        ("size_interval", {"metric": "score"}, r"--metric 'score': not reported here"),
        ("size_interval", {"episodes": 1}, r"at least 2"),
    ],
)
def test_what_cannot_be_tuned_is_refused(rule: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tune_rule(CONFIG, rule, **{"episodes": 2, "values": [2.0], **options})


def test_the_verb_prints_values_intervals_and_the_choice(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_environment()))
    command = ["tune-rule", "small.yaml", "soft_finish", "--episodes", "4", "--values"]
    result = CliRunner().invoke(app, [*command, "0.1,0.2,2"])
    assert result.exit_code == 0, result.output
    tuned = tune_rule(CONFIG, "soft_finish", values=[0.1, 0.2, 2], episodes=4)
    assert f"chosen: {tuned.name}" in result.output
    assert "±" in result.output
    assert f"offload-rllib evaluate small.yaml {tuned.name} soft_finish" in result.output.replace("\n", " ")
    assert "--values 'a': must be numbers" in str(CliRunner().invoke(app, [*command, "a"]).exception)


def test_the_verb_ranks_all_rules_unless_one_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small_environment()))
    command = ["tune-rule", "small.yaml", "--episodes", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    ranked = rank_rules(CONFIG, episodes=2)
    assert f"best: {ranked.best}" in result.output
    lines = [result.output.index(f" {name} ") for name in ranked.names]
    assert lines == sorted(lines)
    assert "--values '1': no rule is named" in str(CliRunner().invoke(app, [*command, "--values", "1"]).exception)
