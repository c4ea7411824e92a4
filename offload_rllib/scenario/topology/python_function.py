"""Networks that a function of the user returns."""

from __future__ import annotations

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology import PythonTopology
from offload_rllib.scenario.functions import load_function
from offload_rllib.scenario.network import Network

KEY = "topology.function"


def build(config: PythonTopology, rng: np.random.Generator) -> Network:
    """Return what the function returns, called with a seed and the configured arguments.

    Raises:
        ConfigError: there is no such function, it raises an error, or it returns something else.
    """
    network = load_function(config.function, KEY)(seed=int(rng.integers(2**63)), **config.arguments)
    if not isinstance(network, Network):
        raise ConfigError(
            f"{KEY}: {config.function}: must return an offload_rllib.scenario.network.Network, returned "
            f"{type(network).__name__}"
        )
    return network
