"""Nodes without a processor: how far they are from one, and what a task that goes there is expected to meet."""

from __future__ import annotations

import numpy as np

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology import resamples
from offload_rllib.simulator.types import ONWARD, Array

# Hops to a processor where none can be reached: more than any task makes.
OUT_OF_REACH = 2**20


def check_processors(config: EnvironmentConfig, network: Network) -> None:
    """Check that an environment with nodes that have no processor asks for nothing that needs one at every node.

    Raises:
        ConfigError: it does.
    """
    without = [node.name for node in network.nodes if node.speed <= 0]
    if not without:
        return
    if len(without) == len(network.nodes):
        raise ConfigError("topology: no node has a processor: every instructions_per_second is 0")
    for refused, what, accepted in (
        (config.decisions.offer == "newest", "decisions.offer: newest", "arrival"),
        (config.tick_s is not None, "tick_s", "no tick_s"),
        (config.reward.name in ("paper", "peersimgym"), f"reward.name: {config.reward.name}", "delay, sparse"),
        (resamples(config.topology), "topology.resample: episode", "never"),
    ):
        if refused:
            raise ConfigError(
                f"{what} needs a processor at every node, and '{without[0]}' has none (instructions_per_second: 0). "
                f"Accepted: {accepted}"
            )


def onward_routes(
    seconds_per_instruction: Array, link: Array, offered: Array, mean_task: tuple[float, float, float], max_hops: int
) -> Array:
    """Return [N] ONWARD: of every node the way on to the processor that a task there is taken to go to.

    That is a way with the fewest hops, and of those the one on which a task of mean size is back the soonest if it
    waits nowhere. Where every node has a processor the array is empty.

    Args:
        seconds_per_instruction: [N] of a task alone at a node; infinite without a processor.
        link: [M] LINK.
        offered: [M] bool: the links that tasks may be sent over.
        mean_task: instructions, input and output bits of a mean task.
        max_hops: hop bound.
    """
    lacking = ~np.isfinite(seconds_per_instruction)
    if not lacking.any():
        return np.zeros(0, ONWARD)
    work, bits_in, bits_out = mean_task
    onward = np.zeros(len(seconds_per_instruction), ONWARD)
    onward["hops"] = np.where(lacking, OUT_OF_REACH, 0)
    onward["seconds_per_instruction"] = np.where(lacking, 0.0, seconds_per_instruction)
    soonest = np.where(lacking, np.inf, work * onward["seconds_per_instruction"])
    for hops in range(1, max_hops + 1):
        nearer = onward["hops"] == hops - 1
        taken = offered & nearer[link["destination"]] & (onward["hops"][link["source"]] == OUT_OF_REACH)
        for index in np.flatnonzero(taken).tolist():
            there, back = link[index], link[link[index]["reverse"]]
            source, destination = int(there["source"]), int(there["destination"])
            latency_s = there["latency_s"] + back["latency_s"]
            sending_s = bits_in * there["seconds_per_bit"] + bits_out * back["seconds_per_bit"]
            time_s = float(soonest[destination] + latency_s + sending_s)
            if time_s >= soonest[source]:
                continue
            soonest[source] = time_s
            onward[source] = onward[destination]
            onward[source]["hops"] = hops
            onward[source]["latency_s"] += there["latency_s"]
            onward[source]["seconds_per_bit"] += there["seconds_per_bit"]
            onward[source]["return_latency_s"] += back["latency_s"]
            onward[source]["return_seconds_per_bit"] += back["seconds_per_bit"]
    return onward


def leading_to_processors(onward: Array, link: Array, offered: Array, max_hops: int) -> Array:
    """Return [M] bool: the offered links but those over which no task could ever come to a processor in time."""
    if not len(onward):
        return offered
    return offered & (1 + onward["hops"][link["destination"]] <= max_hops)


def check_entries(onward: Array, entries: Array, network: Network, max_hops: int) -> None:
    """Check that a task can be processed wherever it enters.

    Args:
        onward: from `onward_routes`.
        entries: nodes that tasks enter first.
        network: the network.
        max_hops: hop bound.

    Raises:
        ConfigError: there is a node from which a task reaches no processor.
    """
    for n in entries.tolist():
        if len(onward) and onward["hops"][n] > max_hops:
            raise ConfigError(
                f"topology: tasks enter '{network.nodes[n].name}', which has no processor (instructions_per_second: "
                f"0), and reach none within decisions.max_hops: {max_hops}. Give it a speed, a link to a node with a "
                "processor, or more hops"
            )
