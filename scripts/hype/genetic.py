"""A genetic algorithm over the weights of a policy: no gradients, no critic.

F. Petroski Such, V. Madhavan, E. Conti, J. Lehman, K. O. Stanley, J. Clune, "Deep Neuroevolution: Genetic Algorithms
Are a Competitive Alternative for Training Deep Neural Networks for Reinforcement Learning", 2017 (arXiv 1712.06567).

A generation plays one training episode, the same for all; the best few are parents of the next. From the paper:
selection by truncation, Gaussian mutation, one elite that stays as it is. Ours: uniform crossover (G. Syswerda, ICGA
1989), which the paper leaves out, and a network of 200 weights that scores one action at a time. A few hundred episodes
are too few for the tens of thousands of weights of the other networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from offload_rllib.envs.layout import HERE, ROW, ObservationLayout
from offload_rllib.envs.vector import ArrivalEnv, batch_of, training_key
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import Array
from scripts.hype.network import LOWEST, ScoredPolicy

SETTINGS: dict[str, Any] = {
    "population": 16,
    "parents": 4,
    "mutation": 0.3,
    "hidden": 8,
}


class ActionFeatures:
    """What an observation says of each action: the agent and its task, and the action's own row."""

    def __init__(self, layout: ObservationLayout) -> None:
        """Find where the numbers of row 0 stand in the other rows, which have more of them."""
        self._layout = layout
        before, here, row = layout.blocks[:3]
        names = [name.removeprefix("row_0.") for name in layout.names[before : before + here]]
        self._places = [layout.position(ROW, name) for name in names]
        if self._places and layout.position(HERE, names[0]) != 0:
            raise ValueError("row 0 does not begin with its first number")
        self.size = before + row + 2

    def of(self, observations: Array) -> Array:
        """Return features [n, R, D] of observations [n, F]; the last two are 1: for row 0 alone, and everywhere."""
        about, task, here, rows = self._layout.split(observations)
        found = np.zeros((len(observations), self._layout.rows, self.size), np.float32)
        first = about.shape[1] + task.shape[2]
        found[:, :, : about.shape[1]] = about[:, None]
        found[:, :, about.shape[1] : first] = task
        found[:, 0, [first + place for place in self._places]] = here[:, 0]
        found[:, 1:, first : first + rows.shape[3]] = rows[:, 0]
        found[:, 0, -2] = 1.0
        found[:, :, -1] = 1.0
        return found


def scores_of(weights: Array, features: Array) -> Array:
    """Return scores [n, R] of actions by a network with one hidden layer of tanh.

    Args:
        weights: [n, (D + 1) x H], of each row's own individual.
        features: [n, R, D].
    """
    inputs, hidden = features.shape[2], SETTINGS["hidden"]
    into = weights[:, : inputs * hidden].reshape(-1, inputs, hidden)
    return np.einsum("nrh,nh->nr", np.tanh(features @ into), weights[:, inputs * hidden :])


def next_generation(population: Array, costs: Array, rng: np.random.Generator) -> Array:
    """Return the children [P, W] of a population [P, W] with costs [P]; the best comes first, unchanged.

    Two of the best `parents`, uniformly at random, give each child: every weight is that of one or the other, with
    equal probability, and normal noise is added.
    """
    order = np.argsort(costs, kind="stable")
    parents = population[order[: SETTINGS["parents"]]]
    count, weights = len(population) - 1, population.shape[1]
    mothers, fathers = parents[rng.integers(0, len(parents), (2, count))]
    children = np.where(rng.random((count, weights)) < 0.5, mothers, fathers)
    children = children + SETTINGS["mutation"] * rng.standard_normal((count, weights))
    return np.concatenate([parents[:1], children]).astype(np.float32)


def _played(env: ArrivalEnv, features: ActionFeatures, population: Array, key: int) -> tuple[Array, int]:
    """Return each individual's score [P] in the same episode, and how many decisions that took."""
    env.reset(np.full(env.num_envs, key, np.uint64))
    decisions = 0
    while not env.truncated.all():
        decisions += int((~env.truncated).sum())
        scores = np.where(env.masks > 0, scores_of(population, features.of(env.observations)), LOWEST)
        env.step(scores.argmax(axis=1))
    return np.array([env.episode_metrics(e)[SCORE] for e in range(env.num_envs)]), decisions


def train(
    scenario: BuiltScenario, decisions: int, seed: int, report: Callable[[int], None]
) -> tuple[ScoredPolicy, int]:
    """Return the best of the last generation, and how many decisions were taken; arguments as `dqn_lstm.train`.

    The last generation is the one after which the next would exceed the budget.
    """
    rng = np.random.default_rng(seed)
    env = batch_of(scenario, SETTINGS["population"])
    features = ActionFeatures(env.layout)
    weights = (features.size + 1) * SETTINGS["hidden"]
    population = rng.standard_normal((SETTINGS["population"], weights)).astype(np.float32)
    used, generation = 0, 0
    while True:
        costs, taken = _played(env, features, population, training_key(seed, 0, 0, generation))
        used += taken
        generation += 1
        report(used)
        if used + taken > decisions:
            best = population[costs.argmin()][None]
            return ScoredPolicy(_scores(best, features)), used
        population = next_generation(population, costs, rng)


def _scores(best: Array, features: ActionFeatures) -> Callable[[Array, Array, Array], Array]:
    def scores(observations: Array, _masks: Array, _extras: Array) -> Array:
        return scores_of(np.repeat(best, len(observations), axis=0), features.of(observations))

    return scores
