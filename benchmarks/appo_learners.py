"""Decisions per second and scores of APPO with more runners, and with several learners.

Usage: python benchmarks/appo_learners.py [--shapes 1+0 2+0 2+2+1 2+2+4 2+2+16] [--repeats 5] [--seeds 5]

The preset `appo` on `ether_12`. A shape is runners + learners, + uses of a batch between two meetings of several
learners; 0 learners are a thread of the trainer. Each of several learners has the preset's batch and minibatches.

A training of each shape runs for five iterations, one shape after the other and all of them again, so that what else
the machine does meets all of them. Shown are medians, and the medians of the ratios to the first shape. With --seeds
each shape is then trained with the preset's budget, all learners together, and plays held-out episodes greedily.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

WARM, ITERATIONS = 2, 5
SHAPES = ("1+0", "2+0", "2+2+1", "2+2+4", "2+2+16")


class Shape(NamedTuple):
    """How many processes sample and learn."""

    runners: int
    learners: int
    exchange_uses: int = 4

    @classmethod
    def read(cls, text: str) -> Shape:
        """Return the shape of e.g. 2+0 or 2+2+16."""
        return cls(*map(int, text.split("+")))

    def __str__(self) -> str:
        """Return it as it is given."""
        return f"{self.runners} + {self.learners}" + (f", every {self.exchange_uses} uses" if self.learners > 1 else "")

    def config(self, env: str, seed: int) -> Any:
        """Return RLlib's configuration of a training."""
        preset: Any = load_policy_config("appo").algorithm
        several = max(self.learners, 1)
        changes = (
            f"training.runners={self.runners}",
            f"training.learners={self.learners}",
            f"algorithm.batch_env_steps={several * preset.batch_env_steps}",
            f"algorithm.minibatch_steps={several * preset.minibatch_steps}",
            f"algorithm.exchange_uses={self.exchange_uses}",
            f"training.seed={seed}",
        )
        return algorithm_config(load_environment(env), load_policy_config("appo", changes), cpus=8)


def rate(shape: Shape, env: str) -> float:
    """Return decisions per second of a training."""
    algorithm: Any = shape.config(env, 0).build_algo()
    try:
        for _ in range(WARM):  # environments are made, and the buffers fill
            algorithm.train()
        began, before = time.perf_counter(), algorithm.env_steps
        for _ in range(ITERATIONS):
            algorithm.train()
        return (algorithm.env_steps - before) / (time.perf_counter() - began)
    finally:
        algorithm.stop()


def score(shape: Shape, env: str, seed: int, episodes: int) -> float:
    """Return the mean score of a trained policy, s."""
    algorithm: Any = shape.config(env, seed).build_algo()
    budget = load_policy_config("appo").training.env_steps
    try:
        while algorithm.env_steps < budget:
            algorithm.train()
        with tempfile.TemporaryDirectory() as folder:
            algorithm.save_checkpoint(folder)
            (contender, *_) = make_contenders([folder])
            played = evaluate(load_environment(env), [contender], episodes=episodes)
    finally:
        algorithm.stop()
    return float(played.of(contender.name, "score_mean_s").mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=Shape.read, nargs="+", default=[*map(Shape.read, SHAPES)])
    parser.add_argument("--env", default="ether_12")
    parser.add_argument("--repeats", type=int, default=5, help="trainings of each shape for its speed")
    parser.add_argument("--seeds", type=int, default=0, help="trainings of each shape for its scores")
    parser.add_argument("--episodes", type=int, default=20, help="held-out episodes")
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    ray.init(num_cpus=8, include_dashboard=False, logging_level=logging.ERROR)
    print(f"{arguments.env}, appo; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before\n")
    print("| runners + learners | decisions/s | relative to the first | scores, s |\n|---|---:|---:|---|")
    in_turn = [[rate(shape, arguments.env) for shape in arguments.shapes] for _ in range(arguments.repeats)]
    rates = np.array(in_turn).T
    for shape, own in zip(arguments.shapes, rates, strict=True):
        scores = [score(shape, arguments.env, seed, arguments.episodes) for seed in range(arguments.seeds)]
        listed = ", ".join(f"{one:.1f}" for one in scores)
        print(f"| {shape} | {statistics.median(own):,.0f} | {np.median(own / rates[0]):.2f} | {listed} |", flush=True)


if __name__ == "__main__":
    main()
