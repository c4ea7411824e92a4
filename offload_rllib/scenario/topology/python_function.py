"""Networks that a function of the user's returns."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology import PythonTopology
from offload_rllib.scenario.network import Network

KEY = "topology.function"


def function_at(path: str) -> Any:
    """Return the function at `package.module:function`. This imports, and so runs, the module.

    Raises:
        ConfigError: there is no such module or function.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{KEY}: {path}: cannot be imported: {error}; is it on PYTHONPATH?") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{KEY}: {path}: the module has no function '{name}'")
    return function


def build(config: PythonTopology, rng: np.random.Generator) -> Network:
    """Return what the function returns, called with a seed and the configured arguments.

    Raises:
        ConfigError: the function cannot be called so, or returns something else. What it raises itself is not caught.
    """
    network = function_at(config.function)(seed=int(rng.integers(2**63)), **config.arguments)
    if not isinstance(network, Network):
        raise ConfigError(
            f"{KEY}: {config.function}: must return an offload_rllib.scenario.network.Network, returned "
            f"{type(network).__name__}"
        )
    return network
