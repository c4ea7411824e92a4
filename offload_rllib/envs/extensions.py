"""A user's own functions: heuristics, observations and rewards, named in a configuration by a dotted path.

Each is called once per step for a whole batch of environments, with a view of it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config.base import is_function_path
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.layout import ObservationLayout
from offload_rllib.simulator.types import Array, Scenario, State


@dataclass(frozen=True)
class AgentView:
    """What a user's function is given: a batch at the moment of a decision. Its arrays are read, never written."""

    agents: tuple[str, ...]
    """Names of the A nodes that are to decide."""
    observations: Array
    """[E, A, F] float32: everything they see (`observe: full`), whatever the environment shows."""
    masks: Array
    """[E, A, R] int8, 1 where an action is valid; [E, A, k, R] if k > 1 tasks are decided at a time."""
    layout: ObservationLayout
    """What is where in the observations."""
    scenario: Scenario
    """What does not change in an episode: nodes, links, settings. Its arrays that belong to a network have a leading
    axis of 1, or of E with `topology.resample: episode`, as those of `simulator.batch`."""
    state: State
    """The true state of all E environments; who reads other nodes in it knows more than any node can."""


def load_function(path: str, where: str) -> Callable[[AgentView], Any]:
    """Return the function that ``package.module:function`` names; modules in the working folder are found, too.

    Args:
        path: the dotted path.
        where: the key that holds it, for messages.

    Raises:
        ConfigError: the text is no such path, or there is no such module or function.
    """
    if not is_function_path(path):
        raise ConfigError(f"{where}: '{path}' is not of the form package.module:function")
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(f"{where}: {path}: importing {module_name} failed: {error!r}") from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{where}: {path}: {module_name} has no function '{name}'")
    return function


def checked(result: Any, path: str, shape: tuple[int | None, ...], kind: type[np.generic]) -> Array:
    """Return what a user's function returned as an array, if it fits.

    Args:
        result: what it returned.
        path: of the function, for messages.
        shape: what is expected; None where any size will do.
        kind: `np.integer` or `np.floating`.

    Raises:
        ConfigError: the shape or the type is another, or a number is not finite.
    """
    array = np.asarray(result)
    fits = len(array.shape) == len(shape) and all(
        size in (None, given) for size, given in zip(shape, array.shape, strict=True)
    )
    number = np.issubdtype(array.dtype, kind) or (kind is np.floating and np.issubdtype(array.dtype, np.integer))
    if not fits or not number:
        words = "integers" if kind is np.integer else "numbers"
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ConfigError(f"{path} must return {words} of shape ({expected}); it returned {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ConfigError(f"{path} returned a number that is not finite")
    return array
