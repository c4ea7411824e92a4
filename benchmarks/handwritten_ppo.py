"""A minimal PPO loop in torch on the vector environment: the yardstick for what RLlib's machinery costs.

Usage: python benchmarks/handwritten_ppo.py [--iterations 8] [--repeats 5]

The same environment, networks, batch, rows learned from and hyperparameters as `policies/ppo.yaml`, in one process on
one thread, with everything left out that a single experiment can do without. Runs it and this package's PPO in turn
and prints, last, the ratio of their agent steps per CPU-second (the machine's speed varies; a ratio of two things run
in turn does not).
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.config.policy import PolicyConfig
from offload_rllib.envs.vector import training_key, vector_env
from offload_rllib.policies.network import Actor, Critic
from offload_rllib.training.rllib_config import algorithm_config

ENVIRONMENT = "ether_12"
OVERRIDES = ("training.runners=0", "training.envs_per_runner=8")


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
        self.steps = self.algorithm.batch_env_steps // environments
        lead = (self.steps + 1, environments, len(env.agents))
        self.observations = np.zeros((*lead, env.observation_size), np.float32)
        self.masks = np.zeros((*lead, env.num_actions), np.int8)
        self.actions = np.zeros((self.steps, *lead[1:]), np.int64)
        self.log_probabilities = np.zeros((self.steps, *lead[1:]), np.float32)
        self.rewards = np.zeros((self.steps, *lead[1:]), np.float32)
        self.rng = np.random.default_rng(0)
        self.episode = 0

    def iterate(self) -> int:
        """Sample a batch and learn from it; return its agent steps."""
        env = self.env
        # A batch is one whole episode of every environment.
        env.reset(np.array([training_key(0, 0, e, self.episode) for e in range(env.num_envs)], np.uint64))
        self.episode += 1
        with torch.inference_mode():
            for t in range(self.steps):
                self.observations[t], self.masks[t] = env.observations, env.masks
                logits = self.actor(torch.from_numpy(self.observations[t]), torch.from_numpy(self.masks[t]))
                action = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
                logp = torch.log_softmax(logits, -1).gather(-1, action[..., None])[..., 0]
                self.actions[t], self.log_probabilities[t] = action.numpy(), logp.numpy()
                env.step(self.actions[t])
                self.rewards[t] = env.rewards
            self.observations[-1], self.masks[-1] = env.observations, env.masks
            values = self.critic(torch.from_numpy(self.observations)).numpy()
        self._learn(values)
        return self.actions.size

    def _learn(self, values: np.ndarray) -> None:
        algorithm = self.algorithm
        advantages = np.zeros_like(self.rewards)
        running = np.zeros(self.rewards.shape[1:], np.float32)
        for t in reversed(range(self.steps)):
            delta = self.rewards[t] + algorithm.gamma * values[t + 1] - values[t]
            running = delta + algorithm.gamma * algorithm.lambda_ * running
            advantages[t] = running
        has_choice = (self.masks[:-1].sum(-1) > 1).reshape(-1)
        chosen, idle = np.flatnonzero(has_choice), np.flatnonzero(~has_choice)
        rows = np.concatenate([chosen, self.rng.permutation(idle)[: round(algorithm.idle_per_choice * len(chosen))]])

        def column(array: np.ndarray, *tail: int) -> torch.Tensor:
            return torch.from_numpy(array[: self.steps].reshape(-1, *tail)[rows])

        seen, masks = column(self.observations, self.env.observation_size), column(self.masks, self.env.num_actions)
        actions, before = column(self.actions), column(self.log_probabilities)
        advantage, target = column(advantages), column(advantages + values[:-1])
        choice = torch.from_numpy(has_choice[rows])
        advantage = (advantage - advantage[choice].mean()) / (advantage[choice].std() + 1e-6)
        for _ in range(algorithm.epochs):
            for index in torch.randperm(len(rows)).split(algorithm.minibatch_steps):
                logp = torch.log_softmax(self.actor(seen[index], masks[index]), -1)
                ratio = (logp.gather(-1, actions[index, None])[:, 0] - before[index]).exp()
                weight = choice[index] / choice[index].sum().clamp_min(1)
                clipped = ratio.clamp(1 - algorithm.clip, 1 + algorithm.clip)
                surrogate = torch.min(advantage[index] * ratio, advantage[index] * clipped)
                entropy = -(logp.exp() * logp.clamp_min(-50)).sum(-1)
                value_loss = (self.critic(seen[index]) - target[index]).square().mean()
                loss = -((surrogate + algorithm.entropy_coeff * entropy) * weight).sum()
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
    agents = len(vector_env(ENVIRONMENT).agents)
    batch = policy.algorithm.batch_env_steps * agents

    def iterate() -> int:
        algorithm.train()
        return batch

    return iterate


def agent_steps_per_cpu_second(iterate: Callable[[], int], iterations: int) -> float:
    """Return the speed of some iterations."""
    began = time.process_time()
    steps = sum(iterate() for _ in range(iterations))
    return steps / (time.process_time() - began)


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
        pair = [agent_steps_per_cpu_second(iterate, arguments.iterations) for iterate in (package, handwritten)]
        pairs.append((*pair, pair[0] / pair[1]))
        print(f"package {pair[0]:,.0f}, hand-written {pair[1]:,.0f} agent steps per CPU-second")
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"medians: package {medians[0]:,.0f}, hand-written {medians[1]:,.0f}; ratio {medians[2]:.2f}")


if __name__ == "__main__":
    main()
