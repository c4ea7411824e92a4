"""Writes the generated files of the suite: task lists, neutral nodes and links, fingerprints, and checksums.

Usage: python scripts/write_suite.py [--tasks]

Without options it writes the fingerprints of the environments and the checksums of all files. With `--tasks` it also
draws the task lists again. They are drawn by numpy, not by the simulator, so that level 0 depends on nothing of it.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import load_environment
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.loading import read_yaml
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.imports.traces import as_csv
from offload_rllib.suite.exchange import LINKS, NODES, TASKS
from offload_rllib.suite.scenarios import CATALOGUE, CHECKSUMS, SCENARIO, digest, environment_source, suite_files

SUITE = Path(__file__).resolve().parent.parent / "suite"
Rows = Iterator[Sequence[Any]]


def write_csv(path: Path, header: Sequence[str], rows: Rows) -> None:
    """Write a table; one whose name ends in .gz compressed, without the time of writing."""
    content = as_csv(header, rows).encode()
    path.write_bytes(gzip.compress(content, 9, mtime=0) if path.suffix == ".gz" else content)


def poisson_tasks(
    seed: int, horizon_s: float, rates: dict[str, float], destinations: dict[str, list[str]], work: float, bits: float
) -> Rows:
    """Yield tasks of Poisson arrivals with exponential work and random destinations.

    Args:
        seed: of the generator.
        horizon_s: last possible creation.
        rates: tasks per second by origin.
        destinations: by origin; each is equally likely.
        work: mean instructions.
        bits: mean size of a task; its result has a hundredth. 0: none.
    """
    rng = np.random.default_rng(seed)
    names, total = list(rates), math.fsum(rates.values())
    shares = np.array([rates[name] for name in names]) / total
    time_us, number = 0, 0
    while True:
        time_us += max(round(1e6 * rng.exponential(1 / total)), 1)  # no two at one instant
        if time_us > 1e6 * horizon_s:
            return
        origin = names[rng.choice(len(names), p=shares)]
        there = destinations[origin]
        size = round(rng.exponential(bits)) if bits else 0
        needs = max(round(rng.exponential(work)), 1)
        yield number, f"{time_us / 1e6:.6f}", origin, there[rng.integers(len(there))], needs, size, size // 100, ""
        number += 1


def queue_14(folder: Path) -> None:
    """Write the tasks of QUEUE-14, as other simulators have met them: 0.6 means 0.6 x 2 cores x 14 tasks a second."""
    names = [f"ap{i}" for i in range(14)]
    weights = dict.fromkeys(names, 1.0) | {"ap0": 1.5, "ap1": 1.5, "ap12": 0.5, "ap13": 0.5}
    for service in ("parallel", "shared"):
        hosts = ((name, 2, "1e9", service, "") for name in names)
        write_csv(folder / f"nodes_{service}.csv", NODES, iter([*hosts, ("cloud", 40, "1e9", service, "")]))
    pairs = [(a, b, "0.015") for a in names for b in names if a != b]
    clouds = [pair for name in names for pair in ((name, "cloud", "0.1"), ("cloud", name, "0.1"))]
    write_csv(folder / "links.csv", LINKS, ((*pair, "1e9") for pair in [*pairs, *clouds]))
    for load in (0.3, 0.6, 0.9):
        rates = {name: 2 * load * weight for name, weight in weights.items()}
        anywhere = {name: [*names, "cloud"] for name in names}
        rows = poisson_tasks(round(10 * load), 1000, rates, anywhere, 1e9, 0)
        write_csv(folder / f"tasks_{load}.csv.gz", TASKS, rows)


def herd_20(folder: Path) -> None:
    """Write the tasks of HERD-20: twenty equal nodes, half of them with nine times the tasks of the others."""
    nodes = build_scenario(load_environment("herd_20")).network.nodes
    names = [node.name for node in nodes]
    types = {node.name: node.type for node in nodes}
    write_csv(folder / "nodes.csv", NODES, ((name, 1, "1e6", "pooled", "") for name in names))
    write_csv(folder / "links.csv", LINKS, ((a, b, "0.001", "1e8") for a in names for b in names if a != b))
    rates = {name: 0.9 * (1.8 if types[name] == "busy" else 0.2) for name in names}
    rows = poisson_tasks(20, 200, rates, dict.fromkeys(names, names), 1e6, 1e6)
    write_csv(folder / "tasks.csv.gz", TASKS, rows)


@dataclass(frozen=True)
class Law:
    """How the tasks of a scenario are drawn whose nodes and links are those of its environment."""

    environment: str
    work: float
    bits: float
    load: float
    """Of the clients' own nodes, if all stayed there."""
    count: int
    """Tasks, on average."""
    deadline_s: tuple[float, float] | None = None


LAWS = {
    "ether_12": Law("ether_12", 3e7, 2e6, 1.2, 1500, (20, 100)),
    "ether_31": Law("ether_31", 3e7, 2e6, 1.2, 1500, (20, 100)),
    "mist": Law("network.yaml", 5e7, 5e5, 1.1, 3000, (0.1, 1.5)),
    "faas": Law("network.yaml", 4e8, 1e5, 0.9, 2000),
    "ecs_3": Law("network.yaml", 1.5e10, 2e7, 0.9, 4000),
    "t4m_25": Law("network.yaml", 3e10, 2, 1.2, 1500),
    "t4m_100": Law("network.yaml", 3e10, 2, 1.2, 1500),
    "t4m_milan": Law("network.yaml", 3e10, 2, 1.2, 1500),
}
EXACT: dict[str, str] = dict.fromkeys(("t4m_25", "t4m_100", "t4m_milan"), "tasks_exact.csv.gz")


def drawn(folder: Path) -> None:
    """Write nodes and links of an environment, and tasks of one hop: places fill up, and deadlines pass."""
    law = LAWS[folder.name]
    config = load_environment(environment_source(folder, law.environment))
    scenario = build_scenario(config)
    nodes = scenario.network.nodes
    names = [node.name for node in nodes]
    services = [config.cloud.service if node.cloud and config.cloud else config.service for node in nodes]
    rows = (
        (n.name, n.cores, repr(n.core_speed), service, n.queue_capacity or "")
        for n, service in zip(nodes, services, strict=True)
    )
    write_csv(folder / "nodes.csv", NODES, rows)
    links = scenario.arrays.link
    ways = [(names[one["source"]], names[one["destination"]]) for one in links]
    laws = [(repr(float(one["latency_s"])), repr(1 / float(one["seconds_per_bit"]))) for one in links]
    write_csv(folder / "links.csv", LINKS, ((*way, *law) for way, law in zip(ways, laws, strict=True)))
    neighbours: dict[str, list[str]] = {name: [name] for name in names}
    for a, b in ways:
        neighbours[a].append(b)
    rates = {node.name: law.load * node.speed / law.work for node in nodes if node.client}
    tasks = poisson_tasks(len(names), law.count / sum(rates.values()), rates, neighbours, law.work, law.bits)
    low, high = law.deadline_s or (0, 0)
    deadlines = (f"{low + (high - low) * (i % 97) / 97:.3f}" if law.deadline_s else "" for i in itertools.count())
    table = ((*row[:-1], deadline_s) for row, deadline_s in zip(tasks, deadlines, strict=False))
    write_csv(folder / EXACT.get(folder.name, "tasks.csv.gz"), TASKS, table)


WRITERS = {"queue_14": queue_14, "herd_20": herd_20} | dict.fromkeys(LAWS, drawn)


def write_fingerprints(folder: Path) -> None:
    """State the fingerprint of every point in a scenario's file, in place."""
    path = folder / SCENARIO
    text = path.read_text(encoding="utf-8")
    for point in read_yaml(path)["points"]:
        source = environment_source(folder, point["environment"])
        found = fingerprint(load_environment(source, point.get("set", ())))
        pattern = rf"(name: {re.escape(point['name'])}\n(?:    .*\n)*?    fingerprint: )\"?\w*\"?"
        text, count = re.subn(pattern, rf'\g<1>"{found}"', text)
        if count != 1:
            raise SystemExit(f"{path}: {point['name']}: no line for its fingerprint")
    path.write_text(text, encoding="utf-8")


def write_checksums() -> None:
    """Write the checksums of all files of the suite."""
    sums = "".join(f"{digest(SUITE / path)}  {path}\n" for path in suite_files(SUITE))
    (SUITE / CHECKSUMS).write_text(sums, encoding="utf-8")


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", metavar="FOLDER", help="draw the task lists of these, or of all, again")
    arguments = parser.parse_args()
    for name in read_yaml(SUITE / CATALOGUE)["scenarios"]:
        if arguments.tasks is not None and name in (arguments.tasks or WRITERS) and name in WRITERS:
            WRITERS[name](SUITE / name)
        write_fingerprints(SUITE / name)
    write_checksums()


if __name__ == "__main__":
    main()
