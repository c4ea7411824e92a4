"""Scores after equally many samples, with one learner and with several that exchange weights or gradients.

Usage: python benchmarks/learners_score.py [--learners 1 4 8] [--seeds 3] [--exchange weights gradients]

Learners are threads of one process: what they compute is what processes compute, and the time it takes says nothing.
All numbers of learners have the same environments in all, the same batches and as many gradient steps. The score is
the mean over held-out episodes, played greedily; lower is better. Differences are paired by seed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from typing import Any

import numpy as np

from offload_rllib.algorithms.exchange.own_runner import OwnRunner
from offload_rllib.algorithms.exchange.threads import together
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.envs.vector import batch_of, held_out_keys
from offload_rllib.policies.saved import PolicyDescription, SavedPolicy
from offload_rllib.policies.sharing import assign_in
from offload_rllib.scenario import build_scenario
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

ENVIRONMENTS = 16
EPISODES = 64


class Training:
    """A training by learners that are threads."""

    def __init__(self, env: str, policy: str, learners: int, exchange: str, seed: int) -> None:
        """Build learners and their runners."""
        self.environment = load_environment(env)
        changes = [f"training.learners={max(learners, 2)}", f"training.envs_per_runner={ENVIRONMENTS // learners}"]
        changes += [f"training.seed={seed}", f"algorithm.exchange={exchange}"]
        self.policy = load_policy_config(policy, changes)
        self.scenario = build_scenario(self.environment)
        one = batch_of(self.scenario, 1)
        config: Any = algorithm_config(self.environment, self.policy, cpus=100, env=one)
        batch = self.policy.algorithm.batch_env_steps
        config.learners(num_learners=learners)
        config.training(train_batch_size_per_learner=batch // learners)
        spaces: Any = {name: (observation_space(one), action_space(one)) for name in config.policies}
        alone = config.copy(copy_frozen=False).learners(num_learners=0)
        self.learners = [alone.build_learner(env=None, spaces=spaces) for _ in range(learners)]
        for index, learner in enumerate(self.learners):
            # What RLlib tells a learner in a process of its own before it is built.
            learner._learner_index = index  # noqa: SLF001
            learner._rng = np.random.default_rng((seed, index))  # noqa: SLF001
            learner._own_runner = OwnRunner(config, index)  # noqa: SLF001
        self.env_steps = 0

    def run(self) -> None:
        """Train to the end of the budget."""
        algorithm: Any = self.policy.algorithm
        how = {"num_epochs": getattr(algorithm, "epochs", 1), "minibatch_size": algorithm.minibatch_steps}
        while self.env_steps < self.policy.training.env_steps:
            together(self.learners, lambda learner, _: learner.iterate(self.env_steps, **how))
            self.env_steps += algorithm.batch_env_steps

    def score(self) -> float:
        """Return the mean score of held-out episodes, s."""
        batch: Any = batch_of(self.scenario, EPISODES)
        assignment = assign_in(self.policy.sharing, self.scenario)
        description = PolicyDescription.of(
            assignment,
            algorithm=self.policy.algorithm.name,
            observation_size=batch.observation_size,
            actions=batch.num_actions,
            network=self.policy.network,
            rows=batch.layout.blocks,
            environment="",
            decides=self.environment.decisions.when,
            env_steps=self.env_steps,
        )
        networks: dict[str, Any] = {}
        for name in assignment.policies:
            networks[name] = description.make_network()
            networks[name].load_state_dict(self.learners[0].network(name).actor.state_dict())
        policy = SavedPolicy(description, networks)
        batch.reset(held_out_keys(0, EPISODES))
        while not batch.truncated.all():
            batch.step(policy(batch.observations, batch.masks, agents=batch.deciding))
        return float(np.mean([batch.episode_metrics(e)["score_mean_s"] for e in range(EPISODES)]))


def main() -> None:
    """Train, play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", type=int, nargs="+", default=[4, 8], help="beside one")
    parser.add_argument("--exchange", nargs="+", default=["weights", "gradients"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--env", default="ether_12")
    parser.add_argument("--policy", default="ppo")
    options = parser.parse_args()
    quieten()
    shapes = [(1, "weights"), *itertools.product(options.learners, options.exchange)]
    scores: dict[tuple[int, str], list[float]] = {shape: [] for shape in shapes}
    for seed, (learners, exchange) in itertools.product(range(options.seeds), shapes):
        began = time.perf_counter()
        training = Training(options.env, options.policy, learners, exchange, seed)
        training.run()
        scores[learners, exchange].append(training.score())
        print(
            f"seed {seed}, {learners} learners, {exchange}: {scores[learners, exchange][-1]:.2f} s "
            f"({time.perf_counter() - began:.0f} s, load {os.getloadavg()[0]:.0f})",
            flush=True,
        )
    print("\n| learners | exchange | score of each seed, s | mean | less than one learner's, each seed |")
    print("|---:|---|---|---:|---|")
    for (learners, exchange), own in scores.items():
        less = np.array(scores[shapes[0]]) - np.array(own)
        shown = ", ".join(f"{score:.2f}" for score in own)
        print(
            f"| {learners} | {exchange} | {shown} | {np.mean(own):.2f} | {', '.join(f'{one:+.2f}' for one in less)} |"
        )


if __name__ == "__main__":
    main()
