"""A testbed beside the simulator: the differences that are there are found, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.environments import at_once
from helpers.testbed_logs import made_up, played, two_sided, written
from scipy import stats

from offload_rllib.config import ConfigError
from offload_rllib.evaluation.statistics import paired_difference
from offload_rllib.testbed.analysis.differences import _batched, differences_of, scores
from offload_rllib.testbed.analysis.log import COLUMNS, SIMULATOR, TESTBED, read_log, read_logs

SIDES = (TESTBED, SIMULATOR)


def case_of(tasks: pd.DataFrame, tmp_path: Path) -> Any:
    ((_, case),) = differences_of(read_log(written(tasks, tmp_path / "tasks.parquet"))).cases.iterrows()
    return case


def test_equal_logs_have_no_difference(tmp_path: Path) -> None:
    log = read_log(written(two_sided(), tmp_path / "tasks.parquet"))
    found = differences_of(log)
    assert len(found.cases) == 6
    assert (found.cases["finished_testbed"] > 20).all()
    apart = found.cases.filter(regex="_difference$|^ks$|^paired_|created_late").to_numpy(float)
    np.testing.assert_array_equal(apart, 0)
    np.testing.assert_array_equal(found.parts["difference_s"], 0)
    assert found.rankings["tau"].tolist() == [1, 1]
    assert found.rankings["certain"].gt(0).all()
    assert not found.pairs["opposite"].any()
    assert [verdict.met for verdict in found.verdicts()] == [True] * 6
    # The parts that the simulator logs are the whole response.
    assert found.parts[found.parts["part"] == "other_s"]["testbed_s"].abs().max() == 0


def test_slower_nodes_are_found_as_a_longer_service(tmp_path: Path) -> None:
    quiet = at_once()
    quiet["workload"].pop("deadline_s")
    for node in quiet["topology"]["nodes"]:
        node.pop("queue_capacity", None)
    nodes = [
        node | {"instructions_per_second": node["instructions_per_second"] * 0.9} for node in quiet["topology"]["nodes"]
    ]
    slow = quiet | {"topology": quiet["topology"] | {"nodes": nodes}}
    drained = {"drain_s": 20.0}
    sides = [
        played(of | drained, side, policies=["local"], loads=[0.2])
        for of, side in ((slow, TESTBED), (quiet, SIMULATOR))
    ]
    found = differences_of(read_log(written(pd.concat(sides), tmp_path / "tasks.parquet")))
    case, parts = found.cases.iloc[0], found.parts.set_index("part")
    assert case["finished_testbed"] == case["finished_simulator"] == case["tasks_testbed"]
    ratio = parts["testbed_s"] / parts["simulator_s"]
    assert ratio["service_s"] == pytest.approx(1 / 0.9, rel=1e-9)
    assert ratio["waiting_s"] > 1 / 0.9
    assert parts["difference_s"].sum() == pytest.approx(case["mean_testbed"] - case["mean_simulator"], rel=1e-9)
    assert case["paired_mean"] == pytest.approx(case["mean_difference"], rel=0.1)  # small batches differ by some tasks
    assert case["paired_low"] < case["paired_mean"] < case["paired_high"]


def test_figures_are_those_of_a_plain_calculation(tmp_path: Path) -> None:
    responses = {TESTBED: np.array([1.0, 2.0, 3.0, 10.0]), SIMULATOR: np.array([1.0, 2.0, 4.0])}
    ends = {TESTBED: ["finished"] * 4 + ["expired"], SIMULATOR: ["finished"] * 3 + ["lost", "queue_full"]}
    tasks = pd.concat([made_up([*responses[side], *[5.0] * (5 - len(responses[side]))], side=side) for side in SIDES])
    tasks["outcome"] = ends[TESTBED] + ends[SIMULATOR]
    case = case_of(tasks, tmp_path)
    assert (case["mean_testbed"], case["mean_simulator"]) == (4, pytest.approx(7 / 3))
    assert case["mean_difference"] == pytest.approx(4 / (7 / 3) - 1)
    assert (case["p50_testbed"], case["p50_difference"]) == (2.5, 0.25)
    assert case["p95_testbed"] == pytest.approx(np.quantile(responses[TESTBED], 0.95))
    assert (case["expired_difference"], case["lost_difference"], case["queue_full_difference"]) == (0.2, -0.2, -0.2)
    assert case["dropped_difference"] == pytest.approx(-0.2)
    at = np.unique(np.concatenate(list(responses.values())))
    below = [np.searchsorted(np.sort(of), at, "right") / len(of) for of in responses.values()]
    assert case["ks"] == pytest.approx(np.abs(below[0] - below[1]).max())
    assert case["paired_mean"] == pytest.approx((3 - 4) / 7)  # of the three that finished on both sides


def test_a_part_that_was_not_measured_is_in_the_rest(tmp_path: Path) -> None:
    testbed, simulator = made_up([3.0, 5.0], side=TESTBED), made_up([2.0, 2.0], side=SIMULATOR)
    testbed[["waiting_s", "service_s", "decision_s"]] = [[1.0, 1.0, 0.25], [1.0, np.nan, 0.25]]
    simulator[["waiting_s", "service_s"]] = [0.5, 1.5]
    found = differences_of(read_log(written(pd.concat([testbed, simulator]), tmp_path / "t.parquet"))).parts.set_index(
        "part"
    )
    assert found["difference_s"].to_dict() == {"decision_s": 0.25, "waiting_s": 0.5, "other_s": 1.25}


def test_holding_is_shown_without_what_deciding_took(tmp_path: Path) -> None:
    testbed = made_up([3.0, 5.0], side=TESTBED).assign(decision_s=0.25, holding_s=[0.5, 1.0], waiting_s=[2.5, 4.0])
    simulator = made_up([2.0, 2.0], side=SIMULATOR).assign(holding_s=0.125, waiting_s=1.875)
    log = read_log(written(pd.concat([testbed, simulator]), tmp_path / "t.parquet"))
    found = differences_of(log).parts.set_index("part")["difference_s"].to_dict()
    assert found == {"decision_s": 0.25, "holding_s": 0.375, "waiting_s": 1.375, "other_s": 0.0}


def test_what_does_not_count_is_left_out_and_unpaired_tasks_are_said(tmp_path: Path) -> None:
    tasks = pd.concat([made_up([1.0, 50.0, 1.0], side=TESTBED), made_up([1.0, 1.0], side=SIMULATOR)])
    tasks["counts"] = [True, False, True, True, True]
    found = differences_of(read_log(written(tasks, tmp_path / "t.parquet")))
    assert found.cases["mean_testbed"].tolist() == [1.0]
    assert found.cases["unpaired"].tolist() == [2]
    assert "2 tasks are on one side only" in found.notes[0]


def test_policies_the_other_way_round_are_seen(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0, 0.5, 400)
    means = {TESTBED: {"a": 1.0, "b": 2.0, "c": 3.0}, SIMULATOR: {"a": 2.0, "b": 1.0, "c": 3.0}}
    logs = [made_up(mean + noise, side=side, policy=name) for side, of in means.items() for name, mean in of.items()]
    found = differences_of(read_log(written(pd.concat(logs), tmp_path / "t.parquet")))
    ranking = found.rankings.iloc[0]
    assert (ranking["order_testbed"], ranking["order_simulator"]) == ("a, b, c", "b, a, c")
    assert ranking["tau"] == pytest.approx(1 / 3)  # 2 of 3 pairs agree
    assert (ranking["certain"], ranking["opposite"]) == (3, 1)
    assert found.pairs.set_index(["policy", "other"])["opposite"].to_dict() == {
        ("a", "b"): True, ("a", "c"): False, ("b", "c"): False,
    }  # fmt: skip
    missed = {verdict.target.name for verdict in found.verdicts() if verdict.met is False}
    assert {"tau", "opposite"} < missed


def test_an_uncertain_difference_is_not_called_opposite(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    logs = []
    for side, name, mean in ((TESTBED, "a", 2.0), (TESTBED, "b", 2.01), (SIMULATOR, "a", 2.01), (SIMULATOR, "b", 2.0)):
        drawn = rng.uniform(0.0, 2.0, 100)
        logs.append(made_up(drawn - drawn.mean() + mean, side=side, policy=name))
    found = differences_of(read_log(written(pd.concat(logs), tmp_path / "t.parquet")))
    assert found.pairs["mean_testbed"].tolist() == pytest.approx([-0.01])
    assert found.pairs["mean_simulator"].tolist() == pytest.approx([0.01])
    assert not found.pairs[["certain_testbed", "certain_simulator", "opposite"]].to_numpy().any()


def test_intervals_are_those_of_means_over_batches() -> None:
    values = np.random.default_rng(0).exponential(1.0, (2, 300))
    episodes = pd.Series(np.repeat([0, 1, 2], 100))
    means = values.reshape(2, 3, 100)
    batches = _batched(episodes, values)
    # 20 batches over three episodes: 7 in each, of 15 or 14 tasks.
    expected = [[piece.mean() for part in row for piece in np.array_split(part, 7)] for row in means]
    np.testing.assert_allclose(batches, expected)
    assert paired_difference(*batches).mean == pytest.approx(np.subtract(*np.array(expected).mean(axis=1)))
    many = _batched(pd.Series(np.repeat(np.arange(30), 10)), values)
    np.testing.assert_allclose(many, values.reshape(2, 30, 10).mean(axis=2))


def test_scores_are_those_of_the_simulator() -> None:
    from offload_rllib.config import load_environment
    from offload_rllib.evaluation.evaluate import evaluate
    from offload_rllib.evaluation.players import make_contenders

    logs: list[Any] = []
    figures = evaluate(load_environment(at_once()), make_contenders(["random"]), episodes=2, seed=0, logs=logs)
    tasks = logs[0].to_pandas()
    assert (tasks["outcome"] != "finished").sum() > 10
    found = pd.Series(scores(tasks, 0.0)).groupby(tasks["episode"]).mean()
    np.testing.assert_allclose(np.array(found), figures.of("random", "score_mean_s").ravel(), rtol=1e-9)


def test_scores_of_drops_are_no_less_than_the_penalty() -> None:
    tasks = made_up([1.0, 2.0, 3.0], side=TESTBED).assign(
        outcome=["finished", "lost", "lost"], response_s=[1.0, np.nan, np.nan]
    )
    tasks["deadline_s"] = tasks["created_s"] + [np.inf, np.inf, 8.0]
    assert scores(tasks, 0.0).tolist() == [1, 2, 8]
    assert scores(tasks, 5.0).tolist() == [1, 5, 8]


def test_a_side_or_a_common_load_must_be_there(tmp_path: Path) -> None:
    testbed = made_up([1.0], side=TESTBED)
    with pytest.raises(ConfigError, match="no row with side 'simulator'"):
        differences_of(read_log(written(testbed, tmp_path / "one.parquet")))
    apart = pd.concat([testbed, made_up([1.0], side=SIMULATOR).assign(load=2.0)])
    with pytest.raises(ConfigError, match="at one load on both sides"):
        differences_of(read_log(written(apart, tmp_path / "apart.parquet")))


def changed(column: str, row: int, value: Any) -> pd.DataFrame:
    tasks = made_up([1.0, 2.0, 3.0], side=TESTBED)
    tasks[column] = [value if i == row else each for i, each in enumerate(tasks[column])]
    return tasks


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (made_up([1.0], side="pi"), "row 0, column 'side': 'pi' is not known.*simulator, testbed"),
        (changed("outcome", 1, "gone"), "row 1, column 'outcome': 'gone' is not known.*expired, finished"),
        (changed("origin", 2, "x"), "row 2, column 'origin': 'x' is not known.*Accepted: a, b"),
        (changed("node", 1, "x"), "row 1, column 'node': 'x' is not known"),
        (changed("waiting_s", 1, -0.5), "row 1, column 'waiting_s': -0.5 is below 0"),
        (changed("work", 0, -1.0), "row 0, column 'work': -1 is below 0"),
        (changed("work", 2, np.nan), "row 2, column 'work': is empty; instructions"),
        (changed("bits_in", 2, np.inf), "row 2, column 'bits_in': inf; accepted: finite numbers"),
        (changed("hops", 2, 0.5), "row 2, column 'hops': 0.5; accepted: whole numbers"),
        (changed("hops", 2, None), "row 2, column 'hops': is empty"),
        (changed("ended_s", 1, 0.5), "row 1, column 'ended_s': '0.5' is before created_s"),
        (changed("task", 2, 1), "row 2, column 'task': '1' stands twice"),
        (changed("work", 0, 1.0).drop(columns="work"), "column 'work' is missing: instructions.*Accepted: bits_in"),
        (made_up([1.0], side=TESTBED).assign(policy=7), "column 'policy' must hold texts, holds int64"),
        (made_up([1.0], side=TESTBED).assign(work="5"), "column 'work' must hold numbers, holds"),
        (made_up([1.0], side=TESTBED).assign(counts=1), "column 'counts' must hold true or false, holds int64"),
        (made_up([], side=TESTBED), "no row"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_by_file_row_and_column(tasks: pd.DataFrame, message: str, tmp_path: Path) -> None:
    path = written(tasks, tmp_path / "own.parquet")
    with pytest.raises(ConfigError, match=f"^{path}: .*{message}"):
        read_log(path, nodes=["a", "b"])


def test_a_file_that_is_cut_off_or_missing_is_named(tmp_path: Path) -> None:
    path = written(made_up([1.0], side=TESTBED), tmp_path / "tasks.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=f"^{path}: not a whole Parquet file"):
        read_log(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=f"^{path}: no such file"):
        read_log(tmp_path)


def test_the_log_of_an_evaluation_has_every_column_but_those_of_a_testbed() -> None:
    table = played(at_once(), SIMULATOR, policies=["local"], loads=[0.6])
    assert set(COLUMNS) - set(table.columns) == {"decision_s"}


def test_logs_without_optional_columns_are_read(tmp_path: Path) -> None:
    few = made_up([1.0, 2.0], side=TESTBED)[[name for name, column in COLUMNS.items() if column.required]]
    tasks = read_log(written(few, tmp_path / "own.parquet"))
    assert tasks["counts"].all()
    assert np.isinf(tasks["deadline_s"]).all()
    assert (tasks["load"] == 0).all()
    assert tasks["response_s"].tolist() == [1, 2]


def test_logs_of_several_loads_are_one_table_unless_a_task_is_in_two(tmp_path: Path) -> None:
    one = written(made_up([1.0], side=TESTBED), tmp_path / "one.parquet")
    other = written(made_up([1.0], side=TESTBED).assign(load=0.9), tmp_path / "other.parquet")
    assert read_logs([one, other])["load"].tolist() == [0.5, 0.9]
    again = written(made_up([1.0], side=TESTBED), tmp_path / "again.parquet")
    with pytest.raises(ConfigError, match=r"same task \(side testbed, load 0.5, policy rule, episode 0, task 0\)"):
        read_logs([one, again])


def test_the_distance_is_scipys() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.exponential(1.0, 80), rng.exponential(1.3, 60)
    tasks = pd.concat([made_up(one, side=TESTBED), made_up(other, side=SIMULATOR)])
    tasks = tasks.assign(counts=True, response_s=tasks["ended_s"] - tasks["created_s"], deadline_s=np.inf)
    found: Any = stats.ks_2samp(one, other)
    assert differences_of(tasks).cases["ks"].tolist() == [pytest.approx(found.statistic)]
