"""What clients can reach within the hop bound, and how soon: the part of the offered load that depends on the network.

Written for networks of 10,000 nodes: all clients are searched at once, and only paths that may improve on those found
are expanded.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.simulator.types import Array

# In larger networks a part of the clients represents all: as many as this number of steps from node to node allows.
STEPS = 2**23
FEWEST_CLIENTS = 64

# A route of a task to a node and back: seconds per instruction there, seconds per input bit on the way, seconds per
# output bit on the way back, latency of both.
Route = tuple[float, float, float, float]


def routes_of_entries(
    entries: Array,
    link: Array,
    usable: Array,
    seconds_per_instruction: Array,
    max_hops: int,
    mean_bits: tuple[float, float],
) -> dict[int, tuple[Route, ...]]:
    """Return the routes of a task that enters at each of some nodes.

    For each node in reach the path counts that takes a job of mean size there and back the soonest, among those of at
    most `max_hops` hops. A route that another one beats or equals in all four numbers is left out.

    Args:
        entries: [C] nodes; of many only a part is evaluated, which represents all.
        link: [M] LINK.
        usable: [M] bool: the links that tasks are sent over; results go back over any.
        seconds_per_instruction: [N] of a task alone at a node; infinite without a processor.
        max_hops: hop bound.
        mean_bits: input and output bits of a mean job.
    """
    nodes = len(seconds_per_instruction)
    used = np.flatnonzero(usable)
    used = used[np.argsort(link["source"][used], kind="stable")]
    out, back = link[used], link[link["reverse"][used]]
    first = np.searchsorted(out["source"], np.arange(nodes + 1))
    step = np.column_stack(
        [out["seconds_per_bit"], back["seconds_per_bit"], out["latency_s"] + back["latency_s"]],
    )
    mean = np.array([*mean_bits, 1.0])
    clients = _sample(entries, np.diff(first), max_hops)
    # One row per client and node: the best path found so far. Rows of one client are together.
    client = np.arange(len(clients))
    node = clients.copy()
    cost = np.zeros((len(clients), 3))
    newest = np.ones(len(clients), bool)
    quickest = seconds_per_instruction.min()
    for _hop in range(max_hops):
        # The cost of a path to the fastest node of all bounds which paths are expanded.
        bound = np.full(len(clients), np.inf)
        at_quickest = seconds_per_instruction[node] == quickest
        np.minimum.at(bound, client[at_quickest], cost[at_quickest] @ mean)
        open_rows = np.flatnonzero(newest & (cost @ mean < bound[client]))
        if len(open_rows) == 0:
            break
        degree = np.diff(first)[node[open_rows]]
        origin = np.repeat(open_rows, degree)
        offset = np.arange(len(origin)) - np.repeat(np.cumsum(degree) - degree, degree)
        taken = first[node[origin]] + offset
        client = np.concatenate([client, client[origin]])
        cost = np.concatenate([cost, cost[origin] + step[taken]])
        newest = np.concatenate([np.zeros(len(node), bool), np.ones(len(taken), bool)])
        node = np.concatenate([node, out["destination"][taken]])
        # Of several paths to a node the cheapest stays; of equals the older one, which is shorter.
        order = np.lexsort((newest, cost @ mean, node, client))
        best = np.ones(len(order), bool)
        best[1:] = (np.diff(client[order]) != 0) | (np.diff(node[order]) != 0)
        kept = order[best]
        client, node, cost, newest = client[kept], node[kept], cost[kept], newest[kept]
    processes = np.isfinite(seconds_per_instruction[node])
    client, node, cost = client[processes], node[processes], cost[processes]
    route = np.column_stack([seconds_per_instruction[node], cost])
    ends = np.searchsorted(client, np.arange(len(clients) + 1))
    return {int(entry): _undominated(route[ends[c] : ends[c + 1]], mean) for c, entry in enumerate(clients)}


def _sample(clients: Array, degree: Array, max_hops: int) -> Array:
    """Return all clients, or evenly spaced ones if their walks would be too many to follow."""
    typical = max(float(degree.mean()), 1.0)
    walks = typical ** min(max_hops, 2)
    most = int(max(STEPS / walks, FEWEST_CLIENTS))
    return clients if len(clients) <= most else clients[np.linspace(0, len(clients) - 1, most).astype(int)]


def _undominated(routes: Array, mean: Array) -> tuple[Route, ...]:
    """Return the rows of `routes` [n, 4] that no other row beats or equals in all numbers, in order."""
    found = []
    # Sorted by the cost of the route: an earlier row is not dominated by a slower one.
    left = routes[np.lexsort((routes[:, 0], routes[:, 1:] @ mean))]
    while len(left):
        found.append(tuple(left[0].tolist()))
        left = left[(left < left[0]).any(axis=1)]
    return tuple(sorted(found))
