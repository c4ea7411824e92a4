"""Heuristics with the interface of trained policies."""

from __future__ import annotations

from offload_rllib.config.base import is_function_path
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.scenario.build import check_rule
from offload_rllib.scenario.functions import load_function
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.simulator.types import Array


def is_heuristic(name: str, where: str) -> bool:
    """Return whether a text names a rule or a user's function, checked, and not something else.

    Args:
        name: the text.
        where: what an error calls its place.

    Raises:
        ConfigError: the rule does not take that parameter, or the function cannot be used.
    """
    if name.partition(":")[0] in HEURISTICS:
        check_rule(name, where)
        return True
    if is_function_path(name):
        load_function(name, where)
        return True
    return False


class HeuristicPolicy:
    """A rule of `simulator.heuristics`, or a user's function, as a callable from observations and masks to actions.

    Rules compute with SI units from what the nodes know; observations show the same, scaled and rounded, so that a rule
    cannot be computed from them alone. It reads the environment it was fitted to by `on`.
    """

    def __init__(self, name: str, env: NativeEnv | None = None) -> None:
        """Take what `VectorEnv.heuristic_actions` takes, and the environment to read."""
        self.name = name
        self._env = env

    def seed(self, seed: int) -> None:
        """Do nothing: a rule's draws follow from the episode's key."""

    def on(self, env: NativeEnv) -> HeuristicPolicy:
        """Return the rule for the agents of an environment.

        Raises:
            ConfigError: the rule makes no sense in the environment.
        """
        if not is_function_path(self.name):
            check_rule(self.name, "policies", env.scenario.config)
        return HeuristicPolicy(self.name, env)

    def __call__(
        self, observations: Array, masks: Array, *, agents: Array | None = None, deterministic: bool = True
    ) -> Array:
        """Return actions [E, A], or [E] of those who decide, for the present state of the environment.

        Args:
            observations: of that environment.
            masks: of that environment.
            agents: makes no difference.
            deterministic: makes no difference.

        Raises:
            ValueError: no environment was given, or the arrays are not of its size.
        """
        if self._env is None:
            raise ValueError(
                f"the heuristic '{self.name}' reads the state of an environment: load_policy('{self.name}').on(env)"
            )
        if masks.shape != self._env.masks.shape:
            raise ValueError(f"the environment has masks of shape {self._env.masks.shape}, got {masks.shape}")
        return self._env.heuristic_actions(self.name)
