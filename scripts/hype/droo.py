"""Online offloading by a network that proposes and a model that chooses, after DROO.

L. Huang, S. Bi, Y.-J. A. Zhang, "Deep Reinforcement Learning for Online Computation Offloading in Wireless Powered
Mobile-Edge Computing Networks", IEEE Transactions on Mobile Computing 19(11), 2020, doi:10.1109/TMC.2019.2928811
(arXiv 1808.01977).

A network gives a relaxed decision, a number in (0, 1) for each destination. Order-preserving quantisation makes K
binary candidates of it. A model gives the cost of each, the best is carried out, and the network learns to imitate it.
From the paper: these four parts, the adaptive K, and the numbers that `docs/hype.md` names. Ours, because a decision
here is about one task: the bits of a candidate are destinations, all zeros mean to keep the task, and the allocation of
a candidate is the destination of least modelled cost among its ones. The model is what the agent's observation says of
the expected finish, so nothing beyond it is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from offload_rllib.envs.layout import ObservationLayout
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import Array
from scripts.hype.decisions import Decisions, Walk
from scripts.hype.network import ScoredPolicy, perceptron, seeded

SETTINGS: dict[str, Any] = {
    "environments": 8,
    "hidden": [120, 80],
    "lr": 0.01,
    "batch": 128,
    "memory": 1024,
    "decisions_per_update": 10,
    "candidates_updated_every": 32,
}


def quantised(relaxed: Array, count: int) -> Array:
    """Return `count` binary candidates [n, K, D] of relaxed decisions [n, D], by order-preserving quantisation.

    The first candidate is 1 where a number is above 0.5. The k-th has the number that is (k-1)-th nearest to 0.5 as its
    threshold: what is above is 1, and the threshold itself is 1 if it is not above 0.5.

    Args:
        relaxed: in (0, 1).
        count: K, from 1 to D + 1.
    """
    order = np.argsort(np.abs(relaxed - 0.5), axis=1, kind="stable")[:, : count - 1]
    thresholds = np.take_along_axis(relaxed, order, axis=1)[:, :, None]
    numbers = relaxed[:, None, :]
    others = (numbers > thresholds) | ((numbers == thresholds) & (thresholds <= 0.5))
    return np.concatenate([numbers > 0.5, others], axis=1)


class FinishModel:
    """The cost of sending a task to each destination, by the agent's own information.

    The expected time until the result is back, or, where that is too late, the time left until the deadline: what a
    dropped task scores. The time on the way is added to that, so that what is too late everywhere is kept. All times
    are as observations scale them.
    """

    def __init__(self, layout: ObservationLayout) -> None:
        """Find the numbers in an observation."""
        self._finish, self._slack = layout.columns("finish"), layout.columns("slack")
        self._left = layout.names.index("task.time_left")
        self._transfer = [layout.names.index(f"row_{row}.transfer") for row in range(1, layout.rows)]

    def costs(self, observations: Array, masks: Array) -> Array:
        """Return costs [n, R]; infinite for actions that are not valid."""
        late = np.repeat(observations[:, self._left, None], masks.shape[1], axis=1)
        late[:, 1:] += observations[:, self._transfer]
        costs = np.where(observations[:, self._slack] >= 0, observations[:, self._finish], late)
        return np.where(masks > 0, costs, np.inf)


def best_candidates(candidates: Array, costs: Array) -> tuple[Array, Array]:
    """Return the action [n] and the number [n] of the best candidate; the first of several equal ones.

    Args:
        candidates: [n, K, D].
        costs: [n, 1 + D], of keeping the task and of each destination.
    """
    opened = np.where(candidates, costs[:, None, 1:], np.inf)
    keeps = ~np.isfinite(opened).any(axis=2)
    actions = np.where(keeps, 0, 1 + opened.argmin(axis=2))
    of_candidate = np.where(keeps, costs[:, :1], opened.min(axis=2))
    chosen = of_candidate.argmin(axis=1)
    return actions[np.arange(len(chosen)), chosen], chosen


class _Proposer:
    """The network, its model and its present number of candidates."""

    def __init__(self, layout: ObservationLayout, features: int, actions: int) -> None:
        self.network = perceptron([features, *SETTINGS["hidden"], actions - 1])
        self._model = FinishModel(layout)
        self.candidates = actions

    def choose(self, observations: Array, masks: Array) -> tuple[Array, Array]:
        """Return actions [n] and the numbers [n] of the candidates that they are of."""
        with torch.no_grad():
            relaxed = torch.sigmoid(self.network(torch.from_numpy(observations))).numpy()
        return best_candidates(quantised(relaxed, self.candidates), self._model.costs(observations, masks))

    def scores(self, observations: Array, masks: Array, _extras: Array) -> Array:
        """Return 1 for the chosen action and 0 for the others [n, R]."""
        found = np.zeros(masks.shape)
        found[np.arange(len(found)), self.choose(observations, masks)[0]] = 1.0
        return found


def labels(actions: Array, destinations: int) -> Array:
    """Return what the network learns to propose for actions [n]: 1 at the destination, all 0 for keeping [n, D]."""
    wanted = np.zeros((len(actions), destinations + 1), np.float32)
    wanted[np.arange(len(actions)), actions] = 1.0
    return wanted[:, 1:]


def _learn(proposer: _Proposer, optimizer: torch.optim.Optimizer, memory: Decisions, rows: Array) -> None:
    proposed = proposer.network(torch.from_numpy(memory.observations[rows]))
    wanted = torch.from_numpy(labels(memory.actions[rows], proposed.shape[1]))
    loss = nn.functional.binary_cross_entropy_with_logits(proposed, wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(
    scenario: BuiltScenario, decisions: int, seed: int, report: Callable[[int], None]
) -> tuple[ScoredPolicy, int]:
    """Return a trained policy, and how many decisions it took; arguments as `dqn_lstm.train`."""
    with seeded(seed) as rng:
        walk = Walk(scenario, SETTINGS["environments"], seed)
        memory, env = walk.memory, walk.env
        proposer = _Proposer(env.layout, env.observation_size, env.num_actions)
        optimizer = torch.optim.Adam(proposer.network.parameters(), SETTINGS["lr"])
        updates, highest = 0, 0
        while walk.decisions < decisions:
            rows = walk.look()
            actions, chosen = proposer.choose(memory.observations[rows], memory.masks[rows])
            walk.act(rows, actions)
            highest = max(highest, int(chosen.max()))
            if walk.decisions % SETTINGS["candidates_updated_every"] == 0:
                proposer.candidates = min(highest + 2, env.num_actions)
                highest = 0
                report(walk.decisions)
            while walk.decisions >= (updates + 1) * SETTINGS["decisions_per_update"]:
                updates += 1
                if len(memory) >= SETTINGS["batch"]:
                    newest = min(len(memory), SETTINGS["memory"])
                    drawn = len(memory) - newest + rng.choice(newest, SETTINGS["batch"], replace=False)
                    _learn(proposer, optimizer, memory, drawn)
    return ScoredPolicy(proposer.scores), walk.decisions
