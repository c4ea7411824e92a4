"""Offered load: how the rate of arrivals and the work they bring compare with the capacity in reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np

from offload_rllib.config.base import Distribution
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.workload import TaskMix
from offload_rllib.scenario.links import Direction
from offload_rllib.scenario.network import Network

# Work and sizes of a mix are sampled to find which tasks could meet their deadlines; 2^16 draws of each type with a
# fixed seed put the offered load within about 1 % for exponential work. Job tables are enumerated.
DRAWS = 2**16


@dataclass(frozen=True)
class OfferedLoad:
    """The load of a scenario."""

    rate_per_client: float
    """Tasks per second."""
    rho: float
    """Work per second of the tasks that could meet their deadline, over `capacity`."""
    rho_of_all_tasks: float
    """The plain ratio: work per second of all tasks, over `capacity`."""
    capacity: float
    """Instructions per second of all nodes that clients can reach within the hop bound."""
    mean_work: float
    """Instructions per task."""
    mean_feasible_work: float
    """Instructions per task, tasks that could not meet their deadline counted as 0."""
    feasible_share: float
    """Share of the tasks that could meet their deadline if they went to the best node at once."""


def draw(distribution: Distribution, rng: np.random.Generator, count: int) -> np.ndarray:
    """Return `count` draws."""
    if distribution.constant is not None:
        return np.full(count, distribution.constant)
    if distribution.exponential is not None:
        return rng.exponential(distribution.exponential, count)
    low, high = distribution.uniform or (0.0, 0.0)
    return rng.uniform(low, high, count)


def meets_probability(deadline_s: Distribution, needed_s: np.ndarray) -> np.ndarray:
    """Return P(deadline >= needed) for each needed time."""
    if deadline_s.constant is not None:
        return (deadline_s.constant >= needed_s).astype(float)
    if deadline_s.exponential is not None:
        return np.exp(-needed_s / deadline_s.exponential)
    low, high = deadline_s.uniform or (0.0, 0.0)
    if high == low:
        return (low >= needed_s).astype(float)
    return np.clip((high - needed_s) / (high - low), 0.0, 1.0)


def sampled_jobs(config: EnvironmentConfig, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return jobs [J, 3] float64 (instructions, bits in, bits out) and their probabilities [J].

    The job table, or as many draws of every type of the mix, weighted by the type's share.
    """
    jobs = config.workload.jobs
    if not isinstance(jobs, TaskMix):
        return table, np.full(len(table), 1 / len(table))
    rng = np.random.default_rng(0)
    total = sum(kind.weight for kind in jobs.types)
    drawn = [
        np.column_stack(
            [
                draw(kind.instructions, rng, DRAWS) * kind.cycles_per_instruction,
                draw(kind.bits_in, rng, DRAWS),
                draw(kind.bits_out, rng, DRAWS),
            ]
        )
        for kind in jobs.types
    ]
    shares = np.repeat([kind.weight / total / DRAWS for kind in jobs.types], DRAWS)
    return np.concatenate(drawn), shares


def mean_work(config: EnvironmentConfig, jobs: np.ndarray) -> float:
    """Return the mean instructions per task, exact for mixes."""
    if not isinstance(config.workload.jobs, TaskMix):
        return float(jobs[:, 0].mean())
    types = config.workload.jobs.types
    weights = np.array([kind.weight for kind in types])
    means = np.array([kind.instructions.mean * kind.cycles_per_instruction for kind in types])
    return float(weights @ means / weights.sum())


def _seconds_per_bit(path: Iterable[Direction]) -> float:
    return sum(1 / direction.rate_bps for direction in path)


def offered_load(
    config: EnvironmentConfig,
    network: Network,
    directions: Mapping[tuple[int, int], Direction],
    table: np.ndarray,
) -> OfferedLoad:
    """Return the load of a scenario.

    Args:
        config: the environment.
        network: its network.
        directions: both directions of every link, by (source, destination).
        table: [J, 3] float64 jobs (instructions, bits in, bits out); not read if the jobs are a mix.

    Raises:
        ConfigError: a rho was asked for, and no task could meet its deadline.
    """
    graph = network.graph()
    clients = [i for i, node in enumerate(network.nodes) if node.client]
    hops = config.decisions.max_hops
    jobs, probability = sampled_jobs(config, table)
    work = mean_work(config, jobs)
    reached: set[int] = set()
    feasible = np.zeros(len(jobs))
    for client in clients:
        paths: set[tuple[float, float, float, float]] = set()
        for node, path in nx.single_source_shortest_path(graph, client, cutoff=hops).items():
            reached.add(node)
            way = [directions[a, b] for a, b in pairwise(path)]
            way_back = [directions[b, a] for a, b in pairwise(path)]
            speed = network.nodes[node].speed if config.service == "pooled" else network.nodes[node].core_speed
            latency_s = sum(direction.mean_latency_s for direction in way + way_back)
            paths.add((speed, _seconds_per_bit(way), _seconds_per_bit(way_back), latency_s))
        if config.workload.deadline_s is not None:
            fastest = np.full(len(jobs), np.inf)
            for speed, there, back, latency_s in sorted(paths):
                transfers_s = latency_s + there * jobs[:, 1] + back * jobs[:, 2]
                fastest = np.minimum(fastest, jobs[:, 0] / speed + transfers_s)
            feasible += meets_probability(config.workload.deadline_s, fastest) / len(clients)
    capacity = sum(network.nodes[i].speed for i in reached)
    if config.workload.deadline_s is None:
        feasible[:] = 1.0
        feasible_work = work
    else:
        feasible_work = float(probability @ (feasible * jobs[:, 0]))
    rate = config.workload.load.tasks_per_second_per_client
    if rate is None and not feasible_work > 0:
        raise ConfigError(
            "workload.load.rho: no task could meet workload.deadline_s on any node in reach, so there is no rate that "
            "offers this load; give longer deadlines, or tasks_per_second_per_client"
        )
    if rate is None:
        rate = float(config.workload.load.rho or 0.0) * capacity / (len(clients) * feasible_work)
    arriving = rate * len(clients)
    return OfferedLoad(
        rate_per_client=rate,
        rho=arriving * feasible_work / capacity,
        rho_of_all_tasks=arriving * work / capacity,
        capacity=capacity,
        mean_work=work,
        mean_feasible_work=feasible_work,
        feasible_share=float(probability @ feasible),
    )
