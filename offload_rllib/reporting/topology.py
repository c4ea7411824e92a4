"""A network in numbers and as a picture."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import matplotlib as mpl
import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from offload_rllib.config import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.config.names import one_line
from offload_rllib.scenario import BuiltScenario
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology import resamples

COLOURS = mpl.colormaps["tab10"]
DPI = 150
MOST_NAMES = 60
MOST_DRAWN = 20_000  # beyond that a picture shows nothing more, and takes long
NAME_POINTS = 7


def print_numbers(scenario: BuiltScenario, console: Console) -> None:
    """Print nodes by type, links, and the offered load."""
    network, load = scenario.network, scenario.load
    nodes = Table(title=f"{len(network.nodes)} nodes, {len(network.links)} links, {len(scenario.agents)} agents")
    for title in ("type", "nodes", "clients", "agents", "cores", "speed, instr/s", "queue", "neighbours"):
        nodes.add_column(title, justify="left" if title == "type" else "right")
    degree = dict(network.graph().degree)
    agents = set(scenario.agents)
    for kind, count in Counter(node.type for node in network.nodes).items():
        members = [i for i, node in enumerate(network.nodes) if node.type == kind]
        of_kind = [network.nodes[i] for i in members]
        nodes.add_row(
            kind,
            str(count),
            str(sum(node.client for node in of_kind)),
            str(sum(node.name in agents for node in of_kind)),
            _span([node.cores for node in of_kind]),
            _span([node.speed for node in of_kind]),
            _queues([node.queue_capacity for node in of_kind]),
            _span([degree[i] for i in members]),
        )
    console.print(nodes)
    redraws = resamples(scenario.config.topology)
    rates = 1 / scenario.arrays.link["seconds_per_bit"]
    figures = Table(
        show_header=False,
        title="every episode draws its own network; this one is that of the seed" if redraws else None,
    )
    figures.add_column("what")
    figures.add_column("value", justify="right")
    clients = sum(node.client for node in network.nodes)
    varies = load.rate_to > load.rate_from
    drawn = "; an episode draws its own, mean and range" if varies else ""
    span = f"  {load.rho * load.rate_from:.3f} to {load.rho * load.rate_to:.3f}" if varies else ""
    decisions = scenario.config.decisions
    when = "when a task arrives" if decisions.when == "arrival" else f"every {decisions.interval_s:g} s"
    for what, value in (
        (
            "link rate, Mbit/s (lowest, median, highest)",
            " ".join(f"{q / 1e6:.1f}" for q in np.quantile(rates, (0, 0.5, 1))),
        ),
        ("capacity that clients reach, instr/s", f"{load.capacity:.4g}"),
        ("tasks per second (each client, all)", f"{load.rate_per_client:.4g}  {load.rate_per_client * clients:.4g}"),
        ("mean work of a task, instr", f"{load.mean_work:.4g}"),
        ("tasks that could meet their deadline", f"{load.feasible_share:.1%}"),
        (f"offered load rho (of those){drawn}", f"{load.rho:.3f}{span}"),
        ("plain ratio (work of all tasks / capacity)", f"{load.rho_of_all_tasks:.3f}"),
        ("tasks in an episode", f"{load.rate_per_client * clients * scenario.config.horizon_s:,.4g}"),
        ("agents decide", when),
    ):
        figures.add_row(what, value)
    if decisions.when == "interval":
        figures.add_row(
            "tasks between two decisions of the busiest node; it decides",
            f"{scenario.cost.tasks_per_interval:.3g}; {decisions.tasks_per_decision}",
        )
    console.print(figures)
    for note in scenario.notes:
        console.print(note, markup=False)


def _span(values: list[float] | list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _queues(capacities: list[int | None]) -> str:
    bounded = [capacity for capacity in capacities if capacity is not None]
    if len(bounded) == len(capacities):
        return _span(bounded)
    return f"{min(bounded)} to unbounded" if bounded else "unbounded"


def drawn_part(network: Network) -> Network:
    """Return the network; of one that is too large for a picture, the nodes nearest to the first in hops."""
    if len(network.nodes) <= MOST_DRAWN:
        return network
    nearest = (after for _, after in nx.bfs_edges(network.graph(), 0))
    kept = sorted([0, *islice(nearest, MOST_DRAWN - 1)])
    place = {i: new for new, i in enumerate(kept)}
    links = tuple((place[a], place[b]) for a, b in network.links if a in place and b in place)
    return Network(tuple(network.nodes[i] for i in kept), links)


def layout(network: Network) -> tuple[np.ndarray, bool]:
    """Return where to draw each node [N, 2], and whether these are the nodes' own positions in metres.

    Nodes that all have nearly the same position get a layout from networkx: Kamada-Kawai for up to 200 nodes, otherwise
    a spring layout with a fixed seed.
    """
    positions = np.array([node.position_m for node in network.nodes])
    if len(np.unique(positions, axis=0)) > len(positions) / 2:
        return positions, True
    graph = network.graph()
    places = nx.kamada_kawai_layout(graph) if len(positions) <= 200 else nx.spring_layout(graph, seed=0)
    return np.array([places[i] for i in range(len(positions))]), False


PICTURES = ("png", "svg", "pdf")


def picture_format(path: Path) -> str:
    """Return the picture format of a file name.

    Raises:
        ConfigError: its ending is not in `PICTURES`.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in PICTURES:
        raise ConfigError(f"--out {path}: accepted endings: {', '.join(PICTURES)}")
    return ending


def draw(scenario: BuiltScenario, path: Path, title: str) -> None:
    """Draw the nodes and the links between them, as a PNG.

    The area of a node grows with the logarithm of its speed and shrinks where there are many; clients have a dark
    rim. Names are shown where there is room for them. Of very large networks a part is drawn, and the title says so.
    """
    network = drawn_part(scenario.network)
    if network is not scenario.network:
        of = f"of {len(scenario.network.nodes):,}"
        title += f" (the {len(network.nodes):,} nodes nearest to {network.nodes[0].name}, {of})"
    positions, in_metres = layout(network)
    count = len(network.nodes)
    side = 6.5 if count <= 200 else 9.0
    figure = Figure(figsize=(side + 1.5, side), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    # The more ink the links need, the fainter they are: their density shows instead of a blot.
    links = positions[np.array(network.links, np.int64).reshape(-1, 2)]
    length = np.linalg.norm(links[:, 0] - links[:, 1], axis=1).sum() / np.linalg.norm(np.ptp(positions, axis=0))
    strength = float(np.clip(100 / max(length, 1), 0.06, 1))
    axis.add_collection(LineCollection(list(links), colors="0.6", linewidths=0.3 + 0.6 * strength, alpha=strength))
    axis.autoscale_view()
    area = 60 * min(1.0, 60 / count)
    slowest = min(node.speed for node in network.nodes)
    for index, kind in enumerate(dict.fromkeys(node.type for node in network.nodes)):
        members = [i for i, node in enumerate(network.nodes) if node.type == kind]
        axis.scatter(
            *positions[members].T,
            s=[area * (1 + np.log(network.nodes[i].speed / slowest)) for i in members],
            color=COLOURS(index % COLOURS.N),
            edgecolors=["black" if network.nodes[i].client else "none" for i in members],
            linewidths=1.2 * min(1.0, (100 / count) ** 0.5),
            zorder=2,
            label=f"{kind} ({len(members)})",
        )
    axis.margins(0.1)
    axis.set_aspect("equal", adjustable="datalim")
    if in_metres:
        axis.set_xlabel("x, m")
        axis.set_ylabel("y, m")
    else:
        axis.set_axis_off()
    legend = axis.legend(
        loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="black rim: client", labelspacing=1.2
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([60.0])
    axis.set_title(one_line(title), fontsize=10, parse_math=False)
    figure.draw_without_rendering()  # places are final, so that names can be measured against each other
    _write_names(axis, [node.name for node in network.nodes], positions)
    with written_at_once(path) as partial:
        figure.savefig(partial, dpi=DPI, format=picture_format(path))


def _write_names(axis: Axes, names: list[str], positions: np.ndarray) -> None:
    """Write each name beside its node, if there is room: not over another name or node, nor beyond the frame."""
    if len(names) > MOST_NAMES:
        return
    width, height = 0.62 * NAME_POINTS, 1.2 * NAME_POINTS  # of a letter, about
    per_pixel = 72 / DPI
    points = axis.transData.transform(positions) * per_pixel
    frame = axis.get_window_extent()
    left, bottom, right, top = (edge * per_pixel for edge in frame.extents)
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points.tolist()]
    for name, (x, y), place in zip(names, points.tolist(), positions, strict=True):
        back = -6 - width * len(name)
        for dx, dy in ((6, 5), (6, -5 - height), (back, 5), (back, -5 - height)):
            box = (x + dx, y + dy, x + dx + width * len(name), y + dy + height)
            inside = left < box[0] and bottom < box[1] and box[2] < right and box[3] < top
            if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
                looks = {"fontsize": NAME_POINTS, "zorder": 3, "parse_math": False}
                axis.annotate(name, place, xytext=(dx, dy), textcoords="offset points", **looks)
                taken.append(box)
                break
