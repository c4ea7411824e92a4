"""Data sets in the form of Topo4MEC, as RayCloudSim reads them: a network in JSON, tasks in CSV.

Its units are megabits, megacycles a unit of time, and megabits a unit of time; a unit of time is a second here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import networkx as nx

from offload_rllib.config.base import LARGEST, SMALLEST
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import read_json
from offload_rllib.scenario.imports.traces import as_csv
from offload_rllib.scenario.peersim_file import CARRIED, CHANGED, NOTHING, Note
from offload_rllib.scenario.peersim_import import Imported
from offload_rllib.scenario.rows import rows_of

MEGA = 1e6
TASK_COLUMNS = ("TaskName", "GenerationTime", "TaskSize", "CyclesPerBit", "TransBitRate", "DDL", "SrcName")
LINK_TYPES = ("SingleLink", "Link")
DRAIN_S = 100.0


def import_topo4mec(config: Path, tasks: Path, name: str) -> Imported:
    """Return the environment in which the tasks of a data set are replayed, any node as the destination.

    A task is sent over the path with the fewest links, at its own rate on each of them, as in RayCloudSim. So the time
    for a path of h links is h x size / rate. Here that is a link with the rate 1 / h, and a size that is the time of
    one link. Buffers are not bounded, and results have no size.

    Args:
        config: `config.json`.
        tasks: `tasks.csv` or `testset.csv`.
        name: of the environment; files in its folder are named after it.

    Raises:
        ConfigError: a value is invalid; the message names the file, the place, the value and what is accepted.
    """
    nodes, graph = _network(config)
    rows, origins = [], set()
    last_s = 0.0
    names = {node["name"]: i for i, node in enumerate(nodes)}
    for row in rows_of(tasks, TASK_COLUMNS):
        time_s = row.non_negative("GenerationTime")
        if time_s < last_s:
            raise row.wrong("GenerationTime", f"{last_s:g} or later: rows are in order of time")
        last_s = time_s
        origin = nodes[row.node("SrcName", names)]["name"]
        bits = row.positive("TaskSize") * MEGA
        sent_s = row.positive("TaskSize") / row.positive("TransBitRate")
        deadline_s = row.positive("DDL")
        rows.append((repr(time_s), origin, repr(bits * row.positive("CyclesPerBit")), repr(sent_s), repr(deadline_s)))
        origins.add(origin)
    if not rows:
        raise ConfigError(f"{tasks}: holds no tasks")
    hops = dict(nx.all_pairs_shortest_path_length(graph))
    far = next((i for i in graph if len(hops[i]) < len(nodes)), None)
    if far is not None:
        raise ConfigError(
            f"{config}: Edges: node '{nodes[far]['name']}' does not reach all others; accepted: one piece"
        )
    links = [(nodes[i]["name"], nodes[j]["name"], repr(1 / hops[i][j]), 0) for i in graph for j in graph if i < j]
    files = {
        f"{name}_nodes.csv": as_csv(
            ("name", "instructions_per_second", "client"),
            ((node["name"], repr(node["speed"]), str(node["name"] in origins).lower()) for node in nodes),
        ),
        f"{name}_links.csv": as_csv(("source", "destination", "rate_bps", "latency_s"), links),
        f"{name}_tasks.csv": as_csv(("time_s", "origin", "work", "seconds_of_a_link", "deadline_s"), rows),
    }
    return Imported(config, _environment(name, last_s), files, _notes(len(nodes), graph, len(rows)))


def _environment(name: str, last_s: float) -> dict[str, Any]:
    horizon_s = float(math.ceil(last_s) + DRAIN_S)
    return {
        "description": f"{name}, carried over from a data set in the form of Topo4MEC",
        "format": 1,
        "horizon_s": horizon_s,
        "topology": {"kind": "edge_list", "nodes_path": f"{name}_nodes.csv", "links_path": f"{name}_links.csv"},
        "links": {"kind": "topology"},
        "service": "pooled",
        "workload": {
            "arrivals": {
                "kind": "replay",
                "path": f"{name}_tasks.csv",
                "columns": {
                    "origin": "origin",
                    "work": "work",
                    "bits_in": "seconds_of_a_link",
                    "deadline": "deadline_s",
                },
            }
        },
        "deadlines": {"expiry": "never"},
        "score": {"drop_s": horizon_s},
        "decisions": {"when": "arrival", "max_hops": 1},
        "information": {"kind": "broadcast", "interval_s": 1.0},
    }


def _network(path: Path) -> tuple[list[dict[str, Any]], nx.Graph]:
    content = read_json(path, "a network in the form of Topo4MEC")
    nodes: list[dict[str, Any]] = []
    index: dict[Any, int] = {}
    for i, node in enumerate(_list(path, content, "Nodes")):
        where = f"{path}: Nodes[{i}]"
        name, number = _value(node, "NodeName", where), _value(node, "NodeId", where)
        if not isinstance(name, str) or not name or any(other["name"] == name for other in nodes):
            raise ConfigError(f"{where}: NodeName: {name!r}; accepted: a name of its own")
        if not isinstance(number, int) or number in index:
            raise ConfigError(f"{where}: NodeId: {number!r}; accepted: a whole number of its own")
        index[number] = i
        nodes.append({"name": name, "speed": _positive(node, "MaxCpuFreq", where) * MEGA})
    graph = nx.Graph()
    graph.add_nodes_from(range(len(nodes)))
    for i, edge in enumerate(_list(path, content, "Edges")):
        where = f"{path}: Edges[{i}]"
        kind = _value(edge, "EdgeType", where)
        if kind not in LINK_TYPES:
            raise ConfigError(f"{where}: EdgeType: {kind!r}; accepted: {', '.join(LINK_TYPES)}")
        _positive(edge, "Bandwidth", where)
        ends = [_value(edge, key, where) for key in ("SrcNodeID", "DstNodeID")]
        for key, end in zip(("SrcNodeID", "DstNodeID"), ends, strict=True):
            if not isinstance(end, int) or end not in index:
                raise ConfigError(f"{where}: {key}: no node has the NodeId {end!r}")
        if ends[0] == ends[1]:
            raise ConfigError(f"{where}: DstNodeID: {ends[1]!r}; accepted: another node than SrcNodeID")
        graph.add_edge(*(index[end] for end in ends))
    return nodes, graph


def _list(path: Path, content: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(content.get(key), list) or not content[key]:
        raise ConfigError(f"{path}: {key}: must be a list with at least one entry")
    return content[key]


def _value(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ConfigError(f"{where}: {key}: missing")
    return entry[key]


def _positive(entry: Any, key: str, where: str) -> float:
    value = _value(entry, key, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not SMALLEST <= value <= LARGEST:
        raise ConfigError(f"{where}: {key}: {value!r}; accepted: {SMALLEST:g} to {LARGEST:g}")
    return float(value)


def _notes(nodes: int, graph: nx.Graph, tasks: int) -> tuple[Note, ...]:
    return (
        Note("Nodes", str(nodes), CARRIED, "names, and MaxCpuFreq as megacycles a second"),
        Note("Edges", str(graph.number_of_edges()), CHANGED, "any node is one hop away, over the path of fewest links"),
        Note("Bandwidth", "", NOTHING, "transfers do not wait for each other"),
        Note("MaxBufferSize", "", NOTHING, "buffers are not bounded; topology.nodes may bound them"),
        Note("IdleEnergyCoef, ExeEnergyCoef", "", NOTHING, "energy is not accounted for"),
        Note("tasks", str(tasks), CARRIED, "times, sizes, cycles, rates; DDL as a deadline that aborts nothing"),
    )
