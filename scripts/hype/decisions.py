"""How the rebuilt methods meet an environment: a walk over the native batch that remembers every decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from offload_rllib.envs.vector import ArrivalEnv, batch_of, training_key
from offload_rllib.rollout.agent_steps import discounts
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import Array

OPEN = -1
# As in the presets: per second, whatever the time between two decisions.
GAMMA = 0.99
FIRST_ROWS = 4096


class Extra(Protocol):
    """Numbers that a method needs beside what an agent observes: its history, or the state of all nodes."""

    size: int
    """Numbers per decision."""

    def of(self, environments: Array, agents: Array, observations: Array, /) -> Array:
        """Return the numbers [n, size] float32 of agents that look now.

        Args:
            environments: [n] int64.
            agents: [n] int64; below 0 where an episode has ended.
            observations: [n, F] float32.
        """
        ...

    def restart(self, environment: int, /) -> None:
        """Forget an episode: a new one begins."""


class NoExtra:
    """Nothing beside the observation."""

    size = 0

    def of(self, environments: Array, _agents: Array, _observations: Array, /) -> Array:
        """Return no numbers."""
        return np.zeros((len(environments), 0), np.float32)

    def restart(self, _environment: int, /) -> None:
        """Do nothing."""


class Decisions:
    """Decisions of agents as rows, in the order of time, each with the same agent's next one.

    A decision at time t earns a reward until the agent's next decision at t', which is discounted by gamma^(t' - t): a
    semi-Markov decision process. A row without a successor is open.

    Attributes:
        observations: [N, F] float32.
        masks: [N, R] int8.
        extras: [N, X] float32, see `Extra`.
        agents: [N] int64.
        actions: [N] int64; `OPEN` for a closing state.
        log_probabilities: [N] float32, of actions that were drawn.
        rewards: [N] float32, earned until the successor.
        discounts: [N] float32.
        successors: [N] int64, a row, or `OPEN`.
    """

    def __init__(self, features: int, actions: int, extra: int, agents: int) -> None:
        """Begin empty.

        Args:
            features: F.
            actions: R.
            extra: X.
            agents: A.
        """
        self._size = 0
        self.observations = np.zeros((FIRST_ROWS, features), np.float32)
        self.masks = np.zeros((FIRST_ROWS, actions), np.int8)
        self.extras = np.zeros((FIRST_ROWS, extra), np.float32)
        self.agents = np.zeros(FIRST_ROWS, np.int64)
        self.actions = np.full(FIRST_ROWS, OPEN, np.int64)
        self.log_probabilities = np.zeros(FIRST_ROWS, np.float32)
        self.rewards = np.zeros(FIRST_ROWS, np.float32)
        self.discounts = np.zeros(FIRST_ROWS, np.float32)
        self.successors = np.full(FIRST_ROWS, OPEN, np.int64)
        self._finished = np.zeros(FIRST_ROWS, np.int64)
        self.finished_count = 0
        self._of_agent: list[list[int]] = [[] for _ in range(agents)]

    def __len__(self) -> int:
        """N."""
        return self._size

    def add(self, observations: Array, masks: Array, agents: Array, extras: Array) -> Array:
        """Append decisions [n] that are open; return their rows [n]."""
        end = self._size + len(agents)
        while end > len(self.agents):
            self._double()
        rows = np.arange(self._size, end)
        self.observations[rows], self.masks[rows] = observations, masks
        self.agents[rows], self.extras[rows] = agents, extras
        self._size = end
        return rows

    def finish(self, rows: Array, rewards: Array, elapsed_s: Array, successors: Array) -> None:
        """Give decisions [n] their rewards, the time until their successors, and these."""
        self.rewards[rows] = rewards
        self.discounts[rows] = discounts(GAMMA, elapsed_s)
        self.successors[rows] = successors
        end = self.finished_count + len(rows)
        self._finished[self.finished_count : end] = rows
        self.finished_count = end
        for row, agent in zip(rows.tolist(), self.agents[rows].tolist(), strict=True):
            self._of_agent[agent].append(row)

    def finished(self, first: int = 0) -> Array:
        """Return the rows that have a successor, in the order in which they got it, from number `first` on."""
        return self._finished[first : self.finished_count]

    def samples_of(self, agent: int) -> int:
        """Return how many finished decisions an agent has."""
        return len(self._of_agent[agent])

    def drawn(self, rng: np.random.Generator, count: int) -> Array:
        """Return finished rows [count], uniformly at random, with replacement."""
        return self._finished[rng.integers(0, self.finished_count, count)]

    def drawn_of(self, agent: int, rng: np.random.Generator, count: int) -> Array:
        """Return finished rows [count] of one agent, uniformly at random, with replacement."""
        mine = self._of_agent[agent]
        return np.array([mine[i] for i in rng.integers(0, len(mine), count)], np.int64)

    def _double(self) -> None:
        for name in ("observations", "masks", "extras", "agents", "actions", "log_probabilities", "rewards"):
            setattr(self, name, _twice(getattr(self, name)))
        for name in ("discounts", "successors", "_finished"):
            setattr(self, name, _twice(getattr(self, name)))
        half = len(self.successors) // 2
        self.successors[half:] = self.actions[half:] = OPEN


def _twice(values: Array) -> Array:
    return np.concatenate([values, np.zeros_like(values)])


class Walk:
    """Training episodes of E environments, one decision after the other.

    Attributes:
        env: the native batch; every environment waits for a decision.
        memory: all decisions so far.
        decisions: taken so far.
    """

    def __init__(
        self,
        scenario: BuiltScenario,
        environments: int,
        seed: int,
        extra: Callable[[ArrivalEnv], Extra] | None = None,
        *,
        closings: bool = False,
    ) -> None:
        """Start the first episodes.

        Args:
            scenario: with `decisions.when: arrival`.
            environments: E.
            seed: of the training episodes, as `training.seed` of a run.
            extra: makes what is remembered beside observations, from the environment.
            closings: whether the ends of episodes become rows, too. Without them, the last decision of an agent in an
                episode stays open.
        """
        self.env: ArrivalEnv = batch_of(scenario, environments)
        self.extra: Extra = extra(self.env) if extra else NoExtra()
        self.memory = Decisions(self.env.observation_size, self.env.num_actions, self.extra.size, len(self.env.agents))
        self.decisions = 0
        self._seed, self._closings = seed, closings
        self._episodes = np.zeros(environments, np.int64)
        self._pending = np.full((environments, len(self.env.agents)), OPEN, np.int64)
        self._every = np.arange(environments)
        self._restart(self._every)

    def look(self) -> Array:
        """Return the rows [E] of the decisions to be taken now; those before them get their successors."""
        env = self.env
        extras = self.extra.of(self._every, env.deciding, env.observations)
        rows = self.memory.add(env.observations, env.masks, env.deciding, extras)
        before = self._pending[self._every, env.deciding]
        known = before != OPEN
        self.memory.finish(before[known], env.rewards[known], env.elapsed_s[known], rows[known])
        self._pending[self._every, env.deciding] = rows
        return rows

    def act(self, rows: Array, actions: Array) -> None:
        """Carry out the decisions [E] of `look`, and begin new episodes where one has ended."""
        self.memory.actions[rows] = actions
        self.decisions += len(rows)
        if self.env.step(actions):
            self._restart(np.flatnonzero(self.env.truncated))

    def _restart(self, ended: Array) -> None:
        while len(ended):
            for e in ended.tolist():
                if self._closings:
                    self._close(e)
                self._pending[e] = OPEN
                self.extra.restart(e)
            keys = [training_key(self._seed, 0, e, int(self._episodes[e])) for e in ended.tolist()]
            self._episodes[ended] += 1
            self.env.reset(np.array(keys, np.uint64), ended)
            ended = np.flatnonzero(self.env.truncated)  # an episode without any decision

    def _close(self, e: int) -> None:
        """Make what agents saw and earned at the end of an episode the successors of their last decisions."""
        agents = np.flatnonzero(self._pending[e] != OPEN)
        if not len(agents):
            return
        observations, masks, rewards, elapsed_s = self.env.closing(e)
        extras = self.extra.of(np.full(len(agents), e), agents, observations[agents])
        rows = self.memory.add(observations[agents], masks[agents], agents, extras)
        self.memory.finish(self._pending[e, agents], rewards[agents], elapsed_s[agents], rows)
