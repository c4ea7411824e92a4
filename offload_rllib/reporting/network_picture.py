"""A network as a picture: nodes by type and load, links by rate, names beside their nodes."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import networkx as nx
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from scipy.spatial import KDTree

from offload_rllib.config import ConfigError
from offload_rllib.config.files import written_at_once
from offload_rllib.config.names import one_line
from offload_rllib.scenario import BuiltScenario
from offload_rllib.scenario.network import Network
from offload_rllib.simulator.types import Array

PICTURES = ("png", "svg", "pdf")
DPI = 150
MOST_DRAWN = 20_000  # beyond that a picture shows nothing more, and takes long
# Of larger networks the most linked nodes have names.
MOST_NAMES, NAMES_OF_LARGE = 60, 20
NAME_POINTS = 7
# Where a name may stand, seen from its node: points, and eighths of a turn.
NAME_DISTANCES = (5.0, 12.0, 22.0, 34.0)
NEAR = 12.0  # farther names have a line to their node
SHAPES = "osD^vphP*X<>"
LARGEST_AREA = 60.0  # square points of the slowest node of a small network
# How far a link bends aside, as a part of its length, and of how many pieces the curve is.
BEND, PIECES = 0.12, 12
MOST_CURVED = 3000
SAME_RATE = 1.01
SPREAD_ROUNDS = 80
WIDE = 10  # rates of more than this ratio have a logarithmic scale


def _part(name: str, low: float, high: float) -> Colormap:
    """Return the part of a colour map that is seen on white."""
    return LinearSegmentedColormap.from_list(name, colormaps[name](np.linspace(low, high, 64)))


# Both go from light to dark, so that they are read in grey as well.
RATES, LOADS = _part("Blues", 0.35, 1.0), _part("YlOrRd", 0.0, 0.9)


def drawn_part(network: Network) -> tuple[Network, list[int]]:
    """Return the network, and the indices of its nodes; of one that is too large the nodes nearest to the first."""
    if len(network.nodes) <= MOST_DRAWN:
        return network, list(range(len(network.nodes)))
    nearest = (after for _, after in nx.bfs_edges(network.graph(), 0))
    kept = sorted([0, *islice(nearest, MOST_DRAWN - 1)])
    place = {i: new for new, i in enumerate(kept)}
    links = tuple((place[a], place[b]) for a, b in network.links if a in place and b in place)
    return Network(tuple(network.nodes[i] for i in kept), links), kept


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


def moved_apart(places: Array, room: float, low: float = -math.inf, high: float = math.inf) -> Array:
    """Return places [N, 2] of which none is nearer to another than `room`, as far as there is space.

    Args:
        places: where they would be.
        room: least distance.
        low: of both coordinates.
        high: of both coordinates.
    """
    places = places.copy()
    # Nodes at one place move apart in different directions.
    angle = np.arange(len(places)) * math.pi * (3 - math.sqrt(5))
    places += 1e-4 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for _ in range(SPREAD_ROUNDS):
        pairs = KDTree(places).query_pairs(room, output_type="ndarray")
        if not len(pairs):
            break
        apart = places[pairs[:, 0]] - places[pairs[:, 1]]
        distance = np.linalg.norm(apart, axis=1, keepdims=True)
        push = 0.25 * (room - distance) * apart / distance
        np.add.at(places, pairs[:, 0], push)
        np.add.at(places, pairs[:, 1], -push)
        places = np.clip(places, low, high)
    return places


def picture_format(path: Path) -> str:
    """Return the picture format of a file name.

    Raises:
        ConfigError: its ending is not in `PICTURES`.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in PICTURES:
        raise ConfigError(f"--out {path}: accepted endings: {', '.join(PICTURES)}")
    return ending


def own_loads(scenario: BuiltScenario) -> Array:
    """Return the load [N] of each node if it kept what enters at it: feasible work per second over its speed.

    0 without a processor: such a node keeps nothing.
    """
    speed = np.array([node.speed for node in scenario.network.nodes])
    work = np.array(scenario.load.entry_rates) * scenario.load.mean_feasible_work
    return np.divide(work, speed, out=np.zeros(len(speed)), where=speed > 0)


def draw(scenario: BuiltScenario, path: Path, title: str) -> None:
    """Write `picture` to a file, as a PNG, SVG or PDF by its name."""
    figure = picture(scenario, title)
    with written_at_once(path) as partial:
        figure.savefig(partial, dpi=DPI, format=picture_format(path))


def picture(scenario: BuiltScenario, title: str) -> Figure:
    """Draw the nodes and the links between them.

    The shape of a node is its type, its colour its load if it kept its own tasks, a thick rim a client. Its area grows
    with the logarithm of its speed, and shrinks where there are many. A link is the wider and darker the higher its
    rate, and bends to the right of its direction; with one rate for both it is drawn once. Nodes that would cover each
    other are moved apart. Names are shown where they cover neither each other nor a node. Of very large networks a part
    is drawn, and the title says so.
    """
    network, kept = drawn_part(scenario.network)
    if network is not scenario.network:
        of = f"of {len(scenario.network.nodes):,}"
        title += f" (the {len(network.nodes):,} nodes nearest to {network.nodes[0].name}, {of})"
    count = len(network.nodes)
    side = 6.5 if count <= 200 else 9.0
    area = _areas(network)
    places, in_metres, moved = _places(network, 1.4 * math.sqrt(float(area.max())) / (0.75 * 72 * side))
    figure = Figure(figsize=(side + 1.7, side), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    _draw_links(figure, axis, scenario, kept, places)
    _draw_nodes(figure, axis, network, places, area, own_loads(scenario)[kept])
    axis.margins(0.1)
    axis.set_aspect("equal", adjustable="datalim")
    if in_metres:
        axis.set_xlabel("x, m" + (" (nodes moved apart)" if moved else ""))
        axis.set_ylabel("y, m")
    else:
        axis.set_axis_off()
    axis.set_title(one_line(title), fontsize=10, parse_math=False)
    figure.draw_without_rendering()  # places are final, so that names can be measured against each other
    _write_names(axis, network, places, np.sqrt(area) / 2)
    return figure


def _areas(network: Network) -> Array:
    """Return the area [N] of each node, square points."""
    speed = np.array([node.speed for node in network.nodes])
    slowest = speed[speed > 0].min()
    return LARGEST_AREA * min(1.0, 60 / len(speed)) * (1 + np.log(np.maximum(speed, slowest) / slowest))


def _places(network: Network, room: float) -> tuple[Array, bool, bool]:
    """Return where nodes are drawn [N, 2], whether in metres, and whether some were moved, for a room of the width."""
    positions, in_metres = layout(network)
    extent = float(np.ptp(positions, axis=0).max()) or 1.0
    places = moved_apart(positions / extent, room) * extent
    return places, in_metres, bool(np.abs(places - positions).max() > 1e-3 * extent)


def _curves(places: Array, ends: Array) -> list[Array]:
    """Return the points of each link [M, 2]: a parabola that bends to the right, or a line where there are many."""
    begin, end = places[ends[:, 0]], places[ends[:, 1]]
    if len(ends) > MOST_CURVED:
        return list(np.stack([begin, end], axis=1))
    along = end - begin
    right = BEND * np.stack([along[:, 1], -along[:, 0]], axis=1)
    part = np.linspace(0, 1, PIECES + 1)[:, None, None]
    return list((begin + part * along + 4 * part * (1 - part) * right).transpose(1, 0, 2))


def _draw_links(figure: Figure, axis: Axes, scenario: BuiltScenario, kept: list[int], places: Array) -> None:
    ends, rates = shown_links(scenario, kept)
    if not len(ends):
        return
    # The more ink the links need, the fainter they are: their density shows instead of a blot.
    length = np.linalg.norm(places[ends[:, 0]] - places[ends[:, 1]], axis=1).sum()
    strength = float(np.clip(30 / max(length / np.linalg.norm(np.ptp(places, axis=0)), 1), 0.08, 1))
    lowest, highest = rates.min() / 1e6, rates.max() / 1e6
    differ = highest > SAME_RATE * lowest
    share = np.log(rates / rates.min()) / np.log(highest / lowest) if differ else np.full(len(rates), 0.3)
    widths = (0.4 + 1.8 * share) * (0.35 + 0.65 * strength)
    drawn = LineCollection(_curves(places, ends), linewidths=widths, alpha=max(strength, 0.3), capstyle="round")
    if differ:
        norm = LogNorm(lowest, highest) if highest > WIDE * lowest else Normalize(lowest, highest)
        drawn.set(array=rates / 1e6, cmap=RATES, norm=norm)
        _bar(figure, axis, drawn, "rate, Mbit/s", 0.02)
    else:
        drawn.set_color("0.55")
    axis.add_collection(drawn)
    axis.autoscale_view()


def shown_links(scenario: BuiltScenario, kept: list[int]) -> tuple[Array, Array]:
    """Return the links that are drawn [M, 2], source and destination, and their rates [M], bits per second.

    A link with one rate for both directions is one; otherwise each direction is.

    Args:
        scenario: with the links.
        kept: the nodes that are drawn, whose places in this list the result has.
    """
    link = scenario.arrays.link[: 2 * len(scenario.network.links)]  # behind them there are paths
    place = np.full(len(scenario.network.nodes), -1)
    place[kept] = np.arange(len(kept))
    ends = np.stack([place[link["source"]], place[link["destination"]]], axis=1)
    rates = 1 / link["seconds_per_bit"]
    back = rates[link["reverse"]]
    same = np.maximum(rates, back) <= SAME_RATE * np.minimum(rates, back)
    shown = (ends >= 0).all(axis=1) & (~same | (link["source"] < link["destination"]))
    return ends[shown], rates[shown]


def _draw_nodes(figure: Figure, axis: Axes, network: Network, places: Array, area: Array, loads: Array) -> None:
    thin = min(1.0, (100 / len(network.nodes)) ** 0.5)
    norm = Normalize(0, max(1.0, float(loads.max())))
    drawn = None
    for index, kind in enumerate(dict.fromkeys(node.type for node in network.nodes)):
        members = [i for i, node in enumerate(network.nodes) if node.type == kind]
        drawn = axis.scatter(
            *places[members].T,
            s=area[members],
            c=loads[members],
            cmap=LOADS,
            norm=norm,
            marker=SHAPES[index % len(SHAPES)],
            edgecolors="black",
            linewidths=[(1.8 if network.nodes[i].client else 0.5) * thin for i in members],
            zorder=2,
            label=f"{one_line(kind)} ({len(members)})",
        )
    legend = axis.legend(
        loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="thick rim: client", labelspacing=1.0, fontsize=8
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([55.0])
            handle.set(array=None, facecolor="white", edgecolor="black", linewidth=0.8)
    if drawn is not None and loads.max() > 0:
        _bar(figure, axis, drawn, "load if it keeps its tasks", 0.36)


def _bar(figure: Figure, axis: Axes, drawn: ScalarMappable, label: str, bottom: float) -> None:
    """Draw what the colours mean, right of the picture."""
    bar = figure.colorbar(drawn, cax=axis.inset_axes((1.04, bottom, 0.03, 0.26)))
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.yaxis.set_minor_formatter("")
    if bar.solids is not None:
        bar.solids.set(alpha=1)


def _write_names(axis: Axes, network: Network, places: Array, radius: Array) -> None:
    """Write names beside their nodes where there is room: over no other name or node, nor beyond the frame."""
    names = [one_line(node.name) for node in network.nodes]
    degree = np.array([degree for _, degree in sorted(network.graph().degree)])
    order = np.argsort(-degree, kind="stable")
    shown = order if len(names) <= MOST_NAMES else order[:NAMES_OF_LARGE]
    per_pixel = 72 / DPI
    points = axis.transData.transform(places) * per_pixel
    frame = Bbox(axis.get_window_extent().get_points() * per_pixel)
    nodes = np.concatenate([points - radius[:, None] - 1, points + radius[:, None] + 1], axis=1)
    names_at = np.zeros((0, 4))
    renderer, font = RendererAgg(1, 1, DPI), FontProperties(size=NAME_POINTS)
    looks = {"fontsize": NAME_POINTS, "zorder": 3, "parse_math": False, "va": "center"}
    looks["path_effects"] = [withStroke(linewidth=1.5, foreground="white")]
    for i in shown.tolist():
        width = renderer.get_text_width_height_descent(names[i], font, False)[0] * per_pixel  # noqa: FBT003 - its signature
        height = 1.2 * NAME_POINTS
        for distance in NAME_DISTANCES:
            found = _room_for(
                points[i], float(radius[i]) + distance, (width, height), frame, np.vstack([nodes, names_at])
            )
            if found is not None:
                box, (dx, dy), align = found
                line = {"arrowstyle": "-", "color": "0.4", "lw": 0.4, "shrinkA": 0, "shrinkB": float(radius[i])}
                axis.annotate(
                    names[i],
                    tuple(places[i]),
                    xytext=(dx, dy),
                    textcoords="offset points",
                    ha=align,
                    arrowprops=line if distance > NEAR else None,
                    **looks,
                )
                names_at = np.vstack([names_at, box])
                break


def _room_for(
    point: Array, distance: float, size: tuple[float, float], frame: Bbox, taken: Array
) -> tuple[Array, tuple[float, float], str] | None:
    """Return a free box for a name around a point, its offset, and how it is aligned; None if there is none."""
    width, height = size
    for eighth in (1, 7, 3, 5, 0, 4, 2, 6):
        dx, dy = distance * math.cos(eighth * math.pi / 4), distance * math.sin(eighth * math.pi / 4)
        align = "left" if dx > 1e-9 else "right" if dx < -1e-9 else "center"
        left = point[0] + dx - {"left": 0.0, "right": width, "center": width / 2}[align]
        box = np.array([left, point[1] + dy - height / 2, left + width, point[1] + dy + height / 2])
        inside = frame.x0 < box[0] and frame.y0 < box[1] and box[2] < frame.x1 and box[3] < frame.y1
        covers = (box[0] < taken[:, 2]) & (taken[:, 0] < box[2]) & (box[1] < taken[:, 3]) & (taken[:, 1] < box[3])
        if inside and not covers.any():
            return box, (dx, dy), align
    return None
