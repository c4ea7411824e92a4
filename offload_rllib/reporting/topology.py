"""A network in numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
from rich.console import Console
from rich.table import Table

from offload_rllib.scenario import BuiltScenario
from offload_rllib.scenario.topology import resamples


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
            _queues([node.queue_capacity for node in of_kind], [node.queue_capacity_bits for node in of_kind]),
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


def _queues(tasks: list[int | None], bits: list[float | None]) -> str:
    """Return how many tasks, or bits, the queues of a type of nodes have room for."""
    megabits = [None if each is None else each / 1e6 for each in bits]
    shown = [_room(values) + unit for values, unit in ((tasks, ""), (megabits, " Mbit")) if any(values)]
    return ", ".join(shown) or "unbounded"


def _room(room: list[int | None] | list[float | None]) -> str:
    bounded = [each for each in room if each is not None]
    return _span(bounded) if len(bounded) == len(room) else f"{min(bounded):g} to unbounded"
