"""Scores after equally many decisions, and the CPU time for them: PPO, PPO from a rule, and PPO of other libraries.

Usage: python benchmarks/sample_efficiency.py [--decisions 20000 40000 80000] [--seeds 3] [--learners NAME ...]

`ether_12`. Every training is in one process on one thread, with its schedules as long as its budget, and then plays the
same 20 held-out episodes, greedily. Training episodes of the rule that is cloned count as CPU time, and not as
decisions of the policy. Learners:

- `ppo`, `ppo_from_rule`: the presets as shipped.
- `ppo_small`, `ppo_from_rule_small`: with a quarter of the batch and half the minibatch, for small budgets.
- `ppo_annealed`: `ppo` with annealed credit; `ppo_annealed_small`: with the batch and minibatch of `ppo_small`, and two
  environments.
- `maskable`: MaskablePPO with its own defaults on the Gymnasium interface, where one network decides for all nodes and
  is rewarded with all nodes' rewards. `maskable_8`: with eight environments, and batches, network, learning rate (which
  falls), lambda, epochs and entropy of `ppo_small`.
- `maskable_agents`: MaskablePPO with every agent as one environment of its vector, as its users train several agents.
  Each has its own rewards. In a step one of them decides, and the others can only choose 0.
- `benchmarl_ippo`, `benchmarl_mappo`: those of BenchMARL, with its defaults and a network of 64 x 64.

Those of other libraries need `pip install --no-deps -r clients.txt`, and are left out without it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import offload_rllib
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.training.imitation import imitate
from offload_rllib.training.rllib_config import algorithm_config, built
from offload_rllib.training.train import quieten

ENV, EPISODES = "ether_12", 20
SMALL = ("algorithm.batch_env_steps=1280", "algorithm.minibatch_steps=256")
ANNEALED = ("algorithm.credit=annealed",)
# The preset, and what is changed.
OURS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ppo": ("ppo", ()),
    "ppo_small": ("ppo", SMALL),
    "ppo_annealed": ("ppo", ANNEALED),
    "ppo_annealed_small": ("ppo", (*ANNEALED, *SMALL, "training.envs_per_runner=2")),
    "ppo_from_rule": ("ppo_from_rule", ()),
    "ppo_from_rule_small": ("ppo_from_rule", SMALL),
}

# Observations [E, F], masks [E, R] and deciding agents [E] to actions [E].
Player = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def score(player: Player) -> float:
    """Return the mean score in the held-out episodes, s."""
    env = offload_rllib.vector_env(ENV, num_envs=EPISODES)
    env.reset(offload_rllib.held_out_keys(seed=0, episodes=EPISODES))
    while not env.truncated.all():
        env.step(player(env.observations, env.masks, env.deciding))
    return float(np.mean([env.episode_metrics(episode)["score_mean_s"] for episode in range(EPISODES)]))


def train_ours(learner: str, decisions: int, seed: int) -> tuple[float, float]:
    """Return CPU time of a training and the score of its policy, both in seconds."""
    preset, changes = OURS[learner]
    settings = (*changes, "training.runners=0", f"training.env_steps={decisions}", f"training.seed={seed}")
    policy = load_policy_config(preset, settings)
    environment = load_environment(ENV)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        start = None
        if policy.training.imitate is not None:
            start = Path(folder) / "start"
            start.mkdir()
            imitate(start, policy, built(environment))
        algorithm: Any = algorithm_config(environment, policy, cpus=2, start=start).build_algo()
        try:
            while algorithm.env_steps < decisions:
                algorithm.train()
            cpu_s = time.process_time() - began
            algorithm.save_checkpoint(folder)
        finally:
            algorithm.stop()
        trained = offload_rllib.load_policy(folder).on(offload_rllib.vector_env(ENV, num_envs=EPISODES))
        return cpu_s, score(lambda seen, masks, deciding: trained(seen, masks, agents=deciding))


def train_maskable(learner: str, decisions: int, seed: int) -> tuple[float, float]:
    """Return the same of MaskablePPO."""
    # Only those who ask for it have it.
    peer = importlib.import_module("sb3_contrib")
    vector = importlib.import_module("stable_baselines3.common.vec_env")

    def make() -> Any:
        return offload_rllib.gym_env(ENV)

    began = time.process_time()
    how: dict[str, Any] = {}
    if learner == "maskable_8":
        how = {
            "n_steps": 160,
            "batch_size": 256,
            "n_epochs": 6,
            "learning_rate": lambda left: 1e-5 + left * (1e-3 - 1e-5),
            "gae_lambda": 0.98,
            "ent_coef": 0.03,
            "policy_kwargs": {"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
        }
    environments = vector.DummyVecEnv([make] * (8 if how else 1))
    model = peer.MaskablePPO("MultiInputPolicy", environments, seed=seed, device="cpu", **how)
    model.learn(total_timesteps=decisions)
    cpu_s = time.process_time() - began

    def player(seen: np.ndarray, masks: np.ndarray, deciding: np.ndarray) -> np.ndarray:
        given = {"observations": seen, "action_mask": masks, "agent": np.maximum(deciding, 0)}
        return model.predict(given, action_masks=masks.astype(bool), deterministic=True)[0]

    return cpu_s, score(player)


def train_maskable_agents(_: str, decisions: int, seed: int) -> tuple[float, float]:
    """Return the same of MaskablePPO with agents as environments."""
    peer = importlib.import_module("maskable_agents")
    began = time.process_time()
    model = peer.train(ENV, decisions, seed)
    cpu_s = time.process_time() - began
    return cpu_s, score(lambda seen, masks, _: model.predict(seen, action_masks=masks == 1, deterministic=True)[0])


def train_benchmarl(learner: str, decisions: int, seed: int) -> tuple[float, float]:
    """Return the same of BenchMARL."""
    peer = importlib.import_module("benchmarl_agents")
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        player = peer.train(ENV, decisions, seed, Path(folder), central=learner == "benchmarl_mappo")
        cpu_s = time.process_time() - began
        return cpu_s, score(lambda seen, masks, _: player(seen, masks))


# Of other libraries: the package that they need, and what trains them.
PEERS = {
    "maskable": ("sb3_contrib", train_maskable),
    "maskable_8": ("sb3_contrib", train_maskable),
    "maskable_agents": ("sb3_contrib", train_maskable_agents),
    "benchmarl_ippo": ("benchmarl", train_benchmarl),
    "benchmarl_mappo": ("benchmarl", train_benchmarl),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, nargs="+", default=[20_000, 40_000, 80_000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learners", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    arguments = parser.parse_args()
    learners = [
        learner for learner in arguments.learners if learner in OURS or importlib.util.find_spec(PEERS[learner][0])
    ]
    quieten()
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    print(f"{ENV}; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before\n")
    print("| learner | decisions | CPU-s | scores, s | mean, s |\n|---|---:|---:|---|---:|")
    for decisions in arguments.decisions:
        for learner in learners:
            train = train_ours if learner in OURS else PEERS[learner][1]
            found = [train(learner, decisions, seed) for seed in range(arguments.seeds)]
            cpu_s, scores = (np.array(column) for column in zip(*found, strict=True))
            listed = ", ".join(f"{one:.1f}" for one in scores)
            print(
                f"| `{learner}` | {decisions:,} | {np.median(cpu_s):.1f} | {listed} | {scores.mean():.1f} |", flush=True
            )
    ray.shutdown()


if __name__ == "__main__":
    main()
