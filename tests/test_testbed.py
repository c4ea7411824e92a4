"""A testbed of processes plays what the simulator plays; it loses no task, and leaves no process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.command_line import finish, start
from helpers.policies import kept

from offload_rllib.cli import main
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.policy import Network as NetworkConfig
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.heuristics import SHORTEST_FINISH
from offload_rllib.simulator.types import FINISHED, LOST, NODE_FAILED, OPEN
from offload_rllib.testbed.controller import Controller
from offload_rllib.testbed.fates import fates
from offload_rllib.testbed.hosts import HostsFile
from offload_rllib.testbed.launch import LOOPBACK, HostSpec, LocalLauncher
from offload_rllib.testbed.play import play
from offload_rllib.testbed.playing import Fault, Outcome, Playing
from offload_rllib.testbed.recorded import arrivals_of, network_of
from offload_rllib.testbed.results import read_record, reasons_against, record_of_play, record_of_run, table_of_run
from offload_rllib.testbed.setup import ARRIVAL_ROW, MOVE, ROW, Brain, Options

SPEED = 20.0
MARK = "OFFLOAD_TESTBED_TEST"
SHORT = ("horizon_s=120", "warmup_s=0", "drain_s=0")
DROPPED = ("queue_full", "expired", "lost", "node_failed")
PARTS = ["holding_s", "waiting_s", "service_s", "transfer_s", "return_s"]


def marked(mark: str) -> list[int]:
    """Return the processes that were started with a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment and state != "Z":
            found.append(int(folder.name))
    return found


def until(reached: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until something is reached; return whether it is."""
    end = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of a rule and of networks that nobody trained."""
    config = load_environment("manual_5", [*SHORT, "links.bandwidth_hz=5e5"])
    trained = tmp_path_factory.mktemp("policy") / "pointer"
    kept(trained, ArrivalEnv(build_scenario(config), 1), network=NetworkConfig(kind="pointer", hidden=(8,)))
    folder = tmp_path_factory.mktemp("testbed") / "run"
    os.environ[MARK] = "played"
    try:
        play(config, ["shortest_finish", str(trained)], label="manual_5", options=Options(speed=SPEED), out=folder)
    finally:
        del os.environ[MARK]
    return folder


def test_both_sides_play_the_same_tasks_and_account_for_each(played: Path) -> None:
    tasks: Any = pd.read_parquet(played / "tasks.parquet")
    assert list(dict.fromkeys(tasks["policy"])) == ["shortest_finish", "pointer"]
    for _, of_policy in tasks.groupby("policy", observed=True):
        sides = [of_policy[of_policy["side"] == side].reset_index() for side in ("testbed", "simulator")]
        for column in ("task", "created_s", "deadline_s", "work", "bits_in", "bits_out", "origin", "type", "counts"):
            assert (sides[0][column] == sides[1][column]).all(), column
        for side in sides:
            ends = side["outcome"].value_counts()
            assert len(side) == ends["finished"] + sum(ends.get(cause, 0) for cause in (*DROPPED, "unfinished"))
            assert ends["finished"] > 40
        assert (sides[0]["node"].astype(str) != sides[0]["origin"].astype(str)).sum() > 20, "tasks travelled"
    finished = tasks[tasks["outcome"] == "finished"]
    gap_s = finished["response_s"] - finished[PARTS].sum(axis=1)
    assert gap_s.abs().max() < 1e-9 * 120, "the parts of a response are its whole"
    testbed = finished[finished["side"] == "testbed"]
    assert (testbed[PARTS] >= 0).all().all()
    speeds = {"sensor": 4e6, "gateway": 16e6, "server": 64e6}
    service_s = testbed["work"] / testbed["node"].astype(str).str.split("_").str[0].map(speeds)
    assert (testbed["service_s"] - service_s).abs().max() < 1e-9 * 120, "a server is busy for work / speed"
    assert (tasks[tasks["side"] == "testbed"]["decision_s"] > 0).any()


def test_responses_are_those_of_the_simulator(played: Path) -> None:
    tasks: Any = pd.read_parquet(played / "tasks.parquet")
    rule = tasks[(tasks["policy"] == "shortest_finish") & (tasks["outcome"] == "finished")]
    here, there = (rule[rule["side"] == side].set_index("task") for side in ("testbed", "simulator"))
    assert here["response_s"].mean() == pytest.approx(there["response_s"].mean(), rel=0.15)
    same = here.index[(here["node"].astype(str) == there["node"].astype(str).reindex(here.index))]
    assert len(same) > 0.7 * len(there), "most tasks are processed by the same node"
    sent = same[here.loc[same, "hops"] == 1]
    long = sent[there.loc[sent, "transfer_s"] > 0.3]
    assert len(long) > 4
    late = (here.loc[long, "transfer_s"] / there.loc[long, "transfer_s"]).median()
    assert 1 <= late < 1.2, "a link delivers when the model says, and a little later"


def test_the_record_says_how_it_was_played(played: Path) -> None:
    record = read_record(played)
    assert record["speed"] == SPEED
    assert record["hosts"][0]["nodes"] == ["sensor_a", "gateway_a", "sensor_b", "gateway_b", "server"]
    tasks: Any = pd.read_parquet(played / "tasks.parquet")
    testbed = tasks[tasks["side"] == "testbed"]
    for one in record["plays"]:
        assert one["valid"] == (not one["reasons"])
        assert one["notes"] == []
        assert one["timer_lateness_ms"]["p50"] < 5
        assert set(one["nodes"]) == set(record["hosts"][0]["nodes"])
        decided = sum(node["decisions"] for node in one["nodes"].values())
        assert decided > 50
        deciding_s = testbed.loc[testbed["policy"] == one["policy"], "decision_s"].sum()
        assert deciding_s == pytest.approx(decided * one["decision_ms"]["mean"] / 1e3 * SPEED, rel=1e-3)
        for node in one["nodes"].values():
            assert abs(node["clock_offset_s"]) <= node["clock_round_trip_s"], "one machine has one clock"
            assert node["resident_bytes"] < 150e6
            assert 0 < node["cpu_share"] < 0.25
            assert node["masked_actions"] == 0
            assert node["malformed_frames"] == 0
    assert record["plays"][0]["decision_ms"]["p50"] < 5
    assert table_of_run(played).row_count == 4
    assert until(lambda: not marked("played"), 10), "no process is left"


def test_a_play_on_a_machine_that_is_too_slow_does_not_count() -> None:
    empty = fates(np.zeros(0, ARRIVAL_ROW), outcome())
    options = Options(speed=100)
    quick, slow = np.full(1000, 1e-5, np.float32), np.full(1000, 1e-3, np.float32)
    assert reasons_against(outcome(late_s=quick), empty, options, 10.0) == []
    assert "too slow for --speed 100" in reasons_against(outcome(late_s=slow), empty, options, 10.0)[0]
    about = dict.fromkeys(("policy", "training_seed", "held_out_seed", "episode"), 0)
    plays = [record_of_play(about, outcome(late_s=late), empty, options, (), 10.0) for late in (quick, slow)]
    assert [play["valid"] for play in plays] == [True, False]
    assert plays[1]["reasons"] == reasons_against(outcome(late_s=slow), empty, options, 10.0)
    assert [record_of_run("", "", options, [], (), each)["valid"] for each in (plays[:1], plays)] == [True, False]
    rare = np.where(np.arange(1000) % 50 == 0, 1e-2, 0.0).astype(np.float32)
    assert "1 of 100 by 1 s" in reasons_against(outcome(late_s=rare), empty, options, 10.0)[0]
    lost = fates(arrivals(1), outcome())
    assert "1 tasks cannot be accounted for" in reasons_against(outcome(late_s=quick), lost, options, 10.0)[0]


# --- faults --------------------------------------------------------------------------------------------------------


def outcome(**changes: Any) -> Outcome:
    """Return what was told of a play in which nothing happened."""
    told: dict[str, Any] = {
        "rows": np.zeros(0, ROW),
        "moves": np.zeros(0, MOVE),
        "finals": {},
        "late_s": np.zeros(0, np.float32),
        "decision_wall_s": np.zeros(0, np.float32),
        "faults": (),
        "offsets_s": {},
        "notes": (),
    }
    return Outcome(**(told | changes))


def arrivals(count: int) -> np.ndarray:
    """Return tasks of node 0, one a second."""
    rows = np.zeros(count, ARRIVAL_ROW)
    rows["number"], rows["created_s"] = np.arange(count), np.arange(count)
    return rows


def test_tasks_that_nobody_has_written_down_ended_with_their_node_or_their_link() -> None:
    moves = np.array([(1.5, 1, 2, 1), (2.5, 2, 1, 1), (2.7, 2, 2, 2), (3.5, 3, 1, 1)], MOVE)
    row = np.zeros(1, ROW)
    row["number"], row["row"]["outcome"] = 0, FINISHED
    faults = (Fault(2, 5.0, 9.0), Fault(2, 20.0, 30.0))
    broken = frozenset({frozenset({0, 1})})
    got = fates(arrivals(5), outcome(rows=row, moves=moves, faults=faults, broken=broken))
    assert got.log["outcome"].tolist() == [FINISHED, NODE_FAILED, NODE_FAILED, LOST, OPEN]
    assert got.log["ended_s"].tolist() == [0.0, 5.0, 5.0, 3.5, 4.0]
    assert got.log["node"].tolist() == [0, 2, 2, 1, 0]
    assert got.log["hops"].tolist() == [0, 1, 2, 1, 0]
    assert got.problems == ("task 4: no node knows what has become of it",)
    twice = fates(arrivals(1), outcome(rows=np.concatenate([row, row])))
    assert twice.problems == ("task 0: has ended twice",)
    late = fates(arrivals(1), outcome(faults=(Fault(0, 0.0, 0.0),)))
    assert late.log["outcome"].tolist() == [OPEN], "a node that was up again has not taken the task with it"


def test_a_killed_node_takes_its_tasks_along_comes_back_and_nothing_malformed_stops_the_others() -> None:
    scenario = build_scenario(load_environment("manual_5", [*SHORT, "workload.load.rho=1.2"]))
    env, key = ArrivalEnv(scenario, 1, log=True), int(held_out_keys(0, 1)[0])
    network, arriving = network_of(env), arrivals_of(env, key)
    server = network.names.index("server")
    sent: set[int] = set()
    cut: list[int] = []

    def disturb(playing: Playing) -> None:
        if playing.now_s > 5 and not sent:
            for n, address in playing.addresses.items():
                for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x05\x00\x00\x00\x04abcd", b"\xff" * 99):
                    with socket.create_connection(address) as connection:
                        connection.sendall(noise)
                sent.add(n)
        if playing.now_s > 80 and not cut:
            cut.append(network.names.index("gateway_a"))
            playing.cut(cut[0], network.names.index("gateway_b"))

    async def played() -> Outcome:
        hosts = [HostSpec("local", LOOPBACK, tuple(range(5)))]
        async with Controller(network, Options(speed=SPEED), hosts, LocalLauncher()) as controller:
            faults = [Fault(server, 30.0, 60.0)]
            return await controller.play(Brain(rule=(SHORTEST_FINISH, 0.0)), key, arriving, faults, tell=disturb)

    told = asyncio.run(played())
    result = fates(arriving, told)
    assert result.problems == ()
    log = result.log
    assert set(log["outcome"].tolist()) <= {*range(6)}
    (fault,) = told.faults
    assert (fault.node, fault.from_s) == (server, pytest.approx(30, abs=4))
    assert 60 <= fault.until_s < 90
    failed = log[log["outcome"] == NODE_FAILED]
    assert len(failed) > 0
    assert (failed["ended_s"] >= fault.from_s).all()
    at_server = log[(log["node"] == server) & (log["outcome"] == FINISHED)]
    assert (at_server["created_s"] < 30).any(), "it has worked"
    assert (at_server["created_s"] > fault.until_s).any(), "it is back, and works again"
    between = (at_server["ended_s"] - at_server["return_s"] > fault.from_s + 1) & (at_server["ended_s"] < 60)
    assert not between.any(), "it does not work while it is down"
    others = log[(log["outcome"] == FINISHED) & (log["node"] != server)]
    assert ((others["ended_s"] > 30) & (others["ended_s"] < 60)).any(), "the others go on"
    up = [told.finals[n]["malformed"] for n in range(5) if n != server]
    assert up == [3, 3, 3, 3], "each node has refused three connections"
    assert told.broken == {frozenset({cut[0], network.names.index("gateway_b")})}
    assert (log["ended_s"] > 80).any()


def test_when_the_controller_is_killed_its_processes_end() -> None:
    program = (
        "import asyncio\n"
        "from offload_rllib.config import load_environment\n"
        "from offload_rllib.scenario import build_scenario\n"
        "from offload_rllib.testbed.controller import Controller\n"
        "from offload_rllib.testbed.launch import HostSpec, LOOPBACK, LocalLauncher\n"
        "from offload_rllib.testbed.setup import ARRIVAL_ROW, Brain, Network, Options\n"
        "import numpy as np\n"
        "arrays = build_scenario(load_environment('manual_5')).arrays\n"
        "network = Network.of(arrays, tuple('abcde'), arrays.destination.shape[1], 4, (0, 0.0))\n"
        "async def main():\n"
        "    hosts = [HostSpec('local', LOOPBACK, tuple(range(5)))]\n"
        "    async with Controller(network, Options(speed=1.0), hosts, LocalLauncher()) as controller:\n"
        "        tell = lambda playing: print('playing', flush=True)\n"
        "        await controller.play(Brain(rule=(0, 0.0)), 1, np.zeros(0, ARRIVAL_ROW), tell=tell)\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {MARK: "killed"}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "playing\n"
        assert len(marked("killed")) == 7, "the controller, its host, five nodes"
        controller.kill()
        controller.wait()
    assert until(lambda: not marked("killed"), 10), marked("killed")


def test_an_interrupted_run_leaves_neither_processes_nor_files(tmp_path: Path) -> None:
    os.environ[MARK] = "interrupted"
    try:
        command = start(tmp_path, "testbed", "manual_5", "local", "--speed", "1", "--out", "run")
    finally:
        del os.environ[MARK]
    assert until(lambda: len(marked("interrupted")) == 7 or command.poll() is not None, 200)
    time.sleep(0.5)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    printed = finish(command)
    assert command.returncode == 130, printed
    assert "interrupted" in printed
    assert "Traceback" not in printed
    assert until(lambda: not marked("interrupted"), 10)
    assert list(tmp_path.iterdir()) == []


MOVING = (
    "mobility={types: [sensor], access_points: [gateway], "
    "movement: {kind: random_waypoint, speed_m_per_s: [1, 2], area_m: [60, 60]}}"
)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["decisions.when=interval", "decisions.interval_s=1"], "decisions.when: interval: .*accepted: arrival"),
        (["information.kind=fresh"], "information.kind: fresh: .*accepted: broadcast"),
        (["service=shared"], "service: shared: .*accepted.*: pooled, parallel"),
        (
            ["failures={tasks: returned, laws: [{time_to_failure_s: 50, time_to_repair_s: 5}]}"],
            "failures.tasks: returned: .*accepted: lost",
        ),
        (["links.contention=shared"], "links.contention: shared: .*accepted: none, fifo"),
        (["links.contention=fifo", "links.channel=link"], "links.channel: .*accepted: direction"),
        (["links.fading=rayleigh"], "links with fading or shadowing: .*accepted: none"),
        (["links.rate_schedule={steps: [[0, 1], [5, 0.5]]}"], "links.rate_schedule: .*accepted: null"),
        ([MOVING], "mobility: processes do not move; accepted: null"),
    ],
    ids=["clock", "fresh", "shared", "returned", "shared links", "half-duplex", "fading", "schedule", "mobility"],
)
def test_what_a_testbed_cannot_honour_is_refused_by_name(override: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"testbed: {message}"):
        play(load_environment("manual_5", override), ["local"], out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shortest_finish_oracle"], "'shortest_finish_oracle' needs the true state of other nodes"),
        (["soft"], "'soft' is neither a heuristic"),
        (["helpers.policies:policy_config"], "a function sees all nodes at once"),
        (["local", "--speed", "0"], "--speed 0: accepted: above 0"),
        (["local", "--compute", "burns"], "--compute 'burns': accepted: emulate, burn, command"),
        (["local", "--network", "fast"], "--network 'fast': accepted: shaped, real"),
        (["local", "--compute", "command"], "--compute command and --command"),
        (["local", "--command", "true"], "--compute command and --command"),
        (["local", "--compute", "command", "--command", "no-such-program"], "'no-such-program': no such program"),
        (["local", "--address", "auto"], "--address needs --hosts"),
        (["local", "--out", "."], "exists and is not overwritten"),
    ],
)
def test_bad_options_are_one_message(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["offload-rllib", "testbed", "manual_5", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_hosts_file_gives_every_node_one_host() -> None:
    names = ("sensor_a", "sensor_b", "server")
    placed = HostsFile(hosts={"10.0.0.1": ("sensor_*",), "10.0.0.2": ("server",)}).placed(names, "hosts.yaml")
    assert [(host.address, host.nodes) for host in placed] == [("10.0.0.1", (0, 1)), ("10.0.0.2", (2,))]
    for hosts, message in (
        ({"a": ("sensor_*",)}, "hosts.yaml: hosts: no host for node server"),
        ({"a": ("*",), "b": ("server",)}, "node 'server' is given to a and to b"),
        ({"a": ("*", "router")}, "hosts.a: 'router' names no node; there are: sensor_a, sensor_b, server"),
    ):
        with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace("*", r"\*")):
            HostsFile(hosts=hosts).placed(names, "hosts.yaml")
