"""A network in numbers and as a picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from offload_rllib.config.files import written_at_once
from offload_rllib.scenario import BuiltScenario


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
            "unbounded" if of_kind[0].queue_capacity is None else _span([node.queue_capacity or 0 for node in of_kind]),
            _span([degree[i] for i in members]),
        )
    console.print(nodes)
    rates = 1 / scenario.arrays.link["seconds_per_bit"]
    figures = Table(show_header=False)
    figures.add_column("what")
    figures.add_column("value", justify="right")
    clients = sum(node.client for node in network.nodes)
    varies = load.rate_to > load.rate_from
    drawn = "; an episode draws its own, mean and range" if varies else ""
    span = f"  {load.rho * load.rate_from:.3f} to {load.rho * load.rate_to:.3f}" if varies else ""
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
    ):
        figures.add_row(what, value)
    console.print(figures)
    for note in scenario.notes:
        console.print(note, markup=False)


def _span(values: list[float] | list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def draw(scenario: BuiltScenario, path: Path, title: str) -> None:
    """Draw nodes at their positions and the links between them, as a PNG.

    The area of a node grows with the logarithm of its speed; clients have a dark rim.
    """
    network = scenario.network
    positions = np.array([node.position_m for node in network.nodes])
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for a, b in network.links:
        axis.plot(*positions[[a, b]].T, color="0.75", lw=0.8, zorder=1)
    slowest = min(node.speed for node in network.nodes)
    colours = mpl.colormaps["tab10"]
    for index, kind in enumerate(dict.fromkeys(node.type for node in network.nodes)):
        members = [i for i, node in enumerate(network.nodes) if node.type == kind]
        axis.scatter(
            *positions[members].T,
            s=[60 * (1 + np.log(network.nodes[i].speed / slowest)) for i in members],
            color=colours(index % 10),
            edgecolors=["black" if network.nodes[i].client else "none" for i in members],
            linewidths=1.2,
            zorder=2,
            label=f"{kind} ({len(members)})",
        )
    if len(network.nodes) <= 40:
        for node, (x, y) in zip(network.nodes, positions, strict=True):
            axis.annotate(node.name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=7, zorder=3)
    axis.margins(0.1)
    axis.set_xlabel("x, m")
    axis.set_ylabel("y, m")
    axis.set_aspect("equal", adjustable="datalim")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="black rim: client", labelspacing=1.2)
    axis.set_title(title, fontsize=10)
    with written_at_once(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
