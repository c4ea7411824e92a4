"""Federated double DQN: every node learns from its own decisions, and the weights are averaged now and then.

X. Wang, Y. Han, C. Wang, Q. Zhao, X. Chen, M. Chen, "In-Edge AI: Intelligentizing Mobile Edge Computing, Caching and
Communication by Federated Learning", IEEE Network 33(5), 2019, doi:10.1109/MNET.2019.1800286 (arXiv 1809.07857), with
the averaging of H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas, "Communication-Efficient Learning
of Deep Networks from Decentralized Data", AISTATS 2017 (arXiv 1602.05629).

From the papers: double DQN at every node, no node sees another's decisions, a round replaces all weights by their mean,
weighted by the samples of each node. Ours: all numbers, discount and reward of the environment. What is played is the
network of the last round.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import Array
from scripts.hype.decisions import Decisions, Walk
from scripts.hype.dqn_lstm import double_targets
from scripts.hype.network import HIDDEN, LOWEST, ScoredPolicy, explored, falling, perceptron, seeded

SETTINGS: dict[str, Any] = {
    "environments": 8,
    "hidden": list(HIDDEN),
    "lr": 5e-4,
    "batch_per_node": 32,
    "decisions_per_update": 16,
    "decisions_per_round": 2400,
    "target_update_every": 250,
    "samples_before_learning": 200,
    "epsilon_final": 0.02,
    "exploring_share": 0.375,
}


class Networks(nn.Module):
    """The networks of A nodes with the same layers, evaluated together."""

    def __init__(self, nodes: int, features: int, actions: int) -> None:
        """Give all nodes the same first weights, as a round does."""
        super().__init__()
        first = perceptron([features, *HIDDEN, actions])
        layers = [layer for layer in first if isinstance(layer, nn.Linear)]
        self.weights = nn.ParameterList(layer.weight.detach().T.repeat(nodes, 1, 1) for layer in layers)
        self.biases = nn.ParameterList(layer.bias.detach().repeat(nodes, 1, 1) for layer in layers)

    def forward(self, observations: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Return Q [A, B, R] of observations [A, B, F]; with `nodes` [n], of those nodes' networks alone [n, B, R]."""
        values = observations
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if nodes is not None:
                weight, bias = weight[nodes], bias[nodes]  # noqa: PLW2901 - the same layer, of some nodes
            values = torch.baddbmm(bias, torch.relu(values) if number else values, weight)
        return values


def averaged(parameters: Tensor, samples: Tensor) -> Tensor:
    """Return the mean of parameters [A, ...] over the nodes, weighted by samples [A] (McMahan et al., algorithm 1)."""
    shares = (samples / samples.sum()).reshape(-1, *[1] * (parameters.dim() - 1))
    return (shares * parameters).sum(dim=0)


def average(networks: Networks, samples: Tensor) -> None:
    """Give every node the weighted mean of all nodes' weights."""
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.copy_(averaged(parameter, samples).expand_as(parameter))


def _loss(networks: Networks, target: Networks, memory: Decisions, rows: Array) -> Tensor:
    """Return the sum over nodes of the loss of each node's own decisions, rows [A, B]."""
    nodes, batch = rows.shape
    after = memory.successors[rows]
    with torch.no_grad():
        seen = torch.from_numpy(memory.observations[after])
        following, following_target = (each(seen).flatten(0, 1) for each in (networks, target))
        targets = double_targets(
            torch.from_numpy(memory.rewards[rows].ravel()),
            torch.from_numpy(memory.discounts[rows].ravel()),
            following,
            following_target,
            torch.from_numpy(memory.masks[after.ravel()]),
        ).reshape(nodes, batch)
    actions = torch.from_numpy(memory.actions[rows])[:, :, None]
    taken = networks(torch.from_numpy(memory.observations[rows])).gather(2, actions)[:, :, 0]
    return nn.functional.smooth_l1_loss(taken, targets, reduction="none").mean(dim=1).sum()


def train(
    scenario: BuiltScenario, decisions: int, seed: int, report: Callable[[int], None]
) -> tuple[ScoredPolicy, int]:
    """Return a trained policy, and how many decisions it took; arguments as `dqn_lstm.train`."""
    with seeded(seed) as rng:
        walk = Walk(scenario, SETTINGS["environments"], seed)
        memory, nodes = walk.memory, len(walk.env.agents)
        networks = Networks(nodes, walk.env.observation_size, walk.env.num_actions)
        target = copy.deepcopy(networks)
        optimizer = torch.optim.Adam(networks.parameters(), SETTINGS["lr"])
        updates, rounds = 0, 0
        at_last_round = np.zeros(nodes)
        while walk.decisions < decisions:
            rows = walk.look()
            best = np.where(memory.masks[rows] > 0, _local(networks, memory, rows), LOWEST).argmax(axis=1)
            epsilon = falling(
                1.0, SETTINGS["epsilon_final"], walk.decisions / (SETTINGS["exploring_share"] * decisions)
            )
            walk.act(rows, explored(best, memory.masks[rows], epsilon, rng))
            samples = np.array([memory.samples_of(agent) for agent in range(nodes)])
            while walk.decisions >= (updates + 1) * SETTINGS["decisions_per_update"]:
                updates += 1
                if samples.min() < SETTINGS["samples_before_learning"]:
                    continue
                batch = [memory.drawn_of(agent, rng, SETTINGS["batch_per_node"]) for agent in range(nodes)]
                optimizer.zero_grad()
                _loss(networks, target, memory, np.stack(batch)).backward()
                optimizer.step()
                if updates % SETTINGS["target_update_every"] == 0:
                    target.load_state_dict(networks.state_dict())
            if walk.decisions >= (rounds + 1) * SETTINGS["decisions_per_round"] or walk.decisions >= decisions:
                rounds += 1
                average(networks, torch.from_numpy(samples - at_last_round).float())
                at_last_round = samples
                report(walk.decisions)
    return ScoredPolicy(_scores(networks)), walk.decisions


def _local(networks: Networks, memory: Decisions, rows: Array) -> Array:
    """Return Q [n, R] by the network of the node that decides."""
    with torch.no_grad():
        nodes = torch.from_numpy(memory.agents[rows])
        return networks(torch.from_numpy(memory.observations[rows])[:, None], nodes)[:, 0].numpy()


def _scores(networks: Networks) -> Callable[[Array, Array, Array], Array]:
    def scores(observations: Array, _masks: Array, _extras: Array) -> Array:
        with torch.no_grad():
            nodes = torch.zeros(len(observations), dtype=torch.int64)  # all are the same after a round
            return networks(torch.from_numpy(observations)[:, None], nodes)[:, 0].numpy()

    return scores
