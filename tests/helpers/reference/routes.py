"""The shortest path between two nodes, found by looking at every path there is: for small networks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import networkx as nx

from offload_rllib.simulator.streams import stable_hash


def shortest_paths(
    graph: nx.Graph, step_s: Mapping[tuple[int, int], float], names: list[str], impassable: set[int], most: int
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the links of the shortest path of each pair of nodes that has one of at most so many links.

    Ties go to the path of fewer links, then by a hash of the names of the ends of the last link, then of the others.

    Args:
        graph: the nodes and links.
        step_s: seconds that a mean task takes over each direction of a link.
        names: of the nodes.
        impassable: nodes at which a path may only end.
        most: links.
    """

    def rank(path: list[tuple[int, int]]) -> list[tuple[float, int, int]]:
        parts = [path[:end] for end in range(len(path), 0, -1)]
        return [
            (
                float(f"{sum(step_s[link] for link in part):.9g}"),
                len(part),
                int(stable_hash(f"{names[part[-1][0]]}\n{names[part[-1][1]]}")),
            )
            for part in parts
        ]

    found = {}
    for a in graph:
        for b in graph:
            if a == b or a in impassable:
                continue
            paths = [
                list(pairwise(nodes)) for nodes in nx.all_simple_paths(graph, a, b) if not impassable & set(nodes[1:-1])
            ]
            best = min(paths, key=rank, default=[])
            if 0 < len(best) <= most:
                found[a, b] = best
    return found
