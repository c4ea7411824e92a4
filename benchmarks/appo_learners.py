"""Decisions per second and scores of APPO with more runners, and with several learners.

Usage: python benchmarks/appo_learners.py [--shapes 1+0 2+0 2+2 4+2] [--repeats 7] [--seeds 3] [--episodes 20]

The preset `appo` on `ether_12`. A shape is runners + learners; 0 learners are a thread of the trainer. Each of several
learners has the preset's batch. All trainings are there at the same time, and each samples and learns three iterations
in turn, so that what else the machine does meets all of them: shown are medians, and the medians of the ratios to the
first shape. With --seeds each shape is then trained with the preset's budget, all learners together, and plays held-out
episodes greedily.
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

ITERATIONS = 3


class Shape(NamedTuple):
    """How many processes sample and learn."""

    runners: int
    learners: int

    @classmethod
    def read(cls, text: str) -> Shape:
        """Return the shape of e.g. 2+0."""
        return cls(*map(int, text.split("+")))

    def __str__(self) -> str:
        """Return it as it is given."""
        return f"{self.runners} + {self.learners}"

    def config(self, env: str, seed: int) -> Any:
        """Return RLlib's configuration of a training."""
        batch = load_policy_config("appo").algorithm.batch_env_steps * max(self.learners, 1)
        changes = (
            f"training.runners={self.runners}",
            f"training.learners={self.learners}",
            f"algorithm.batch_env_steps={batch}",
            f"training.seed={seed}",
        )
        return algorithm_config(load_environment(env), load_policy_config("appo", changes), cpus=8)


def in_turn(shapes: list[Shape], env: str, repeats: int) -> list[list[float]]:
    """Return decisions per second of each shape in each repeat."""
    algorithms: list[Any] = [shape.config(env, 0).build_algo() for shape in shapes]
    found: list[list[float]] = [[] for _ in shapes]
    try:
        for repeat in range(repeats + 1):  # the first makes environments and compiles
            for algorithm, rates in zip(algorithms, found, strict=True):
                algorithm.train()  # what it has done meanwhile is not counted
                began, before = time.perf_counter(), algorithm.env_steps
                for _ in range(ITERATIONS):
                    algorithm.train()
                if repeat:
                    rates.append((algorithm.env_steps - before) / (time.perf_counter() - began))
    finally:
        for algorithm in algorithms:
            algorithm.stop()
    return found


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
    parser.add_argument(
        "--shapes", type=Shape.read, nargs="+", default=[Shape(*s) for s in ((1, 0), (2, 0), (2, 2), (4, 2))]
    )
    parser.add_argument("--env", default="ether_12")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=0, help="trainings of each shape for its scores")
    parser.add_argument("--episodes", type=int, default=20, help="held-out episodes")
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    ray.init(num_cpus=8 * len(arguments.shapes), include_dashboard=False, logging_level=logging.ERROR)
    print(f"{arguments.env}, appo; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before\n")
    print("| runners + learners | decisions/s | relative to the first | scores, s |\n|---|---:|---:|---|")
    rates = np.array(in_turn(arguments.shapes, arguments.env, arguments.repeats))
    for shape, own in zip(arguments.shapes, rates, strict=True):
        scores = [score(shape, arguments.env, seed, arguments.episodes) for seed in range(arguments.seeds)]
        listed = ", ".join(f"{one:.1f}" for one in scores)
        print(f"| {shape} | {statistics.median(own):,.0f} | {np.median(own / rates[0]):.2f} | {listed} |", flush=True)


if __name__ == "__main__":
    main()
