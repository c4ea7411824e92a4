"""Files of other simulators and of clusters become what they say; wrong ones are refused with row and column."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.environments import make_env
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.imports.edgecloudsim import import_edgecloudsim
from offload_rllib.scenario.imports.topo4mec import import_topo4mec
from offload_rllib.scenario.imports.traces import google, import_trace
from offload_rllib.suite.scenarios import suite_folder

SAMPLES = suite_folder() / "samples"
DEVICES = (SAMPLES / "edge_devices.xml").read_text()
APPLICATIONS = (SAMPLES / "applications.xml").read_text()
EVENTS = (SAMPLES / "task_events.csv").read_text()
AZURE = "app,func,end_timestamp,duration\nb,f,12.5,2.5\na,g,11.0,0.25\na,g,10.5,0\n"
NETWORK: dict[str, Any] = {
    "Nodes": [{"NodeName": f"n{i}", "NodeId": 10 + i, "MaxCpuFreq": 1000 * (i + 1)} for i in range(3)],
    "Edges": [{"EdgeType": "Link", "SrcNodeID": a, "DstNodeID": b, "Bandwidth": 9} for a, b in ((10, 11), (11, 12))],
}
TASKS = "TaskName,GenerationTime,TaskID,TaskSize,CyclesPerBit,TransBitRate,DDL,SrcName\nt0,1.0,0,40,500,20,30,n0\n"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_invocations_of_azure_arrive_when_they_began(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(AZURE)
    text, trace = import_trace("azure", path, 2e9)
    assert [(float(row["time_s"]), float(row["work"]), row["name"]) for row in rows(text)] == [
        (0.0, 5e9, "b"),
        (0.5, 0.0, "a"),
        (0.75, 0.5e9, "a"),
    ]
    assert not trace.left_out


def test_tasks_of_google_run_from_their_last_start_to_their_end() -> None:
    trace = google(SAMPLES / "task_events.csv")
    assert [one.time_s for one in trace.arrivals] == pytest.approx([600.0, 600.5, 602.5])
    assert [one.busy_s for one in trace.arrivals] == pytest.approx([3.0, 1.5, 2.0])
    assert {one.type for one in trace.arrivals} == {"priority_2"}
    assert trace.left_out == {
        "killed": 1,
        "finished, and began before the file": 1,
        "did not finish in the file": 1,
    }


def test_a_trace_can_be_replayed(tmp_path: Path) -> None:
    out = tmp_path / "tasks.csv"
    done = invoke("import-trace", "google", SAMPLES / "task_events.csv", "--out", out)
    assert done.exit_code == 0, done.output
    assert "3 tasks in 2.5 s" in done.output
    assert "is not overwritten" in str(
        invoke("import-trace", "google", SAMPLES / "task_events.csv", "--out", out).exception
    )
    (tmp_path / "env.yaml").write_text(
        yaml.safe_dump(
            {
                "horizon_s": 60,
                "topology": {
                    "kind": "manual",
                    "nodes": [{"name": name, "instructions_per_second": 1e9, "client": True} for name in "ab"],
                    "links": [["a", "b"]],
                },
                "links": {"kind": "fixed", "rate_bps": 1e6, "latency_s": 0.0},
                "workload": {
                    "arrivals": {
                        "kind": "replay",
                        "path": "tasks.csv",
                        "columns": {"work": "work", "type": "type"},
                    }
                },
            }
        )
    )
    env = make_env(str(tmp_path / "env.yaml"), log=True)
    env.play("local")
    assert env.task_log(0)["work"].tolist() == [3e9, 1.5e9, 2e9]


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "message"),
    [
        ("azure", "12.5,2.5", "12.5,-2", "row 1: column 'duration': '-2'; accepted: 0 to 1e+30"),
        ("azure", "11.0,0.25", "x,0.25", "row 2: column 'end_timestamp': 'x'; accepted: 0 to 1e+30"),
        ("azure", "a,g,10.5,0\n", "a,g", "row 3: 2 fields; accepted: 4, as in the header. The file may be cut off"),
        ("azure", "func", "function", "row 0 (the header): column 'func': missing; accepted: app,func,end_timestamp"),
        ("google", "600100000,,100,0,7,1", "599000000,,100,0,7,1", "row 2: column 'timestamp': '599000000'; accepted"),
        ("google", "600100000,,100,0,7,1", "600100000,,100,0,7,9", "row 2: column 'event_type': '9'; accepted: a numb"),
        ("google", "600000000,", "x,", "row 1: column 'timestamp': 'x'; accepted: 0 to 1e+30"),
        ("google", "0.01,0.001,0\n", "0.01\n", "row 1: 11 fields; accepted: 13, timestamp,missing_info,job_id"),
    ],
)
def test_wrong_rows_of_traces_are_refused(tmp_path: Path, kind: str, right: str, wrong: str, message: str) -> None:
    path = tmp_path / "trace.csv"
    text = {"azure": AZURE, "google": EVENTS}[kind]
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(ConfigError) as error:
        import_trace(kind, path, 1e9)
    assert f"{path}: {message}" in str(error.value)


def test_traces_without_tasks_and_unknown_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(EVENTS.partition("\n")[0] + "\n")
    with pytest.raises(ConfigError, match=r"no task is left; left out: \{'did not finish in the file': 1\}"):
        import_trace("google", path, 1e9)
    with pytest.raises(ConfigError, match="'borg': not a kind of trace"):
        import_trace("borg", path, 1e9)
    with pytest.raises(ConfigError, match="--instructions-per-second 0: must be a finite number above 0"):
        import_trace("google", path, 0.0)


def test_a_data_set_in_the_form_of_topo4mec_is_replayed_over_paths(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NETWORK))
    (tmp_path / "tasks.csv").write_text(TASKS)
    done = invoke("import-topo4mec", tmp_path / "config.json", tmp_path / "tasks.csv", "--out", tmp_path / "net.yaml")
    assert done.exit_code == 0, done.output
    env = make_env(str(tmp_path / "net.yaml"), log=True)
    assert list(env.agents) == ["n0"]
    env.play("always_server")  # n2, two links away: 2 s on each, and 20 Gcycles at 3 GHz
    log = env.task_log(0)
    assert (log["created_s"][0], log["work"][0]) == (1.0, 2e10)
    assert log["ended_s"][0] - log["created_s"][0] == pytest.approx(2 * 40 / 20 + 20 / 3, abs=1e-12)
    assert log["deadline_s"][0] == 31.0


@pytest.mark.parametrize(
    ("change", "tasks", "message"),
    [
        (lambda net: net["Nodes"][1].update(MaxCpuFreq=0), TASKS, "Nodes[1]: MaxCpuFreq: 0; accepted: 1e-30 to 1e+30"),
        (lambda net: net["Nodes"][1].pop("NodeId"), TASKS, "Nodes[1]: NodeId: missing"),
        (lambda net: net["Nodes"][1].update(NodeName="n0"), TASKS, "Nodes[1]: NodeName: 'n0'; accepted: a name of its"),
        (lambda net: net["Edges"][0].update(DstNodeID=7), TASKS, "Edges[0]: DstNodeID: no node has the NodeId 7"),
        (lambda net: net["Edges"][0].update(Bandwidth=-1), TASKS, "Edges[0]: Bandwidth: -1; accepted: 1e-30 to 1e+30"),
        (lambda net: net["Edges"].pop(), TASKS, "Edges: node 'n0' does not reach all others; accepted: one piece"),
        (lambda net: net.pop("Edges"), TASKS, "Edges: must be a list with at least one entry"),
        (lambda _: None, TASKS.replace("n0", "n9"), "tasks.csv: row 1: column 'SrcName': no node is named 'n9'"),
        (lambda _: None, TASKS.replace(",20,30", ",0,30"), "row 1: column 'TransBitRate': '0'; accepted: 1e-30"),
        (lambda _: None, TASKS + "t1,0.5,1,40,500,20,30,n0\n", "row 2: column 'GenerationTime': '0.5'; accepted: 1 or"),
        (lambda _: None, TASKS.replace(",30,n0", ""), "row 1: 6 fields; accepted: 8, as in the header"),
    ],
)
def test_wrong_data_sets_are_refused(tmp_path: Path, change: Any, tasks: str, message: str) -> None:
    network = json.loads(json.dumps(NETWORK))
    change(network)
    (tmp_path / "config.json").write_text(json.dumps(network))
    (tmp_path / "tasks.csv").write_text(tasks)
    with pytest.raises(ConfigError) as error:
        import_topo4mec(tmp_path / "config.json", tmp_path / "tasks.csv", "net")
    assert message in str(error.value)


def test_sites_and_applications_of_edgecloudsim_become_an_environment(tmp_path: Path) -> None:
    files = SAMPLES / "edge_devices.xml", SAMPLES / "applications.xml"
    done = invoke("import-edgecloudsim", *files, "--devices", 50, "--out", tmp_path / "ecs.yaml")
    assert done.exit_code == 0, done.output
    scenario = build_scenario(load_environment(tmp_path / "ecs.yaml"))
    assert [(node.cores, node.core_speed) for node in scenario.network.nodes] == [(2, 1e10), (1, 5e9)]
    # 60 % of the devices, half of the time active, a task every 4 s; 40 %, three quarters, every 10 s.
    rates = np.array([0.6 * 0.5 / 4, 0.4 * 0.75 / 10])
    assert scenario.config.workload.load is not None
    assert scenario.config.workload.load.tasks_per_second_per_client == pytest.approx(25 * rates.sum())
    camera, speech = scenario.config.workload.jobs.types  # pyright: ignore[reportAttributeAccessIssue] - a mix
    assert camera.weight / speech.weight == pytest.approx(rates[0] / rates[1])
    assert (camera.name, camera.instructions.mean, camera.bits_in.mean) == ("camera", 5e9, 8e6)
    assert (speech.name, speech.bits_out.mean) == ("speech_app", 0.0)


@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        ("edge", "<mips>5000</mips><ram>4000</ram><storage>50000</storage></VM>", "<mips>0</mips></VM>", "<mips>: '0'"),
        ("edge", '<VM vmm="Xen"><core>2</core><mips>10000', '<VM vmm="Xen"><core>2</core><mips>9', "<mips>: '10000'"),
        ("edge", "</edge_devices>", "", "not XML: no element found"),
        ("edge", "edge_devices>", "devices>", "<devices>; accepted: <edge_devices>"),
        ("edge", "<!-- Two", "<!DOCTYPE a [<!ENTITY b 'c'>]><!-- Two", "declares a document type; accepted: none"),
        ("apps", "<usage_percentage>60", "<usage_percentage>50", "<usage_percentage>: the sum is 90; accepted: 100"),
        (
            "apps",
            "<poisson_interarrival>4",
            "<poisson_interarrival>-4",
            "<poisson_interarrival>: '-4'; accepted: 1e-30",
        ),
        ("apps", "<task_length>5000</task_length>", "", "<application>: has 0 <task_length>; accepted: one"),
        ("apps", "<data_upload>200<", "<data_upload>many<", "row 23, column 5: <data_upload>: 'many'; accepted: 0 to"),
    ],
)
def test_wrong_xml_is_refused(tmp_path: Path, file: str, right: str, wrong: str, message: str) -> None:
    texts = {"edge": DEVICES, "apps": APPLICATIONS}
    assert right in texts[file]
    texts[file] = texts[file].replace(right, wrong, 1 if "VM" in right else -1)
    for name, text in texts.items():
        (tmp_path / f"{name}.xml").write_text(text)
    with pytest.raises(ConfigError) as error:
        import_edgecloudsim(tmp_path / "edge.xml", tmp_path / "apps.xml", 50, "ecs")
    assert message in str(error.value)
    assert f"{file}.xml" in str(error.value)


def test_no_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="--devices 0: accepted: 1 to 1,000,000"):
        import_edgecloudsim(SAMPLES / "edge_devices.xml", SAMPLES / "applications.xml", 0, "ecs")
