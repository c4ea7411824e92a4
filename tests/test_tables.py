"""Tables say what the numbers say: verdicts are adjusted, profiles are of episodes, and LaTeX fits a page."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from rich.console import Console
from scipy import stats

from offload_rllib.evaluation.interval_text import difference_text, with_half_width
from offload_rllib.evaluation.metrics import COLUMNS, METRICS, TYPE_COLUMNS
from offload_rllib.evaluation.results import Comparison, Point
from offload_rllib.evaluation.statistics import Interval
from offload_rllib.reporting.figures import of_metric, of_profiles, write_figure
from offload_rllib.reporting.latex import TEXT_WIDTH_PT, column_pt, latex_table, split
from offload_rllib.reporting.report import tables
from offload_rllib.reporting.tables import (
    differences_table,
    over_points_table,
    short_table,
    transfer_table,
    write_tables,
)
from offload_rllib.rollout.callbacks import LOGGED
from scripts.results.study import verdicts

SCORE = "score_mean_s"


def test_a_metric_says_itself_where_it_stands() -> None:
    for columns in (COLUMNS, TYPE_COLUMNS):
        assert all(metric.brief for metric in columns)
    assert [metric.column for metric in COLUMNS] == list(range(1, len(COLUMNS) + 1))
    assert [metric.type_column for metric in TYPE_COLUMNS] == list(range(1, len(TYPE_COLUMNS) + 1))
    (heading,) = tables(compared({("local", ("here",)): np.ones((1, 3))}), "local")[0].columns[1:2]
    assert heading.header == METRICS[SCORE].brief
    assert set(LOGGED) <= METRICS.keys()


def compared(values: dict[tuple[str, Point], np.ndarray], sweep: tuple[str, ...] = ()) -> Comparison:
    """Return a comparison with scores [M, N] of policies at points; with them go drops and offloading."""
    rows = []
    for (policy, point), scores in values.items():
        for seed, episodes in enumerate(scores):
            for episode, score in enumerate(episodes.tolist()):
                about = {"environment": point[0], **dict(zip(sweep, point[1:], strict=True)), "fingerprint": "0"}
                origin = policy.partition(" from ")[2]
                about |= {"policy": policy, "trained_on": origin, "held_out_seed": 0, "episode": episode}
                about |= {"training_seed": seed if len(scores) > 1 else None}
                figures = {SCORE: score, "score_p95_s": 3 * score, "dropped_share": score / 1000}
                rows.append(about | figures | {"response_mean_s": score, "offloaded_share": 0.5, "overload": 0.0})
    episodes = pd.DataFrame(rows)
    episodes["training_seed"] = episodes["training_seed"].astype("Int64")
    return Comparison(episodes, pd.DataFrame(), sweep)


def differing(p: float, count: int = 12) -> np.ndarray:
    """Return values [count] whose mean is positive, with this p-value of Student's test."""
    values = stats.norm.ppf((np.arange(count) + 0.5) / count)
    wanted = stats.t.isf(p / 2, count - 1) * stats.sem(values)
    return values - values.mean() + wanted


def several(
    *, at: Point = ("ring",), sure: float = 1e-6, doubtful: float = 0.02
) -> dict[tuple[str, Point], np.ndarray]:
    """Return a base and eight policies: one certainly lower, one that alone would be, and six that are not."""
    base = np.linspace(20, 30, 12)
    found = {("base", at): base, ("sure", at): base - differing(sure), ("doubtful", at): base - differing(doubtful)}
    found |= {(f"equal_{i}", at): base + differing(0.9) * (-1) ** i for i in range(6)}
    return {key: values[None] for key, values in found.items()}


def test_what_is_certain_alone_is_not_among_many() -> None:
    comparison = compared(several())
    (point,) = comparison.points
    alone = compared({key: values for key, values in several().items() if key[0] in ("base", "doubtful")})
    assert str(differences_table(alone, point, "base", (SCORE,))["mean score, s"][0]).startswith("-")
    cells = differences_table(comparison, point, "base", (SCORE,))
    table = dict(zip(cells["policy"], cells["mean score, s"], strict=True))
    assert table["sure - base"].startswith("-")
    assert table["doubtful - base"].startswith("(-")
    assert all(str(table[f"equal_{i} - base"]).startswith("(") for i in range(6))
    assert comparison.difference("doubtful", "base", SCORE, point).high < 0, "the interval is not adjusted"
    short = short_table(comparison, point, "base").set_index("policy")["minus base"]
    assert (short["sure"], short["doubtful"]) == (table["sure - base"], table["doubtful - base"])
    assert not str(short["base"])

    paired = comparison.paired("base", (SCORE,)).set_index("policy")
    assert paired.loc["doubtful", "p"] == pytest.approx(0.02, rel=1e-6)
    # The second smallest of eight.
    assert paired.loc["doubtful", "p_adjusted"] == pytest.approx(0.02 * 7, rel=1e-6)
    assert paired.loc["sure", "p_adjusted"] == pytest.approx(1e-6 * 8, rel=1e-4)


def test_cells_of_all_metrics_and_points_count() -> None:
    points: list[Point] = [("ring", rho) for rho in (0.5, 0.7, 0.9)]
    values = {key: v for point in points for key, v in several(at=point, doubtful=0.004).items()}
    comparison = compared(values, ("rho",))
    one = compared({key: v for key, v in values.items() if key[1] == points[0]}, ("rho",))
    # 0.004 x 7 is below 0.05; with three points three are as doubtful, and more cells are left.
    assert over_points_table(one, SCORE, "base").set_index("policy").loc["doubtful"].iloc[0].startswith("-")
    table = over_points_table(comparison, SCORE, "base").set_index("policy")
    assert all(cell.startswith("(-") for cell in table.loc["doubtful"])
    assert all(cell.startswith("-") for cell in table.loc["sure"])
    # Three metrics in one table are three times as many.
    names = (SCORE, "score_p95_s", "dropped_share")
    cells = differences_table(one, points[0], "base", names).set_index("policy").loc["doubtful - base"]
    assert all(cell.startswith("(-") for cell in cells)


def test_verdicts_go_by_adjusted_intervals_and_not_by_means() -> None:
    base = several()
    values = {key: v for key, v in base.items() if key[0] != "base"}
    learned = {("ppo", ("ring",)): base["base", ("ring",)]}
    row = verdicts(compared(learned | values), SCORE, ["ppo"]).iloc[0]
    assert row["certainly higher than"] == "sure", "ppo is higher than what is lower than it"
    assert row["no certain difference from"].split(", ")[0] == "doubtful"
    assert row["certainly lower than, of 8 rules"] == ""
    worse = {key: 2 * base["base", ("ring",)] - v for key, v in values.items()}
    row = verdicts(compared(learned | worse), SCORE, ["ppo"]).iloc[0]
    assert (row["certainly lower than, of 8 rules"], row["certainly higher than"]) == ("sure", "")


def test_the_table_of_an_evaluation_is_adjusted_too() -> None:
    console = Console(file=io.StringIO(), width=120)
    for table in tables(compared(several()), "base"):
        console.print(table)
    lines = cast("io.StringIO", console.file).getvalue().splitlines()
    of = {name: [line for line in lines if f" {name} " in line][-1] for name in ("sure", "doubtful")}
    assert "(-" not in of["sure"]
    assert of["doubtful"].count("(-") == 2
    assert re.search(r"sure +│ +-\d", of["sure"])


def test_of_fourteen_equal_rules_some_are_certain_in_few_tables() -> None:
    rng = np.random.default_rng(0)
    points: list[Point] = [("ring", number) for number in range(250)]
    values = {}
    for point in points:
        shared = rng.normal(size=12)
        values |= {(f"rule_{i}", point): (shared + rng.normal(size=12))[None] for i in range(14)}
    comparison = compared(values, ("table",))
    found = {"adjusted": 0, "alone": 0}
    for point in points:
        cells = differences_table(comparison, point, "rule_0", (SCORE,))["mean score, s"]
        found["adjusted"] += not all(cell.startswith("(") for cell in cells)
        found["alone"] += any(comparison.difference(f"rule_{i}", "rule_0", SCORE, point).p < 0.05 for i in range(1, 14))
    # 5 % are stated; 250 tables leave 1.4 %.
    assert found["adjusted"] / len(points) <= 0.05 + 2 * 0.014
    assert found["alone"] / len(points) > 0.25


def test_a_profile_is_the_share_of_episodes_and_seeds_and_not_of_their_means() -> None:
    # Means over seeds are equal to the reference's; half of the seeds' episodes are within 0.5 of it.
    policy = np.array([[1.0, 1.0, 9.0, 9.0], [9.0, 9.0, 1.0, 1.0]])
    comparison = compared({("base", ("ring",)): np.full((1, 4), 5.0), ("mine", ("ring",)): policy})
    profiles = comparison.profiles("base", ratios=(0.1, 0.5, 1.0, 1.5, 2.0)).set_index("policy")
    assert profiles.loc["mine", "share"].tolist() == [0, 0.5, 0.5, 0.5, 1]
    assert profiles.loc["base", "share"].tolist() == [0, 0, 1, 1, 1]
    assert np.all(profiles["low"].to_numpy() <= profiles["share"].to_numpy() + 1e-12)
    assert np.all(profiles["high"].to_numpy() >= profiles["share"].to_numpy() - 1e-12)


def test_the_same_episodes_at_ten_points_are_not_ten_times_as_many() -> None:
    ratio = np.where(np.arange(10) < 5, 0.8, 1.2)
    once = {("base", ("ring", 0.0)): np.ones((1, 10)), ("mine", ("ring", 0.0)): ratio[None]}
    often = {(name, ("ring", float(i))): v for i in range(10) for (name, _), v in once.items()}
    one, ten = (compared(v, ("rho",)).profiles("base", ratios=(1.0,)).set_index("policy") for v in (once, often))
    assert ten.loc["mine", ["share", "low", "high"]].tolist() == pytest.approx(
        one.loc["mine", ["share", "low", "high"]].tolist()
    )


def test_means_intervals_and_transfer_are_read_from_the_right_rows() -> None:
    rng = np.random.default_rng(0)
    values = {
        (f"ppo from {there}{how}", (here,)): rng.normal(10, 1, (3, 6))
        for there in ("a", "b")
        for here in ("a", "b")
        for how in ("", " (sampled)")
    }
    comparison = compared(values)
    for (policy, point), scores in values.items():
        np.testing.assert_array_equal(comparison.matrix(policy, SCORE, point), scores)
        assert comparison.mean(policy, SCORE, point).mean == pytest.approx(scores.mean())
    table = transfer_table(compared({key: v for key, v in values.items() if "sampled" not in key[0]})).set_index(
        ["trained_on", "environment"]
    )
    home, away = (values[f"ppo from {label}", ("b",)].mean() for label in ("b", "a"))
    assert table.loc[("a", "b"), "difference"] == pytest.approx(away - home)
    assert table.loc[("a", "b"), "there"] == pytest.approx(home)
    assert 0 < table.loc[("a", "b"), "p"] < 1


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(22.04, 21.26, 22.7), "22.04 ± 0.78"),
        (Interval(98.2, 80.0, 113.9), "98 ± 18"),
        (Interval(0.00125, 0.00104, 0.00146), "0.00125 ± 0.00021"),
        (Interval(1.2, 1.16, 1.24), "1.200 ± 0.040"),
        (Interval(1234.0, 1000.0, 1400.0), "1234 ± 234"),
        (Interval(0.1, 0.0004, 0.1999), "0.10 ± 0.10"),
        (Interval(5.0, 5.0, 5.0), "5"),
        (Interval(float("nan"), float("nan"), float("nan")), ""),
    ],
)
def test_an_estimate_has_the_decimals_of_its_interval(interval: Interval, text: str) -> None:
    assert with_half_width(interval) == text


def test_a_difference_has_the_decimals_of_its_interval_and_no_minus_zero() -> None:
    assert difference_text(Interval(-0.0169, -0.0449, 0.0111), 100, sure=False) == "(-1.7 [-4.5, 1.1])"
    assert difference_text(Interval(-0.001, -0.1, 0.098), sure=False) == "(-0.001 [-0.100, 0.098])"
    assert difference_text(Interval(-0.04, -5, 4.9), sure=False) == "(0.0 [-5.0, 4.9])"
    assert difference_text(Interval(0, 0, 0), sure=False) == "(0 [0, 0])"


def test_latex_tables_fit_the_page_and_hold_every_cell() -> None:
    names = [f"metric_{i} with a long name, % of all" for i in range(9)]
    frame = pd.DataFrame([{"policy": f"ppo_{i} (sampled)"} | dict.fromkeys(names, "-16.5 ± 0.78") for i in range(4)])
    parts = split(frame)
    assert [name for part in parts for name in part.columns[1:]] == names
    for part in parts:
        width = sum(column_pt(str(name), list(part[name])) for name in part.columns)
        # A line of nothing but digits and letters is at least 4 pt a character.
        assert 4 * sum(part[name].str.len().max() for name in part.columns) < width <= TEXT_WIDTH_PT
        assert list(part["policy"]) == list(frame["policy"])
    text = latex_table(frame, "title")
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == len(parts) > 1
    assert text.count(r"$-$16.5 $\pm$ 0.78") == 4 * 9
    assert r"ppo\_0 (sampled)" in text
    assert "% of all" not in text.replace("% title", "").replace(r"\%", "")
    rows = [line for line in text.splitlines() if line.startswith(r"ppo\_")]
    assert all(line.count("&") == len(parts[0].columns) - 1 for line in rows[:4])


def test_written_tables_begin_with_a_short_one_with_policies_as_rows(tmp_path: Path) -> None:
    write_tables(compared(several()), "base", (SCORE,), tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert text.index("in short") < text.index("minus base") < text.index("IQM")
    header = next(line for line in text.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "policy",
        "mean score, s",
        "95th percentile of the score, s",
        "tasks dropped, %",
        "minus base",
    ]
    assert "in short" in (tmp_path / "tables.tex").read_text()


def test_figures_show_every_seed_and_embed_fonts_that_journals_take(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {("base", ("ring",)): rng.normal(5, 1, (1, 6)), ("ppo", ("ring",)): rng.normal(5, 1, (5, 6))}
    figure = of_metric(compared(values), SCORE)
    drawn = [np.asarray(line.get_xdata()) for axis in cast("list[Axes]", figure.axes) for line in axis.lines]
    seeds = values["ppo", ("ring",)].mean(axis=1)
    assert any(len(x) == 5 and np.allclose(x, seeds) for x in drawn)
    pdf = write_figure(figure, tmp_path / "figure", ("pdf",))["pdf"].read_bytes()
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf


def test_many_policies_have_a_panel_each_and_the_others_in_grey() -> None:
    rng = np.random.default_rng(0)
    names = [*(f"rule_{i}" for i in range(8)), "ppo", "ppo (sampled)"]
    values = {(n, ("ring", r)): rng.normal(5, 1, (1, 6)) for n in names for r in (0.3, 0.6, 0.9)}
    comparison = compared(values, ("rho",))
    for figure in (of_metric(comparison, SCORE), of_profiles(comparison, "rule_0")):
        shown = [axis for axis in cast("list[Axes]", figure.axes) if axis.get_visible()]
        assert [axis.get_title() for axis in shown] == names[:9]
        assert len({axis.get_ylim() for axis in shown}) == 1
        grey = [[line for line in axis.lines if line.get_color() == "0.8"] for axis in shown]
        assert [len(lines) for lines in grey] == [9] * 8 + [8], "greedy and sampled share a panel"
    few = of_metric(compared({key: v for key, v in values.items() if key[0] in names[:6]}, ("rho",)), SCORE)
    assert len(few.axes) == 1
    assert sorted(text.get_text() for text in few.axes[0].texts) == sorted(names[:6]), "each line has its name"
