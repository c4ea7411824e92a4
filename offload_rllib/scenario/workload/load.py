"""Offered load: how the rate of arrivals and the work they bring compare with the capacity in reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np

from offload_rllib.config.base import PerEpisode, ends
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.workload import Load
from offload_rllib.scenario.links import Direction
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.workload.demand import Demand


@dataclass(frozen=True)
class Entries:
    """Where tasks enter the network, and how many a second."""

    client_rate: np.ndarray
    """[N] tasks that each node's client makes, relative to the mean of the clients; 0 without a client."""
    share: np.ndarray
    """[N] share of the tasks that enter at each node first; that of their client, but for recordings."""
    rate: float | None
    """Tasks per second of all clients, if the arrivals themselves say it."""


@dataclass(frozen=True)
class OfferedLoad:
    """The load of a scenario: means over an episode, and over episodes where these draw what differs."""

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
    rate_from: float = 1.0
    """Ends of the factor on all rates that each episode draws: around 1, which is `rate_per_client`."""
    rate_to: float = 1.0


def client_weights(load: Load | None, network: Network) -> np.ndarray:
    """Return the relative rate [N] of each node's client, 0 without one.

    Raises:
        ConfigError: a weight is given for a name that is neither a client's node nor a device type of one.
    """
    given = dict(load.client_weights) if load is not None else {}
    clients = [node for node in network.nodes if node.client]
    accepted = {node.name for node in clients} | {node.type for node in clients}
    for name in given:
        if name not in accepted:
            raise ConfigError(
                f"workload.load.client_weights.{name}: no client's node, nor device type of one. Accepted: "
                f"{', '.join(sorted(accepted))}"
            )
    return np.array([given.get(node.name, given.get(node.type, 1.0)) if node.client else 0.0 for node in network.nodes])


def _seconds_per_bit(path: Iterable[Direction]) -> float:
    return sum(1 / direction.rate_bps for direction in path)


def offered_load(
    config: EnvironmentConfig,
    network: Network,
    directions: Mapping[tuple[int, int], Direction],
    needed: Demand,
    entries: Entries,
) -> OfferedLoad:
    """Return the load of a scenario.

    Args:
        config: the environment.
        network: its network.
        directions: both directions of every link, by (source, destination).
        needed: what tasks need.
        entries: where they enter.

    Raises:
        ConfigError: a rho was asked for, and no task could meet its deadline.
    """
    graph = network.graph_without_cloud()
    reached: set[int] = set()
    feasible = [np.zeros(len(part.tasks)) for part in needed.parts]
    for entry in np.flatnonzero(entries.share):
        if int(entry) not in graph:
            continue  # a recording may send tasks to the cloud at once
        paths: set[tuple[float, float, float, float]] = set()
        for node, path in nx.single_source_shortest_path(graph, int(entry), cutoff=config.decisions.max_hops).items():
            reached.add(node)
            way = [directions[a, b] for a, b in pairwise(path)]
            way_back = [directions[b, a] for a, b in pairwise(path)]
            speed = network.nodes[node].speed if config.service == "pooled" else network.nodes[node].core_speed
            latency_s = sum(direction.mean_latency_s for direction in way + way_back)
            paths.add((speed, _seconds_per_bit(way), _seconds_per_bit(way_back), latency_s))
        for part, possible in zip(needed.parts, feasible, strict=True):
            here = np.ones(len(part.tasks), bool) if part.entry is None else part.entry == entry
            tasks = part.tasks[here]
            fastest = np.full(len(tasks), np.inf)
            for speed, there, back, latency_s in sorted(paths) if part.deadline_s is not None else ():
                transfers_s = latency_s + there * tasks[:, 1] + back * tasks[:, 2]
                fastest = np.minimum(fastest, tasks[:, 0] / speed + transfers_s)
            possible[here] += part.meets(fastest, here) * (1.0 if part.entry is not None else entries.share[entry])
    capacity = sum(network.nodes[i].speed for i in reached)
    work = float(needed.mean[0])
    feasible_work = sum(
        # Without deadlines the mean is exact, even where tasks are sampled.
        part.share * float(part.mean[0] if part.deadline_s is None else part.weights @ (possible * part.tasks[:, 0]))
        for part, possible in zip(needed.parts, feasible, strict=True)
    )
    clients = sum(node.client for node in network.nodes)
    rate, rate_from, rate_to = _rate(config.workload.load, entries, capacity, feasible_work, clients)
    arriving = rate * clients
    return OfferedLoad(
        rate_per_client=rate,
        rho=arriving * feasible_work / capacity,
        rho_of_all_tasks=arriving * work / capacity,
        capacity=capacity,
        mean_work=work,
        mean_feasible_work=feasible_work,
        feasible_share=sum(
            part.share * float(part.weights @ possible) for part, possible in zip(needed.parts, feasible, strict=True)
        ),
        rate_from=rate_from / rate,
        rate_to=rate_to / rate,
    )


def _rate(
    load: Load | None, entries: Entries, capacity: float, feasible_work: float, clients: int
) -> tuple[float, float, float]:
    """Return the mean rate of a client, and the rates at the ends of a range from which episodes draw."""
    if load is None:
        rate = float(entries.rate or 0.0) / clients
        return rate, rate, rate
    given = load.tasks_per_second_per_client
    numerator, denominator = 1.0, 1.0
    if given is None:
        given = load.rho if load.rho is not None else 0.0
        if not feasible_work > 0:
            raise ConfigError(
                "workload.load.rho: no task could meet workload.deadline_s on any node in reach, so there is no rate "
                "that offers this load; give longer deadlines, or tasks_per_second_per_client"
            )
        numerator, denominator = capacity, clients * feasible_work
    low, high = (end * numerator / denominator for end in ends(given))
    return (0.5 * (low + high) if isinstance(given, PerEpisode) else low), low, high
