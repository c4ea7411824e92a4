"""Results of the suite as JSON: what played where, with which figures, and whether that may be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from offload_rllib.config import ConfigError
from offload_rllib.config.base import Count, Flag, Natural, Schema
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.loading import validated
from offload_rllib.suite.scenarios import Sha, Text, catalogue, suite_folder

FORMAT = 1
RESULT = "result.json"
POLICIES = "policies"
REFERENCES = "results"
# Figures that a result states, where the environment has them.
FIGURES = (
    "score_mean_s",
    "score_p95_s",
    "response_mean_s",
    "response_p95_s",
    "missed_share",
    "dropped_share",
    "offloaded_share",
    "fairness",
)
Number = Annotated[float, Field(allow_inf_nan=False)]


class Figure(Schema):
    """A mean over training seeds and episodes with its 95 % interval; null: not known."""

    mean: Number | None
    low: Number | None
    high: Number | None


class TrainedSeed(Schema):
    """One training seed of a learner, saved beside the result."""

    seed: Natural | None
    """Of its training."""
    folder: Text
    """Of its policy, relative to the result."""
    files: dict[str, Sha]
    """SHA-256 of each of its files."""
    env_steps: Natural
    """Decisions with which it was trained."""


class PolicyResult(Schema):
    """What one policy achieved at one point."""

    name: Text
    """Its name."""
    source: Text
    """The rule; for others what it was called."""
    kind: Literal["rule", "trained", "code", "service"]
    """What it is. Only rules of this package and saved policies can be checked."""
    sampled: Flag = False
    """Whether its actions were drawn."""
    seeds: tuple[TrainedSeed, ...] = ()
    """Of a learner."""
    not_comparable: tuple[Text, ...]
    """Why it is not in tables; empty: it is."""
    figures: dict[str, Figure]
    """By name."""
    scores_s: tuple[tuple[Number | None, ...], ...]
    """Mean score of each episode, a row per training seed (one row of what was not trained)."""

    @property
    def level(self) -> int:
        """1 for what was not trained, 2 for learners."""
        return 2 if self.kind == "trained" else 1


class ExactResult(Schema):
    """Level 0: responses of fixed tasks beside the exact ones."""

    rule: Text
    tasks: Count
    other_outcomes: Natural
    mean_s: Number | None
    p95_s: Number | None
    exact_mean_s: Number | None
    exact_p95_s: Number | None
    mean_difference_s: Number | None
    largest_difference_s: Number | None
    passed: Flag


class BoundResult(Schema):
    """The clairvoyant bound on the mean score."""

    episodes: Count
    mean_s: Number
    low_s: Number | None
    high_s: Number | None
    slot_s: Number | None
    """Length of a slot of time; null: without slots, by the dual."""


class PointResult(Schema):
    """Everything at one point."""

    scenario: Text
    scenario_version: Count
    point: Text
    fingerprint: Text
    exact: tuple[ExactResult, ...] = ()
    bound: BoundResult | None = None
    policies: tuple[PolicyResult, ...]


class Result(Schema):
    """A file of results."""

    format: Literal[1] = FORMAT
    suite: Count
    """Version of the suite."""
    version: Text
    """Of this package."""
    command: Text
    """That made it."""
    places: tuple[Text, ...]
    """What was asked for: points, in order."""
    policies: tuple[Text, ...]
    """As given; empty: the rules of each scenario."""
    episodes: Annotated[int, Field(ge=2, strict=True)]
    """Held-out episodes."""
    seed: Natural
    """Of them."""
    bounds: Flag = False
    """Whether bounds were asked for."""
    points: tuple[PointResult, ...] = ()
    """What is done."""

    @property
    def finished(self) -> bool:
        """Whether everything that was asked for is there."""
        return len(self.points) == len(self.places)


def number(value: float) -> float | None:
    """Return a number as JSON holds it: nothing in place of what is not finite."""
    return float(value) if abs(value) < float("inf") else None


def write_result(result: Result, path: Path) -> None:
    """Write a result, in one step."""
    with written_at_once(path) as partial:
        partial.write_text(json.dumps(result.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def read_result(path: Path) -> Result:
    """Return the result in a file, or in its folder.

    Raises:
        ConfigError: it cannot be read, is cut off, or is of another format or version of the suite.
    """
    path = path / RESULT if path.is_dir() else path
    content = read_json(path, "a result of the suite")
    if content.get("format") != FORMAT:
        raise ConfigError(f"{path}: format: {_shown(content, 'format')}; accepted: {FORMAT}")
    version = catalogue().version
    if content.get("suite") != version:
        raise ConfigError(
            f"{path}: suite: {_shown(content, 'suite')}; accepted: {version}, the version of this suite. Results of "
            "different versions are not comparable: play it again"
        )
    return validated(Result, content, str(path))


def _shown(content: dict[str, Any], key: str) -> str:
    return f"is {content[key]!r}"[:80] if key in content else "is missing"


def references() -> dict[tuple[str, str], PointResult]:
    """Return the reference results of the suite by scenario and point; those that are there.

    In the folder of a scenario is the result of its rules, and in folders of their own are those of learners. At each
    point their policies are put behind the rules.
    """
    found: dict[tuple[str, str], PointResult] = {}
    for name in catalogue().scenarios:
        folder = suite_folder() / REFERENCES / name
        for path in [*folder.glob(RESULT), *sorted(folder.glob(f"*/{RESULT}"))]:
            for more in read_result(path).points:
                key = more.scenario, more.point
                known = found.get(key)
                both = None if known is None else known.model_copy(update={"policies": known.policies + more.policies})
                found[key] = both or more
    return found


def sha_of(files: dict[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each of some files."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
