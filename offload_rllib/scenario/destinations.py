"""Which neighbours nodes may send tasks to, and how far tasks come that way."""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.types import NONE, Array

# Rates that differ by less, as a share, are equal: distances that are equal on paper differ in their last bits.
DIGITS = 9


def offered_links(
    link: Array, law: Array, among: Array, nodes: int, limit: int | None, moving: frozenset[int] = frozenset()
) -> Array:
    """Return [M] bool: the links that are offered to the node at their source, the fastest of each.

    Equally fast ones are ranked by a hash of the names of their ends: a seeded draw that does not depend on the order
    of the nodes, and that is independent from node to node.

    Args:
        link: [M] LINK.
        law: [M] LINK_LAW.
        among: [M] bool: the links to choose from.
        nodes: N.
        limit: at most so many of each node; None: all.
        moving: nodes that move: no node sends tasks to them, and they to whatever access point is the nearest.
    """
    moves = np.isin(link["source"], sorted(moving))
    to_others = ~np.isin(link["destination"], sorted(moving))
    if limit is None:
        return among & to_others
    slowness = np.round(np.log(link["seconds_per_bit"]), DIGITS)
    order = np.lexsort((law["name_hash"], slowness, ~to_others, link["source"]))
    order = order[among[order]]
    first = np.searchsorted(link["source"][order], np.arange(nodes))
    offered = np.zeros(len(link), bool)
    offered[order] = np.arange(len(order)) - first[link["source"][order]] < limit
    return (offered | moves) & among & to_others


def hops_of_tasks(entries: Array, link: Array, usable: Array, nodes: int, max_hops: int) -> Array:
    """Return [N] the fewest hops that a task makes until it is at each node; max_hops + 1 where none comes.

    Args:
        entries: nodes that tasks enter.
        link: [M] LINK.
        usable: [M] bool: the links that tasks are sent over.
        nodes: N.
        max_hops: hop bound.
    """
    hops = np.full(nodes, max_hops + 1)
    hops[entries] = 0
    for made in range(max_hops):
        reached = link["destination"][usable & (hops[link["source"]] == made)]
        hops[reached] = np.minimum(hops[reached], made + 1)
    return hops


def destination_rows(
    link: Array, offered: Array, deciding: list[int], padded_to: int, *, rejects: bool = False
) -> Array:
    """Return [D, R] int32: the link of each action of each deciding node; NONE in column 0 (self) and in padding.

    Args:
        link: [M] LINK.
        offered: [M] bool, from `offered_links`.
        deciding: [D] nodes.
        padded_to: the fewest destinations that there are columns for.
        rejects: add a column of NONE for the last action, which rejects a task.
    """
    order = np.flatnonzero(offered)
    order = order[np.lexsort((link["destination"][order], link["source"][order]))]
    first, end = (np.searchsorted(link["source"][order], deciding, side) for side in ("left", "right"))
    rows = [order[slice(*ends)] for ends in zip(first.tolist(), end.tolist(), strict=True)]
    width = 1 + max([padded_to, *map(len, rows)]) + rejects
    destination = np.full((len(deciding), width), NONE, np.int32)
    for a, row in enumerate(rows):
        destination[a, 1 : 1 + len(row)] = row
    return destination
