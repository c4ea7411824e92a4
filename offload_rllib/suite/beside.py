"""Other simulators beside this one: the tasks of a point for them, and their responses beside the exact ones."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload_rllib.config import ConfigError
from offload_rllib.runs.folder import write_yaml
from offload_rllib.scenario.text_files import opened_text
from offload_rllib.suite.conformance import (
    RECORDED,
    Differences,
    compared,
    conformance_of,
    destinations_of,
    exact_of,
    network_of,
)
from offload_rllib.suite.exchange import TASKS, read_responses
from offload_rllib.suite.results import FORMAT
from offload_rllib.suite.scenarios import Place, catalogue, digest

OURS = "offload-rllib"
ABOUT = "exchange.json"


@dataclass(frozen=True)
class Beside:
    """One simulator on the tasks of a point."""

    name: str
    differences: Differences
    tasks_per_cpu_s: float
    """NaN: not known."""


def export(place: Place, folder: Path, rule: str = RECORDED) -> list[Path]:
    """Write what another simulator needs to meet the tasks of a point: nodes, links, tasks and the environment.

    Args:
        place: the point.
        folder: to write into.
        rule: which destinations the tasks have, see `conformance.destinations_of`.

    Raises:
        ConfigError: the point has no tasks with exact responses, or the rule no fixed destinations.
    """
    network = network_of(place)
    names = [network.nodes[i].name for i in destinations_of(network, rule)]
    exact = place.point.exact
    assert exact is not None  # noqa: S101 - `network_of` has said so
    written = []
    for name, source in (("nodes.csv", exact.nodes), ("links.csv", exact.links)):
        (folder / name).write_bytes((place.folder / source).read_bytes())
        written.append(folder / name)
    tasks = folder / "tasks.csv"
    with opened_text(place.folder / exact.tasks) as given, tasks.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TASKS)
        for row, name in zip(csv.DictReader(given), names, strict=True):
            writer.writerow([(row | {"destination": name})[column] for column in TASKS])
    environment = place.environment().model_dump(mode="json", by_alias=True)
    write_yaml(folder / "environment.yaml", environment, f"{place.name} of the suite, version {catalogue().version}")
    written += [tasks, folder / "environment.yaml"]
    about: dict[str, Any] = {
        "format": FORMAT,
        "suite": catalogue().version,
        "point": place.name,
        "scenario_version": place.scenario.version,
        "fingerprint": place.point.fingerprint,
        "destinations": rule,
        "tasks": len(names),
        "sha256": {path.name: digest(path) for path in written},
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return [*written, folder / ABOUT]


def beside(
    place: Place, files: Sequence[tuple[str, Path]], cpu_s: dict[str, float], rule: str = RECORDED
) -> list[Beside]:
    """Return how this simulator and others do on the tasks of a point.

    Args:
        place: the point.
        files: names, and files of responses.
        cpu_s: CPU-seconds of simulators, by name; others are not known.
        rule: which destinations the tasks have.

    Raises:
        ConfigError: a file or a row is not valid, or a name is repeated.
    """
    names = [OURS, *(name for name, _ in files)]
    if len(set(names)) < len(names):
        raise ConfigError(f"names must differ; given: {', '.join(names)}")
    exact = exact_of(place, rule)
    count = len(exact.outcome)
    read = [(name, *read_responses(path, count)) for name, path in files]
    ours = conformance_of(place, rule)
    found = [Beside(OURS, ours.differences, ours.tasks_per_cpu_s)]
    for name, theirs_s, outcomes in read:
        known = count / cpu_s[name] if name in cpu_s else math.nan
        found.append(Beside(name, compared(theirs_s, outcomes, exact), known))
    return found
