"""Policies look the same in every figure, their names stand at their lines, and figures have the width of a column."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy.optimize import minimize

from offload_rllib.reporting.figures import new_figure
from offload_rllib.reporting.looks import COLUMN, LABEL_POINTS, PALETTE, RULES, apart, label_ends, looks
from offload_rllib.simulator.heuristics import BASELINES, HEURISTICS


def test_a_rule_and_a_learner_look_the_same_whatever_else_is_there() -> None:
    alone = {name: looks([name])[name] for name in (*HEURISTICS, "ppo", "ddqn", "a2c", "appo")}
    every = looks(["mine", *reversed(alone)])
    assert {name: every[name] for name in alone} == alone
    drawn = [(look["color"], look["linestyle"]) for look in every.values()]
    assert len(set(drawn)) == len(drawn)
    assert looks(["ether_12-ddqn-3"])["ether_12-ddqn-3"] == alone["ddqn"]
    assert looks(["size_interval:3"])["size_interval:3"] == alone["size_interval"]
    assert len({look["color"] for name, look in alone.items() if name in RULES}) == len(RULES)
    assert set(RULES) < set(BASELINES)


def test_what_has_no_look_of_its_own_takes_a_free_one() -> None:
    found = looks(["ppo", "ppo_wide", "ppo (sampled)", "mine"])
    colours = [found[name]["color"] for name in ("ppo", "ppo_wide", "mine")]
    assert len(set(colours)) == 3
    assert colours[0] == PALETTE[0]
    assert found["ppo (sampled)"]["color"] == colours[0]
    assert found["ppo (sampled)"]["linestyle"] != found["ppo"]["linestyle"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted))
def test_labels_are_as_near_to_their_lines_as_the_gap_allows(ends: list[float]) -> None:
    places = apart(np.array(ends), 0.125)
    assert np.all(np.diff(places) >= 0.125 - 1e-12)
    gaps = [{"type": "ineq", "fun": lambda x, i=i: x[i + 1] - x[i] - 0.125} for i in range(len(ends) - 1)]
    start = np.array(ends) + 0.125 * np.arange(len(ends))
    best = minimize(lambda x: ((x - np.array(ends)) ** 2).sum(), start, constraints=gaps, method="SLSQP")
    assert ((places - ends) ** 2).sum() == pytest.approx(best.fun, abs=1e-4)


def test_names_at_the_ends_of_lines_cover_neither_each_other_nor_the_axis() -> None:
    figure, axes = new_figure(COLUMN, 2.4, 1, 1)
    axis = axes[0][0]
    names = ["ppo", "size_interval", "local", "random"]
    ends = [1.0, 1.01, 1.02, 0.4]
    for name, end in zip(names, ends, strict=True):
        axis.plot([0, 1], [0, end], label=name)
    label_ends(axis, [(name, 1.0, end, "black") for name, end in zip(names, ends, strict=True)])
    figure.draw_without_rendering()
    boxes = {text.get_text(): Text.get_window_extent(text) for text in axis.texts}
    assert sorted(boxes, key=lambda name: boxes[name].y0) == ["random", "ppo", "size_interval", "local"]
    stacked = sorted(boxes.values(), key=lambda box: box.y0)
    assert all(low.y0 + LABEL_POINTS * figure.dpi / 72 <= high.y0 + 1 for low, high in pairwise(stacked))
    assert all(box.x0 > axis.get_window_extent().x1 for box in boxes.values())
    assert all(box.x1 <= figure.bbox.x1 for box in boxes.values()), "inside the column"
