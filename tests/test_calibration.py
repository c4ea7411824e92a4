"""A calibration finds the speeds, rates and latencies that a log has, and writes an environment with them."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.environments import at_once, typed_environment
from helpers.testbed_logs import played, written
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.loading import preset_folder
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.testbed.analysis.calibrated import calibrated, write_calibrated
from offload_rllib.testbed.analysis.calibration import FEWEST, Calibration, Fit, calibrate
from offload_rllib.testbed.analysis.log import TESTBED, read_log

SLOWER = {"rpi3": 0.8, "nuc": 1.1, "server": 0.9}


def model(**changes: Any) -> dict[str, Any]:
    """Return an environment with three types of devices, in which most tasks finish."""
    environment = at_once(**changes)
    environment["topology"] = typed_environment()["topology"] | changes.get("topology", {})
    environment["horizon_s"] = 200.0
    return environment


def machines(**changes: Any) -> dict[str, Any]:
    """Return the same environment as machines have it: other speeds, rates and latencies."""
    environment = copy.deepcopy(model(**changes))
    for node in environment["topology"]["nodes"]:
        node["instructions_per_second"] *= SLOWER[node["type"]]
    environment["links"] |= {"rate_bps": 1.25e6, "latency_s": 0.08}
    return environment


@cache
def measured() -> pd.DataFrame:
    return played(machines(), TESTBED, policies=["random", "shortest_finish"], loads=[0.8])


def read(tasks: pd.DataFrame, folder: Path) -> Any:
    return read_log(written(tasks, folder / "tasks.parquet"))


@pytest.fixture(scope="module")
def scenario() -> BuiltScenario:
    return build_scenario(load_environment(model()))


@pytest.fixture
def log(tmp_path: Path) -> Any:
    return read(measured(), tmp_path)


def test_what_the_machines_have_is_found(log: Any, scenario: BuiltScenario) -> None:
    found = calibrate(log, scenario)
    assert [fit.group for fit in found.devices] == ["nuc", "rpi3", "server"]
    for kind, share in SLOWER.items():
        assert 1 / found.of_device(kind).factor == pytest.approx(share, rel=1e-6)
    assert [fit.group for fit in found.links] == ["nuc - rpi3", "rpi3 - server"]
    for fit in found.links:
        assert not fit.kept + fit.latency_kept
        assert 1 / fit.factor == pytest.approx(1.25, rel=1e-6)
        assert fit.shift_s == pytest.approx(0.03, rel=1e-6)


def test_noise_and_stalls_cost_less_than_a_percent(log: Any, scenario: BuiltScenario) -> None:
    noise = np.random.default_rng(0)
    log = pd.concat([log.assign(episode=log["episode"] + 2 * copies) for copies in range(6)], ignore_index=True)
    for name in ("service_s", "transfer_s", "return_s"):
        log[name] *= noise.normal(1.0, 0.02, len(log))
        log[name] += np.where(noise.random(len(log)) < 0.02, 5.0, 0.0)  # the machine was busy with something else
    found = calibrate(log, scenario)
    for kind, share in SLOWER.items():
        fit = found.of_device(kind)
        assert 1 / fit.factor == pytest.approx(share, rel=0.01)
        assert 0 < fit.error < 0.01 * fit.factor
    for fit in found.links:
        assert 1 / fit.factor == pytest.approx(1.25, rel=0.01)
        assert fit.shift_s == pytest.approx(0.03, abs=0.01 * 0.08)


def test_service_times_add_up_to_those_measured(log: Any, scenario: BuiltScenario) -> None:
    here = log[(log["node"] == "b") & (log["outcome"] == "finished")]
    noise = np.random.default_rng(3).uniform(0.95, 1.05, len(log))
    log["service_s"] *= noise
    fit = calibrate(log, scenario).of_device("nuc")
    assert fit.factor * here["work"].sum() / 2e6 == pytest.approx(log["service_s"][here.index].sum(), rel=2e-3)


def test_links_on_which_transfers_wait_are_found_by_the_fastest(log: Any) -> None:
    contention = {"links": {"kind": "fixed", "rate_bps": 1e6, "latency_s": 0.05, "contention": "fifo"}}
    scenario = build_scenario(load_environment(model(**contention)))
    noise = np.random.default_rng(4)
    for name in ("transfer_s", "return_s"):
        log[name] += np.where(noise.random(len(log)) < 0.6, noise.exponential(0.3, len(log)), 0.0)
    for fit in calibrate(log, scenario).links:
        assert 1 / fit.factor == pytest.approx(1.25, rel=0.01)
        assert fit.shift_s == pytest.approx(0.03, abs=0.01 * 0.08)


def test_ways_over_two_links_say_nothing_of_one(log: Any, scenario: BuiltScenario) -> None:
    around = log[(log["hops"] == 1) & (log["outcome"] == "finished")].assign(hops=2)
    around[["transfer_s", "return_s"]] *= 2
    found = calibrate(pd.concat([log, around, around], ignore_index=True), scenario)
    assert [fit.shift_s for fit in found.links] == pytest.approx([0.03, 0.03])


def test_few_tasks_of_a_device_keep_its_speed_and_it_is_said(log: Any, scenario: BuiltScenario) -> None:
    of_server = log.index[(log["node"] == "d") & (log["outcome"] == "finished")]
    found = calibrate(log.drop(of_server[FEWEST - 1 :]), scenario)
    assert found.of_device("server").kept == f"{FEWEST - 1} finished tasks with a service time; at least 20 are needed"
    assert not found.of_device("nuc").kept
    content = calibrated(scenario, found)
    assert [node["instructions_per_second"] for node in content["topology"]["nodes"]][3] == 4e6
    enough = calibrate(log.drop(of_server[FEWEST:]), scenario)
    assert 1 / enough.of_device("server").factor == pytest.approx(SLOWER["server"], rel=1e-6)


def test_nothing_to_fit_and_loads_that_are_not_there_are_refused(log: Any, scenario: BuiltScenario) -> None:
    with pytest.raises(ConfigError, match="nothing to calibrate: nuc: 0 finished tasks with a service time"):
        calibrate(log.assign(service_s=np.nan, transfer_s=np.nan, return_s=np.nan), scenario)
    with pytest.raises(ConfigError, match="no finished task with side 'testbed'"):
        calibrate(log.assign(side="simulator"), scenario)
    with pytest.raises(ConfigError, match=r"--load 0.3: .*Accepted: 0.8"):
        calibrate(log, scenario, load=0.3)
    several = pd.concat([log, log.assign(load=0.4)])
    with pytest.raises(ConfigError, match=r"--load: missing.*Accepted: 0.4, 0.8"):
        calibrate(several, scenario)
    assert calibrate(several, scenario, load=0.8).devices == calibrate(log, scenario).devices


def test_times_that_say_nothing_of_one_task_or_message_are_kept(log: Any) -> None:
    shared = calibrate(log, build_scenario(load_environment(model(service="shared"))))
    assert {fit.kept for fit in shared.devices} == {"tasks share the cores, so their times say nothing of one alone"}
    drawn = {"links": {"kind": "fixed", "rate_bps": 1e6, "latency_s": {"exponential": 0.05}}}
    scenario = build_scenario(load_environment(model(**drawn)))
    found = calibrate(log, scenario)
    assert {fit.latency_kept for fit in found.links} == {"it is drawn from a distribution"}
    assert all(1 / fit.factor == pytest.approx(1.25, rel=1e-6) for fit in found.links)
    assert all("latency_s" not in override for override in calibrated(scenario, found)["link_overrides"])
    alike = calibrate(log.assign(bits_in=1e5, bits_out=1e5, transfer_s=0.18, return_s=0.18), build_scenario(
        load_environment(model())
    ))  # fmt: skip
    assert {fit.latency_kept for fit in alike.links} == {"sizes are too alike to tell it from the rate"}
    assert all(fit.factor == pytest.approx(1.3) for fit in alike.links)  # all of 0.18 s but the latency of 0.05 s


def test_the_environment_differs_in_what_was_measured_alone(log: Any, scenario: BuiltScenario, tmp_path: Path) -> None:
    config = write_calibrated(
        calibrated(scenario, calibrate(log, scenario)), tmp_path / "fitted.yaml", about="of a log"
    )
    assert (tmp_path / "fitted.yaml").read_text().startswith("# of a log\n")
    found, was = config.model_dump(), scenario.config.model_dump()
    speeds = [node.pop("instructions_per_second") for node in found["topology"]["nodes"]]
    assert speeds == pytest.approx([0.8e6, 2.2e6, 0.8e6, 3.6e6])
    for node in was["topology"]["nodes"]:
        del node["instructions_per_second"]
    overrides = found.pop("link_overrides")
    assert was.pop("link_overrides") == ()
    assert found == was
    assert [sorted(override["between_types"]) for override in overrides] == [["nuc", "rpi3"], ["rpi3", "server"]]
    for override in overrides:
        assert override["rate_bps"] == pytest.approx(1.25e6)
        assert override["latency_s"]["constant"] == pytest.approx(0.08)


def test_the_fitted_environment_plays_as_the_machines_do(log: Any, scenario: BuiltScenario, tmp_path: Path) -> None:
    content = calibrated(scenario, calibrate(log, scenario))
    again = read(played(content, TESTBED, policies=["random", "shortest_finish"], loads=[0.8]), tmp_path)
    assert (again["outcome"] == log["outcome"]).all()
    np.testing.assert_allclose(again["response_s"], log["response_s"], rtol=1e-4)


def unchanged(scenario: BuiltScenario, **factors: float) -> Calibration:
    """Return a calibration that finds the speeds of the model, but for some types of devices."""
    types = sorted({node.type for node in scenario.network.nodes})
    ends = {
        tuple(sorted((scenario.network.nodes[a].type, scenario.network.nodes[b].type)))
        for a, b in scenario.network.links
    }
    links = tuple(Fit(" - ".join(pair), 0, kept="no tasks") for pair in sorted(ends))
    return Calibration(tuple(Fit(kind, 100, factors.get(kind, 1.0)) for kind in types), links)


@pytest.mark.parametrize("preset", ["ether_12", "tiers_21", "ether_inter_region", "cloud_ether_12", "edge_list_7"])
def test_other_topologies_change_their_speeds_and_nothing_else(preset: str, tmp_path: Path) -> None:
    overrides = ["workload.jobs={kind: mix, types: [{instructions: 1e5, bits_in: 1e5}]}", "workload.load.rho=0.5"]
    scenario = build_scenario(load_environment(preset_folder("envs") / f"{preset}.yaml", overrides))
    kinds = sorted({node.type for node in scenario.network.nodes})
    found = unchanged(scenario, **{kinds[0]: 2.0})
    built = build_scenario(write_calibrated(calibrated(scenario, found), tmp_path / "fitted.yaml", about=""))
    assert [node.name for node in built.network.nodes] == [node.name for node in scenario.network.nodes]
    slower = np.array([0.5 if node.type == kinds[0] else 1.0 for node in scenario.network.nodes])
    np.testing.assert_allclose(built.arrays.node["core_speed"], scenario.arrays.node["core_speed"] * slower, rtol=1e-5)
    for name in ("name_hash", "servers", "capacity", "queue", "cloud", "agent", "first_link"):
        np.testing.assert_array_equal(built.arrays.node[name], scenario.arrays.node[name])
    for name in ("source", "destination", "seconds_per_bit", "latency_s"):
        np.testing.assert_allclose(built.arrays.link[name], scenario.arrays.link[name], rtol=1e-12)
    assert built.agents == scenario.agents


def test_links_of_unlike_rates_are_written_one_by_one(tmp_path: Path) -> None:
    where = {"a": [0, 0], "b": [10, 0], "c": [30, 0], "d": [70, 0]}
    content = model(links={"kind": "wireless"})
    for node in content["topology"]["nodes"]:
        node["position_m"] = [float(x) for x in where[node["name"]]]
    wireless = build_scenario(load_environment(content))
    found = unchanged(wireless)
    found = Calibration(found.devices, tuple(Fit(fit.group, 50, 2.0, shift_s=0.01) for fit in found.links))
    built = build_scenario(write_calibrated(calibrated(wireless, found), tmp_path / "fitted.yaml", about=""))
    spb = wireless.arrays.link["seconds_per_bit"]
    assert len(set(spb.round(12))) > 2
    np.testing.assert_allclose(built.arrays.link["seconds_per_bit"], 2 * spb, rtol=1e-5)
    np.testing.assert_allclose(built.arrays.link["latency_s"], wireless.arrays.link["latency_s"] + 0.01)


def test_a_network_of_every_episode_cannot_be_written_out() -> None:
    config = load_environment(
        "ether_12",
        ["topology.resample=episode", "workload.jobs={kind: mix, types: [{instructions: 1e5, bits_in: 1e5}]}"],
    )
    scenario = build_scenario(config)
    with pytest.raises(ConfigError, match=r"topology: every episode draws a network.*kind ether_clusters"):
        calibrated(scenario, unchanged(scenario))


def test_the_verb_writes_the_environment_and_says_what_it_found(tmp_path: Path) -> None:
    import yaml

    tasks = measured()
    path = written(tasks[tasks["node"] != "d"], tmp_path / "tasks.parquet")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model()))
    call = ["calibrate", str(tmp_path), "--env", str(tmp_path / "model.yaml"), "--out", str(tmp_path / "fitted.yaml")]
    done = CliRunner().invoke(app, call, catch_exceptions=False)
    assert done.exit_code == 0
    words = " ".join(done.output.replace("│", " ").split())
    assert "rpi3" in words
    assert "x 0.8" in words
    assert "0 finished tasks" in words
    assert load_environment(tmp_path / "fitted.yaml").topology.nodes[1].instructions_per_second == pytest.approx(2.2e6)  # pyright: ignore[reportAttributeAccessIssue]
    for arguments, message in (
        (call, "exists and is not overwritten"),
        ([*call[:-1], str(tmp_path / "x.json")], "must end in .yaml"),
        (["calibrate", str(tmp_path / "none"), "--env", "ether_12"], "no such file or folder"),
        (["calibrate", str(path), "--env", "ether_12"], "row 0, column 'origin': '[ac]' is not known"),
    ):
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
