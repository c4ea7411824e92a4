"""What a runner hands to a learner: consecutive steps of several environments, in arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from offload_rllib.simulator.types import Array


@dataclass(frozen=True)
class Fragment:
    """T consecutive steps of E environments, for the A agents that one policy acts for.

    Episodes end by truncation alone. Where one ended with step t, `observations[t + 1]` is the first of the next
    episode, and its own last observation is among the `final_observations`, in the order of
    ``np.argwhere(truncated)``.
    """

    module_id: str
    """Of the policy, in RLlib."""
    agents: tuple[str, ...]
    """Names of the A agents."""
    observations: Array
    """[T + 1, E, A, F] float32."""
    masks: Array
    """[T + 1, E, A, R] int8, 1 where an action is valid."""
    actions: Array
    """[T, E, A] int32."""
    log_probabilities: Array
    """[T, E, A] float32: of the actions, under the policy that took them; 0 where there was no choice."""
    rewards: Array
    """[T, E, A] float32."""
    truncated: Array
    """[T, E] bool: the episode ended with this step."""
    final_observations: Array
    """[K, A, F] float32: what was seen at the end of the K episodes that ended."""
    final_masks: Array
    """[K, A, R] int8."""
    source: str = ""
    """Whose environments these are; the fragments of a source follow each other."""
    start: int | None = None
    """Steps that each of them took before, since all were begun anew; None: not counted."""

    @property
    def env_steps(self) -> int:
        """T x E."""
        return self.truncated.size

    @property
    def agent_steps(self) -> int:
        """T x E x A."""
        return self.actions.size

    def choices(self) -> Array:
        """Return [T, E, A] bool: which steps had more than one valid action."""
        return self.masks[:-1].sum(-1, dtype=np.int32) > 1

    def split(self, parts: int, part: int) -> list[Fragment]:
        """Return the environments of one of several parts, as at most one fragment; views of this one's arrays."""
        environments = np.arange(self.truncated.shape[1])
        mine = np.array_split(environments, parts)[part]
        if not len(mine):
            return []
        first, last = int(mine[0]), int(mine[-1]) + 1
        ended = np.argwhere(self.truncated)[:, 1]
        finals = (ended >= first) & (ended < last)
        return [
            replace(
                self,
                observations=self.observations[:, first:last],
                masks=self.masks[:, first:last],
                actions=self.actions[:, first:last],
                log_probabilities=self.log_probabilities[:, first:last],
                rewards=self.rewards[:, first:last],
                truncated=self.truncated[:, first:last],
                final_observations=self.final_observations[finals],
                final_masks=self.final_masks[finals],
            )
        ]
