"""Hosts of a testbed: on a Ray cluster of two nodes, on an address that is none, behind ports that are taken."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from offload_rllib.cluster.connection import Cluster
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.scenario import build_scenario
from offload_rllib.testbed.controller import Controller, TestbedError
from offload_rllib.testbed.launch import LOOPBACK, HostSpec, LocalLauncher
from offload_rllib.testbed.node import NodeProcess
from offload_rllib.testbed.playing import Playing
from offload_rllib.testbed.ray_hosts import RayLauncher
from offload_rllib.testbed.recorded import network_of
from offload_rllib.testbed.setup import ARRIVAL_ROW, Brain, Network, NodeOrder, Options
from offload_rllib.testbed.wire import ARRAYS, TOKEN_BYTES, WireError, cut, pack_arrays, pack_message

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "cluster"))

# Beside the launchers, not installed.
from namespaces import NamespaceCluster, why_not  # pyright: ignore[reportMissingImports]

SHORT = ("horizon_s=60", "warmup_s=0", "drain_s=0")
# Of the block that is reserved for documentation (RFC 5737): no machine has it.
NOWHERE = "192.0.2.1"
NEEDS_NAMESPACES = why_not()


@cache
def network() -> Network:
    return network_of(ArrivalEnv(build_scenario(load_environment("manual_5", SHORT)), 1, log=True))


def tell_nobody(_node: int, _kind: str) -> None:
    """Take the place of a host."""


def play(hosts: Sequence[HostSpec], first_port: int = 0) -> None:
    async def played() -> None:
        async with Controller(network(), Options(), hosts, LocalLauncher()) as controller:
            await controller.play(Brain(rule=(0, 0.0)), 1, np.zeros(0, ARRIVAL_ROW), first_port=first_port)

    asyncio.run(played())


def ports_side_by_side(count: int) -> list[socket.socket]:
    """Take ports that follow one another, below those that the system hands to others."""
    for first in range(20_000, 30_000, count):
        taken: list[socket.socket] = []
        try:
            taken.extend(socket.create_server((LOOPBACK, port)) for port in range(first, first + count))
        except OSError:
            for one in taken:
                one.close()
        else:
            return taken
    raise AssertionError("no free ports")


def test_a_port_that_is_taken_is_named_with_its_node() -> None:
    first, second, taken = ports_side_by_side(3)
    with taken:
        first.close()
        second.close()
        port = taken.getsockname()[1]
        with pytest.raises(TestbedError, match=rf"^node sensor_b: port {port}: .*address already in use"):
            play([HostSpec("local", LOOPBACK, tuple(range(5)))], first_port=port - 2)


def test_an_address_that_this_machine_does_not_have_is_named_with_its_node() -> None:
    with pytest.raises(TestbedError, match=rf"^node server: .*{NOWHERE}.*cannot assign requested address"):
        play([HostSpec("here", LOOPBACK, (0, 1, 2, 3)), HostSpec("there", NOWHERE, (4,))])


def test_the_controllers_port_that_is_taken_is_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        launcher = LocalLauncher()
        launcher.port = taken.getsockname()[1]

        async def start() -> None:
            async with Controller(network(), Options(), [], launcher):
                pass

        with pytest.raises(TestbedError, match=rf"^{LOOPBACK}:{launcher.port}: .*address already in use"):
            asyncio.run(start())


@pytest.mark.parametrize("token", ["00" * TOKEN_BYTES, None], ids=["another", "that of the run"])
def test_only_who_knows_the_token_of_the_run_is_a_host(token: str | None) -> None:
    async def greet() -> tuple[set[str], bool]:
        async with Controller(network(), Options(), [], LocalLauncher()) as controller:
            assert controller._server is not None
            port = controller._server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            sent = token or controller._token.hex()
            writer.write(pack_message({"kind": "host", "name": "stranger", "token": sent}))
            try:
                closed = await asyncio.wait_for(reader.read(1), 10 if token else 0.5) == b""
            except TimeoutError:
                closed = False
            writer.close()
            return set(controller._connections), closed

    assert asyncio.run(greet()) == ((set(), True) if token else ({"stranger"}, False))


def test_arrays_are_read_from_no_stranger() -> None:
    controller = Controller(network(), Options(), [], LocalLauncher())
    (_, body), *_ = cut(bytearray(pack_arrays({"kind": "final"}, {"late_s": np.zeros(3, np.float32)})), 2**20)
    stranger: Any = object()
    with pytest.raises(WireError, match="for the controller"):
        controller._on_frame(stranger, ARRAYS, body)


def test_a_neighbour_that_does_not_listen_ends_the_play_before_its_start() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        closed = server.getsockname()
    told: list[tuple[str, dict[str, Any]]] = []

    async def connect() -> None:
        order = NodeOrder(
            network(), Options(), Brain(rule=(0, 0.0)), 0, 1, np.zeros(0, ARRIVAL_ROW), closed, LOOPBACK, 0, b"", 1, 0.0
        )
        node = NodeProcess(order)
        node._say = lambda kind, **content: told.append((kind, content))
        gateway = network().names.index("gateway_a")
        await node._connect({gateway: closed, network().names.index("server"): closed})

    asyncio.run(connect())
    assert [kind for kind, _ in told] == ["unreachable", "ready"]
    (reason,) = told[0][1]["reasons"]
    assert f"{LOOPBACK}:{closed[1]}: " in reason, "the gateway alone is a neighbour of the sensor"
    playing = Playing(1, network(), 20.0, tell_nobody)
    reader: Any = object()
    playing.readers[0] = reader
    playing.on_message(0, reader, {"kind": "unreachable", "reasons": [reason]}, {})
    assert playing.trouble == f"node sensor_a: {reason}"


def test_a_node_that_does_not_tell_its_clock_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload_rllib.testbed.playing.SYNC_S", 0.05)
    playing = Playing(1, network(), 20.0, tell_nobody)
    asyncio.run(playing.measure_clocks())
    assert playing.trouble == "node sensor_a: did not tell its clock within 0.05 s"


def test_a_host_without_its_controller_says_so_in_one_line() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "offload_rllib.testbed.host", LOOPBACK, str(port), "local", LOOPBACK]
    done = subprocess.run(
        command, env=os.environ | {"OFFLOAD_TESTBED_TOKEN": "00"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"no connection to the controller at {LOOPBACK}:{port}: Connection refused\n"


def test_a_controller_outside_of_the_cluster_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--address ray://.*must be on a node of the Ray cluster"):
        RayLauncher(Cluster(()))


# --- a Ray cluster -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[NamespaceCluster]:
    if NEEDS_NAMESPACES is not None:
        pytest.skip(NEEDS_NAMESPACES)
    with NamespaceCluster(workers=1) as nodes:
        yield nodes


class Run:
    """A testbed on the cluster, from the head."""

    def __init__(self, cluster: NamespaceCluster, folder: Path, *arguments: str, worker: str | None = None) -> None:
        head, other = cluster.addresses
        (folder / "hosts.yaml").write_text(f"hosts:\n  {head}: ['*_a']\n  {worker or other}: ['*_b', server]\n")
        command = [sys.executable, "-m", "offload_rllib", "testbed", "manual_5", "shortest_finish"]
        changes = [word for change in SHORT for word in ("--set", change)]
        where = ["--hosts", "hosts.yaml", "--address", cluster.address, "--out", "run"]
        self.folder = folder
        self.process = cluster.run([*command, *changes, *where, *arguments], folder)

    def output(self) -> str:
        return " ".join((self.folder / "output").read_text(errors="replace").split())

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def of_testbed(cluster: NamespaceCluster, number: int) -> list[int]:
    """Return the processes of a testbed on a node of the cluster."""
    found = []
    for pid in cluster.pids(number):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"offload_rllib.testbed.host" in command:
            found.append(pid)
    return found


def wait_until(reached: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_testbed_on_two_nodes_of_a_ray_cluster_accounts_for_every_task(
    cluster: NamespaceCluster, tmp_path: Path
) -> None:
    run = Run(cluster, tmp_path)
    try:
        run.process.wait(600)
        record = json.loads((tmp_path / "run" / "testbed.json").read_text())
    finally:
        run.end()
    assert [host["address"] for host in record["hosts"]] == list(cluster.addresses)
    assert [host["nodes"] for host in record["hosts"]] == [
        ["sensor_a", "gateway_a"],
        ["sensor_b", "gateway_b", "server"],
    ]
    (play_,) = record["plays"]
    assert play_["notes"] == []
    assert set(play_["nodes"]) == set(network().names)
    assert all(node["payload_bytes"] >= 0 and node["malformed_frames"] == 0 for node in play_["nodes"].values())
    tasks: Any = pd.read_parquet(tmp_path / "run" / "tasks.parquet")
    here, there = (tasks[tasks["side"] == side] for side in ("testbed", "simulator"))
    assert len(here) == len(there) > 20
    crossed = here[(here["outcome"] == "finished") & (here["node"] == "server")]
    assert len(crossed) > 5, "tasks of sensor_a were served on the other host"
    for number in range(2):
        wait_until(lambda number=number: not of_testbed(cluster, number), 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_address_that_is_no_node_of_the_cluster_is_refused(cluster: NamespaceCluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, worker=NOWHERE)
    try:
        assert run.process.wait(300) == 2
    finally:
        run.end()
    assert f"hosts.{NOWHERE}: no node of the Ray cluster has this address; there are: " in run.output()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_host_that_is_cut_off_ends_the_play_with_one_message(cluster: NamespaceCluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, "--speed", "0.2")
    try:
        wait_until(lambda: len(of_testbed(cluster, 1)) == 4 or run.process.poll() is not None, 300)
        cluster.cut_off(1)
        assert run.process.wait(120) == 1
    finally:
        cluster.heal(1)
        run.end()
    assert f"host {cluster.addresses[1]}: " in run.output()
    assert "Traceback" not in run.output()
    assert not (tmp_path / "run").exists()
    wait_until(lambda: not of_testbed(cluster, 0), 20)
    wait_until(lambda: not of_testbed(cluster, 1), 120)  # when Ray there notices that it is alone
