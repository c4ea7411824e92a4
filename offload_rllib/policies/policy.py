"""What every policy is to those who let it act: a rule, a trained policy, or one behind a service."""

from __future__ import annotations

from typing import Protocol

from offload_rllib.envs.vector import NativeEnv
from offload_rllib.simulator.types import Array


class Policy(Protocol):
    """A callable from observations and masks to actions.

    `HeuristicPolicy` computes a rule, `SavedPolicy` evaluates networks, `RemotePolicy` asks a service.
    """

    def on(self, env: NativeEnv) -> Policy:
        """Return the policy for the agents of an environment.

        Raises:
            ConfigError: it does not fit the environment.
        """
        ...

    def seed(self, seed: int) -> None:
        """Restart the policy's own draws."""

    def __call__(
        self, observations: Array, masks: Array, *, agents: Array | None = None, deterministic: bool = True
    ) -> Array:
        """Return actions [..., A], or [N] of some agents.

        Args:
            observations: [..., A, F] float32.
            masks: [..., A, R], 1 where an action is valid.
            agents: [N] int64, the agents that N rows belong to, as where decisions are taken at arrivals; by default
                the last axis but one is that of all agents.
            deterministic: take the best action; otherwise draw, if the policy draws at all.
        """
        ...
