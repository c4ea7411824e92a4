"""A suite of one small scenario, in place of that of the checkout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.environments import small_environment
from offload_rllib.config import load_environment
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.suite import results, scenarios
from offload_rllib.suite.scenarios import CATALOGUE, CHECKSUMS, SCENARIO, digest, suite_files

NODES = """name,cores,instructions_per_second,service,capacity
a,1,1e6,pooled,6
b,1,2e6,pooled,8
c,1,1e6,pooled,6
d,1,4e6,pooled,
"""
LINKS = "from,to,latency_s,rate_bps\n" + "".join(
    f"{x},{y},0.05,1e6\n{y},{x},0.05,1e6\n" for x, y in ("ab", "bc", "cd", "da")
)
TASKS = """task,time_s,origin,destination,work,bits_in,bits_out,deadline_s
0,1.0,a,b,2e6,1e5,2e5,9
1,1.5,c,b,1e6,0,0,
2,2.0,a,a,1e6,1e5,0,3
"""


def seal(folder: Path) -> None:
    """Write the checksums of a suite."""
    sums = "".join(f"{digest(folder / path)}  {path}\n" for path in suite_files(folder))
    (folder / CHECKSUMS).write_text(sums)


def write_small_suite(folder: Path, **changes: Any) -> None:
    """Write a suite of the scenario SMALL-4, whose `changes` are keys of its file."""
    place = folder / "small_4"
    place.mkdir(parents=True)
    environment = small_environment(decisions={"when": "arrival", "max_hops": 2})
    (place / "network.yaml").write_text(yaml.safe_dump(environment))
    for name, text in (("nodes.csv", NODES), ("links.csv", LINKS), ("tasks.csv", TASKS)):
        (place / name).write_text(text)
    exact = {"tasks": "tasks.csv", "nodes": "nodes.csv", "links": "links.csv", "replay": ["recorded", "local"]}
    scenario = {
        "title": "SMALL-4",
        "summary": "four nodes",
        "version": 1,
        "history": ["1: first version"],
        "sources": ["made up"],
        "information": "broadcasts",
        "ties": "at random",
        "rules": ["local", "shortest_finish"],
        "env_steps": 1000,
        "bound": {"episodes": 2},
        "points": [
            {
                "name": "one",
                "environment": "network.yaml",
                "fingerprint": fingerprint(load_environment(place / "network.yaml")),
                "exact": exact,
            }
        ],
    }
    (place / SCENARIO).write_text(yaml.safe_dump(scenario | changes))
    (folder / CATALOGUE).write_text(yaml.safe_dump({"version": 7, "scenarios": ["small_4"]}))
    seal(folder)


@contextmanager
def suite_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the suite of a folder be the one that is used."""
    caches = scenarios.catalogue, scenarios.scenarios
    with monkeypatch.context() as patched:
        for module in (scenarios, results):
            patched.setattr(module, "suite_folder", lambda: folder)
        for cached in caches:
            cached.cache_clear()
        yield
    for cached in caches:
        cached.cache_clear()


@contextmanager
def small_suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a suite of one small scenario into an empty folder; the working folder is an empty one beside it, `work`."""
    write_small_suite(folder / "suite")
    (folder / "work").mkdir()
    monkeypatch.chdir(folder / "work")
    with suite_in(folder / "suite", monkeypatch):
        yield
