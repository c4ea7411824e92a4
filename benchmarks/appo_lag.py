"""How far APPO's samples lag behind its learner, and what that does to the score.

Usage: python benchmarks/appo_lag.py [--broadcast 1 8 32 128] [--seeds 3] [--episodes 10]

The preset `appo` on `ether_12` with two runners. Runners are given new weights after every, every 8th, ... call of
RLlib's `training_step`, so the lag grows. It is the mean number of gradient steps between the weights that sampled a
decision and those that learn from it, over the whole training. The policy then plays held-out episodes, greedily.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import tempfile
from typing import Any

import ray
import torch
from ray.rllib.utils.metrics import LEARNER_RESULTS

from offload_rllib.algorithms.appo_learner import LAG
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.policies.sharing import SHARED
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

KL = "sampler_kl"


def trained(broadcast: int, seed: int, episodes: int) -> tuple[float, float, float]:
    """Return the mean lag, the mean divergence from what sampled, and the score of a training."""
    environment = load_environment("ether_12")
    policy = load_policy_config("appo", (f"training.seed={seed}",))
    config: Any = algorithm_config(environment, policy, cpus=2)
    algorithm: Any = config.training(broadcast_interval=broadcast).build_algo()
    lags, divergences = [], []
    try:
        while algorithm.env_steps < policy.training.env_steps:
            figures = algorithm.train().get(LEARNER_RESULTS, {}).get(SHARED, {})
            if math.isfinite(figures.get(LAG, math.nan)):  # a report may come before anything was learned
                lags.append(figures[LAG])
                divergences.append(figures[KL])
        with tempfile.TemporaryDirectory() as folder:
            algorithm.save_checkpoint(folder)
            (contender, *_) = make_contenders([folder])
            played = evaluate(environment, [contender], episodes=episodes)
    finally:
        algorithm.stop()
    score = float(played.of(contender.name, "score_mean_s").mean())
    return statistics.mean(lags), statistics.mean(divergences), score


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broadcast", type=int, nargs="+", default=[1, 8, 32, 128], help="calls between new weights")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each")
    parser.add_argument("--episodes", type=int, default=10, help="held-out episodes")
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    ray.init(num_cpus=4, include_dashboard=False, logging_level=logging.ERROR)
    print("| calls between new weights | lag, gradient steps | `sampler_kl` | scores, s |\n|---:|---:|---:|---|")
    for broadcast in arguments.broadcast:
        found = [trained(broadcast, seed, arguments.episodes) for seed in range(arguments.seeds)]
        lag, divergence = (statistics.mean(column) for column in list(zip(*found, strict=True))[:2])
        scores = ", ".join(f"{score:.1f}" for *_, score in found)
        print(f"| {broadcast} | {lag:.0f} | {divergence:.4f} | {scores} |", flush=True)


if __name__ == "__main__":
    main()
