"""How well anyone could do in `three_nodes_arrival`: what learned policies are held against."""

from __future__ import annotations

import numpy as np

from helpers.optimum import Rule
from offload_rllib.envs.arrival import ArrivalEnv

# The chain of `three_nodes_arrival`. Every task takes 1 s on a slow node and 0.25 s on the fast one.
STEP_S = 0.05
SLOW_TASK, FAST_TASK = 20, 5
SLOW_LEVELS, FAST_LEVELS = 61, 81
OVERFLOW_COST = 100.0


class ArrivalProgramming(Rule):
    """The best decisions in `three_nodes_arrival` for one who sees all three backlogs when a task arrives.

    Minimises the mean response time by relative value iteration (Puterman, "Markov decision processes", section
    8.5.1). A decision's cost is the response time of its task, which is known at once: service is in order of arrival
    and takes a known time. The chain is that of the simulator but for two things: time and backlogs are counted in
    steps of 0.05 s, in each of which two tasks at the most arrive, and links take no time. Learned policies see less:
    neither agent sees the backlog of the other.
    """

    name = "dynamic programming"

    def __init__(self, tasks_per_second: float, iterations: int = 400) -> None:
        """Find relative values [own, other, fast] in seconds, just behind a decision.

        The two slow nodes are alike: what holds for one holds for the other, with their places exchanged.
        """
        slow, fast = np.arange(SLOW_LEVELS), np.arange(FAST_LEVELS)
        self._kept_s = (slow * STEP_S + 1.0 + np.where(slow + SLOW_TASK >= SLOW_LEVELS, OVERFLOW_COST, 0.0))[:, None]
        self._sent_s = fast * STEP_S + 0.25 + np.where(fast + FAST_TASK >= FAST_LEVELS, OVERFLOW_COST, 0.0)
        expected = tasks_per_second * STEP_S
        none = np.exp(-expected)
        first, second = 1 - none, 1 - expected * none / (1 - none)
        values = np.zeros((SLOW_LEVELS, SLOW_LEVELS, FAST_LEVELS))
        for _ in range(iterations):
            later = _moved(values, -1, -1, -1)
            self.values = (1 - second) * later + second * self._decided(later)
            values = (1 - first) * later + first * self._decided(self.values)
            values -= values[0, 0, 0]

    def _decided(self, behind: np.ndarray) -> np.ndarray:
        """Return the values of the states in which a task arrives at either node, given those behind the decision."""
        kept = self._kept_s[:, None] + _moved(behind, SLOW_TASK, 0, 0)
        own = np.minimum(kept, self._sent_s + _moved(behind, 0, 0, FAST_TASK))
        return (own + own.transpose(1, 0, 2)) / 2

    def actions(self, env: ArrivalEnv) -> np.ndarray:
        """Return the best actions [E] for the true state."""
        backlog_s = np.stack([env.waits(e) for e in range(env.num_envs)])
        deciding = np.maximum(env.deciding, 0)  # where an episode has ended no action matters
        own, other = (np.take_along_axis(backlog_s, agent[:, None], 1)[:, 0] for agent in (deciding, 1 - deciding))
        places = [np.rint(each / STEP_S).astype(int) for each in (own, other, backlog_s[:, 2])]
        kept_s = own + 1.0 + self._at(places[0] + SLOW_TASK, places[1], places[2])
        sent_s = backlog_s[:, 2] + 0.25 + self._at(places[0], places[1], places[2] + FAST_TASK)
        return (sent_s < kept_s) & (env.masks[:, 1] == 1)

    def _at(self, own: np.ndarray, other: np.ndarray, fast: np.ndarray) -> np.ndarray:
        most = np.array(self.values.shape) - 1
        return self.values[tuple(np.clip(np.stack([own, other, fast]), 0, most[:, None]))]


def _moved(values: np.ndarray, *by: int) -> np.ndarray:
    """Return the values of the states that lie so many levels further, or at the end."""
    places = (np.clip(np.arange(size) + step, 0, size - 1) for size, step in zip(values.shape, by, strict=True))
    return values[np.ix_(*places)]
