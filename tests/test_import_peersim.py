"""A configuration of PeersimGym becomes an environment that runs, and nothing of it is left out silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.peersim_import import import_peersim, write_imported

CONFIG: dict[str, Any] = {
    "random.seed": 1234567890,
    "SCALE": 1,
    "SIZE": 6,
    "CYCLE": 1,
    "CYCLES": 200,
    "DROP": 0,
    "CONTROLLERS": "0;1;2;3;4;5",
    "CLOUD_EXISTS": 1,
    "NO_LAYERS": 2,
    "NO_NODES_PER_LAYERS": "4,2",
    "CLOUD_ACCESS": "0,1",
    "CLOUD_POS": "300,300",
    "clientLayers": "0",
    "layersThatGetTasks": "0",
    "clientIsSelf": 1,
    "schedules": "0.3-200",
    "FREQS": "1e7,3e7",
    "NO_CORES": "4,8",
    "Q_MAX": "10,50",
    "VARIATIONS": "1e3,1e3",
    "protocol.cld.no_vms": 3,
    "protocol.cld.VMProcessingPower": 1e8,
    "init.Net1.r": 500,
    "protocol.clt.numberOfTasks": 2,
    "protocol.clt.weight": "4,6",
    "protocol.clt.CPI": "1,2",
    "protocol.clt.T": "38,1",
    "protocol.clt.I": "4e7,1e8",
    "protocol.clt.minDeadline": 50,
    "protocol.props.B": 2,
    "protocol.props.P_ti": 20,
    "RANDOMIZEPOSITIONS": True,
    "RANDOMIZETOPOLOGY": True,
    "utility_reward": 10,
    "delay_weight": {"queue": 1.0, "exec": 2.0, "comm": 3.0},
    "overload_weight": 50,
    "something.else": "x",
}


def lines(config: dict[str, Any]) -> str:
    return "# written by hand\n" + "".join(
        f"{key} {value}\n" for key, value in config.items() if not isinstance(value, dict)
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(CONFIG))
    return path


def changed(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({key: value for key, value in (CONFIG | changes).items() if value is not None}))
    return path


def test_the_written_environment_says_the_same_and_runs(source: Path, tmp_path: Path) -> None:
    imported = import_peersim(source, "ours")
    written = write_imported(imported, tmp_path / "ours.yaml", force=False)
    assert [path.name for path in written] == ["ours.yaml"]
    config = load_environment(tmp_path / "ours.yaml")
    scenario = build_scenario(config)
    nodes = scenario.network.nodes
    assert [node.type for node in nodes] == ["layer0"] * 4 + ["layer1"] * 2 + ["cloud"]
    assert [node.speed for node in nodes] == [4e7] * 4 + [24e7] * 2 + [3e8]
    assert [node.queue_capacity for node in nodes] == [10] * 4 + [50] * 2 + [None]
    assert [node.client for node in nodes] == [True] * 4 + [False] * 3
    assert {a for a, b in scenario.network.links if b == 6} == {4, 5}
    assert len(scenario.network.links) == 15 + 2
    assert scenario.load.rate_per_client == pytest.approx(0.3)
    assert scenario.load.mean_work == pytest.approx(0.4 * 4e7 + 0.6 * 2e8)
    assert config.deadlines.model_dump() == {"expiry": "queued", "grace_s": 5.0}
    assert config.score.drop_s == config.horizon_s  # queues are bounded, and late tasks finish
    assert config.workload.deadline_s is not None
    assert config.workload.deadline_s.uniform == (50.0, 100.0)
    assert (config.queue, config.decisions.offer) == ("fifo", "arrival")
    assert (config.reward.waiting_weight, config.reward.execution_weight, config.reward.communication_weight) == (
        1,
        2,
        3,
    )
    env = make_env(config.model_dump(mode="json"))
    while not env.step(env.heuristic_actions("random")):
        pass
    assert env.episode_metrics(0)["tasks_finished"] > 0


def test_every_key_is_accounted_for_once(source: Path) -> None:
    notes = import_peersim(source, "ours").notes
    keys = [note.key for note in notes]
    assert len(keys) == len(set(keys))
    assert set(CONFIG) <= set(keys)
    fates = {note.key: note.fate for note in notes}
    assert fates["FREQS"] == "carried over"
    assert fates["clientIsSelf"] == "changed"
    assert fates["DROP"] == fates["something.else"] == "no counterpart"


def test_json_python_text_and_lines_say_the_same(tmp_path: Path) -> None:
    flat = {key: value for key, value in CONFIG.items() if key != "delay_weight"}
    texts = {"a.json": json.dumps(flat), "b.py": f"config = {flat!r}\n", "c.txt": lines(flat)}
    results = []
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        results.append(import_peersim(tmp_path / name, "ours").environment)
    assert results[0] == results[1] == results[2]


def test_the_simulators_own_file_holds_speeds_per_tick(tmp_path: Path) -> None:
    path = tmp_path / "theirs.txt"
    path.write_text(
        lines(CONFIG | {"SCALE": 10, "FREQS": "1e6,3e6", "protocol.cld.VMProcessingPower": 1e7, "CYCLE": 5})
    )
    environment = import_peersim(path, "ours").environment
    assert environment["topology"]["nodes"][0]["instructions_per_second"] == 1e7
    assert environment["cloud"]["instructions_per_second"] == 1e8
    assert environment["decisions"]["interval_s"] == 0.5
    assert environment["deadlines"]["grace_s"] == 0.5


def test_the_rules_of_the_code_on_request(source: Path) -> None:
    environment = import_peersim(source, "ours", as_coded=True).environment
    assert (environment["queue"], environment["decisions"]["offer"]) == ("lifo", "newest")
    assert environment["tick_s"] == environment["information"]["interval_s"] == 1.0
    assert build_scenario(load_environment(environment)).arrays.settings[0]["tick_s"] == 1.0


def test_given_positions_links_and_single_nodes(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        NO_NODES_PER_LAYERS="2,1",
        RANDOMIZEPOSITIONS=False,
        RANDOMIZETOPOLOGY=False,
        MANUAL_CONFIG=True,
        MANUAL_FREQS="1e7;2e7;3e7",
        MANUAL_CORES="1;2;3",
        MANUAL_QMAX="5;6;7",
        CLOUD_EXISTS=0,
        **{
            "init.Net0.POSITIONS": "0,0;3,4;6,8",
            "init.Net1.TOPOLOGY": "0,1;1,0,2;2,1",
            "protocol.urt.channelTypes": "a.b.OpticalFiberSNR",
        },
    )
    environment = import_peersim(path, "ours").environment
    nodes = environment["topology"]["nodes"]
    assert [node["position_m"] for node in nodes] == [[0, 0], [3, 4], [6, 8]]
    assert [node["cores"] for node in nodes] == [1, 2, 3]
    assert [node["queue_capacity"] for node in nodes] == [5, 6, 7]
    assert environment["topology"]["links"] == [["layer0_0", "layer0_1"], ["layer0_1", "layer1_0"]]
    assert environment["links"]["kind"] == "fixed"
    assert environment["links"]["rate_bps"] == pytest.approx(2e6 * np.log2(1 + 10**4.5))
    assert "cloud" not in environment


def test_rates_that_change_become_a_table(tmp_path: Path) -> None:
    path = changed(tmp_path, schedules="0.1-100,0.5-100;0.2-200", clientLayers="0,1", layersThatGetTasks="0,1")
    written = write_imported(import_peersim(path, "ours"), tmp_path / "ours.yaml", force=False)
    assert [item.name for item in written] == ["ours.yaml", "ours_rates.csv"]
    scenario = build_scenario(load_environment(tmp_path / "ours.yaml"))
    assert scenario.load.rate_per_client == pytest.approx((4 * 0.3 + 2 * 0.2) / 6)


def test_constant_rates_by_layer_become_weights(tmp_path: Path) -> None:
    path = changed(tmp_path, schedules="0.1-200;0.4-200", clientLayers="0,1", layersThatGetTasks="0,1")
    scenario = build_scenario(load_environment(import_peersim(path, "ours").environment))
    assert scenario.arrays.node["arrival_rate"][:6] == pytest.approx([0.1] * 4 + [0.4] * 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FREQS": "1e7"}, r"theirs.json: FREQS: '1e7'; accepted: 2 numbers, one for each layer"),
        ({"FREQS": "fast,slow"}, r"FREQS: 'fast,slow'; accepted: numbers"),
        ({"Q_MAX": "10,0"}, r"Q_MAX: '10,0'; accepted: finite numbers from 1 up"),
        ({"NO_CORES": "1.5,2"}, r"NO_CORES: .* accepted: whole numbers from 1 up"),
        ({"CLOUD_EXISTS": "maybe"}, r"CLOUD_EXISTS: 'maybe'; accepted: 0, 1, false, true"),
        ({"CYCLE": 0.5}, r"CYCLE: '0.5'; accepted: finite numbers from 1 up"),
        ({"schedules": "0.3"}, r"schedules: '0.3'; accepted: `rate-seconds"),
        ({"RANDOMIZEPOSITIONS": 0}, r"init.Net0.POSITIONS: missing"),
        (
            {"delay_weight": {"queue": 1}},
            r"delay_weight: .* accepted: a number, or a dictionary with queue, exec and comm",
        ),
        ({"protocol.clt.I": "1e7"}, r"protocol.clt.I: '1e7'; accepted: 2 numbers, one for each task type"),
        ({"NO_NODES_PER_LAYERS": "5.5,1"}, r"NO_NODES_PER_LAYERS: '5.5,1'; accepted: whole numbers from 1 up"),
        ({"NO_NODES_PER_LAYERS": "1e12,1"}, r"NO_NODES_PER_LAYERS: '1e12,1'; accepted: at most 10,000 nodes"),
        ({"protocol.clt.numberOfTasks": 10**9}, r"numberOfTasks: '1000000000'; accepted: at most 1,000 task types"),
        ({"CYCLES": 0}, r"CYCLES: '0'; accepted: finite numbers from"),
        ({"clientLayers": "0.5"}, r"clientLayers: '0.5'; accepted: whole numbers"),
        ({"clientLayers": "7"}, r"clientLayers: '7'; accepted: numbers of layers, from 0 to 1"),
        ({"RANDOMIZETOPOLOGY": 0, "init.Net1.TOPOLOGY": "0,nan"}, r"init.Net1.TOPOLOGY: '0,nan'; accepted: finite"),
        (
            {"protocol.urt.channelTypes": "OpticalFiberSNR", "protocol.urt.SNR": 1e5},
            r"protocol.urt.SNR: .* accepted: decibels from -300 to 300",
        ),
    ],
)
def test_values_that_cannot_be_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_peersim(changed(tmp_path, **changes), "ours")


@pytest.mark.parametrize("text", ["{1: 2}", "{'a': open('x')}", "SIZE\n", "", "[1, 2]"])
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"theirs\.json"):
        import_peersim(path, "ours")


def test_an_environment_that_cannot_be_built_is_not_written(tmp_path: Path) -> None:
    path = changed(tmp_path, **{"init.Net1.r": 1})
    with pytest.raises(ConfigError, match=r"cannot be built: .*pieces"):
        write_imported(import_peersim(path, "ours"), tmp_path / "ours.yaml", force=False)
    assert not (tmp_path / "ours.yaml").exists()


def test_the_command_prints_what_became_of_each_key_and_never_overwrites(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.yaml"
    arguments = ["import-peersim", str(source), "--out", str(out)]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    for text in ("carried over", "changed", "no counterpart", "protocol.cld.no_vms", "cloud.vms"):
        assert text in first.output
    before = out.read_text()
    out.write_text(before + "# mine\n")
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert out.read_text().endswith("# mine\n")
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
    assert out.read_text() == before
