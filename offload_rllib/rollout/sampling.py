"""What the two ways of sampling, at intervals and at arrivals, need of the runner that they sample for."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from offload_rllib.simulator.types import Array


class How(NamedTuple):
    """How actions are chosen."""

    explore: bool
    random: bool

    @property
    def draws(self) -> bool:
        """Whether actions are drawn; otherwise the best ones are taken."""
        return self.explore or self.random


class SamplingRunner(Protocol):
    """The runner."""

    agents_of: dict[str, Array]
    """For each policy, in order, the indices [A_p] int64 of its agents."""
    owner: Array
    """[A] int64: number of the policy of each agent."""
    keys: Array
    """[E] uint64 of the episodes that are being played."""
    source: str
    """Whose environments these are."""
    steps_in_series: int
    """Steps of each environment before this sample, since all were reset."""
    credit: str
    """How decisions are credited, see `rollout.hindsight`."""
    in_hindsight: bool
    """Whether that needs what they have cost in hindsight."""
    charges: Array
    """[C, Y, OUTCOMES] float64: what the figures of constraints count (see `envs.costs.cost_table`)."""
    has_central_critic: bool
    """Whether learners need what all agents see."""
    joins: bool
    """Whether learners need the choices of all agents as one series (`rollout.team`)."""
    memory: int
    """H: units of each agent's memory; 0: agents remember nothing."""

    def score(
        self, scores: torch.Tensor, seen: torch.Tensor, valid: torch.Tensor, ends: Array, how: How, step: int
    ) -> None:
        """Write the scores of actions (see `BatchedEnvRunner.score`)."""
        ...

    def score_remembering(
        self, scores: torch.Tensor, seen: torch.Tensor, valid: torch.Tensor, ends: Array, memory: Array, how: How
    ) -> Array:
        """Write the scores of actions, return what is remembered (see `BatchedEnvRunner.score_remembering`)."""
        ...

    def finish_episodes(self, which: Array, returns: Array, env_steps: Array) -> None:
        """Log the episodes that ended in some environments (see `BatchedEnvRunner.finish_episodes`)."""
        ...

    def start_episodes(self, which: Array) -> None:
        """Begin the next episodes of some environments (see `BatchedEnvRunner.start_episodes`)."""
        ...
