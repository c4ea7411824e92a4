"""What a node of a testbed costs: CPU while nothing happens, memory, and the time of a decision.

Usage: python benchmarks/testbed_overheads.py [--env ether_12] [POLICY ...]

Plays one idle minute at speed 1, in which nodes send their broadcasts and hardly any task comes. Then each policy (a
rule, or the folder of a run; by default `shortest_finish`) plays an episode at --speed. Prints one row for each play,
last. CPU and memory are those of the node that takes most. Raise the priority on a machine that does much else: `nice
-n -5`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COLUMNS = (
    "play",
    "speed",
    "decisions",
    "decision, median",
    "99th percentile",
    "CPU of a node",
    "memory of a node",
    "valid",
)
IDLE = ("workload.load.rho=0.2", "horizon_s=60", "warmup_s=0", "drain_s=0")


def played(env: str, policies: list[str], speed: float, changes: tuple[str, ...], folder: Path) -> list[dict[str, Any]]:
    """Return the records of the plays of a testbed."""
    command = [sys.executable, "-m", "offload_rllib", "testbed", env, *policies, "--speed", f"{speed:g}"]
    for change in changes:
        command += ["--set", change]
    subprocess.run([*command, "--out", str(folder)], check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    record = folder / "testbed.json"
    if not record.exists():
        raise SystemExit(f"{env}, {', '.join(policies)}: not played")
    return json.loads(record.read_text(encoding="utf-8"))["plays"]


def row(name: str, speed: float, play: dict[str, Any]) -> tuple[str, ...]:
    """Return the row of a play."""
    nodes = play["nodes"].values()
    taken = play["decision_ms"]
    cpu = max(node["cpu_share"] for node in nodes)
    memory = max(node["resident_bytes"] for node in nodes)
    decisions = sum(node["decisions"] for node in nodes)
    times = [f"{taken[name]:.2f} ms" if taken else "-" for name in ("p50", "p99")]
    return (name, f"{speed:g}", str(decisions), *times, f"{cpu:.2%}", f"{memory / 1e6:.0f} MB", str(play["valid"]))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="*", default=["shortest_finish"])
    parser.add_argument("--env", default="ether_12")
    parser.add_argument("--speed", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        idle = played(arguments.env, ["local"], 1.0, IDLE, Path(scratch) / "idle")
        busy = played(arguments.env, arguments.policies, arguments.speed, (), Path(scratch) / "busy")
    rows = [row("idle", 1.0, idle[0]), *(row(play["policy"], arguments.speed, play) for play in busy)]
    for line in (COLUMNS, ["---"] * len(COLUMNS), *rows):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
