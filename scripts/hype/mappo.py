"""Multi-agent PPO with a centralised critic: MAPPO.

C. Yu, A. Velu, E. Vinitsky, J. Gao, Y. Wang, A. Bayen, Y. Wu, "The Surprising Effectiveness of PPO in Cooperative
Multi-Agent Games", NeurIPS 2022 Datasets and Benchmarks (arXiv 2103.01955).

Actors decide from their own observation and share one network. The critic also reads the true state of all nodes and
which agent decides: the paper's agent-specific global state. From the paper: value normalisation, clipped values with
Huber loss, a batch that is not divided into minibatches, few epochs, GAE, orthogonal weights with a small last gain,
layer normalisation, and the numbers that `docs/hype.md` names. Ours: the size of the batch, discount and reward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offload_rllib.envs.vector import NativeEnv
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import Array
from scripts.hype.decisions import Decisions, Walk
from scripts.hype.network import HIDDEN, ScoredPolicy, masked, perceptron, seeded

SETTINGS: dict[str, Any] = {
    "environments": 8,
    "batch_decisions": 1600,
    "hidden": list(HIDDEN),
    "lr": 7e-4,
    "adam_epsilon": 1e-5,
    "lambda": 0.95,
    "clip": 0.2,
    "epochs": 10,
    "entropy_coeff": 0.01,
    "huber_delta": 10.0,
    "grad_clip": 10.0,
    "last_gain": 0.01,
}
# A share of 0.5 at so many tasks; waits are scaled as observations scale times.
TASKS_SCALE = 4.0


class GlobalState:
    """What the critic reads beside the observation: every node's tasks and wait, as they are, and who decides."""

    def __init__(self, env: NativeEnv) -> None:
        """Read the environments of a batch."""
        self._env = env
        self._nodes, self._agents = len(env.scenario.network.nodes), len(env.agents)
        self._time_s = float(env.scenario.arrays.settings[0]["time_scale_s"])
        self.size = 2 * self._nodes + self._agents

    def of(self, environments: Array, agents: Array, _observations: Array, /) -> Array:
        """Return states [n, 2 N + A]: shares of tasks, of waits, and the agent as one of A."""
        state = np.zeros((len(agents), self.size), np.float32)
        tasks = self._env.state.node["tasks"][environments]
        waits_of = {e: self._env.waits(e) for e in np.unique(environments).tolist()}
        waits = np.stack([waits_of[e] for e in environments.tolist()])
        state[:, : self._nodes] = tasks / (tasks + TASKS_SCALE)
        state[:, self._nodes : 2 * self._nodes] = waits / (waits + self._time_s)
        state[np.arange(len(agents)), 2 * self._nodes + agents] = 1.0
        return state

    def restart(self, _environment: int, /) -> None:
        """Do nothing: the state is that of the environment."""


class ValueNorm:
    """Running mean and deviation of returns: the critic learns normalised ones."""

    def __init__(self) -> None:
        """Begin without any return."""
        self._count, self.mean, self._square = 0, 0.0, 1.0

    @property
    def deviation(self) -> float:
        """Standard deviation so far; not below 0.01."""
        return max(self._square - self.mean**2, 1e-4) ** 0.5 if self._count else 1.0

    def update(self, returns: Array) -> None:
        """Take in more returns [n]."""
        count = self._count + len(returns)
        share = len(returns) / count
        square = 0.0 if not self._count else self._square
        self.mean += share * (float(returns.mean()) - self.mean)
        self._square = square + share * (float((returns.astype(np.float64) ** 2).mean()) - square)
        self._count = count


def advantages(memory: Decisions, rows: Array, values: Array, *, lambda_: float) -> Array:
    """Return generalised advantages [n] of finished decisions (Schulman et al., arXiv 1506.02438, eq. 16).

    Each agent's decisions are a chain of their own. A chain is cut where its next decision is not among `rows`; there
    the centralised value of that decision is bootstrapped from.

    Args:
        memory: the decisions.
        rows: [n], finished ones.
        values: [N], the critic's, for `rows` and their successors.
        lambda_: per decision: 0 trusts the critic, 1 the returns.
    """
    of_row = dict.fromkeys(rows.tolist(), 0.0)
    for row in sorted(of_row, reverse=True):
        successor, discount = int(memory.successors[row]), float(memory.discounts[row])
        change = float(memory.rewards[row]) + discount * float(values[successor]) - float(values[row])
        of_row[row] = change + discount * lambda_ * of_row.get(successor, 0.0)
    return np.array([of_row[row] for row in rows.tolist()], np.float32)


def policy_loss(log_probabilities: Tensor, before: Tensor, gains: Tensor, clip: float) -> Tensor:
    """Return the clipped surrogate (Schulman et al., arXiv 1707.06347, eq. 7), to be made small."""
    ratio = torch.exp(log_probabilities - before)
    return -torch.minimum(ratio * gains, ratio.clamp(1 - clip, 1 + clip) * gains).mean()


def value_loss(values: Tensor, before: Tensor, targets: Tensor, clip: float, delta: float) -> Tensor:
    """Return the larger of the Huber losses of values and of values clipped around those before."""
    clipped = before + (values - before).clamp(-clip, clip)
    losses = (nn.functional.huber_loss(each, targets, reduction="none", delta=delta) for each in (values, clipped))
    return torch.maximum(*losses).mean()


class _Learner:
    """Actor, centralised critic, and how they learn from a batch."""

    def __init__(self, features: int, actions: int, extra: int) -> None:
        self.actor = perceptron([features, *HIDDEN, actions], last_gain=SETTINGS["last_gain"], normalised=True)
        self.critic = perceptron([features + extra, *HIDDEN, 1], normalised=True)
        self._norm = ValueNorm()
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self._optimizer = torch.optim.Adam(parameters, SETTINGS["lr"], eps=SETTINGS["adam_epsilon"])

    def _values(self, memory: Decisions, rows: Array) -> Tensor:
        joint = np.concatenate([memory.observations[rows], memory.extras[rows]], axis=1)
        return self.critic(torch.from_numpy(joint))[:, 0]

    def learn(self, memory: Decisions, rows: Array) -> None:
        """Learn from finished decisions."""
        needed = np.unique(np.concatenate([rows, memory.successors[rows]]))
        values = np.zeros(len(memory), np.float32)
        with torch.no_grad():
            values[needed] = self._values(memory, needed).numpy() * self._norm.deviation + self._norm.mean
        gains = advantages(memory, rows, values, lambda_=SETTINGS["lambda"])
        returns = gains + values[rows]
        self._norm.update(returns)
        target, before = (
            torch.from_numpy(((each - self._norm.mean) / self._norm.deviation).astype(np.float32))
            for each in (returns, values[rows])
        )
        gain = torch.from_numpy((gains - gains.mean()) / (gains.std() + 1e-8))
        observations, masks = torch.from_numpy(memory.observations[rows]), torch.from_numpy(memory.masks[rows])
        actions = torch.from_numpy(memory.actions[rows])[:, None]
        old = torch.from_numpy(memory.log_probabilities[rows])
        for _ in range(SETTINGS["epochs"]):
            logs = masked(self.actor(observations), masks).log_softmax(dim=1)
            entropy = -(logs.exp() * logs).sum(dim=1).mean()
            loss = policy_loss(logs.gather(1, actions)[:, 0], old, gain, SETTINGS["clip"])
            loss = loss + value_loss(
                self._values(memory, rows), before, target, SETTINGS["clip"], SETTINGS["huber_delta"]
            )
            self._optimizer.zero_grad()
            (loss - SETTINGS["entropy_coeff"] * entropy).backward()
            for part in (self.actor, self.critic):
                nn.utils.clip_grad_norm_(part.parameters(), SETTINGS["grad_clip"])
            self._optimizer.step()


def train(
    scenario: BuiltScenario, decisions: int, seed: int, report: Callable[[int], None]
) -> tuple[ScoredPolicy, int]:
    """Return a trained policy, and how many decisions it took; arguments as `dqn_lstm.train`."""
    with seeded(seed) as rng:
        walk = Walk(scenario, SETTINGS["environments"], seed, GlobalState, closings=True)
        memory, env = walk.memory, walk.env
        learner = _Learner(env.observation_size, env.num_actions, walk.extra.size)
        learned = 0
        while walk.decisions < decisions:
            rows = walk.look()
            if memory.finished_count - learned >= SETTINGS["batch_decisions"]:
                learner.learn(memory, memory.finished(learned))
                learned = memory.finished_count
                report(walk.decisions)
            actions, logs = _drawn(learner.actor, memory.observations[rows], memory.masks[rows], rng)
            memory.log_probabilities[rows] = logs
            walk.act(rows, actions)
    return ScoredPolicy(_scores(learner.actor)), walk.decisions


def _drawn(actor: nn.Module, observations: Array, masks: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return actions [n] drawn by the actor, and their log-probabilities [n]."""
    with torch.no_grad():
        logs = masked(actor(torch.from_numpy(observations)), torch.from_numpy(masks)).log_softmax(dim=1).numpy()
    drawn = np.where(masks > 0, logs + rng.gumbel(size=logs.shape), -np.inf).argmax(axis=1)
    return drawn, np.take_along_axis(logs, drawn[:, None], axis=1)[:, 0]


def _scores(actor: nn.Module) -> Callable[[Array, Array, Array], Array]:
    def scores(observations: Array, _masks: Array, _extras: Array) -> Array:
        with torch.no_grad():
            return actor(torch.from_numpy(observations)).numpy()

    return scores
