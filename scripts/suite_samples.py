"""Draws the sample files of the suite: networks and tasks in the form of Topo4MEC, invocations in that of Azure.

Usage: python scripts/suite_samples.py

What the importers make of them is written by `import-topo4mec` and `import-trace`; scenario files say how.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import networkx as nx
import numpy as np

from offload_rllib.scenario.imports.traces import as_csv

SUITE = Path(__file__).resolve().parent.parent / "suite"
TASKS = ("TaskName", "GenerationTime", "TaskID", "TaskSize", "CyclesPerBit", "TransBitRate", "DDL", "SrcName")
INVOCATIONS = ("app", "func", "end_timestamp", "duration")
Network = Callable[[np.random.Generator, int, int], nx.Graph]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table."""
    path.write_text(as_csv(header, rows), encoding="utf-8")


def random_network(rng: np.random.Generator, nodes: int, links: int) -> nx.Graph:
    """Return a random tree with more links, drawn uniformly."""
    graph = nx.Graph()
    graph.add_nodes_from(range(nodes))
    for i in range(1, nodes):
        graph.add_edge(i, int(rng.integers(i)))
    while graph.number_of_edges() < links:
        a, b = rng.integers(nodes, size=2)
        if a != b:
            graph.add_edge(int(a), int(b))
    return graph


def city(rng: np.random.Generator, nodes: int, links: int) -> nx.Graph:
    """Return sites drawn uniformly in a square: the shortest tree that joins all, and the shortest links beside it."""
    sites = rng.random((nodes, 2))
    pairs = [(i, j) for i in range(nodes) for j in range(i + 1, nodes)]
    pairs.sort(key=lambda pair: math.dist(*sites[list(pair)]))
    near = nx.Graph()
    near.add_weighted_edges_from((i, j, math.dist(sites[i], sites[j])) for i, j in pairs)
    graph = nx.Graph(nx.minimum_spanning_tree(near).edges)
    for pair in pairs:
        if graph.number_of_edges() < links:
            graph.add_edge(*pair)
    return graph


def topo4mec(folder: Path, graph_of: Network, nodes: int, links: int, clients: int, tasks: int, gap_s: float) -> None:
    """Write a network, and Poisson tasks of some nodes."""
    rng = np.random.default_rng(nodes)
    graph = graph_of(rng, nodes, links)
    described = [
        {
            "NodeType": "Node",
            "NodeName": f"n{i}",
            "NodeId": i,
            "MaxCpuFreq": int(rng.integers(10, 50)) * 100,
            "MaxBufferSize": int(rng.integers(5, 40)) * 10,
        }
        for i in range(nodes)
    ]
    edges = [
        {"EdgeType": "Link", "SrcNodeID": a, "DstNodeID": b, "Bandwidth": 1000.0}
        for a, b in sorted(sorted(pair) for pair in graph.edges)
    ]
    (folder / "config.json").write_text(json.dumps({"Nodes": described, "Edges": edges}, indent=1) + "\n")
    origins = [f"n{i}" for i in sorted(rng.choice(nodes, clients, replace=False))]
    time_s, rows = 0.0, []
    for i in range(tasks):
        time_s += rng.exponential(gap_s)
        size, cycles = int(rng.integers(10, 101)), int(rng.integers(100, 1001))
        rate, deadline_s = int(rng.choice([10, 20, 30, 40])), int(rng.integers(20, 101))
        rows.append((f"t{i}", f"{time_s:.3f}", i, size, cycles, rate, deadline_s, str(rng.choice(origins))))
    write_csv(folder / "tasks.csv", TASKS, rows)


def invocations(path: Path) -> None:
    """Write invocations of apps with unequal rates and lognormal durations, some of them in bursts."""
    rng, rows = np.random.default_rng(7), []
    for app in range(30):
        mean_s, rate = float(rng.lognormal(-1.6, 1.1)), float(rng.pareto(1.3) * 0.06 + 0.01)
        for function in range(int(rng.integers(1, 4))):
            time_s = 0.0
            while True:
                in_burst = rng.random() < 0.3
                time_s += float(rng.exponential(1 / rate * (0.1 if in_burst else 1.6)))
                if time_s > 1500:
                    break
                duration_s = float(rng.lognormal(math.log(mean_s), 0.8))
                rows.append((f"app{app:02d}", f"f{app:02d}{function}", time_s + duration_s, duration_s))
    rows.sort(key=lambda row: row[2])
    write_csv(path, INVOCATIONS, ((*row[:2], f"{row[2]:.6f}", f"{row[3]:.6f}") for row in rows))


def main() -> None:
    """Draw the files."""
    topo4mec(SUITE / "t4m_25", random_network, 25, 50, 4, 1500, 0.7)
    topo4mec(SUITE / "t4m_100", random_network, 100, 150, 10, 1500, 0.25)
    topo4mec(SUITE / "t4m_milan", city, 30, 35, 7, 1400, 1.0)
    invocations(SUITE / "faas" / "invocations.csv")


if __name__ == "__main__":
    main()
