"""A minimal PPO loop in torch on the vector environment: the yardstick for what RLlib's machinery costs.

Usage: python benchmarks/handwritten_ppo.py [--iterations 8] [--repeats 5]

The same environment, networks, batch, rows learned from and hyperparameters as `policies/ppo.yaml`, in one process on
one thread, with everything left out that a single experiment can do without. Runs it and this package's PPO in turn
and prints, last, the ratio of their choices per CPU-second (the machine's speed varies; a ratio of two things run
in turn does not).
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from torch import Tensor

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.config.policy import PolicyConfig
from offload_rllib.envs.vector import training_key, vector_env
from offload_rllib.policies.network import Actor, Critic
from offload_rllib.training.rllib_config import algorithm_config

ENVIRONMENT = "ether_12"
OVERRIDES = ("training.runners=0", "training.envs_per_runner=8")
SAMPLED = ("observations", "masks", "actions", "log_probabilities")


class Played(NamedTuple):
    """Episodes: a row for each of N choices, in the order of time, and a closing state for each agent."""

    observations: np.ndarray
    masks: np.ndarray
    actions: np.ndarray
    log_probabilities: np.ndarray
    closing: np.ndarray
    rewards: np.ndarray
    """Earned until the same agent's next row, or until the end."""
    elapsed_s: np.ndarray
    """Until then."""
    following: np.ndarray
    """That row, or N + the number of the closing state."""


class HandwrittenPPO:
    """What a careful author would write for one experiment."""

    def __init__(self, policy: PolicyConfig, environments: int) -> None:
        """Make the environments and the networks."""
        self.algorithm: Any = policy.algorithm
        self.env = vector_env(ENVIRONMENT, environments)
        env = self.env
        shape = {"hidden": policy.network.hidden, "activation": policy.network.activation}
        self.actor = Actor(env.observation_size, env.num_actions, **shape)
        self.critic = Critic(env.observation_size, **shape)
        self.parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.algorithm.lr)
        self.episode = 0

    def iterate(self) -> int:
        """Sample a batch of whole episodes and learn from it; return its choices."""
        episodes = []
        while sum(len(played.actions) for played in episodes) < self.algorithm.batch_env_steps:
            episodes.append(self._play())
        advantages, targets = zip(*map(self._estimate, episodes), strict=True)
        columns = (
            *(np.concatenate([getattr(played, name) for played in episodes]) for name in SAMPLED),
            np.concatenate(advantages),
            np.concatenate(targets),
        )
        self._learn(*map(torch.from_numpy, columns))
        return len(columns[0])

    def _play(self) -> Played:
        """Play an episode of every environment."""
        env = self.env
        env.reset(np.array([training_key(0, 0, e, self.episode) for e in range(env.num_envs)], np.uint64))
        self.episode += 1
        sampled: dict[str, list[np.ndarray]] = {name: [] for name in SAMPLED}
        earned: list[tuple[np.ndarray, ...]] = []
        previous = np.full((env.num_envs, len(env.agents)), -1)
        count = 0
        with torch.inference_mode():
            while not env.truncated.all():
                playing = np.flatnonzero(~env.truncated)
                agent = env.deciding[playing]
                seen, masks = env.observations[playing], env.masks[playing]
                logits = self.actor(torch.from_numpy(seen), torch.from_numpy(masks))
                action = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
                logp = torch.log_softmax(logits, -1).gather(-1, action[:, None])[:, 0]
                for name, values in zip(SAMPLED, (seen, masks, action.numpy(), logp.numpy()), strict=True):
                    sampled[name].append(values)
                rows = count + np.arange(len(playing))
                earned.append((previous[playing, agent], rows, env.rewards[playing], env.elapsed_s[playing]))
                previous[playing, agent] = rows
                count += len(playing)
                actions = np.zeros(env.num_envs, np.int32)
                actions[playing] = action.numpy()
                env.step(actions)
        closing = []
        for e in range(env.num_envs):
            seen, _, rewards, elapsed_s = env.closing(e)
            earned.append((previous[e], count + len(env.agents) * e + np.arange(len(env.agents)), rewards, elapsed_s))
            closing.append(seen)
        before, after, rewards, elapsed_s = (np.concatenate(column) for column in zip(*earned, strict=True))
        begun = before >= 0
        order = np.argsort(before[begun])
        columns = [np.concatenate(sampled[name]) for name in SAMPLED]
        followed = [column[begun][order] for column in (rewards, elapsed_s, after)]
        return Played._make([*columns, np.concatenate(closing), *followed])

    def _estimate(self, played: Played) -> tuple[np.ndarray, np.ndarray]:
        """Return advantages and targets of an episode's choices."""
        algorithm = self.algorithm
        with torch.inference_mode():
            seen = np.concatenate([played.observations, played.closing])
            values = self.critic(torch.from_numpy(seen)).numpy().astype(np.float64)
        spans = played.elapsed_s / algorithm.discount_s
        discounts, traces = algorithm.gamma**spans, (algorithm.gamma * algorithm.lambda_) ** spans
        count = len(played.actions)
        delta = played.rewards + discounts * values[played.following] - values[:count]
        advantages = np.append(delta, np.zeros(len(played.closing)))
        for row in range(count - 1, -1, -1):
            advantages[row] += traces[row] * advantages[played.following[row]]
        advantages = advantages[:count]
        return advantages.astype(np.float32), (advantages + values[:count]).astype(np.float32)

    def _learn(
        self, seen: Tensor, masks: Tensor, actions: Tensor, before: Tensor, advantage: Tensor, target: Tensor
    ) -> None:
        algorithm = self.algorithm
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        for _ in range(algorithm.epochs):
            for index in torch.randperm(len(actions)).split(algorithm.minibatch_steps):
                logp = torch.log_softmax(self.actor(seen[index], masks[index]), -1)
                ratio = (logp.gather(-1, actions[index, None])[:, 0] - before[index]).exp()
                clipped = ratio.clamp(1 - algorithm.clip, 1 + algorithm.clip)
                surrogate = torch.min(advantage[index] * ratio, advantage[index] * clipped)
                entropy = -(logp.exp() * logp.clamp_min(-50)).sum(-1)
                value_loss = (self.critic(seen[index]) - target[index]).square().mean()
                loss = -(surrogate + algorithm.entropy_coeff * entropy).mean()
                loss = loss + algorithm.vf_loss_coeff * value_loss
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, algorithm.grad_clip)
                self.optimizer.step()


def ours(policy: PolicyConfig) -> Callable[[], int]:
    """Return this package's PPO, one call per iteration."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    algorithm = algorithm_config(load_environment(ENVIRONMENT), policy, cpus=2).build_algo()
    batch = policy.algorithm.batch_env_steps

    def iterate() -> int:
        algorithm.train()
        return batch

    return iterate


def choices_per_cpu_second(iterate: Callable[[], int], iterations: int) -> float:
    """Return the speed of some iterations."""
    began = time.process_time()
    choices = sum(iterate() for _ in range(iterations))
    return choices / (time.process_time() - began)


def main() -> None:
    """Run both in turn and print their speeds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--iterations", type=int, default=8, help="iterations of each, per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    policy = load_policy_config("ppo", OVERRIDES)
    package, handwritten = ours(policy), HandwrittenPPO(policy, 8).iterate
    torch.set_num_threads(1)
    for iterate in (package, handwritten):
        iterate()  # kernels are compiled and caches filled before anything is measured
    pairs = []
    for _ in range(arguments.repeats):
        pair = [choices_per_cpu_second(iterate, arguments.iterations) for iterate in (package, handwritten)]
        pairs.append((*pair, pair[0] / pair[1]))
        print(f"package {pair[0]:,.0f}, hand-written {pair[1]:,.0f} choices per CPU-second")
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"medians: package {medians[0]:,.0f}, hand-written {medians[1]:,.0f}; ratio {medians[2]:.2f}")


if __name__ == "__main__":
    main()
