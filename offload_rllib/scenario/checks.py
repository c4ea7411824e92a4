"""Checks that keys of different parts of an environment fit together."""

from __future__ import annotations

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.simulator.types import NONE, Array


def check_keys(config: EnvironmentConfig) -> None:
    """Check that keys fit together.

    Raises:
        ConfigError: they do not.
    """
    if not config.workload.has_deadlines:
        if config.deadlines.expiry == "queued":
            raise ConfigError(
                "deadlines.expiry: queued needs deadlines: workload.deadline_s, or those of types or rows"
            )
        for key, queue in (("queue", config.queue), ("cloud.queue", config.cloud.queue if config.cloud else "fifo")):
            if queue == "edf":
                raise ConfigError(
                    f"{key}: edf (earliest deadline first) needs workload.deadline_s, or deadlines of types or rows. "
                    "Accepted without: fifo, lifo, sjf, priority."
                )
    by_priority = "priority" in (config.queue, config.cloud.queue if config.cloud else "")
    if by_priority != bool(config.priorities):
        raise ConfigError(
            "queue: priority (or cloud.queue) and priorities go together: the one orders waiting tasks by the other "
            f"(given: queue: {config.queue}, priorities: {config.priorities})"
        )
    if config.reward.name == "peersimgym" and config.decisions.tasks_per_decision > 1:
        raise ConfigError(
            "reward.name: peersimgym prices one decision per step and needs decisions.tasks_per_decision: 1 "
            f"(given: {config.decisions.tasks_per_decision})"
        )
    if config.decisions.reject and config.reward.name in ("paper", "peersimgym"):
        raise ConfigError(
            f"decisions.reject: true: reward.name: {config.reward.name} prices a place for every task, and a rejected "
            "one has none. Accepted: delay, sparse, or a function"
        )
    if config.decisions.offer == "newest" and config.decisions.tasks_per_decision > 1:
        raise ConfigError(
            "decisions.offer: newest offers one task and needs decisions.tasks_per_decision: 1 "
            f"(given: {config.decisions.tasks_per_decision})"
        )


def check_channels(config: EnvironmentConfig, link_law: Array) -> None:
    """Check that links do not change, and share nothing, where time has ticks.

    Args:
        config: the environment.
        link_law: [M] LINK_LAW.

    Raises:
        ConfigError: they do.
    """
    if config.tick_s is not None and (link_law["channel"] != NONE).any():
        raise ConfigError(
            f"tick_s: {config.tick_s:g}: in ticks no link shares its rate, or has one that changes; accepted: no "
            "tick_s, or links without contention: shared and rate_schedule, and no mobility"
        )
