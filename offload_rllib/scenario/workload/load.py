"""Offered load: how the rate of arrivals and the work they bring compare with the capacity in reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from offload_rllib.config.base import PerEpisode, ends
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.workload import Load
from offload_rllib.scenario.destinations import hops_of_tasks
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.reach import Route, routes_of_entries
from offload_rllib.scenario.topology import resamples
from offload_rllib.scenario.workload.demand import Demand, Part


@dataclass(frozen=True)
class Entries:
    """Where tasks enter the network, and how many a second."""

    client_rate: np.ndarray
    """[N] tasks that each node's client makes, relative to the mean of the clients; 0 without a client."""
    share: np.ndarray
    """[N] share of the tasks that enter at each node first: their client's node, except in recordings."""
    rate: float | None
    """Tasks per second of all clients, if the arrivals themselves say it."""


# Pairs of a client's routes and a job that are looked at; fewer where every episode has a network of its own, so that
# a reset takes milliseconds.
PAIRS = 2**24
PAIRS_PER_EPISODE = 2**18
# A network that an episode draws offers rho at a rate of at most so many times that of the seed's own network.
LARGEST_RATE = 100


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
    """Instructions per second of all nodes that tasks can come to within the hop bound, by the destinations offered.
    The cloud counts only where no other node has a processor."""
    mean_work: float
    """Instructions per task."""
    mean_feasible_work: float
    """Instructions per task, tasks that could not meet their deadline counted as 0."""
    feasible_share: float
    """Share of the tasks that could meet their deadline if they went to the best node at once."""
    mean_deadline_s: float | None
    """Mean relative deadline of the tasks that have one; None if none has."""
    entry_rates: tuple[float, ...]
    """[N] tasks per second that enter at each node, before any is sent on."""
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


def _edge_entries(entries: Entries, network: Network) -> list[int]:
    """Return the nodes that tasks enter; a recording may send tasks to the cloud at once, which is not counted."""
    return [i for i in np.flatnonzero(entries.share).tolist() if not network.nodes[i].cloud]


def _by_routes(
    entries: Entries, network: Network, link: np.ndarray, usable: np.ndarray, needed: Demand, config: EnvironmentConfig
) -> dict[int, tuple[Route, ...]]:
    """Return for each node that tasks enter, or for some that represent all, the routes of its tasks."""
    # By name: the load must not depend on the order in which the nodes are listed.
    nodes = sorted(_edge_entries(entries, network), key=lambda i: network.nodes[i].name)
    speed = np.array([node.speed if config.service == "pooled" else node.core_speed for node in network.nodes])
    seconds_per_instruction = np.divide(1.0, speed, out=np.full(len(speed), np.inf), where=speed > 0)
    mean_bits = (float(needed.mean[1]), float(needed.mean[2]))
    max_hops = config.decisions.max_hops
    return routes_of_entries(np.array(nodes), link, usable, seconds_per_instruction, max_hops, mean_bits)


def _soonest(tasks: np.ndarray, options: tuple[Route, ...]) -> np.ndarray:
    """Return the time [J] that each task needs if it takes the best route at once, through an idle network."""
    soonest = np.full(len(tasks), np.inf)
    work, bits_in, bits_out = tasks.T
    for route in options:
        # Written out: a product with a vector would start the threads of a linear algebra library.
        soonest = np.minimum(soonest, work * route[0] + bits_in * route[1] + bits_out * route[2] + route[3])
    return soonest


def feasible_shares(part: Part, routes: dict[int, tuple[Route, ...]], share: np.ndarray, most_pairs: int) -> np.ndarray:
    """Return the probability [J] with which each task of a part could meet its deadline on an idle network.

    With many different entries each of them represents a part of the tasks, so that the pairs stay within bounds.

    Args:
        part: the tasks.
        routes: of the nodes that tasks enter.
        share: [N] of the tasks that enter at each node.
        most_pairs: of routes and tasks to evaluate.
    """
    count = len(part.tasks)
    if part.deadline_s is None:
        return np.ones(count)
    feasible, seen = np.zeros(count), np.zeros(count)
    if part.entry is not None:
        for node, options in routes.items():
            here = part.entry == node
            feasible[here] = part.meets(_soonest(part.tasks[here], options), here)
            seen[here] = 1.0
        # Entries that were not looked at are taken to be like the others.
        known = seen > 0
        feasible[~known] = np.average(feasible[known], weights=part.weights[known])
        return feasible
    weights: dict[tuple[Route, ...], float] = {}
    for node, options in routes.items():
        weights[options] = weights.get(options, 0.0) + float(share[node])
    stride = min(math.ceil(len(weights) * count / most_pairs), len(weights))
    for number, (options, weight) in enumerate(sorted(weights.items())):
        here = np.zeros(count, bool)
        here[number % stride :: stride] = True
        feasible[here] += weight * part.meets(_soonest(part.tasks[here], options), here)
        seen[here] += weight
    return feasible / seen


def offered_load(
    config: EnvironmentConfig,
    network: Network,
    link: np.ndarray,
    usable: np.ndarray,
    needed: Demand,
    entries: Entries,
    fallback: float | None = None,
) -> OfferedLoad:
    """Return the load of a scenario.

    Args:
        config: the environment.
        network: its network.
        link: [M] LINK, the directed links.
        usable: [M] bool: those that some node sends tasks over; the cloud counts for none.
        needed: what tasks need.
        entries: where they enter.
        fallback: rate of a client where a rho was asked for that no sensible rate would offer, as in a draw of the
            network in which almost no task could meet its deadline; None: that is an error.

    Raises:
        ConfigError: a rho was asked for, no task could meet its deadline, and there is no fallback.
    """
    cloud = np.array([node.cloud for node in network.nodes])
    if not any(node.speed > 0 and not node.cloud for node in network.nodes):
        cloud[:] = False  # nothing else processes tasks
    usable = usable & ~cloud[link["source"]] & ~cloud[link["destination"]]
    max_hops = config.decisions.max_hops
    hops = hops_of_tasks(np.array(_edge_entries(entries, network), int), link, usable, len(cloud), max_hops)
    # Exact sums: the load must not depend on the order in which the nodes are listed.
    capacity = math.fsum(network.nodes[i].speed for i in np.flatnonzero(hops <= max_hops).tolist())
    work = float(needed.mean[0])
    if all(part.deadline_s is None for part in needed.parts):
        routes = {}
    else:
        routes = _by_routes(entries, network, link, usable, needed, config)
    most_pairs = PAIRS_PER_EPISODE if resamples(config.topology) else PAIRS
    feasible = [feasible_shares(part, routes, entries.share, most_pairs) for part in needed.parts]
    # A ratio to the same sample's work: exact where all tasks are feasible, though tasks are sampled.
    feasible_work = sum(
        part.share * float(part.mean[0] * (part.weights * possible * part.tasks[:, 0]).sum() / _mean_work(part))
        for part, possible in zip(needed.parts, feasible, strict=True)
    )
    clients = sum(node.client for node in network.nodes)
    rate, rate_from, rate_to = _rate(config.workload.load, entries, capacity, feasible_work, clients, fallback)
    arriving = rate * clients
    return OfferedLoad(
        rate_per_client=rate,
        rho=arriving * feasible_work / capacity,
        rho_of_all_tasks=arriving * work / capacity,
        capacity=capacity,
        mean_work=work,
        mean_feasible_work=feasible_work,
        feasible_share=sum(
            part.share * float((part.weights * possible).sum())
            for part, possible in zip(needed.parts, feasible, strict=True)
        ),
        mean_deadline_s=needed.mean_deadline_s,
        entry_rates=tuple((entries.share * arriving).tolist()),
        rate_from=rate_from / rate,
        rate_to=rate_to / rate,
    )


def _mean_work(part: Part) -> float:
    """Return the mean work of the tasks of a part; 1 if none needs any, so that it can be divided by."""
    return float((part.weights * part.tasks[:, 0]).sum()) or 1.0


def _rate(
    load: Load | None, entries: Entries, capacity: float, feasible_work: float, clients: int, fallback: float | None
) -> tuple[float, float, float]:
    """Return the mean rate of a client, and the rates at the ends of a range from which episodes draw."""
    if load is None:
        rate = float(entries.rate or 0.0) / clients
        return rate, rate, rate
    given = load.tasks_per_second_per_client
    numerator, denominator = 1.0, 1.0
    if given is None:
        given = load.rho if load.rho is not None else 0.0
        sensible = feasible_work > 0
        if sensible and fallback is not None:
            sensible = math.fsum(ends(given)) / 2 * capacity <= LARGEST_RATE * fallback * clients * feasible_work
        if not sensible and fallback is not None:
            middle = math.fsum(ends(given)) / 2
            low, high = (fallback * end / middle for end in ends(given))
            return fallback, low, high
        if not sensible:
            raise ConfigError(
                "workload.load.rho: no task could meet workload.deadline_s on any node in reach, so there is no rate "
                "that offers this load; give longer deadlines, or tasks_per_second_per_client"
            )
        numerator, denominator = capacity, clients * feasible_work
    low, high = (end * numerator / denominator for end in ends(given))
    return (0.5 * (low + high) if isinstance(given, PerEpisode) else low), low, high
