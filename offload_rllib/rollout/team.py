"""The choices of all agents as one series: what a mixer of action values learns from.

A task is decided at the moment of its arrival, so one agent acts at a time, and all others have nothing to decide.
What all agents see then is the team's observation, the deciding agent's mask and action are the team's, and the team's
reward is counted from one decision to the next, of whichever agent it is.
"""

from __future__ import annotations

import numpy as np

from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.simulator.types import Array

TEAM = "team"


def team_size(agents: int, observation_size: int) -> int:
    """Return how many numbers the team observes: those of all agents, and which of them decides."""
    return agents * observation_size + 1


def split_team(observations: Array, agents: int) -> tuple[Array, Array]:
    """Return what the agents saw [B, A, F] and who decided [B] int64, from what the team saw [B, A x F + 1]."""
    return observations[:, :-1].reshape(len(observations), agents, -1), observations[:, -1].astype(np.int64)


class TeamView:
    """The environments as a single agent would see them, with the attributes that `Recorder` reads of an `ArrivalEnv`.

    Rewards are those of `reward.scope: team`, which the environments must have.
    """

    def __init__(self, batch: ArrivalEnv) -> None:
        """Allocate the arrays."""
        self._batch = batch
        size, agents = batch.num_envs, len(batch.agents)
        self.agents = (TEAM,)
        self.observation_size = team_size(agents, batch.observation_size)
        self.deciding = np.zeros(size, np.int64)
        self.observations = np.zeros((size, self.observation_size), np.float32)
        # A view: the environments write what the agents see into the rows of the team.
        self._seen = self.observations[:, :-1].reshape(size, agents, -1)
        self.rewards = np.zeros(size, np.float32)
        self.elapsed_s = np.zeros(size)
        self._before_s = np.zeros(size)
        self.costs = np.zeros((size, 0), np.float32)
        self.time_s, self.masks = batch.time_s, batch.masks

    def begin(self, which: Array) -> None:
        """Notice that episodes begin in some environments."""
        self._before_s[which] = 0.0

    def look(self) -> None:
        """Write what the team sees at the pending decisions, and what it has earned since those before."""
        batch = self._batch
        self.time_s, self.masks = batch.time_s, batch.masks
        batch.observe_joint(self._seen)
        self.observations[:, -1] = batch.deciding
        for e in range(batch.num_envs):
            self.rewards[e] = batch.step_rewards(e, 1)[0]  # of agent 0, who stands for all
        np.subtract(self.time_s, self._before_s, out=self.elapsed_s)
        self._before_s[:] = self.time_s

    def closing(self, e: int) -> tuple[Array, Array, Array, Array]:
        """Return what the team sees at the end of environment `e`'s episode, as `ArrivalEnv.closing`."""
        observations, masks = self._batch.observe_all(e)
        seen = np.append(observations.ravel(), np.float32(0))[None]
        elapsed_s = self._batch.time_s[e : e + 1] - self._before_s[e]
        return seen, masks[:1], self._batch.step_rewards(e, 1), elapsed_s
