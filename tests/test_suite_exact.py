"""Level 0 of the suite: the simulator has the responses of the exact reference, and the reference those of theory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.processor_sharing import shared_departures
from helpers.suites import LINKS, NODES, TASKS, seal, suite_in, write_small_suite

from offload_rllib.config import ConfigError
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation import task_log
from offload_rllib.scenario import build_scenario
from offload_rllib.suite.conformance import (
    Differences,
    compared,
    conform,
    exact_of,
    network_of,
    replay_environment,
    simulated,
)
from offload_rllib.suite.exact import Exact, Line, Station, TaskList, Way, exact_responses, with_shared_cores
from offload_rllib.suite.exchange import read_links, read_nodes, read_responses, read_tasks
from offload_rllib.suite.scenarios import check_sums, places, suite_folder

QUICK = ("QUEUE-14/fifo-0.3", "QUEUE-14/ps-0.3", "ETHER-12", "HERD-20")


def assert_conforms(name: str) -> None:
    (place,) = places([name])
    for found in conform(place):
        assert found.differences.passed, (found.rule, found.differences)
        assert found.differences.largest_difference_s < 1e-9
        assert found.differences.finished > 0.5 * found.differences.tasks


@pytest.mark.parametrize("name", QUICK)
def test_every_response_is_the_exact_one(name: str) -> None:
    assert_conforms(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [place.name for place in places() if place.point.exact and place.name not in QUICK])
def test_every_response_is_the_exact_one_in_the_other_scenarios(name: str) -> None:
    assert_conforms(name)


@pytest.mark.parametrize("rule", ["round_robin", "random"])
def test_rules_on_the_form_of_topo4mec_have_the_exact_responses(rule: str) -> None:
    (place,) = places(["t4m_milan"])
    network = network_of(place)
    env = ArrivalEnv(build_scenario(replay_environment(place, 3000.0)), 1, log=True)
    env.reset(held_out_keys(0, 1))
    env.play(rule)
    log = env.task_log(0)
    assert np.bincount(log["node"], minlength=30).all(), "tasks go to all nodes"
    columns = {name: getattr(network.tasks, name) for name in TaskList.__dataclass_fields__}
    exact = exact_responses(network.nodes, network.links, TaskList(**columns | {"destination": log["node"]}))
    response_s = log["ended_s"] - log["created_s"]
    assert abs(response_s.mean() - exact.response_s.mean()) < 1e-6
    assert np.abs(response_s - exact.response_s).max() < 1e-9


def test_a_difference_of_two_nanoseconds_is_noticed() -> None:
    exact = Exact(np.array([1.0, 2.0, np.nan]), ["finished", "finished", "expired"], 3.0)
    for off_s, outcome, passed in ((0.0, "expired", True), (2e-9, "expired", False), (0.0, "finished", False)):
        response_s = np.array([1.0, 2.0 + off_s, 5.0])
        assert compared(response_s, ["finished", "finished", outcome], exact).passed is passed
    assert not Differences(1, 0, 0, math.nan, math.nan, math.nan, math.nan, math.nan, math.inf).passed


def test_tasks_in_order_of_arrival_by_hand() -> None:
    line = Line(Station("a", cores=2, speed=2.0, capacity=3))
    #  Two start at once; the third waits for the first to end at 3; the fourth finds no place.
    assert line.take(0.0, 6.0, math.inf) == (3.0, "finished")
    assert line.take(1.0, 8.0, math.inf) == (5.0, "finished")
    assert line.take(2.0, 2.0, math.inf) == (4.0, "finished")
    assert line.take(2.5, 1.0, math.inf) == (2.5, "queue_full")
    # At 3.5 one core serves until 5 and the other until 4: a task that waits until 3.8 gives up and takes no core.
    assert line.take(3.5, 9.0, 3.8) == (3.8, "expired")
    # The next is served from 4 until it gives up at 4.5, and so the one after it from 4.5.
    assert line.take(3.9, 9.0, 4.5) == (4.5, "expired")
    assert line.take(4.0, 1.0, math.inf) == (5.0, "finished")
    assert line.take(6.0, 1.0, 5.5) == (5.5, "expired")


def test_pooled_cores_serve_one_task() -> None:
    line = Line(Station("a", cores=4, speed=1.0, service="pooled"))
    assert [line.take(0.0, 4.0, math.inf)[0] for _ in range(3)] == [1.0, 2.0, 3.0]


def test_shared_cores_by_hand_and_by_another_recursion() -> None:
    one = Station("a", cores=1, speed=1.0, service="shared")
    # Two tasks of 2 and 1: together from 1 on; the second leaves at 3 and the first, with 0 left, at once.
    assert with_shared_cores(one, [0.0, 1.0], [2.0, 1.0], [math.inf] * 2) == [(3.0, "finished")] * 2
    # The second gives up at 2, with half of the core since 1: the first has 0.5 left.
    assert with_shared_cores(one, [0.0, 1.0], [2.0, 9.0], [math.inf, 2.0]) == [(2.5, "finished"), (2.0, "expired")]
    rng = np.random.default_rng(1)
    arrivals, works = np.cumsum(rng.exponential(0.5, 300)).tolist(), rng.lognormal(0, 1, 300).tolist()
    found = with_shared_cores(Station("a", 2, 1.5, "shared"), arrivals, works, [math.inf] * 300)
    assert np.allclose([left for left, _ in found], shared_departures(arrivals, works, 2, 1.5), rtol=0, atol=1e-10)


def test_the_mean_of_a_single_queue_is_that_of_theory() -> None:
    rng = np.random.default_rng(3)
    arrivals, works = np.cumsum(rng.exponential(1.0, 200_000)), rng.exponential(0.5, 200_000)
    line = Line(Station("a", 1, 1.0))
    left = np.array([line.take(*task, math.inf)[0] for task in zip(arrivals, works, strict=True)])
    assert np.mean(left - arrivals) == pytest.approx(1.0, rel=0.02)  # M/M/1: 1 / (2 - 1)


def small_network(folder: Path, tasks: str = TASKS, nodes: str = NODES) -> Exact:
    for name, text in (("nodes.csv", nodes), ("links.csv", LINKS), ("tasks.csv", tasks)):
        (folder / name).write_text(text)
    return exact_responses(*read_all(folder))


def read_all(folder: Path) -> tuple[list[Station], dict[tuple[int, int], Way], TaskList]:
    stations = read_nodes(folder / "nodes.csv")
    return stations, read_links(folder / "links.csv", stations), read_tasks(folder / "tasks.csv", stations)


def test_transfers_and_deadlines_by_hand(tmp_path: Path) -> None:
    found = small_network(tmp_path)
    # 0: 0.05 + 0.1 there, 1 s of service, 0.05 + 0.2 back. 1: waits for it. 2: at home.
    assert found.response_s.tolist() == pytest.approx([1.4, 2.15 + 0.5 + 0.05 - 1.5, 1.0], abs=1e-12)
    assert found.outcome == ["finished"] * 3
    late = small_network(tmp_path, TASKS.replace("2e5,9", "2e5,1.3"))
    assert late.outcome == ["expired", "finished", "finished"]
    assert late.response_s[1] == found.response_s[1], "its result was late, not its service"


def test_a_task_needs_a_place_where_it_enters(tmp_path: Path) -> None:
    tasks = "task,time_s,origin,destination,work,bits_in,bits_out,deadline_s\n0,1,a,a,9e6,0,0,\n1,2,a,b,1e6,0,0,\n"
    nodes = NODES.replace("a,1,1e6,pooled,6", "a,1,1e6,pooled,1")
    assert small_network(tmp_path, tasks, nodes).outcome == ["finished", "queue_full"]


def test_a_small_suite_conforms_and_a_wrong_reference_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for speed, passes in (("2e6", True), ("2.0001e6", False)):
        folder = tmp_path / speed
        write_small_suite(folder)
        (folder / "small_4" / "nodes.csv").write_text(NODES.replace("2e6", speed))
        seal(folder)
        with suite_in(folder, monkeypatch):
            (place,) = places(["small_4"])
            recorded, local = conform(place)
        assert recorded.differences.passed is passes
        assert local.differences.passed


WRONG = [
    ("nodes", "1e6,pooled,6", "0,pooled,6", "row 1: column 'instructions_per_second': '0'; accepted: 1e-30 to 1e+30"),
    ("nodes", "b,1,2e6", "b,1.5,2e6", "row 2: column 'cores': '1.5'; accepted: a whole number from 1 up"),
    ("nodes", "b,1,2e6,pooled", "b,1,2e6,lifo", "row 2: column 'service': 'lifo'; accepted: parallel, pooled, shared"),
    ("nodes", "b,1", "a,1", "row 2: column 'name': 'a'; accepted: a name of its own"),
    ("links", "a,b,0.05,1e6", "a,b,0.05,0", "row 1: column 'rate_bps': '0'; accepted: 1e-30 to 1e+30"),
    ("links", "a,b,0.05,1e6", "a,b,-1,1e6", "row 1: column 'latency_s': '-1'; accepted: 0 to 1e+30"),
    ("links", "a,b,0.05,1e6", "a,x,0.05,1e6", "row 1: column 'to': no node is named 'x'. Accepted: a, b, c, d."),
    ("links", "a,b,0.05,1e6", "a,a,0.05,1e6", "row 1: column 'to': 'a'; accepted: another node than 'from'"),
    ("tasks", "c,b,1e6,0,0", "c,b,1e6,-5,0", "row 2: column 'bits_in': '-5'; accepted: 0 to 1e+30"),
    ("tasks", "c,b,1e6,0,0", "c,b,0,0,0", "row 2: column 'work': '0'; accepted: 1e-30 to 1e+30"),
    ("tasks", "1,1.5,c", "1,0.5,c", "row 2: column 'time_s': '0.5'; accepted: 1.0 or later: rows are in order of time"),
    ("tasks", "1,1.5,c", "1,1.5,z", "row 2: column 'origin': no node is named 'z'"),
    ("tasks", "1,1.5,c", "4,1.5,c", "row 2: column 'task': '4'; accepted: 1: tasks are numbered from 0"),
    ("tasks", "2,2.0,a,a,1e6,1e5,0,3\n", "2,2.0,a", "row 3: 3 fields; accepted: 8, as in the header. The file may be"),
    ("tasks", "bits_in", "bytes_in", "row 0 (the header): column 'bits_in': missing; accepted: task,time_s,origin,"),
    ("tasks", TASKS.partition("\n")[2], "", "tasks.csv: holds no tasks"),
    ("tasks", "c,b,1e6", "c,b,inf", "row 2: column 'work': 'inf'; accepted: 1e-30 to 1e+30"),
    ("tasks", "c,b,1e6", "c,b,many", "row 2: column 'work': 'many'; accepted: 1e-30 to 1e+30"),
]


@pytest.mark.parametrize(("file", "right", "wrong", "message"), WRONG, ids=lambda value: str(value)[:20])
def test_wrong_rows_are_refused(tmp_path: Path, file: str, right: str, wrong: str, message: str) -> None:
    texts = {"nodes": NODES, "links": LINKS, "tasks": TASKS}
    assert right in texts[file]
    texts[file] = texts[file].replace(right, wrong, 1)
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_all(tmp_path)
    assert message in str(error.value)
    assert f"{file}.csv" in str(error.value)


def test_no_link_and_bounded_shared_cores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task 1: no link from 'c' to 'a'"):
        small_network(tmp_path, TASKS.replace("c,b", "c,a"))
    with pytest.raises(ConfigError, match="node 'a': capacity 6; with shared cores accepted: none"):
        small_network(tmp_path, nodes=NODES.replace("pooled,6", "shared,6"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1.5,finished\n", "row 2: column 'task': no row for task 1; accepted: one row for each of the 2 tasks"),
        ("0,1.5,finished\n0,1,finished\n", "row 2: column 'task': '0'; accepted: each task once"),
        ("0,1.5,finished\n2,1,finished\n", "row 2: column 'task': '2'; accepted: a number from 0 to 1"),
        ("0,1.5,done\n", "row 1: column 'outcome': 'done'; accepted: unfinished, finished, queue_full, expired, lost"),
        ("0,,finished\n", "row 1: column 'response_s': ''; accepted: 0 to 1e+30"),
        ("0,-1,finished\n", "row 1: column 'response_s': '-1'; accepted: 0 to 1e+30"),
        ("0,1,expired\n", "row 1: column 'response_s': '1'; accepted: nothing, because the outcome is expired"),
    ],
)
def test_wrong_responses_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "responses.csv"
    path.write_text("task,response_s,outcome\n" + text)
    with pytest.raises(ConfigError) as error:
        read_responses(path, 2)
    assert message in str(error.value)


def test_a_task_may_have_every_outcome_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "responses.csv"
    names = list(task_log.OUTCOMES.values())
    rows = (f"{i},{1.5 if name == 'finished' else ''},{name}\n" for i, name in enumerate(names))
    path.write_text("task,response_s,outcome\n" + "".join(rows))
    assert read_responses(path, len(names))[1] == names


def test_files_that_were_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_suite(tmp_path)
    check_sums(tmp_path)
    tasks = tmp_path / "small_4" / "tasks.csv"
    tasks.write_text(TASKS.replace("2e6", "3e6"))
    with suite_in(tmp_path, monkeypatch), pytest.raises(ConfigError, match=r"tasks\.csv: its SHA-256 is .* accepted: "):
        places()
    tasks.unlink()
    with pytest.raises(ConfigError, match=r"tasks\.csv: missing"):
        check_sums(tmp_path)
    tasks.write_text(TASKS)
    (tmp_path / "more.csv").write_text("")
    with pytest.raises(ConfigError, match=r"more\.csv: not a file of this version of the suite"):
        check_sums(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("123\n")
    with pytest.raises(ConfigError, match=r"row 1: '123'; accepted: a SHA-256, two blanks, the name of a file"):
        check_sums(tmp_path)


def test_an_environment_that_has_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_suite(tmp_path)
    network = tmp_path / "small_4" / "network.yaml"
    network.write_text(network.read_text().replace("horizon_s: 40", "horizon_s: 41"))
    seal(tmp_path)
    with suite_in(tmp_path, monkeypatch), pytest.raises(ConfigError, match="one: the environment has the fingerprint"):
        places()[0].environment()


def test_the_suite_of_the_checkout_is_whole() -> None:
    check_sums(suite_folder())
    names = [place.name for place in places()]
    assert len(names) == len(set(names))
    for place in places():
        place.environment()
        if place.point.exact:
            tasks = network_of(place).tasks
            assert len(tasks) > 1000
            assert (np.diff(tasks.time_s) > 0).all(), "no two tasks at one instant: their order would be open"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'queue_15': no scenario of the suite. Did you mean 'QUEUE-14'"):
        places(["queue_15"])
    with pytest.raises(ConfigError, match=r"'queue_14/lifo': QUEUE-14 has no such point. Accepted: fifo-0.3"):
        places(["queue_14/lifo"])


def test_destinations_that_depend_on_the_state_have_no_exact_reference() -> None:
    (place,) = places(["ether_12"])
    with pytest.raises(ConfigError, match="'least_queue': destinations depend on the state of the network"):
        exact_of(place, "least_queue")
    response_s, outcome, _ = simulated(place, "least_queue", 1300.0)
    assert not compared(response_s, outcome, exact_of(place)).passed
