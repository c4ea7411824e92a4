"""Dueling double DQN with forecasts of the load by an LSTM.

M. Tang, V. W. S. Wong, "Deep Reinforcement Learning for Task Offloading in Mobile Edge Computing Systems", IEEE
Transactions on Mobile Computing 21(6), 2022, doi:10.1109/TMC.2020.3036871 (arXiv 2005.02459).

A recurrent layer reads the loads of the destinations at an agent's last decisions. What it has learned from them joins
the present observation, and a dueling network gives the value of each action. From the paper: the architecture, double
DQN, batches of 16 per decision, the learning rate, exploration from 1 to 0.01. Ours: one network for all agents (the
paper trains one per device), discount and reward of the environment, sizes of layers, length of the history.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offload_rllib.envs.vector import NativeEnv
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import Array
from scripts.hype.decisions import Decisions, Walk
from scripts.hype.network import HIDDEN, ScoredPolicy, explored, falling, masked, perceptron, seeded

SETTINGS: dict[str, Any] = {
    "environments": 8,
    "history": 10,
    "lstm_units": 20,
    "hidden": list(HIDDEN),
    "lr": 1e-3,
    "batch_per_decision": 16,
    "decisions_per_update": 16,
    "target_update_every": 250,
    "learning_starts": 2000,
    "epsilon_final": 0.01,
    "exploring_share": 0.375,
    "grad_clip": 10.0,
}


class LoadHistory:
    """The loads that agents saw at their last decisions, oldest first; zeros before the first."""

    def __init__(self, env: NativeEnv, length: int = SETTINGS["history"]) -> None:
        """Begin empty for every agent of every environment."""
        self._columns = env.layout.columns("tasks")
        self._loads = np.zeros((env.num_envs, len(env.agents), length, len(self._columns)), np.float32)
        self.size = length * len(self._columns)

    def of(self, environments: Array, agents: Array, observations: Array, /) -> Array:
        """Return histories [n, length x R] that end with what is seen now, and remember it."""
        mine = self._loads[environments, agents]
        mine = np.concatenate([mine[:, 1:], observations[:, None, self._columns]], axis=1)
        self._loads[environments, agents] = mine
        return mine.reshape(len(mine), -1)

    def restart(self, environment: int, /) -> None:
        """Forget an episode."""
        self._loads[environment] = 0.0


class DuelingLstm(nn.Module):
    """Q of an observation and a history of loads: the LSTM's last state joins the observation."""

    def __init__(self, features: int, actions: int) -> None:
        """Make the layers for F features and R actions."""
        super().__init__()
        self._actions, units = actions, SETTINGS["lstm_units"]
        self.lstm = nn.LSTM(actions, units, batch_first=True)
        self.body = perceptron([features + units, *HIDDEN, HIDDEN[-1]])
        self.value = nn.Linear(HIDDEN[-1], 1)
        self.advantage = nn.Linear(HIDDEN[-1], actions)

    def forward(self, observations: Tensor, masks: Tensor, histories: Tensor) -> Tensor:
        """Return Q [n, R]; histories are [n, length x R]."""
        _, (last, _) = self.lstm(histories.reshape(len(histories), -1, self._actions))
        joint = torch.relu(self.body(torch.cat([observations, last[0]], dim=1)))
        return dueling(self.value(joint), self.advantage(joint), masks)


def dueling(values: Tensor, advantages: Tensor, masks: Tensor) -> Tensor:
    """Return Q = V + A - mean of A over valid actions (Wang et al., ICML 2016, eq. 9), [n, R].

    Args:
        values: [n, 1].
        advantages: [n, R].
        masks: [n, R].
    """
    valid = masks.to(advantages.dtype)
    mean = (advantages * valid).sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True)
    return values + advantages - mean


def double_targets(
    rewards: Tensor, discounts: Tensor, following: Tensor, following_target: Tensor, masks: Tensor
) -> Tensor:
    """Return r + d Q_target(s', argmax over valid a of Q(s', a)), [n] (van Hasselt et al., AAAI 2016, eq. 4).

    Args:
        rewards: [n].
        discounts: [n].
        following: [n, R], Q of the next state by the network that learns.
        following_target: [n, R], the same by the target network.
        masks: [n, R], of the next state.
    """
    best = masked(following, masks).argmax(dim=1, keepdim=True)
    return rewards + discounts * following_target.gather(1, best)[:, 0]


def _loss(network: DuelingLstm, target: DuelingLstm, memory: Decisions, rows: Array) -> Tensor:
    def seen(some: Array) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.from_numpy(part[some]) for part in (memory.observations, memory.masks, memory.extras))  # pyright: ignore[reportReturnType]

    after = seen(memory.successors[rows])
    with torch.no_grad():
        rewards, discounts = torch.from_numpy(memory.rewards[rows]), torch.from_numpy(memory.discounts[rows])
        targets = double_targets(rewards, discounts, network(*after), target(*after), after[1])
    taken = network(*seen(rows)).gather(1, torch.from_numpy(memory.actions[rows])[:, None])[:, 0]
    return nn.functional.smooth_l1_loss(taken, targets)


def train(
    scenario: BuiltScenario, decisions: int, seed: int, report: Callable[[int], None]
) -> tuple[ScoredPolicy, int]:
    """Return a trained policy, and how many decisions it took.

    Args:
        scenario: the environment.
        decisions: the budget.
        seed: of training episodes, weights and exploration.
        report: is given the number of decisions so far, now and then.
    """
    with seeded(seed) as rng:
        walk = Walk(scenario, SETTINGS["environments"], seed, LoadHistory)
        memory = walk.memory
        network = DuelingLstm(walk.env.observation_size, walk.env.num_actions)
        target = copy.deepcopy(network)
        optimizer = torch.optim.Adam(network.parameters(), SETTINGS["lr"])
        scores = _scores(network)
        updates, batch = 0, SETTINGS["batch_per_decision"] * SETTINGS["decisions_per_update"]
        while walk.decisions < decisions:
            rows = walk.look()
            best = np.where(
                memory.masks[rows] > 0,
                scores(memory.observations[rows], memory.masks[rows], memory.extras[rows]),
                -np.inf,
            ).argmax(axis=1)
            epsilon = falling(
                1.0, SETTINGS["epsilon_final"], walk.decisions / (SETTINGS["exploring_share"] * decisions)
            )
            walk.act(rows, explored(best, memory.masks[rows], epsilon, rng))
            while walk.decisions - SETTINGS["learning_starts"] >= (updates + 1) * SETTINGS["decisions_per_update"]:
                loss = _loss(network, target, memory, memory.drawn(rng, batch))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), SETTINGS["grad_clip"])
                optimizer.step()
                updates += 1
                if updates % SETTINGS["target_update_every"] == 0:
                    target.load_state_dict(network.state_dict())
                    report(walk.decisions)
    return ScoredPolicy(scores, LoadHistory), walk.decisions


def _scores(network: DuelingLstm) -> Callable[[Array, Array, Array], Array]:
    def scores(observations: Array, masks: Array, histories: Array) -> Array:
        with torch.no_grad():
            return network(*map(torch.from_numpy, (observations, masks, histories))).numpy()

    return scores
