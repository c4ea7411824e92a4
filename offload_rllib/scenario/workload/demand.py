"""What tasks need: as weighted samples, for the offered load, and as the arrays that the simulator draws from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from offload_rllib.config.base import Distribution
from offload_rllib.config.workload import TaskMix, Workload
from offload_rllib.scenario.workload.distributions import Distributions, draw, survival
from offload_rllib.scenario.workload.recording import Recording
from offload_rllib.simulator.types import BITS_IN, BITS_OUT, DEADLINE, DISTRIBUTION, QUANTITIES, WORK

# Work and sizes of a mix are sampled to find which tasks could meet their deadlines; 2^16 draws of each type with a
# fixed seed put the offered load within about 1 % for exponential work. Job tables are enumerated.
DRAWS = 2**16


@dataclass(frozen=True)
class Part:
    """Tasks with a common distribution of their deadlines."""

    share: float
    """Of all tasks."""
    tasks: np.ndarray
    """[J, 3] float64: instructions, bits in, bits out."""
    weights: np.ndarray
    """[J] probabilities of the tasks within the part."""
    mean: np.ndarray
    """[3] means of the tasks' columns: exact, where `tasks` is a sample."""
    deadline_s: Distribution | np.ndarray | None
    """Relative deadlines: their distribution, or that of each task [J] (infinite: none), or none at all."""
    entry: np.ndarray | None = None
    """[J] node that each task enters; None: as all tasks do."""

    def meets(self, needed_s: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Return P(deadline >= needed) for those tasks `where` [J] bool, given their needed times."""
        if self.deadline_s is None:
            return np.ones(len(needed_s))
        if isinstance(self.deadline_s, Distribution):
            return survival(self.deadline_s, needed_s, np.random.default_rng(1))
        return (self.deadline_s[where] >= needed_s).astype(float)

    @property
    def mean_deadline_s(self) -> float | None:
        """Mean relative deadline of the tasks that have one."""
        if isinstance(self.deadline_s, Distribution):
            return self.deadline_s.mean
        if self.deadline_s is None or not np.isfinite(self.deadline_s).any():
            return None
        finite = np.isfinite(self.deadline_s)
        return float(np.average(self.deadline_s[finite], weights=self.weights[finite]))


@dataclass(frozen=True)
class Demand:
    """What all tasks need."""

    parts: tuple[Part, ...]

    @property
    def all_have_deadlines(self) -> bool:
        """Whether every task has a deadline."""
        given = [part.deadline_s for part in self.parts]
        return all(isinstance(each, Distribution) or (each is not None and np.isfinite(each).all()) for each in given)

    @property
    def mean(self) -> np.ndarray:
        """[3] mean instructions, bits in, bits out of a task."""
        return np.sum([part.share * part.mean for part in self.parts], axis=0)

    @property
    def mean_deadline_s(self) -> float | None:
        """Mean relative deadline of the tasks that have one; None if none has."""
        known = [(part.share, mean) for part in self.parts if (mean := part.mean_deadline_s) is not None]
        if not known:
            return None
        return math.fsum(share * mean for share, mean in known) / math.fsum(share for share, _ in known)


def demand(workload: Workload, jobs: np.ndarray, recording: Recording | None, played: np.ndarray) -> Demand:
    """Return what tasks need.

    Args:
        workload: the configuration.
        jobs: [J, 3] job table; empty if none is used.
        recording: of arrivals, if there is one.
        played: [P] probability that an episode plays each of its rows.
    """
    if recording is not None and recording.has_sizes:
        kept = played > 0
        rows, weights = recording.rows[kept], played[kept] / played[kept].sum()
        tasks = np.column_stack([rows["work"], rows["bits_in"], rows["bits_out"]])
        deadline_s = rows["deadline_s"] if recording.has_deadlines else workload.deadline_s
        return Demand((Part(1.0, tasks, weights, weights @ tasks, deadline_s, rows["node"]),))
    if not isinstance(workload.jobs, TaskMix):
        return Demand((Part(1.0, jobs, np.full(len(jobs), 1 / len(jobs)), jobs.mean(axis=0), workload.deadline_s),))
    return Demand(_mix(workload.jobs, workload.deadline_s))  # pyright: ignore[reportArgumentType] - they have a hash


@lru_cache(maxsize=2)
def _mix(jobs: TaskMix, deadline_s: Distribution | None) -> tuple[Part, ...]:
    """Return a part for each type; kept, for networks that are drawn every episode."""
    rng = np.random.default_rng(0)
    total = sum(kind.weight for kind in jobs.types)
    parts = []
    for kind in jobs.types:
        factor = np.array([kind.cycles_per_instruction, 1.0, 1.0])
        drawn = [draw(quantity, rng, DRAWS) for quantity in (kind.instructions, kind.bits_in, kind.bits_out)]
        mean = np.array([kind.instructions.mean, kind.bits_in.mean, kind.bits_out.mean])
        parts.append(
            Part(
                share=kind.weight / total,
                tasks=np.column_stack(drawn) * factor,
                weights=np.full(DRAWS, 1 / DRAWS),
                mean=mean * factor,
                deadline_s=kind.deadline_s or deadline_s,
            )
        )
    return tuple(parts)


@dataclass(frozen=True)
class DrawnTasks:
    """The arrays that the simulator draws tasks from; see `simulator.types.Scenario`."""

    type_share: np.ndarray
    distribution: np.ndarray
    distribution_to: np.ndarray
    choice: np.ndarray
    types: tuple[str, ...]
    """Their names."""

    @property
    def vary(self) -> bool:
        """Whether episodes draw parameters of their own."""
        return bool((self.distribution != self.distribution_to).any())


def drawn_tasks(workload: Workload, recorded: tuple[str, ...] = ()) -> DrawnTasks:
    """Return the arrays that tasks are drawn from; without a mix, types that hold the deadline alone.

    Args:
        workload: the configuration.
        recorded: names of the types of a recording.
    """
    types, names = (), recorded or ("type_0",)
    if isinstance(workload.jobs, TaskMix):
        types, names = workload.jobs.types, workload.jobs.names
    count = len(names)
    low, high = np.zeros((count, QUANTITIES), DISTRIBUTION), np.zeros((count, QUANTITIES), DISTRIBUTION)
    collected = Distributions()
    # A deadline that a type does not have is infinitely far.
    low[:, DEADLINE]["a"] = high[:, DEADLINE]["a"] = np.inf
    for i in range(count):
        deadline_s = workload.deadline_s
        if types:
            deadline_s = types[i].deadline_s or deadline_s
            low[i, WORK], high[i, WORK] = collected.record(types[i].instructions, types[i].cycles_per_instruction)
            low[i, BITS_IN], high[i, BITS_IN] = collected.record(types[i].bits_in)
            low[i, BITS_OUT], high[i, BITS_OUT] = collected.record(types[i].bits_out)
        if deadline_s is not None:
            low[i, DEADLINE], high[i, DEADLINE] = collected.record(deadline_s)
    weights = np.array([kind.weight for kind in types]) if types else np.ones(count)
    share = np.cumsum(weights) / weights.sum()
    share[-1] = 1.0
    return DrawnTasks(share, low, high, collected.choices, names)
