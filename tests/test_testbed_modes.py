"""A testbed that burns, runs programs, leaves links to themselves or to the kernel, or has a clock of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.command_line import start

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import LINK
from offload_rllib.testbed import host as host_module
from offload_rllib.testbed import launch, namespaces
from offload_rllib.testbed.hosts import HostsFile, Placement
from offload_rllib.testbed.launch import HostSpec, LocalLauncher
from offload_rllib.testbed.namespaces import NamespaceError, address_of, enter, make_namespaces, why_not, wire_counts
from offload_rllib.testbed.play import play
from offload_rllib.testbed.playing import Playing
from offload_rllib.testbed.processes import clock_name
from offload_rllib.testbed.recorded import network_of
from offload_rllib.testbed.results import read_record
from offload_rllib.testbed.setup import Network, Options
from offload_rllib.testbed.wire import MOST_CONTROL_BYTES, cut, read_message

SHORT = ("horizon_s=60", "warmup_s=0", "drain_s=0")
LONGER = ("horizon_s=120", "warmup_s=0", "drain_s=0")
RATE_BPS = 4e6
SPEEDS = {"sensor": 4e6, "gateway": 16e6, "server": 64e6}
PARTS = ["holding_s", "waiting_s", "service_s", "transfer_s", "return_s"]


def can_make_namespaces() -> str:
    if reason := why_not():
        return reason
    try:
        for namespace in make_namespaces(np.zeros(0, LINK), 1):
            os.close(namespace)
    except (NamespaceError, OSError) as error:
        return str(error)
    return ""


def network(*overrides: str) -> Network:
    config = load_environment("manual_5", [*SHORT, *overrides])
    return network_of(ArrivalEnv(build_scenario(config), 1, log=True))


NEEDED = can_make_namespaces()
in_namespaces = pytest.mark.skipif(bool(NEEDED), reason=NEEDED)


# --- clocks --------------------------------------------------------------------------------------------------------


def test_one_clock_has_no_offset_and_another_one_that_of_its_fastest_answer() -> None:
    playing = Playing(1, network(), 20.0, lambda *_: None)
    reader: Any = object()
    for n, clock in enumerate([clock_name(), "another", "another", "", "third"]):
        playing.join(n, reader, ("127.0.0.1", 1), clock)
    playing._offsets_s = {0: (1e-4, 5e-4), 1: (7.2, 0.4), 2: (7.01, 0.1), 3: (2.0, 0.1), 4: (3.0, 0.1)}
    assert [playing.ahead_s(n) for n in range(5)] == [0.0, 7.01, 7.01, 2.0, 3.0]
    assert clock_name() == clock_name() != ""


class NodeElsewhere:
    """Stands in for the connection of a node whose clock is ahead, and remembers what the node is told."""

    def __init__(self, playing: Playing, n: int, ahead_s: float) -> None:
        self.told: dict[str, dict[str, Any]] = {}
        self.playing, self.n, self.ahead_s = playing, n, ahead_s

    def write(self, data: bytes) -> None:
        for _, body in cut(bytearray(data), MOST_CONTROL_BYTES):
            message = read_message(body)
            self.told[message["kind"]] = message
            if message["kind"] == "sync":
                reader: Any = self
                answer = {"kind": "sync", "number": message["number"], "time": time.monotonic() + self.ahead_s}
                self.playing.on_message(self.n, reader, answer, {})


def test_nodes_start_at_the_same_time_by_clocks_that_differ() -> None:
    playing = Playing(1, network(), 20.0, lambda *_: None)
    ahead_s = [0.0, 5000.0, -300.0, 1.0, 2.0]
    nodes = [NodeElsewhere(playing, n, each) for n, each in enumerate(ahead_s)]
    for n, node in enumerate(nodes):
        reader: Any = node
        playing.join(n, reader, ("127.0.0.1", 1), f"machine {n}")

    asyncio.run(playing.measure_clocks())
    began = time.monotonic()
    playing.begin(0.3, [])
    starts = [node.told["start"]["start"] - began - 0.3 for node in nodes]
    assert starts == pytest.approx(ahead_s, abs=0.2)
    offsets = [playing.outcome().offsets_s[n][0] for n in range(5)]
    assert offsets == pytest.approx(ahead_s, abs=0.2)


class ShiftedLauncher(LocalLauncher):
    """Starts hosts whose monotonic clock is ahead of this one's."""

    SHIFT_S = 5000

    def start(self, host: HostSpec, port: int, token: bytes) -> None:
        command = ["unshare", "--time", "--monotonic", str(self.SHIFT_S), "--fork", "--kill-child"]
        arguments = [sys.executable, "-m", launch.MODULE, self.bind, str(port), host.name, host.address]
        self._processes[host.name] = subprocess.Popen(
            [*command, *arguments], env=launch.host_environment(token), start_new_session=True
        )


def clocks_can_be_shifted() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--time", "--monotonic", "1", "--fork", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not clocks_can_be_shifted(), reason="time namespaces cannot be made here")
def test_a_host_with_another_clock_plays_at_the_same_time(tmp_path: Path) -> None:
    config = load_environment("manual_5", SHORT)
    play(
        config,
        ["shortest_finish"],
        options=Options(speed=10),
        out=tmp_path / "run",
        placement=Placement(ShiftedLauncher()),
    )
    for node in read_record(tmp_path / "run")["plays"][0]["nodes"].values():
        assert abs(node["clock_offset_s"] - ShiftedLauncher.SHIFT_S) <= node["clock_round_trip_s"]
    tasks: Any = pd.read_parquet(tmp_path / "run" / "tasks.parquet")
    here, there = (
        tasks[(tasks["side"] == side) & (tasks["outcome"] == "finished")] for side in ("testbed", "simulator")
    )
    assert here["response_s"].mean() == pytest.approx(there["response_s"].mean(), rel=0.25)


# --- namespaces ----------------------------------------------------------------------------------------------------


def test_both_ends_of_a_link_have_addresses_of_one_network_and_no_two_links_share_one() -> None:
    link = network().arrays.link
    addresses = [address_of(link, index) for index in range(len(link))]
    assert len(set(addresses)) == len(link)
    for index, record in enumerate(link):
        (mine, mine_last), (other, other_last) = (
            (parts[:3], int(parts[3])) for parts in (addresses[i].split(".") for i in (index, record["reverse"]))
        )
        assert mine == other
        assert {mine_last % 4, other_last % 4} == {1, 2}
        assert mine_last // 4 == other_last // 4


def test_where_namespaces_cannot_be_it_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = Options(network="namespaces")
    config = load_environment("manual_5", SHORT)

    def refused(message: str, **more: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            play(more.pop("config", config), ["local"], options=options, out=tmp_path / "run", **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        refused("--network namespaces: network namespaces need root; accepted here: shaped, real")
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        patch.setattr(namespaces.shutil, "which", lambda name: None if name == "tc" else "/sbin/ip")
        refused("--network namespaces: tc of iproute2 not found")
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 0)
        patch.setattr(namespaces.shutil, "which", lambda name: name)
        refused(
            "with --hosts: they join nodes of one machine",
            placement=Placement(LocalLauncher(), HostsFile(hosts={"a": ("*",)})),
        )
        lossy = load_environment("manual_5", [*SHORT, "links.loss_probability=0.1"])
        refused("links with a loss_probability, and --network namespaces", config=lossy)
    assert list(tmp_path.iterdir()) == []


@in_namespaces
def test_a_link_has_its_rate_both_ways_and_goes_with_its_namespace() -> None:
    link = network().arrays.link.copy()
    link["seconds_per_bit"] = 1 / RATE_BPS
    before = devices(None)
    made = make_namespaces(link, 5)
    try:
        assert devices(None) == before
        index = int(np.flatnonzero((link["source"] == 0) & (link["destination"] == 1))[0])
        for there, back in ((0, 1), (1, 0)):
            address = address_of(link, index if there else int(link[index]["reverse"]))
            took_s, counts = carried(made[there], made[back], address, 400_000)
            # Headers take 5 % of the wire.
            assert took_s == pytest.approx(400_000 * 8 / RATE_BPS * 1.05, rel=0.1)
            assert 1.03 * 400_000 < counts["wire_bytes"] < 1.2 * 400_000
        os.close(made.pop(1))
        end = time.monotonic() + 10
        while "to1@" in devices(made[0]):
            assert time.monotonic() < end, "the devices of a namespace go with it"
            time.sleep(0.05)
    finally:
        for namespace in made:
            os.close(namespace)


def devices(namespace: int | None) -> str:
    inside = None if namespace is None else lambda: enter(namespace)
    call = [str(shutil.which("ip")), "-br", "link"]
    return subprocess.run(call, capture_output=True, text=True, check=True, preexec_fn=inside).stdout


def carried(sender: int, receiver: int, address: str, size: int) -> tuple[float, dict[str, int]]:
    """Return how long so many bytes take from one namespace to an address in another, and what the sender counts."""
    result: list[Any] = []

    def inside(namespace: int, call: Callable[[], None]) -> None:
        enter(namespace)
        call()

    listening = threading.Event()

    def receive() -> None:
        with socket.create_server((address, 7000)) as server:
            listening.set()
            connection, _ = server.accept()
            began = 0.0
            left = size
            with connection:
                while left:
                    left -= len(connection.recv(2**16))
                    began = began or time.monotonic()
            result.append(time.monotonic() - began)

    def send() -> None:
        before = wire_counts()["wire_bytes"]
        with socket.create_connection((address, 7000), timeout=10) as connection:
            connection.sendall(bytes(size))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
        result.append({"wire_bytes": wire_counts()["wire_bytes"] - before})

    threads = [threading.Thread(target=inside, args=(receiver, receive))]
    threads[0].start()
    assert listening.wait(10)
    threads.append(threading.Thread(target=inside, args=(sender, send)))
    threads[1].start()
    for thread in threads:
        thread.join(20)
    return next(r for r in result if isinstance(r, float)), next(r for r in result if isinstance(r, dict))


def test_a_host_that_the_kernel_refuses_namespaces_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_link: Any, _nodes: int) -> list[int]:
        raise NamespaceError("unshare: Operation not permitted")

    monkeypatch.setattr(host_module, "make_namespaces", refuse)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host = host_module.Host(theirs, ("127.0.0.1", 1), "127.0.0.1", b"")
        content, arrays = network().packed()
        host._obey({"kind": "network", "network": content, "options": Options(network="namespaces").__dict__}, arrays)
        assert b"--network namespaces: unshare: Operation not permitted" in ours.recv(4096)


# --- whole plays ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def both_sides(folder: Path) -> tuple[Any, Any]:
    tasks: Any = pd.read_parquet(folder / "tasks.parquet")
    here, there = (tasks[tasks["side"] == side].set_index("task") for side in ("testbed", "simulator"))
    assert (here["created_s"] == there["created_s"]).all()
    finished = here[here["outcome"] == "finished"]
    assert len(finished) > 2
    assert (there["outcome"] == "finished").sum() > 4
    assert (finished[PARTS] >= 0).all().all()
    assert (finished["response_s"] - finished[PARTS].sum(axis=1)).abs().max() < 1e-6
    return finished, there


def modelled_s(tasks: Any) -> Any:
    return tasks["work"] / tasks["node"].astype(str).str.split("_").str[0].map(SPEEDS)


@pytest.mark.slow
def test_a_link_left_to_itself_is_faster_than_its_model(folder: Path) -> None:
    config = load_environment("manual_5", [*LONGER, "links.bandwidth_hz=2e5"])
    play(config, ["random"], options=Options(speed=10, network="real"), out=folder)
    finished, there = both_sides(folder)
    sent = finished[finished["hops"] == 1]
    assert len(sent) > 5
    assert sent["transfer_s"].median() < 0.3 * there[there["hops"] == 1]["transfer_s"].median(), "loopback is faster"
    assert sum(node["payload_bytes"] for node in read_record(folder)["plays"][0]["nodes"].values()) > 1e5


@pytest.mark.slow
def test_servers_that_burn_are_busy_no_shorter_than_the_model_says(folder: Path) -> None:
    config = load_environment("manual_5", [*LONGER, "workload.load.rho=0.12"])
    play(config, ["shortest_finish"], options=Options(speed=10, compute="burn"), out=folder)
    finished, _ = both_sides(folder)
    long = finished[modelled_s(finished) > 0.5]
    assert len(long) > 1
    ratio = long["service_s"] / modelled_s(long)
    assert 0.8 < ratio.median() < 10, "other processes only make it longer"
    used = read_record(folder)["plays"][0]["cpu_share"]
    assert used > 0.5 * modelled_s(finished).sum() / 120, "it is real work"


@pytest.mark.slow
def test_a_program_serves_every_task_and_one_that_fails_makes_the_play_invalid(folder: Path) -> None:
    config = load_environment("manual_5", SHORT)
    program = ("sh", "-c", 'exec sleep "$OFFLOAD_SECONDS"')
    play(config, ["shortest_finish"], options=Options(speed=4, compute="command", command=program), out=folder)
    finished, _ = both_sides(folder)
    assert (finished["service_s"] >= modelled_s(finished) - 1e-3).all(), "none is over before its program"
    assert not any("failed" in reason for reason in read_record(folder)["plays"][0]["reasons"])
    failing = Options(speed=20, compute="command", command=("false",))
    play(config, ["local"], options=failing, out=folder.parent / "failing")
    (record,) = read_record(folder.parent / "failing")["plays"]
    assert not record["valid"]
    assert any("--command: the program failed" in reason for reason in record["reasons"])


@pytest.mark.slow
@in_namespaces
def test_tcp_in_namespaces_takes_a_little_longer_than_the_model(folder: Path) -> None:
    config = load_environment("manual_5", [*LONGER, "links.bandwidth_hz=2e5", "workload.load.rho=0.2"])
    play(config, ["always_server"], options=Options(speed=5, network="namespaces"), out=folder)
    finished, there = both_sides(folder)
    sent = finished.index[finished["hops"] == 2]
    same = [task for task in sent if there.loc[task, "outcome"] == "finished"]
    assert len(same) > 3
    ratio = (finished.loc[same, "transfer_s"] / there.loc[same, "transfer_s"]).min()
    assert 0.95 < ratio < 1.5, "the kernel keeps to the rate"
    for node in read_record(folder)["plays"][0]["nodes"].values():
        assert node["wire_bytes"] > 1000
        assert node["segments_sent_again"] >= 0


@pytest.mark.slow
@in_namespaces
def test_a_killed_controller_leaves_neither_processes_nor_namespaces(tmp_path: Path) -> None:
    before = network_namespaces()
    command = start(tmp_path, "testbed", "manual_5", "local", "--speed", "1", "--network", "namespaces")
    try:
        end = time.monotonic() + 200
        while len(network_namespaces() - before) < 5:
            assert command.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()
    end = time.monotonic() + 20
    while network_namespaces() - before:
        assert time.monotonic() < end, "namespaces are those of processes, and these have ended"
        time.sleep(0.2)


def network_namespaces() -> set[str]:
    """Return the network namespaces that processes are in, or hold open."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = str(path.readlink())
        except OSError:
            continue
        if target.startswith("net:["):
            found.add(target)
    return found


def test_a_process_ends_with_the_one_that_started_it() -> None:
    program = (
        "import os, time\n"
        "from offload_rllib.testbed.processes import end_with_parent\n"
        "ready, told = os.pipe()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    end_with_parent()\n"
        "    os.write(told, b'.')\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.read(ready, 1)\n"
        "print(child, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.kill()
        parent.wait()
    end = time.monotonic() + 10
    while child.exists() and (child / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "no connection ends it"
        time.sleep(0.05)
