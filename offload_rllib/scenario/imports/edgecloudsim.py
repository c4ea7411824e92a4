"""EdgeCloudSim's files of edge devices and applications as an environment."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from offload_rllib.config.errors import ConfigError
from offload_rllib.scenario.imports.xml_tree import Element, read_xml
from offload_rllib.scenario.peersim_file import CARRIED, CHANGED, NOTHING, Note
from offload_rllib.scenario.peersim_import import Imported

MILLION = 1e6
KILOBYTE_BITS = 8e3
MOST_DEVICES = 1_000_000


def import_edgecloudsim(edge_devices: Path, applications: Path, devices: int, name: str) -> Imported:
    """Return the environment of a set of edge devices and applications.

    Each datacenter is a node with as many cores as it has virtual machines, time-shared. All are linked, and the mobile
    devices are spread over them evenly. A device is active and idle in turn there; here tasks come as a Poisson process
    with the same mean rate. Lengths and sizes are exponential, as there.

    Args:
        edge_devices: `edge_devices.xml`.
        applications: `applications.xml`.
        devices: number of mobile devices.
        name: of the environment.

    Raises:
        ConfigError: a value is invalid; the message names file, row and column, the value and what is accepted.
    """
    if not 1 <= devices <= MOST_DEVICES:
        raise ConfigError(f"--devices {devices}: accepted: 1 to {MOST_DEVICES:,}")
    nodes = [_node(i, one) for i, one in enumerate(_some(read_xml(edge_devices, "edge_devices"), "datacenter"))]
    types, rates = [], []
    given = _some(read_xml(applications, "applications"), "application")
    total = math.fsum(application.number("usage_percentage", 0, 100) for application in given)
    if not math.isclose(total, 100, abs_tol=0.01):
        raise ConfigError(f"{applications}: <usage_percentage>: the sum is {total:g}; accepted: 100")
    for application in given:
        kind, rate = _application(application)
        if any(other["name"] == kind["name"] for other in types):
            raise ConfigError(f"{application.where}: name {kind['name']!r}: accepted: each once")
        if rate > 0:
            types.append(kind | {"weight": rate})
            rates.append(rate)
    per_client = math.fsum(rates) * devices / len(nodes)
    names = [node["name"] for node in nodes]
    environment = {
        "description": f"{name}, carried over from EdgeCloudSim, {devices} devices",
        "format": 1,
        "horizon_s": 300.0,
        "warmup_s": 30.0,
        "drain_s": 30.0,
        "service": "shared",
        "topology": {
            "kind": "manual",
            "nodes": nodes,
            "links": [[a, b] for i, a in enumerate(names) for b in names[i + 1 :]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e9, "latency_s": 0.005},
        "workload": {
            "jobs": {"kind": "mix", "types": types},
            "load": {"tasks_per_second_per_client": per_client},
        },
        "decisions": {"when": "arrival", "max_hops": 1},
        "information": {"kind": "broadcast", "interval_s": 0.1},
    }
    return Imported(edge_devices, environment, {}, _notes(len(nodes), len(types), devices))


def _some(root: Element, tag: str) -> list[Element]:
    found = list(root.all(tag))
    if not found:
        raise ConfigError(f"{root.where}: has no <{tag}>; accepted: at least one")
    return found


def _node(i: int, datacenter: Element) -> dict[str, Any]:
    machines = [machine for host in _some(datacenter.one("hosts"), "host") for machine in _some(host.one("VMs"), "VM")]
    speeds = [machine.number("mips") for machine in machines]
    if len(set(speeds)) > 1:
        odd = next(machine for machine, speed in zip(machines, speeds, strict=True) if speed != speeds[0])
        raise ConfigError(
            f"{odd.one('mips').where}: {odd.one('mips').text!r}; accepted: {speeds[0]:g}, as the first VM"
        )
    return {
        "name": f"site_{i}",
        "type": "site",
        "instructions_per_second": speeds[0] * MILLION,
        "cores": len(machines),
        "client": True,
    }


def _application(element: Element) -> tuple[dict[str, Any], float]:
    """Return the type of an application's tasks, and the tasks per second of one mobile device, all devices counted."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", element.attributes.get("name", ""))
    if not name:
        raise ConfigError(f"{element.where}: name: missing")
    active_s, idle_s = element.number("active_period"), element.number("idle_period", 0)
    share = element.number("usage_percentage", 0, 100) / 100
    rate = share * active_s / (active_s + idle_s) / element.number("poisson_interarrival")
    kind: dict[str, Any] = {
        "name": name.lower(),
        "instructions": {"exponential": element.number("task_length") * MILLION},
    }
    for key, tag in (("bits_in", "data_upload"), ("bits_out", "data_download")):
        kilobytes = element.number(tag, 0)
        kind[key] = {"exponential": kilobytes * KILOBYTE_BITS} if kilobytes else 0.0
    return kind, rate


def _notes(sites: int, types: int, devices: int) -> tuple[Note, ...]:
    return (
        Note("datacenter", str(sites), CARRIED, "a node each; cores are its virtual machines, time-shared"),
        Note("VM core, ram, storage", "", NOTHING, "a task uses one machine; memory is not bounded"),
        Note("application", str(types), CARRIED, "a type of tasks each, exponential length and sizes"),
        Note("active_period, idle_period", "", CHANGED, "Poisson arrivals with the same mean rate"),
        Note(
            "devices", str(devices), CHANGED, "spread evenly over the nodes; attractiveness and mobility are left out"
        ),
        Note("prob_cloud_selection, delay_sensitivity, vm_utilization", "", NOTHING, "policies decide"),
        Note("costs", "", NOTHING, "money is not accounted for"),
        Note("WLAN, WAN", "", NOTHING, "in its properties: put rates and a cloud into the YAML"),
    )
