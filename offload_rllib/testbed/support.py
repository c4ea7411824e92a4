"""What of an environment a testbed can honour; everything else is rejected by name."""

from __future__ import annotations

import shutil

import numpy as np

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.config.base import is_function_path
from offload_rllib.scenario import BuiltScenario
from offload_rllib.scenario.links import gains_are_drawn
from offload_rllib.scenario.topology import resamples
from offload_rllib.simulator.heuristics import AS_RECORDED, SHORTEST_FINISH_ORACLE, parse_rule
from offload_rllib.simulator.types import PRIORITY
from offload_rllib.testbed.namespaces import why_not
from offload_rllib.testbed.setup import COMPUTE, NAMESPACES, NETWORK, REAL, SHAPED, Options

MOST_NODES = 256


def check_options(options: Options) -> None:
    """Raise ConfigError if a testbed cannot be played like this."""
    if not 0 < options.speed <= 1e6:
        raise ConfigError(f"--speed {options.speed:g}: accepted: above 0, up to 1e6")
    for name, value, accepted in (("compute", options.compute, COMPUTE), ("network", options.network, NETWORK)):
        if value not in accepted:
            raise ConfigError(f"--{name} '{value}': accepted: {', '.join(accepted)}")
    if (options.compute == "command") != bool(options.command):
        raise ConfigError("--compute command and --command 'PROGRAM ARGUMENT...' need each other")
    if options.network == NAMESPACES and (reason := why_not()):
        raise ConfigError(f"--network {NAMESPACES}: {reason}; accepted here: {SHAPED}, {REAL}")
    if options.command and shutil.which(options.command[0]) is None:
        raise ConfigError(f"--command: '{options.command[0]}': no such program")


def check_rule_of_node(name: str, where: str) -> tuple[int, float]:
    """Return code and parameter of a rule that a node can follow by what it knows.

    Raises:
        ConfigError: it needs more.
    """
    if is_function_path(name):
        raise ConfigError(f"{where}: '{name}': a function sees all nodes at once; accepted: rules and trained policies")
    code, parameter = parse_rule(name)
    if code == SHORTEST_FINISH_ORACLE:
        raise ConfigError(f"{where}: '{name}' needs the true state of other nodes, which no real node knows")
    if code == AS_RECORDED:
        raise ConfigError(f"{where}: '{name}' needs recorded destinations, which a testbed does not hand to its nodes")
    return code, parameter


def check_environment(config: EnvironmentConfig, scenario: BuiltScenario, options: Options) -> None:
    """Raise ConfigError if the nodes of a testbed cannot do what an environment asks for."""
    refused = {
        f"decisions.when: {config.decisions.when}": (
            config.decisions.when != "arrival",
            "nodes decide when a task arrives; accepted: arrival",
        ),
        f"information.kind: {config.information.kind}": (
            config.information.kind != "broadcast",
            "no real node knows the others' state at once; accepted: broadcast",
        ),
        f"information.embedding: {config.information.embedding}": (
            config.information.embedding > 0,
            "nodes broadcast their state alone; accepted: 0",
        ),
        f"service: {config.service}": (
            config.service == "shared" or (config.cloud is not None and config.cloud.service == "shared"),
            "cores are not shared by tasks; accepted, for cloud.service as well: pooled, parallel",
        ),
        "instructions_per_second: 0": (
            any(node.speed <= 0 for node in scenario.network.nodes),
            "every node is a process that serves tasks; accepted: above 0",
        ),
        "decisions.reject: true": (config.decisions.reject, "nodes keep tasks or send them; accepted: false"),
        "decisions.destinations: routed": (
            config.decisions.destinations == "routed",
            "nodes have connections to their neighbours alone; accepted: neighbours",
        ),
        "setup": (config.setup is not None, "a process serves every type of task at once; accepted: null"),
        "topology.resample: episode": (resamples(config.topology), "all plays have one network; accepted: never"),
        "failures.tasks: returned": (
            config.failures is not None and config.failures.tasks == "returned",
            "a process that is killed returns nothing; accepted: lost",
        ),
        f"observe: {config.observe}": (
            isinstance(config.observe, str) and is_function_path(config.observe),
            "a function sees all nodes at once; accepted: full, paper, or groups of features",
        ),
        f"links with a loss_probability, and --network {options.network}": (
            options.network != SHAPED and bool(scenario.arrays.link_law["loss_probability"].any()),
            "TCP repeats what a real link loses; accepted: --network shaped",
        ),
        "mobility": (config.mobility is not None, "processes do not move; accepted: null"),
        "queue: priority": (
            PRIORITY in scenario.arrays.node["queue"],
            "a station orders tasks by their own numbers; accepted: fifo, lifo, edf, sjf",
        ),
        "links.rate_schedule": (len(scenario.arrays.rate_change) > 0, "rates of links do not change; accepted: null"),
        "links.contention: shared": (
            bool((scenario.arrays.link_law["throughputs"] > 0).any()),
            "nodes send messages over a link one after the other, or at once; accepted: none, fifo",
        ),
        "links.channel": (
            bool((scenario.arrays.link_law["queue"] != np.arange(len(scenario.arrays.link_law))).any()),
            "nodes know of no message but their own; accepted: direction",
        ),
        "links with fading or shadowing": (
            gains_are_drawn(scenario.arrays.link_law),
            "transfers over a link have one rate; accepted: none",
        ),
        f"{len(scenario.network.nodes)} nodes": (
            len(scenario.network.nodes) > MOST_NODES,
            f"each is a process; accepted: up to {MOST_NODES}",
        ),
    }
    for what, (is_refused, why) in refused.items():
        if is_refused:
            raise ConfigError(f"testbed: {what}: {why}")
    if scenario.others:
        check_rule_of_node(config.agents.others, "agents.others")
