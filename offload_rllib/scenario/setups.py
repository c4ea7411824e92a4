"""Set-ups: from the configuration to the seconds of each type of tasks."""

from __future__ import annotations

import numpy as np

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import nearest
from offload_rllib.scenario.network import Network
from offload_rllib.simulator.types import UNBOUNDED, Array

# What a node holds is broadcast as the bits of a number.
MOST_TYPES = 64


def setup_times(config: EnvironmentConfig, network: Network, types: tuple[str, ...]) -> Array:
    """Return the seconds [Y] of the set-up of each type of tasks; empty without set-ups.

    Args:
        config: the environment.
        network: the network.
        types: names [Y].

    Raises:
        ConfigError: there is no such type, there are too many, or the rest of the environment does not fit.
    """
    setup = config.setup
    if setup is None:
        return np.zeros(0)
    shared = config.service == "shared" or (config.cloud is not None and config.cloud.service == "shared")
    for refused, what, accepted in (
        (shared, "service: shared, also of the cloud", "pooled, parallel"),
        (config.tick_s is not None, "tick_s", "no tick_s"),
        (len(types) > MOST_TYPES, f"{len(types)} types of tasks", f"up to {MOST_TYPES}"),
    ):
        if refused:
            raise ConfigError(f"setup: does not go with {what}. Accepted: {accepted}")
    for name in setup.types:
        if name not in types:
            raise ConfigError(
                f"setup.types: no type of task is called '{name}'.{nearest(name, types)} Accepted: {', '.join(types)}"
            )
    if setup.slots is not None and config.service == "parallel":
        busiest = max((node for node in network.nodes if not node.cloud), key=lambda node: node.cores)
        if busiest.cores > setup.slots:
            raise ConfigError(
                f"setup.slots: {setup.slots}: '{busiest.name}' serves {busiest.cores} tasks at once, which may be of "
                f"as many types. Accepted: from {busiest.cores} up, or null"
            )
    seconds = []
    for name in types:
        of_type = setup.types.get(name)
        duration_s, bits = setup.duration_s, setup.image_bits
        if of_type is not None:
            duration_s = duration_s if of_type.duration_s is None else of_type.duration_s
            bits = bits if of_type.image_bits is None else of_type.image_bits
        seconds.append(duration_s + (bits / setup.fetch_bps if setup.fetch_bps is not None else 0.0))
    return np.array(seconds)


def slots_of(config: EnvironmentConfig) -> int:
    """Return how many types a node holds at most."""
    return UNBOUNDED if config.setup is None or config.setup.slots is None else config.setup.slots


def keep_warm_s_of(config: EnvironmentConfig) -> float:
    """Return how long a node holds a type that is not in use."""
    return np.inf if config.setup is None or config.setup.keep_warm_s is None else config.setup.keep_warm_s
