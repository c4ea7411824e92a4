"""Fronts of several objectives: hypervolumes of known sets, and policies that play at many weights."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.environments import at_once, make_env
from helpers.policies import kept

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.fronts import (
    Front,
    corners_and_middles,
    dominated,
    hypervolume,
    lattice,
    play_front,
)
from offload_rllib.evaluation.players import Contender
from offload_rllib.reporting.front_page import hypervolumes, write_front

REWARD = {"scope": "team", "energy_weight": 0.5, "drop_penalty_s": 5.0, "weights": "drawn"}
ENERGY = {"kind": "power", "devices": [{"core_busy_w": 5.0}]}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_hypervolumes_are_those_that_counting_gives(count: int) -> None:
    rng = np.random.default_rng(count)
    for size in (0, 1, 6, 12):
        points = rng.integers(0, 6, (size, count)).astype(float)
        corners = np.array(list(itertools.product(range(5), repeat=count)))
        counted = int((corners[:, None] >= points[None]).all(-1).any(1).sum()) if size else 0
        assert hypervolume(points, np.full(count, 5.0)) == pytest.approx(counted, rel=1e-12)


def test_dominated_points_and_weights_are_those_of_the_definition() -> None:
    points = np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0]])
    assert dominated(points).tolist() == [False, False, False, True, False]
    assert hypervolume(points, np.array([4.0, 4.0])) == 6.0
    assert corners_and_middles(2) == [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]
    seven = corners_and_middles(3)
    assert len(seven) == 7
    assert seven[-1] == (1 / 3, 1 / 3, 1 / 3)
    assert len(lattice(4, 4)) == 35
    for shares in (seven, lattice(3, 5)):
        np.testing.assert_allclose(np.sum(shares, 1), 1.0)
        assert len(set(shares)) == len(shares)


def test_a_hypervolume_is_a_share_of_the_box_of_all_points() -> None:
    rows = [("a", 1.0, 10.0), ("a", 2.0, 0.0), ("b", 3.0, 5.0)]
    front = Front(("response", "energy"), ("x", "y"), pd.DataFrame(rows, columns=["policy", "x", "y"]), 2, 0)
    # Scaled: (0, 1), (0.5, 0) and (1, 0.5), in a box of 1.1 x 1.1.
    assert front.scaled("b").tolist() == [[1.0, 0.5]]
    assert front.hypervolume("a") == pytest.approx((1.1 * 0.1 + 0.6 * 1.0) / 1.21)
    assert front.hypervolume("b") == pytest.approx(0.1 * 0.6 / 1.21)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """Return a small environment with three objectives."""
    return at_once(energy=ENERGY, reward=REWARD, horizon_s=20)


def test_a_policy_plays_at_all_weights_and_a_rule_once(content: dict[str, Any], tmp_path: Path) -> None:
    env = make_env(content)
    kept(tmp_path / "learned", env, weights=env.layout.weights)
    config = load_environment(content)
    front = play_front(config, [str(tmp_path / "learned"), "local", "least_cost"], episodes=2)
    assert front.objectives == ("response", "drops", "energy")
    assert front.figures == ("score_mean_s", "dropped_share", "energy_j")
    assert front.points["policy"].tolist() == ["learned"] * 7 + ["local"] + ["least_cost"] * 7
    # Each point is what an evaluation with these weights gives.
    fixed = load_environment(content, ["reward.weights={response: 1, energy: 1}"])
    alone = evaluate(fixed, [Contender("learned", tmp_path / "learned")], episodes=2)
    at = front.points.query("weight_response == 0.5 and weight_energy == 0.5").iloc[0]
    for figure in front.figures:
        assert at[figure] == alone.of("learned", figure).mean()
    assert len(np.unique(front.of("learned"), axis=0)) > 1, "the weights matter to the policy"
    assert len(np.unique(front.of("least_cost"), axis=0)) > 1, "and to the rule that weighs"
    paths = write_front(front, tmp_path, "a title")
    assert paths["figure"].stat().st_size > 10_000
    assert "data:image/png;base64," in paths["report"].read_text()
    written = json.loads(paths["record"].read_text())
    assert [row["hypervolume"] for row in written["policies"]] == hypervolumes(front)["hypervolume"].tolist()


def test_names_that_are_no_policies_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"'lokal' is neither a heuristic, nor a run folder.*local"):
        play_front(load_environment(content), ["lokal"], episodes=2)
    with pytest.raises(ConfigError, match="nothing to weigh"):
        play_front(load_environment(at_once()), ["local"], episodes=2)
