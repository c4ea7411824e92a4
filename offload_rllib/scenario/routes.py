"""Destinations over routed paths: the shortest path to every node within reach, as a link that is made of links.

A path of one link is that link. Any other path is a link of its own behind those of the network, in the same arrays:
its latency and its seconds per bit are the sums of those on the way. So what a node knows of a neighbour, it knows in
the same way of every node within reach. Where every link on the way is plain, a message takes what the path says.
Otherwise it crosses the links one after the other (`simulator.events.routing`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology import resamples
from offload_rllib.simulator.streams import stable_hash
from offload_rllib.simulator.types import NONE, Array

# Paths of an environment: each needs a few hundred bytes, and as much again in every environment of a batch.
MOST_PATHS = 200_000
# Times that differ by less, as a share, are equal: sums in another order differ in their last bits.
DIGITS = 9


@dataclass(frozen=True)
class Routes:
    """The links of a network, the paths behind them, and what may be sent over."""

    link: Array
    """[M + P] LINK: the links, then the paths of more than one link."""
    law: Array
    """[M + P] LINK_LAW."""
    offered: Array
    """[M + P] bool: the shortest path to each node within reach."""
    first_leg: Array
    """[M + P + 1] int32: where the links of each path begin in `leg`, and end; empty without paths."""
    leg: Array
    """[K] int32: links of the paths whose messages cross them one by one, in order; empty if all of them are plain."""
    ways: tuple[Array, ...] = ()
    """Of each of the P paths, the links that it is made of, in order."""


def check_routed(config: EnvironmentConfig) -> None:
    """Check that an environment with routed destinations asks for nothing else that they exclude.

    Raises:
        ConfigError: it does.
    """
    if config.decisions.destinations != "routed":
        return
    for refused, what, accepted in (
        (config.tick_s is not None, "tick_s", "no tick_s"),
        (resamples(config.topology), "topology.resample: episode", "never"),
        (config.mobility is not None, "mobility", "no mobility"),
        (config.reward.name == "peersimgym", "reward.name: peersimgym", "delay, sparse, paper, or a function"),
    ):
        if refused:
            raise ConfigError(f"decisions.destinations: routed does not go with {what}. Accepted: {accepted}")


def routes_of(
    config: EnvironmentConfig, network: Network, link: Array, law: Array, entries: Array, mean_bits_in: float
) -> Routes:
    """Return the paths that tasks may be sent over.

    Where only neighbours are destinations, every link is a path, and there are no others. With routed destinations
    there is the shortest path from every node that may decide to every node within reach that has a processor.

    A path is the shorter, the sooner a task of mean size is there if it waits nowhere. Of equal ones the path of fewer
    links counts, and then that whose last links come first by a hash of the names of their ends. No path leads through
    the cloud.

    Args:
        config: the environment.
        network: the network.
        link: [M] LINK, sorted by source.
        law: [M] LINK_LAW.
        entries: nodes that tasks enter first.
        mean_bits_in: input bits of a mean task.

    Raises:
        ConfigError: there are more paths than can be simulated.
    """
    if config.decisions.destinations != "routed":
        none = np.zeros(0, np.int32)
        return Routes(link, law, np.ones(len(link), bool), none, none)
    most = config.decisions.reach_hops or len(network.nodes)
    sources = entries.tolist() if config.decisions.max_hops == 1 else list(range(len(network.nodes)))
    outgoing: list[list[int]] = [[] for _ in network.nodes]
    for index, source in enumerate(link["source"].tolist()):
        outgoing[source].append(index)
    step_s = link["latency_s"] + mean_bits_in * link["seconds_per_bit"]
    paths: list[tuple[int, ...]] = []
    offered = np.zeros(len(link), bool)
    for source in sources:
        if network.nodes[source].cloud:
            continue
        for destination, path in sorted(_shortest(source, network, link, law, outgoing, step_s).items()):
            if len(path) > most or network.nodes[destination].speed <= 0:
                continue
            if len(path) == 1:
                offered[path[0]] = True
            else:
                paths.append(path)
        if len(paths) > MOST_PATHS:
            raise ConfigError(
                f"decisions.destinations: routed: more than {MOST_PATHS:,} paths of several links; bound them with "
                "decisions.reach_hops"
            )
    return _with_paths(network, link, law, offered, paths)


def _shortest(
    source: int, network: Network, link: Array, law: Array, outgoing: list[list[int]], step_s: Array
) -> dict[int, tuple[int, ...]]:
    """Return the links of the shortest path from a node to every other one (E. W. Dijkstra, 1959)."""
    found: dict[int, tuple[int, ...]] = {}
    open_paths: list[tuple[float, int, int, float, int, tuple[int, ...]]] = [(0.0, 0, 0, 0.0, source, ())]
    while open_paths:
        _, hops, _, time_s, node, path = heapq.heappop(open_paths)
        if node in found:
            continue
        found[node] = path
        if network.nodes[node].cloud:
            continue
        for index in outgoing[node]:
            there = int(link["destination"][index])
            if there not in found:
                sooner_s = time_s + float(step_s[index])
                rounded = float(f"{sooner_s:.{DIGITS}g}")
                last = int(law["name_hash"][index])
                heapq.heappush(open_paths, (rounded, hops + 1, last, sooner_s, there, (*path, index)))
    del found[source]
    return found


def _with_paths(network: Network, link: Array, law: Array, offered: Array, paths: list[tuple[int, ...]]) -> Routes:
    """Return the links with the paths behind them, each followed by its way back."""
    links, legs = len(link), [np.array(path, np.int32) for path in paths]
    made, laws = np.zeros(2 * len(paths), link.dtype), np.zeros(2 * len(paths), law.dtype)
    ways: list[Array] = []
    for i, way in enumerate(legs):
        ways += [way, link["reverse"][way[::-1]].astype(np.int32)]
        for back in (0, 1):
            record, over = made[2 * i + back], link[ways[-2 + back]]
            for key in ("latency_s", "seconds_per_bit", "broadcast_delay_s"):
                record[key] = over[key].sum()
            record["source"], record["destination"] = over["source"][0], over["destination"][-1]
            record["reverse"] = links + 2 * i + 1 - back
            record["plain"] = over["plain"].all()
            names = [network.nodes[n].name for n in (over["source"][0], over["destination"][-1])]
            laws[2 * i + back]["queue"], laws[2 * i + back]["channel"] = links + 2 * i + back, NONE
            laws[2 * i + back]["name_hash"] = stable_hash("\n".join(names))
    crossed = [way if not record["plain"] else way[:0] for way, record in zip(ways, made, strict=True)]
    lengths = [0] * links + [len(way) for way in crossed]
    return Routes(
        link=np.concatenate([link, made]),
        law=np.concatenate([law, laws]),
        offered=np.concatenate([offered, np.arange(2 * len(paths)) % 2 == 0]),
        first_leg=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32) if paths else np.zeros(0, np.int32),
        leg=np.concatenate([np.zeros(0, np.int32), *crossed]),
        ways=tuple(ways),
    )
