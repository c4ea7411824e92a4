"""The weights and priorities of types, and a penalty of drops with which dropping never gains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import nearest
from offload_rllib.config.score import Score
from offload_rllib.scenario.network import Network


def type_weights(score: Score, types: tuple[str, ...]) -> np.ndarray:
    """Return the weight [Y] of a task of each type.

    Raises:
        ConfigError: a weight is that of no type.
    """
    _check_types("score.weights", score.weights, types)
    return np.array([score.weights.get(name, 1.0) for name in types])


def type_priorities(priorities: Mapping[str, int], types: tuple[str, ...]) -> np.ndarray:
    """Return the priority [Y] int16 of a task of each type.

    Raises:
        ConfigError: a priority is that of no type.
    """
    _check_types("priorities", priorities, types)
    return np.array([priorities.get(name, 0) for name in types], np.int16)


def _check_types(key: str, given: Iterable[str], types: tuple[str, ...]) -> None:
    for name in given:
        if name not in types:
            raise ConfigError(
                f"{key}: no type of task is called '{name}'.{nearest(name, types)} Accepted: {', '.join(types)}"
            )


def check_drop_penalty(config: EnvironmentConfig, network: Network, *, all_have_deadlines: bool, drawn: bool) -> None:
    """Check that the penalty of a drop is stated, and not less than any late finish, where tasks may finish late.

    Args:
        config: the environment.
        network: of it.
        all_have_deadlines: whether every task has one.
        drawn: whether the network is that of one episode: it is checked once for all of them.

    Raises:
        ConfigError: `score.drop_s` is missing or too little; the message says why.
    """
    if drawn or (config.deadlines.expiry == "abort" and all_have_deadlines):
        return  # a task that does not finish scores its deadline, and none finishes later
    expiry = config.deadlines.expiry
    late = "tasks without a deadline" if not all_have_deadlines else f"late tasks (deadlines.expiry: {expiry})"
    accepted = (
        f"Accepted: numbers from horizon_s ({config.horizon_s:g}) up; or give every task a deadline, and "
        "deadlines.expiry: abort, with which a drop scores that"
    )
    drop_s = config.score.drop_s
    if drop_s is not None:
        if drop_s < config.horizon_s:
            raise ConfigError(
                f"score.drop_s: {drop_s:g} is less than horizon_s: {late} may finish as late as that, and dropping "
                f"them would pay. {accepted}"
            )
        return
    cause = _cause_of_drops(config, network)
    if cause:
        raise ConfigError(
            f"score.drop_s: missing: {late} may finish as late as the episode ends, and tasks can be dropped "
            f"({cause}), so what a drop scores must be stated. {accepted}"
        )


def _cause_of_drops(config: EnvironmentConfig, network: Network) -> str:
    """Return a reason for which tasks can be dropped; empty if there is none."""
    bounded = [node.name for node in network.nodes if node.queue_capacity is not None]
    if bounded:
        return f"node '{bounded[0]}' has a queue_capacity"
    if any(node.queue_capacity_bits is not None for node in network.nodes):
        return "a node has queue_capacity_bits"
    given = (config.links, *(override.medium or override for override in config.link_overrides), *config.link_overrides)
    if any(link.loss_probability for link in given):
        return "links have a loss_probability"
    if config.failures is not None:
        return "nodes have failures"
    if config.decisions.reject:
        return "decisions.reject"
    return "deadlines.expiry: queued" if config.deadlines.expiry == "queued" else ""
