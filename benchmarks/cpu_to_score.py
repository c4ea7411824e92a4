"""CPU time until a policy reaches a score on held-out episodes: decided at arrivals, and with a clock as before.

Usage: python benchmarks/cpu_to_score.py {ppo,ddqn} [--score 22.5] [--seeds 3] [--points 30] [--episodes 20]

`ether_12`, everything in one process on one thread. The clock is an interval of 1 s, and its hyperparameters are those
of version 1 of the preset. Only sampling and learning count as CPU time. After each of `--points` equal parts of the
budget the policy plays the held-out episodes, greedily; the first point at which its mean score is no higher than
`--score` counts. A clock holds tasks until its next tick, 0.8 s on average, and its scores contain that.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import ray
import torch

from offload_rllib.config import EnvironmentConfig, PolicyConfig, load_environment, load_policy_config
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import quieten

CLOCK = ("decisions.when=interval", "decisions.interval_s=1")
ALONE = ("training.runners=0",)
# Version 1 of the presets, where it differs from the present one. Environment steps are intervals there.
CLOCKED = {
    "ppo": (
        "algorithm.learner=torch",
        "algorithm.entropy_coeff=0.05",
        "algorithm.epochs=8",
        "algorithm.batch_env_steps=8000",
        "training.env_steps=480000",
        "training.envs_per_runner=8",
    ),
    "ddqn": (
        "algorithm.learner=torch",
        "algorithm.final_lr=null",
        "algorithm.n_step=1",
        "algorithm.epsilon_decay_env_steps=60000",
        "algorithm.sample_env_steps=320",
        "algorithm.batch_env_steps=4000",
        "training.env_steps=320000",
        "training.envs_per_runner=8",
    ),
}
SCORES = {"ppo": 22.5, "ddqn": 28.4}


def variants(policy: str) -> dict[str, tuple[EnvironmentConfig, tuple[str, ...]]]:
    """Return what is compared: environment and settings of the policy."""
    arrival = load_environment("ether_12")
    found = {"clock": (load_environment("ether_12", CLOCK), CLOCKED[policy]), "arrival": (arrival, ())}
    if policy == "ppo":
        found["arrival, learner: torch"] = (arrival, ("algorithm.learner=torch",))
    return found


def curve(
    environment: EnvironmentConfig, policy: PolicyConfig, points: int, episodes: int
) -> Iterator[tuple[float, float]]:
    """Yield CPU seconds of training so far and the mean score, at equal parts of the budget."""
    algorithm: Any = algorithm_config(environment, policy, cpus=2).build_algo()
    torch.set_num_threads(1)
    budget, spent, reached = policy.training.env_steps, 0.0, 0
    try:
        while algorithm.env_steps < budget:
            began = time.process_time()
            algorithm.train()
            spent += time.process_time() - began
            if algorithm.env_steps * points // budget == reached:
                continue
            reached = algorithm.env_steps * points // budget
            with tempfile.TemporaryDirectory() as folder:
                algorithm.save_checkpoint(folder)
                (contender, *_) = make_contenders([folder])
                played = evaluate(environment, [contender], episodes=episodes)
            yield spent, float(played.of(contender.name, "score_mean_s").mean())
    finally:
        algorithm.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", choices=sorted(CLOCKED))
    parser.add_argument("--score", type=float, help="seconds; default: 22.5 for ppo, 28.4 for ddqn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--episodes", type=int, default=20)
    arguments = parser.parse_args()
    score = arguments.score or SCORES[arguments.policy]
    quieten()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    needed: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        for name, (environment, overrides) in variants(arguments.policy).items():
            settings = (*overrides, *ALONE, f"training.seed={seed}")
            found = list(
                curve(environment, load_policy_config(arguments.policy, settings), arguments.points, arguments.episodes)
            )
            first = next((cpu_s for cpu_s, mean_s in found if mean_s <= score), float("inf"))
            needed.setdefault(name, []).append(first)
            last_s, best_s = found[-1][1], min(mean_s for _, mean_s in found)
            print(
                f"seed {seed}, {name}: {score:g} s after {first:.1f} CPU-s of {found[-1][0]:.1f}; "
                f"lowest {best_s:.2f} s, last {last_s:.2f} s",
                flush=True,
            )
    middle = {name: statistics.median(values) for name, values in needed.items()}
    for name, value in middle.items():
        share = value / middle["clock"]
        print(f"{arguments.policy}, {name}: {value:.1f} CPU-s to {score:g} s, {share:.2f} of the clock's")
    ray.shutdown()


if __name__ == "__main__":
    main()
