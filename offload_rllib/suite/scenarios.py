"""The scenarios of the suite: what their files say, checked, and the checksums that pin these files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment
from offload_rllib.config.base import Count, Flag, Name, Natural, Positive, Schema
from offload_rllib.config.files import read_bytes, read_text
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.loading import nearest, preset_folder, read_yaml, validated
from offload_rllib.simulator.heuristics import HEURISTICS, SHORTEST_FINISH_ORACLE

KIND = "suite"
CATALOGUE = "suite.yaml"
SCENARIO = "scenario.yaml"
CHECKSUMS = "SHA256SUMS"
# Between the name of a scenario and that of one of its points.
SEPARATOR = "/"
# What a comparable result of a learner has at least.
TRAINING_SEEDS = 5
EPISODES = 20
# Runs of one budget may end so far from it, as a share.
BUDGET_APART = 0.05

Text = Annotated[str, Field(min_length=1, strict=True)]
Sha = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Catalogue(Schema):
    """`suite.yaml`: which scenarios there are."""

    version: Count
    """Of the suite: the next number whenever a result of any scenario changes."""
    scenarios: tuple[Name, ...]
    """Their folders, in the order of tables."""


class Tasks(Schema):
    """Files of tasks whose responses are known exactly, relative to the folder of the scenario."""

    tasks: Text
    """One row per task; see `docs/suite.md`."""
    nodes: Text
    """One row per node."""
    links: Text
    """One row per direction of a link."""
    replay: tuple[Name, ...]
    """Rules with destinations that do not depend on the state of the network: `recorded`, `local`, `always_cloud`."""


class Point(Schema):
    """One environment of a scenario."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """What it is called behind the scenario's name."""
    environment: Text
    """A YAML file in the folder of the scenario, or the name of a preset."""
    set: tuple[Text, ...] = ()
    """Changes to it, KEY=VALUE."""
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    """Of the environment: a preset that has changed since is noticed."""
    exact: Tasks | None = None
    """Tasks for level 0; null: there is no exact reference."""


class Bounding(Schema):
    """The clairvoyant bound of a scenario."""

    episodes: Natural
    """How many episodes are bounded; 0: none."""
    slot_s: Positive | None = None
    """Length of a slot of time; null: the horizon / 500."""
    dual: Flag = False
    """Without slots: looser, for any number of tasks."""
    why_not: str = ""
    """Without episodes: why."""


class Scenario(Schema):
    """`scenario.yaml` of a scenario's folder."""

    title: Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9-]*$")]
    """Its name, e.g. QUEUE-14."""
    summary: Text
    """One line."""
    version: Count
    """The next number whenever its results change."""
    history: tuple[Text, ...]
    """One line per version."""
    sources: tuple[Text, ...]
    """Where its facts come from."""
    information: Text
    """What agents and rules know."""
    ties: Text
    """How equal choices are decided."""
    rules: tuple[Text, ...]
    """The rules of level 1 of which there are reference results."""
    env_steps: Count
    """The budget of a learner: decisions with which each training seed is trained."""
    bound: Bounding
    """Of the mean score."""
    points: tuple[Point, ...] = Field(min_length=1)
    """Its environments."""


@dataclass(frozen=True)
class Place:
    """A point of a scenario, with its files."""

    folder: Path
    """Of the scenario."""
    scenario: Scenario
    """The scenario."""
    point: Point
    """The point."""

    @property
    def name(self) -> str:
        """Both names, e.g. QUEUE-14/fifo-0.6; the scenario's alone where it has but one point."""
        if len(self.scenario.points) == 1:
            return self.scenario.title
        return f"{self.scenario.title}{SEPARATOR}{self.point.name}"

    def environment(self) -> EnvironmentConfig:
        """Return its environment.

        Raises:
            ConfigError: it is not that of this version of the suite.
        """
        config = load_environment(environment_source(self.folder, self.point.environment), self.point.set)
        found = fingerprint(config)
        if found != self.point.fingerprint:
            raise ConfigError(
                f"{self.folder / SCENARIO}: {self.point.name}: the environment has the fingerprint {found}; version "
                f"{self.scenario.version} of {self.scenario.title} has {self.point.fingerprint}. Its results would not "
                "be those of the suite"
            )
        return config


def suite_folder() -> Path:
    """Return the folder of the suite: the checkout's, otherwise the wheel's."""
    return preset_folder(KIND)


def environment_source(folder: Path, named: str) -> Path | str:
    """Return what `load_environment` takes for a point's environment: a file of the folder, or a preset's name."""
    return folder / named if named.endswith(".yaml") else named


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def suite_files(folder: Path) -> list[Path]:
    """Return the files of the suite that checksums pin: all but the sums, relative and in order."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path.name != CHECKSUMS)


def check_sums(folder: Path) -> None:
    """Check every file of the suite against its checksum.

    Raises:
        ConfigError: one differs, is missing, or is not listed.
    """
    sums = folder / CHECKSUMS
    listed: dict[Path, str] = {}
    for row, line in enumerate(read_text(sums).splitlines(), 1):
        stated, _, name = line.partition("  ")
        if len(stated) != 64 or not name or not set(stated) <= set("0123456789abcdef"):
            raise ConfigError(f"{sums}: row {row}: {line[:80]!r}; accepted: a SHA-256, two blanks, the name of a file")
        listed[Path(name)] = stated
    present = suite_files(folder)
    for path in sorted({*listed, *present}):
        if path not in listed:
            raise ConfigError(f"{folder / path}: not a file of this version of the suite; {sums} does not list it")
        if path not in present:
            raise ConfigError(f"{folder / path}: missing; {sums} lists it")
        found = digest(folder / path)
        if found != listed[path]:
            raise ConfigError(
                f"{folder / path}: its SHA-256 is {found}; accepted: {listed[path]}, as in {sums}. A file that was "
                "changed is not part of the suite"
            )


@cache
def catalogue() -> Catalogue:
    """Return the catalogue, once the files of the suite have been checked against their checksums.

    Raises:
        ConfigError: a file was changed, or is not valid.
    """
    folder = suite_folder()
    check_sums(folder)
    return validated(Catalogue, read_yaml(folder / CATALOGUE), str(folder / CATALOGUE))


@cache
def scenarios() -> dict[str, tuple[Path, Scenario]]:
    """Return the folder and the content of each scenario by its title; errors as `catalogue`."""
    found: dict[str, tuple[Path, Scenario]] = {}
    for name in catalogue().scenarios:
        folder = suite_folder() / name
        scenario = validated(Scenario, read_yaml(folder / SCENARIO), str(folder / SCENARIO))
        found[scenario.title] = folder, scenario
    return found


def places(names: tuple[str, ...] | list[str] = ()) -> list[Place]:
    """Return the points that names stand for: SCENARIO or SCENARIO/POINT; all without names.

    Raises:
        ConfigError: there is no such scenario or point.
    """
    known = scenarios()
    chosen: dict[tuple[str, str], Place] = {}
    for name in names or known:
        called, separator, point = name.partition(SEPARATOR)
        title = called.upper().replace("_", "-")
        if title not in known:
            raise ConfigError(f"'{name}': no scenario of the suite.{nearest(title, known)}")
        folder, scenario = known[title]
        points = {one.name: one for one in scenario.points}
        if separator and point not in points:
            raise ConfigError(f"'{name}': {scenario.title} has no such point.{nearest(point, points)}")
        for one in [point] if separator else points:
            chosen[scenario.title, one] = Place(folder, scenario, points[one])
    return list(chosen.values())


def looks_at_hidden(rule: str) -> bool:
    """Return whether a rule uses the true state of other nodes, which the suite hides from agents."""
    name = rule.partition(":")[0]
    return name in HEURISTICS and HEURISTICS[name].code == SHORTEST_FINISH_ORACLE
