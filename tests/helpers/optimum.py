"""How well anyone could do in the networks of `tests/data/environments`: what learned policies are held against."""

from __future__ import annotations

import itertools

import numpy as np

from offload_rllib.envs.observation import scaling
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.evaluation.players import Contender

# The chain of `three_nodes`, in its decision interval of 0.1 s. Every task takes 1 s on a slow node and 0.25 s on the
# fast one. Backlogs of slow nodes count in tenths of a second, the fast one's in twentieths, so that all are whole.
SLOW_UNIT_S, FAST_UNIT_S = 0.1, 0.05
SLOW_TASK, FAST_TASK = 10, 5
SLOW_PER_STEP, FAST_PER_STEP = 1, 2
SLOW_LEVELS, FAST_LEVELS = 41, 81
OVERFLOW_COST = 100.0


class DynamicProgramming(Contender):
    """The best decisions in `three_nodes` for one who sees all three backlogs and decides for both agents at once.

    Minimises the mean response time by relative value iteration (Puterman, "Markov decision processes", section
    8.5.1). A decision's cost is the response time of its task, which is known at once: service is in order of arrival
    and takes a known time. The chain is that of the simulator but for two things: a task is on offer in each interval
    with the same probability, whatever was before, and links take no time. Learned policies see less: neither agent
    sees the backlog of the other, nor what it decides.
    """

    name = "dynamic programming"

    def __init__(self, tasks_per_step: float, iterations: int = 250) -> None:
        """Find relative values [left, right, fast] in seconds; `tasks_per_step` is the probability of an offer."""
        slow, fast = np.arange(SLOW_LEVELS), np.arange(FAST_LEVELS)
        left = (self._slow_cost(slow))[:, None, None]
        right = (self._slow_cost(slow))[None, :, None]
        there = (fast * FAST_UNIT_S + FAST_TASK * FAST_UNIT_S)[None, None, :]
        there = there + np.where(fast + 2 * FAST_TASK >= FAST_LEVELS, OVERFLOW_COST, 0.0)
        p = tasks_per_step
        values = np.zeros((SLOW_LEVELS, SLOW_LEVELS, FAST_LEVELS))
        for _ in range(iterations):

            def after(at_left: int, at_right: int, sent: int, now: np.ndarray = values) -> np.ndarray:
                return now[_worked_off(slow + SLOW_TASK * at_left, SLOW_PER_STEP, SLOW_LEVELS)][
                    :, _worked_off(slow + SLOW_TASK * at_right, SLOW_PER_STEP, SLOW_LEVELS)
                ][:, :, _worked_off(fast + FAST_TASK * sent, FAST_PER_STEP, FAST_LEVELS)]

            one_sent = there + after(0, 0, 1)
            only_left = np.minimum(left + after(1, 0, 0), one_sent)
            only_right = np.minimum(right + after(0, 1, 0), one_sent)
            both = np.minimum.reduce(
                [
                    left + right + after(1, 1, 0),
                    left + there + after(1, 0, 1),
                    right + there + after(0, 1, 1),
                    2 * there + FAST_TASK * FAST_UNIT_S + after(0, 0, 2),
                ]
            )
            values = (1 - p) ** 2 * after(0, 0, 0) + p * (1 - p) * (only_left + only_right) + p**2 * both
            values -= values[0, 0, 0]
        self.values = values

    @staticmethod
    def _slow_cost(level: np.ndarray) -> np.ndarray:
        overflow = np.where(level + SLOW_TASK >= SLOW_LEVELS, OVERFLOW_COST, 0.0)
        return level * SLOW_UNIT_S + SLOW_TASK * SLOW_UNIT_S + overflow

    def begin(self, env: NativeEnv, seed: int) -> None:
        """Nothing to prepare."""

    def actions(self, env: NativeEnv) -> np.ndarray:
        """Return the best joint actions [E, 2] for the true state."""
        backlog_s = np.stack([env.waits(e) for e in range(env.num_envs)])
        slow = np.rint(backlog_s[:, :2] / SLOW_UNIT_S).astype(int)
        fast = np.rint(backlog_s[:, 2] / FAST_UNIT_S).astype(int)
        offered = env.masks[:, :, 1] == 1
        best = np.full(len(fast), np.inf)
        actions = np.zeros(env.rewards.shape, np.int32)
        for send in itertools.product((0, 1), repeat=2):
            sent = sum(send)
            kept = offered & (np.array(send) == 0)
            cost = (kept * (backlog_s[:, :2] + 1.0)).sum(1) + sent * (backlog_s[:, 2] + 0.25) + 0.25 * (sent == 2)
            cost += self.values[
                _worked_off(slow[:, 0] + SLOW_TASK * kept[:, 0], SLOW_PER_STEP, SLOW_LEVELS),
                _worked_off(slow[:, 1] + SLOW_TASK * kept[:, 1], SLOW_PER_STEP, SLOW_LEVELS),
                _worked_off(fast + FAST_TASK * sent, FAST_PER_STEP, FAST_LEVELS),
            ]
            better = (offered | (np.array(send) == 0)).all(1) & (cost < best)
            best[better] = cost[better]
            actions[better] = send
        return actions


def _worked_off(level: np.ndarray, per_step: int, levels: int) -> np.ndarray:
    return np.clip(level - per_step, 0, levels - 1)


class Reluctant(Contender):
    """Takes the destination that finishes first, a neighbour only if it is so many seconds earlier."""

    def __init__(self, margin_s: float) -> None:
        """Keep the margin; 0 is `shortest_finish`, negative prefers the neighbour."""
        self.name = f"reluctant {margin_s:g}"
        self.margin_s = margin_s

    def begin(self, env: NativeEnv, seed: int) -> None:  # noqa: ARG002 - a contender's signature
        """Find where an observation says when a task would finish."""
        self._columns = [env.layout.names.index(f"row_{row}.finish") for row in range(env.num_actions)]
        self._scale_s = scaling(env.scenario.arrays, env.num_actions)[0, self._columns]

    def actions(self, env: NativeEnv) -> np.ndarray:
        """Return actions [E, A]."""
        seen = env.observations[..., self._columns]
        finish_s = np.where(env.masks == 1, self._scale_s * seen / (1 - seen), np.inf)
        finish_s[..., 1:] += self.margin_s
        return finish_s.argmin(-1)


class Split(Contender):
    """Sends a task with a fixed probability."""

    def __init__(self, probability: float) -> None:
        """Keep the probability."""
        self.name = f"split {probability:g}"
        self.probability = probability

    def begin(self, env: NativeEnv, seed: int) -> None:  # noqa: ARG002 - a contender's signature
        """Seed the draws."""
        self._rng = np.random.default_rng(seed)

    def actions(self, env: NativeEnv) -> np.ndarray:
        """Return actions [E, A]."""
        return (self._rng.random(env.rewards.shape) < self.probability) & (env.masks[..., 1] == 1)
