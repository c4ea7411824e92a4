"""Nodes that move: their links to access points, and the arrays of their movement."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.links import StatedLinks
from offload_rllib.config.loading import find_data, nearest
from offload_rllib.config.topology.mobility import Mobility, RandomWaypoint
from offload_rllib.scenario.channels import Directions
from offload_rllib.scenario.durations import write_duration
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.rows import numbers_of_rows
from offload_rllib.scenario.topology import resamples
from offload_rllib.simulator.changes.movement import MOVEMENT, MOVING, PLACE, POSITION
from offload_rllib.simulator.types import NONE, Array


@dataclass(frozen=True)
class Moving:
    """The arrays of `Scenario` that say how nodes move."""

    movement: Array
    moving: Array
    position: Array
    place: Array
    next_link: Array


NOTHING = Moving(
    movement=np.zeros(0, MOVEMENT),
    moving=np.zeros(0, MOVING),
    position=np.zeros(0, POSITION),
    place=np.zeros(0, PLACE),
    next_link=np.zeros((0, 0), np.int32),
)


def moving_nodes(config: EnvironmentConfig, network: Network) -> frozenset[int]:
    """Return the nodes that move."""
    if config.mobility is None:
        return frozenset()
    return frozenset(i for i, node in enumerate(network.nodes) if node.type in config.mobility.types)


def with_access(config: EnvironmentConfig, network: Network) -> Network:
    """Return the network with a link from every node that moves to every access point, in place of its links.

    Raises:
        ConfigError: keys do not fit together, or no node is of a type that is named.
    """
    mobility = config.mobility
    if mobility is None:
        return network
    _check_keys(config, mobility, network)
    moving = moving_nodes(config, network)
    points = [i for i, node in enumerate(network.nodes) if node.type in mobility.access_points]
    kept = [pair for pair in network.links if moving.isdisjoint(pair)]
    added = [(min(a, b), max(a, b)) for a in sorted(moving) for b in points]
    return replace(network, links=(*kept, *added), rates_bps=None, latencies_s=None).check("mobility")


def _check_keys(config: EnvironmentConfig, mobility: Mobility, network: Network) -> None:
    types = {node.type for node in network.nodes if not node.cloud}
    for key, named in (("types", mobility.types), ("access_points", mobility.access_points)):
        for name in named:
            if name not in types:
                raise ConfigError(f"mobility.{key}: no node is of type '{name}'.{nearest(name, types)}")
    both = set(mobility.types) & set(mobility.access_points)
    if both:
        raise ConfigError(f"mobility.access_points: '{min(both)}' moves itself (mobility.types)")
    if isinstance(config.links, StatedLinks):
        raise ConfigError(
            "mobility: links of nodes that move are no part of a topology, and links.kind: topology takes all rates "
            "from it; accepted: wireless, fixed, fibre"
        )
    if resamples(config.topology):
        raise ConfigError("mobility needs topology.resample: never (given: episode)")
    if config.cloud is not None and any(
        node.type in mobility.types and network.nodes[b].cloud for a, b in network.links for node in (network.nodes[a],)
    ):
        raise ConfigError("cloud.access: a node that moves has links to access points alone; name other types or nodes")


def attached(network: Network, moving: frozenset[int], link: Array, offered: Array) -> Array:
    """Return [M] bool: the links offered, of a node that moves only that to the access point nearest to its place.

    Args:
        network: that the links belong to.
        moving: nodes that move.
        link: [M] LINK.
        offered: [M] bool.
    """
    if not moving:
        return offered
    place = np.array([node.position_m for node in network.nodes])
    distance = np.linalg.norm(place[link["source"]] - place[link["destination"]], axis=1)
    result = offered.copy()
    for n in moving:
        own = np.flatnonzero(link["source"] == n)
        result[own] = False
        result[own[np.argmin(distance[own])]] = True
    return result


def moving_arrays(
    config: EnvironmentConfig, network: Network, moving: frozenset[int], directions: Directions
) -> Moving:
    """Return how nodes move.

    Args:
        config: of the environment.
        network: from `with_access`.
        moving: `moving_nodes`.
        directions: of the links, in the order of the arrays.

    Raises:
        ConfigError: keys do not fit together, a file does not hold positions of every node that moves, or there is no
            way between two access points.
    """
    mobility = config.mobility
    if mobility is None:
        return NOTHING
    order = sorted(moving)
    _check_links(moving, directions, network)
    movement = np.zeros(1, MOVEMENT)
    record = movement[0]
    record["update_s"] = mobility.update_s
    record["hysteresis_m"] = mobility.hysteresis_m
    record["breaks"] = mobility.handover == "break_before_make"
    who = np.zeros(len(order), MOVING)
    who["node"] = order
    position = NOTHING.position
    if isinstance(mobility.movement, RandomWaypoint):
        area_m = mobility.movement.area_m or getattr(config.topology, "area_m", None)
        if area_m is None:
            raise ConfigError("mobility.movement.area_m: missing, and this topology has no area_m")
        record["width_m"], record["height_m"] = area_m
        record["slowest_m_per_s"], record["fastest_m_per_s"] = mobility.movement.speed_m_per_s
        write_duration(record["pause"], mobility.movement.pause_s)
    else:
        position = _recorded(mobility.movement.path, order, network, who)
    place = np.zeros(len(network.nodes), PLACE)
    place["x_m"], place["y_m"] = np.array([node.position_m for node in network.nodes]).T
    place["moving"] = NONE
    place["moving"][order] = np.arange(len(order))
    return Moving(movement, who, position, place, _next_links(network, moving, directions))


def _check_links(moving: frozenset[int], directions: Directions, network: Network) -> None:
    for (a, b), direction in directions.items():
        if a not in moving and b not in moving:
            continue
        drawn = direction.radio is not None and direction.radio.draws
        for key, given in (
            ("fading or shadowing", drawn),
            ("noise_over: message", direction.message_noise_hz > 0),
            ("rate_schedule", direction.rate_schedule is not None and direction.radio is not None),
        ):
            if given:
                raise ConfigError(
                    f"links: {network.nodes[a].name} - {network.nodes[b].name}: {key}, and a node that moves: its rate "
                    "follows from the distance alone; leave one of the two out"
                )


def _recorded(name: str, moving: list[int], network: Network, who: Array) -> Array:
    """Return the recorded positions, and write whose they are."""
    path = find_data(name)
    rows: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    names = {network.nodes[n].name for n in moving}
    columns = ("time_s", "node", "x_m", "y_m")
    given = numbers_of_rows(path, columns, "a trace of positions", text="node", signed=("x_m", "y_m"))
    for number, row in enumerate(given, start=1):
        node = str(row["node"])
        if node not in names:
            raise ConfigError(
                f"{path}: row {number}: column 'node': no node that moves is named '{node}'.{nearest(node, names)}"
            )
        own = rows[node]
        if own and not row["time_s"] > own[-1][0]:
            raise ConfigError(
                f"{path}: row {number}: column 'time_s': {row['time_s']:g} s is not after {own[-1][0]:g} s of '{node}'"
            )
        own.append((row["time_s"], row["x_m"], row["y_m"]))
    position = []
    for i, n in enumerate(moving):
        if network.nodes[n].name not in rows:
            raise ConfigError(f"{path}: no rows for node '{network.nodes[n].name}', which moves")
        who[i]["first_position"] = len(position)
        position += rows[network.nodes[n].name]
        who[i]["end_position"] = len(position)
    return np.array(position, POSITION)


def _next_links(network: Network, moving: frozenset[int], directions: Directions) -> Array:
    """Return [N, N] the link that leads from one node to another one on a way of the fewest links; NONE: none does.

    Ways lead over nodes that do not move, nor through the cloud.
    """
    passable = [n for n, node in enumerate(network.nodes) if n not in moving and not node.cloud]
    graph = network.graph().subgraph(passable)
    index = {pair: i for i, pair in enumerate(directions)}
    following = np.full((len(network.nodes),) * 2, NONE, np.int32)
    points = {b if a in moving else a for a, b in network.links if (a in moving) != (b in moving)}
    for there in sorted(points):
        for here, way in sorted(nx.single_source_shortest_path(graph, there).items()):
            if here != there:
                following[here, there] = index[here, way[-2]]
        cut_off = [n for n in points if n != there and following[n, there] == NONE]
        if cut_off:
            raise ConfigError(
                f"mobility: no way leads from access point '{network.nodes[min(cut_off)].name}' to "
                f"'{network.nodes[there].name}', over which results could be forwarded after a handover"
            )
    return following
