"""What a runner samples where all agents act at every step: consecutive steps of several environments, in arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from offload_rllib.rollout.agent_steps import AgentSteps
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
    """Steps that each of them took before, since all were restarted; None: not counted."""
    interval_s: float = 1.0
    """Time between two steps."""
    costs: Array = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.float32))
    """[T, E, A, C] float32: see `AgentSteps`."""
    counted: Array = field(default_factory=lambda: np.zeros((0, 2)))
    """[C, 2] float64: see `AgentSteps`."""

    @property
    def env_steps(self) -> int:
        """T x E."""
        return self.truncated.size

    @property
    def agent_steps(self) -> int:
        """T x E x A."""
        return self.actions.size

    @property
    def choices(self) -> Array:
        """[T, E, A] bool: which steps had more than one valid action."""
        return self.masks[:-1].sum(-1, dtype=np.int32) > 1

    def agent_steps_of(self, joint: tuple[Array, Array] | None = None) -> AgentSteps:
        """Return the steps as rows, by time, environment and agent; views of this fragment's arrays.

        Args:
            joint: observations [T + 1, E, N, F] of all agents, and those [K, N, F] at the ends of episodes.
        """
        steps, environments, agents = self.actions.shape
        rows, wide = self.actions.size, environments * agents
        # Behind the rows come the states after the last step, then those at the ends of episodes.
        following = np.arange(wide, rows + wide)
        ends = np.argwhere(self.truncated)
        last = (ends[:, :1] * environments + ends[:, 1:]) * agents + np.arange(agents)
        following[last.ravel()] = rows + wide + np.arange(last.size)
        finals = len(ends)
        moment = joint_observations = None
        if joint is not None:
            moment = np.repeat(np.arange((steps + 1) * environments + finals), agents)
            joint_observations = np.concatenate([joint[0].reshape(-1, *joint[0].shape[2:]), joint[1]])
        agent = np.tile(np.arange(agents), (steps + 1) * environments + finals)
        of_steps = np.tile(np.repeat(np.arange(environments), agents), steps + 1)
        return AgentSteps(
            module_id=self.module_id,
            agents=self.agents,
            agent=agent,
            environment=np.concatenate([of_steps, np.repeat(ends[:, 1], agents)]),
            observations=_rows([self.observations[:-1]]),
            masks=_rows([self.masks[:-1]]),
            actions=self.actions.reshape(-1),
            log_probabilities=self.log_probabilities.reshape(-1),
            rewards=self.rewards.reshape(-1),
            costs=self.costs.reshape(-1, self.costs.shape[-1]) if self.costs.size else np.zeros((0, 0), np.float32),
            counted=self.counted,
            elapsed_s=np.full(rows, self.interval_s),
            following=following,
            closing_observations=_rows([self.observations[-1], self.final_observations]),
            closing_masks=_rows([self.masks[-1], self.final_masks]),
            ended=np.arange(wide + finals * agents) >= wide,
            env_steps=self.env_steps,
            joint=joint_observations,
            moment=moment,
            source=self.source,
            start=self.start,
            steps=steps,
            environments=environments,
        )


def _rows(parts: list[Array]) -> Array:
    """Return arrays [..., n] as rows [N, n] of one; a view if there is only one."""
    rows = [part.reshape(-1, part.shape[-1]) for part in parts]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)
