"""Level 0: tasks with fixed destinations, played by the simulator and worked out by the exact reference."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation.task_log import OUTCOMES
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import FINISHED as SIMULATED
from offload_rllib.suite.exact import Exact, Station, TaskList, Way, exact_responses
from offload_rllib.suite.exchange import read_links, read_nodes, read_tasks
from offload_rllib.suite.scenarios import Place

# Largest difference of the response of a task, s, with which a simulator conforms.
TOLERANCE_S = 1e-9
# Rules with destinations that do not depend on the state of the network.
RECORDED, LOCAL, CLOUD = "recorded", "local", "always_cloud"
COLUMNS = {key: key for key in ("origin", "work", "bits_in", "bits_out", "destination")} | {"deadline": "deadline_s"}


@dataclass(frozen=True)
class Differences:
    """Responses of T tasks compared with the exact ones."""

    tasks: int
    """T."""
    finished: int
    """Tasks that finish here and exactly."""
    other_outcomes: int
    """Tasks of another outcome than the exact one."""
    mean_s: float
    """Mean response of the tasks that finish here."""
    p95_s: float
    """95th percentile of it."""
    exact_mean_s: float
    """Exact mean response."""
    exact_p95_s: float
    """Exact 95th percentile."""
    mean_difference_s: float
    """Mean of the absolute differences of tasks that finish here and exactly."""
    largest_difference_s: float
    """The largest of them; infinite if none finishes."""

    @property
    def passed(self) -> bool:
        """Whether every task has the exact outcome, and the exact response within `TOLERANCE_S`."""
        return self.other_outcomes == 0 and self.largest_difference_s <= TOLERANCE_S


@dataclass(frozen=True)
class Conformance:
    """The tasks of a point, played with one rule."""

    rule: str
    """The rule."""
    differences: Differences
    """From the exact responses."""
    tasks_per_cpu_s: float
    """Tasks played per CPU-second; differs from run to run."""


@dataclass(frozen=True)
class Network:
    """The files of a point, read."""

    nodes: list[Station]
    links: dict[tuple[int, int], Way]
    tasks: TaskList


@lru_cache(maxsize=4)
def _read(nodes: Path, links: Path, tasks: Path) -> Network:
    stations = read_nodes(nodes)
    return Network(stations, read_links(links, stations), read_tasks(tasks, stations))


def network_of(place: Place) -> Network:
    """Return the network and the tasks of a point.

    Raises:
        ConfigError: it has no exact reference.
    """
    exact = place.point.exact
    if exact is None:
        raise ConfigError(f"'{place.name}': this point has no exact reference: agents decide there on what they know")
    return _read(*(place.folder / name for name in (exact.nodes, exact.links, exact.tasks)))


def destinations_of(network: Network, rule: str) -> np.ndarray:
    """Return the nodes [T] to which a rule with fixed destinations sends the tasks of a point.

    Raises:
        ConfigError: the rule is not one of these.
    """
    tasks = network.tasks
    if rule == RECORDED:
        return tasks.destination
    if rule == LOCAL:
        return tasks.origin
    names = [node.name for node in network.nodes]
    if rule == CLOUD and "cloud" in names:
        return np.full(len(tasks), names.index("cloud"))
    raise ConfigError(f"'{rule}': destinations depend on the state of the network; accepted: {RECORDED}, {LOCAL}")


_EXACT: dict[tuple[Path, str, str], Exact] = {}


def exact_of(place: Place, rule: str = RECORDED) -> Exact:
    """Return the exact responses and outcomes of the tasks of a point; errors as `network_of` and `destinations_of`."""
    key = place.folder, place.point.model_dump_json(), rule
    if key not in _EXACT:
        network = network_of(place)
        columns = {name: getattr(network.tasks, name) for name in TaskList.__dataclass_fields__}
        tasks = TaskList(**columns | {"destination": destinations_of(network, rule)})
        _EXACT[key] = exact_responses(network.nodes, network.links, tasks)
    return _EXACT[key]


def compared(response_s: np.ndarray, outcome: list[str], exact: Exact) -> Differences:
    """Return how responses [T] and outcomes differ from the exact ones."""
    done = np.array([one == "finished" for one in outcome])
    expected = np.array([one == "finished" for one in exact.outcome])
    both = done & expected
    difference_s = np.abs(response_s[both] - exact.response_s[both])
    mine, theirs = response_s[done], exact.response_s[expected]
    return Differences(
        tasks=len(outcome),
        finished=int(both.sum()),
        other_outcomes=sum(a != b for a, b in zip(outcome, exact.outcome, strict=True)),
        mean_s=_mean(mine),
        p95_s=_percentile(mine),
        exact_mean_s=_mean(theirs),
        exact_p95_s=_percentile(theirs),
        mean_difference_s=_mean(difference_s),
        largest_difference_s=float(difference_s.max()) if len(difference_s) else math.inf,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _percentile(values: np.ndarray) -> float:
    return float(np.percentile(values, 95)) if len(values) else math.nan


def replay_environment(place: Place, horizon_s: float) -> Any:
    """Return the environment of a point in which its tasks are replayed, with an episode of that length."""
    assert place.point.exact is not None  # noqa: S101 - `network_of` has said so
    content = place.environment().model_dump(mode="json", by_alias=True)
    path = place.folder / place.point.exact.tasks
    arrivals = {"kind": "replay", "path": str(path), "columns": COLUMNS}
    content |= {"horizon_s": horizon_s, "warmup_s": 0.0, "drain_s": 0.0, "workload": {"arrivals": arrivals}}
    content["score"] = {"drop_s": horizon_s}  # scores do not count here
    return load_environment(content, where=place.name)


def simulated(place: Place, rule: str, horizon_s: float) -> tuple[np.ndarray, list[str], float]:
    """Play the tasks of a point with a rule.

    Args:
        place: the point.
        rule: the rule.
        horizon_s: length of the episode.

    Returns:
        Responses [T], NaN of tasks that do not finish; outcomes; and tasks per CPU-second.
    """
    env = ArrivalEnv(build_scenario(replay_environment(place, horizon_s)), 1, log=True)
    spent_s = math.inf
    for _ in range(3):  # the first time compiles
        env.reset(held_out_keys(0, 1))
        started = time.process_time()
        env.play(rule)
        spent_s = min(spent_s, time.process_time() - started)
    log = env.task_log(0)
    response_s = np.where(log["outcome"] == SIMULATED, log["ended_s"] - log["created_s"], np.nan)
    return response_s, [OUTCOMES[code] for code in log["outcome"].tolist()], len(log) / max(spent_s, 1e-9)


def conformance_of(place: Place, rule: str) -> Conformance:
    """Play the tasks of a point with a rule whose destinations are fixed, and compare every response.

    Raises:
        ConfigError: as `exact_of`; or the simulator creates other tasks.
    """
    exact = exact_of(place, rule)
    response_s, outcome, speed = simulated(place, rule, math.ceil(exact.last_s) + 1.0)
    if len(outcome) != len(exact.outcome):
        raise ConfigError(f"{place.name}: {len(outcome)} of {len(exact.outcome)} tasks were created")
    return Conformance(rule, compared(response_s, outcome, exact), speed)


def conform(place: Place) -> list[Conformance]:
    """Do so with each rule that the point names.

    Raises:
        ConfigError: the point has no exact reference.
    """
    network_of(place)
    assert place.point.exact is not None  # noqa: S101 - `network_of` has said so
    return [conformance_of(place, rule) for rule in place.point.exact.replay]
