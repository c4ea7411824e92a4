"""Offered load: how the rate of arrivals and the work they bring compare with the capacity in reach."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from offload_rllib.config.base import Distribution
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.workload import TaskMix
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.reach import Way, ways_of_clients
from offload_rllib.scenario.topology import resamples

# Work and sizes of a mix are sampled to find which tasks could meet their deadlines; 2^16 draws of each type with a
# fixed seed put the offered load within about 1 % for exponential work. Job tables are enumerated.
DRAWS = 2**16

# Pairs of a client's ways and a job that are looked at; fewer where every episode has a network of its own, so that
# a reset takes milliseconds.
PAIRS = 2**24
PAIRS_PER_EPISODE = 2**18


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
    if isinstance(jobs, TaskMix):
        return _sampled_mix(jobs)  # pyright: ignore[reportArgumentType] - frozen models have a hash, undeclared
    return table, np.full(len(table), 1 / len(table))


@lru_cache(maxsize=2)
def _sampled_mix(jobs: TaskMix) -> tuple[np.ndarray, np.ndarray]:
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


def feasible_shares(config: EnvironmentConfig, ways: Counter[tuple[Way, ...]], jobs: np.ndarray) -> np.ndarray:
    """Return the share [J] of clients and deadlines with which each job could meet its deadline on an idle network.

    With many different clients each of them stands for a part of the jobs, so that the pairs stay within bounds.
    """
    deadline_s = config.workload.deadline_s
    if deadline_s is None:
        return np.ones(len(jobs))
    pairs = PAIRS_PER_EPISODE if resamples(config.topology) else PAIRS
    stride = min(math.ceil(len(ways) * len(jobs) / pairs), len(ways))
    feasible, seen = np.zeros(len(jobs)), np.zeros(len(jobs))
    for number, (options, clients) in enumerate(sorted(ways.items())):
        part = slice(number % stride, None, stride)
        soonest = np.full(len(jobs[part]), np.inf)
        for way in options:
            # Written out: a product with a vector would start the threads of a linear algebra library.
            work, bits_in, bits_out = jobs[part].T
            soonest = np.minimum(soonest, work * way[0] + bits_in * way[1] + bits_out * way[2] + way[3])
        feasible[part] += clients * meets_probability(deadline_s, soonest)
        seen[part] += clients
    return feasible / seen


def offered_load(config: EnvironmentConfig, network: Network, link: np.ndarray, table: np.ndarray) -> OfferedLoad:
    """Return the load of a scenario.

    Args:
        config: the environment.
        network: its network.
        link: [M] LINK, the directed links.
        table: [J, 3] float64 jobs (instructions, bits in, bits out); not read if the jobs are a mix.

    Raises:
        ConfigError: a rho was asked for, and no task could meet its deadline.
    """
    clients = sorted((i for i, node in enumerate(network.nodes) if node.client), key=lambda i: network.nodes[i].name)
    hops = config.decisions.max_hops
    jobs, probability = sampled_jobs(config, table)
    work = mean_work(config, jobs)
    # Exact sums: the load must not depend on the order in which the nodes are listed.
    capacity = math.fsum(network.nodes[i].speed for i in network.within_hops_of_clients(hops))
    if config.workload.deadline_s is None:
        feasible, feasible_work = np.ones(len(jobs)), work
    else:
        pooled = config.service == "pooled"
        seconds_per_instruction = np.array([1 / (node.speed if pooled else node.core_speed) for node in network.nodes])
        bits_in, bits_out = (float((probability * bits).sum()) for bits in (jobs[:, 1], jobs[:, 2]))
        ways = ways_of_clients(np.array(clients), link, seconds_per_instruction, hops, (bits_in, bits_out))
        feasible = feasible_shares(config, ways, jobs)
        feasible_work = float((probability * feasible * jobs[:, 0]).sum())
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
        feasible_share=float((probability * feasible).sum()),
    )
