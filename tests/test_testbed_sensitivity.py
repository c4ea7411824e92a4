"""Events of an episode can be made late in the simulator, and what is late on a testbed is found by that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from offload_rllib.config import load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.episode_keys import held_out_keys
from offload_rllib.evaluation.task_log import OUTCOMES
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import FINISHED
from scripts.testbed import sensitivity
from scripts.testbed.sensitivity import (
    Cause,
    Episode,
    Lateness,
    Played,
    cause_of,
    figures_of,
    is_inside,
    lateness_of,
    measured,
    section,
    spread_of,
)

KEY = int(held_out_keys(0, 1)[0])
CONFIG = load_environment("manual_5", ["horizon_s=120", "workload.load.rho=0.8"])
RULE = "least_queue"


@pytest.fixture(scope="module")
def episode() -> Episode:
    return Episode(CONFIG, KEY)


def table_of(episode: Episode, log: np.ndarray, side: str) -> pd.DataFrame:
    """Return a log as the table of one side."""
    columns: dict[str, Any] = {
        name: log[name]
        for name in ("created_s", "ended_s", "hops", "holding_s", "waiting_s", "service_s", "transfer_s", "return_s")
    }
    columns |= {
        "side": side,
        "episode": 0,
        "task": np.arange(len(log)),
        "node": episode.names[log["node"]],
        "outcome": [OUTCOMES[int(each)] for each in log["outcome"]],
        "counts": True,
    }
    return pd.DataFrame(columns).set_index("task")


@pytest.mark.parametrize("rule", [RULE, "shortest_finish", "power_of_two"])
def test_a_replay_without_lateness_is_the_episode(rule: str, episode: Episode) -> None:
    env = ArrivalEnv(build_scenario(CONFIG), 1, log=True)
    env.reset(np.array([KEY], np.uint64))
    env.play(rule)
    replayed, log = episode.play(rule), env.task_log(0)
    for name in set(log.dtype.names) - {"type"}:
        np.testing.assert_array_equal(replayed[name], log[name], name)


def test_tasks_keep_their_numbers_when_late_ones_are_overtaken(episode: Episode) -> None:
    created_s = episode.arriving["created_s"]
    late_s = np.zeros(len(created_s))
    late_s[3] = created_s[5] - created_s[3] + 0.5
    log = episode.play(RULE, late_s)
    np.testing.assert_array_equal(log["created_s"], created_s + late_s)
    np.testing.assert_array_equal(log["work"], episode.arriving["work"])
    np.testing.assert_allclose(log["deadline_s"] - log["created_s"], episode.arriving["deadline_s"] - created_s)


def test_the_late_task_is_found_from_which_all_others_went_another_way(
    episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "MOST_LATE_MEANS", np.inf)  # most tasks are not late at all here
    plain = episode.play(RULE)
    late = np.zeros(len(plain))
    for task in range(len(plain)):  # one that others depend on, and which went its own way itself
        late[:] = 0.0
        late[task] = 0.05
        log = episode.play(RULE, late)
        other = (log["node"] != plain["node"]) | (log["hops"] != plain["hops"])
        if other.sum() > 5 and not other[task] and log["outcome"][task] == plain["outcome"][task] == FINISHED:
            break
    else:
        pytest.fail("no task of this episode changes what others do")
    # A testbed measures lateness from the time at which the task was due.
    testbed = table_of(episode, log, "testbed")
    testbed["created_s"] = plain["created_s"]
    testbed["holding_s"] += late
    found = cause_of(episode, RULE, testbed, table_of(episode, plain, "simulator"))
    assert (found.tasks, found.other_way, found.other_way_then) == (len(plain), other.sum(), 0)
    assert next(iter(found.late_s.values())) == pytest.approx(0.05, abs=0.02)
    nothing = table_of(episode, plain, "testbed")
    assert cause_of(episode, RULE, nothing, nothing) == Cause(len(plain), 0, {}, 0)


def test_lateness_is_that_of_tasks_and_of_messages() -> None:
    rows = {"node": ["a", "b", "b"], "hops": [0, 1, 2], "outcome": ["finished"] * 3, "holding_s": [0.0] * 3}
    simulator = pd.DataFrame(rows | {"transfer_s": [0.0, 1.0, 2.0], "return_s": [0.0, 1.0, 2.0]})
    testbed = simulator.assign(
        holding_s=[0.1, 0.2, 0.6], transfer_s=[0.0, 1.1, 99.0], return_s=[0.0, 1.3, 99.0], node=["a", "b", "c"]
    )
    assert lateness_of(testbed, simulator) == Lateness(pytest.approx(0.3 / 3), pytest.approx(0.4 / 2))


def test_late_events_spread_the_figures_and_none_leave_them(episode: Episode) -> None:
    plain = figures_of([episode.counting(episode.play(RULE))])
    still = spread_of([episode], RULE, Lateness(0.0, 0.0), 2)
    assert still.to_dict("records") == [plain, plain]
    late = spread_of([episode], RULE, Lateness(0.05, 0.05), 6)
    assert late["mean"].nunique() == 6
    assert abs(late["mean"].mean() / plain["mean"] - 1) < 0.5
    slower = episode.play("local", 0.0, 0.5)
    np.testing.assert_array_equal(slower["ended_s"], episode.play("local")["ended_s"])  # no message, no jitter


def test_a_figure_is_inside_up_to_its_margin() -> None:
    spread = pd.DataFrame({"mean": np.linspace(1.0, 2.0, 21), "dropped": np.linspace(0.1, 0.2, 21)})
    means = {1.04: False, 1.046: True, 1.5: True, 1.959: True, 1.97: False}
    assert {value: is_inside("mean", value, spread) for value in means} == means
    drops = {0.103: False, 0.1041: True, 0.1959: True, 0.197: False}
    assert {value: is_inside("dropped", value, spread) for value in drops} == drops


def test_the_section_has_a_row_for_each_rule_and_load(episode: Episode) -> None:
    log = episode.play(RULE)
    counting = episode.counting(log)
    assert measured(table_of(episode, counting, "simulator")) == pytest.approx(figures_of([counting]))
    testbed = table_of(episode, log, "testbed").assign(holding_s=lambda rows: 0.002 * (rows["hops"] + 1))
    simulator = table_of(episode, log, "simulator")
    played = Played(0.8, RULE, (episode, episode), (testbed, testbed), (simulator, simulator))
    text = "\n".join(section([played], seeds=2))
    assert "a task was decided 2.0 ms after it was due, and a message arrived 0.0 ms late" in text
    assert f"All tasks came to the same nodes on both sides with {RULE} at rho 0.8." in text
    assert f"| 0.8 | {RULE} | +0.0 %, +0.0 % | +0.0 % |" in text
    other = testbed.assign(node=np.where(np.arange(len(log)) == len(log) - 1, "elsewhere", testbed["node"]))
    text = "\n".join(section([Played(0.8, RULE, (episode,), (other,), (simulator,))], seeds=2))
    assert f"| 0.8 | {RULE} | 0 | {len(log)} | 1 | none found | 1 |" in text
    assert "single episodes" not in text
