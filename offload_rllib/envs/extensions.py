"""A user's own functions: heuristics, observations and rewards, named in a configuration by a dotted path.

Each is called once per step for a whole batch of environments, with a view of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.layout import ObservationLayout
from offload_rllib.simulator.types import Array, Scenario, State

LARGEST = float(np.finfo(np.float32).max)


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
    deciding: Array | None = None
    """[E] index of the agent that decides, -1 where an episode has ended, with `decisions.when: arrival`. The arrays
    above then hold that agent alone: their axis of agents has length 1."""


def checked(result: Any, path: str, shape: tuple[int | None, ...], kind: type[np.generic]) -> Array:
    """Return what a user's function returned as an array, if it fits.

    Args:
        result: what it returned.
        path: of the function, for messages.
        shape: what is expected; None where any size will do.
        kind: `np.integer` or `np.floating`.

    Raises:
        ConfigError: the shape or the type is another, or a number is not finite as float32.
    """
    try:
        array = np.asarray(result)
    except ValueError as error:  # rows of different lengths
        raise ConfigError(f"{path} returned what is no array: {error}") from error
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
    if np.abs(array).max(initial=0) > LARGEST:
        raise ConfigError(f"{path} returned a number beyond {LARGEST:.3g}, the largest that a float32 holds")
    return array
