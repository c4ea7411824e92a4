"""Speed of learners: CPU-microseconds per row and pass, with gradients by torch and written out, in turn.

Usage: python benchmarks/learner.py [--repeats 5]

Rows are drawn at random, of the size that `ether_12` has. A pass of PPO takes minibatches out of the rows, one of DDQN
batches of transitions, and computes loss, gradient, clipping and Adam's step for each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

import offload_rllib
from offload_rllib.algorithms.fused.actor_critic import HAS_CHOICE
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.replay import Sample
from offload_rllib.rollout.transitions import Transitions
from offload_rllib.training.rllib_config import algorithm_config

ROWS = 8192
TRANSITIONS = 256
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp 2 x 64": {"hidden": [64, 64]},
    "pointer 2 x 32": {"kind": "pointer", "hidden": [32, 32]},
}


def make_learner(preset: str, gradients: str, network: dict[str, Any]) -> Any:
    """Return a preset's learner for ether_12."""
    policy = load_policy_config(preset, [f"algorithm.learner={gradients}"])
    policy = load_policy_config(policy.model_dump(mode="json", by_alias=True) | {"network": network})
    env = offload_rllib.vector_env("ether_12", 1)
    config = algorithm_config(load_environment("ether_12"), policy, cpus=2)
    spaces: Any = {SHARED: (observation_space(env), action_space(env))}
    return config.build_learner(env=None, spaces=spaces)


def draw_masks(learner: Any, rows: int) -> tuple[np.random.Generator, int, np.ndarray]:
    """Return a generator, the number of features, and masks: two actions are valid, and half of the others."""
    rng = np.random.default_rng(0)
    space = learner.network(SHARED).observation_space
    masks = (rng.random((rows, space["action_mask"].shape[0])) < 0.5).astype(np.int8)
    masks[:, :2] = 1
    return rng, space["observations"].shape[0], masks


def draw_rows(learner: Any) -> dict[str, Any]:
    """Return rows in which half of the actions are valid."""
    rng, features, masks = draw_masks(learner, ROWS)
    columns = {
        Columns.ACTIONS: rng.integers(0, 2, ROWS),
        Columns.ACTION_LOGP: rng.uniform(-2, -0.1, ROWS).astype(np.float32),
        Postprocessing.ADVANTAGES: rng.normal(0, 1, ROWS).astype(np.float32),
        Postprocessing.VALUE_TARGETS: rng.normal(0, 1, ROWS).astype(np.float32),
        HAS_CHOICE: np.ones(ROWS, bool),
    }
    seen = {"observations": rng.normal(0, 1, (ROWS, features)).astype(np.float32)}
    return {name: torch.from_numpy(column) for name, column in columns.items()} | {
        Columns.OBS: {name: torch.from_numpy(column) for name, column in (seen | {"action_mask": masks}).items()}
    }


def one_pass(learner: Any, rows: dict[str, Any], minibatch: int) -> float:
    """Learn once from all rows; return CPU-microseconds per row."""
    config = learner.config.get_config_for_module(SHARED)
    order = torch.from_numpy(np.random.default_rng(1).permutation(ROWS))
    start = time.process_time()
    learner.learn_from(SHARED, config, rows, [(part, 1.0) for part in order.split(minibatch)])
    seconds = time.process_time() - start
    learner.log_noted(SHARED)
    return seconds / ROWS * 1e6


def draw_sample(learner: Any) -> Sample:
    """Return transitions in which half of the actions are valid."""
    rng, features, masks = draw_masks(learner, TRANSITIONS)
    return Sample(
        Transitions(
            observations=rng.normal(0, 1, (TRANSITIONS, features)).astype(np.float32),
            masks=masks,
            actions=rng.integers(0, 2, TRANSITIONS),
            returns=rng.normal(0, 1, TRANSITIONS).astype(np.float32),
            discounts=rng.uniform(0.5, 1, TRANSITIONS).astype(np.float32),
            next_observations=rng.normal(0, 1, (TRANSITIONS, features)).astype(np.float32),
            next_masks=masks,
        ),
        weights=np.ones(TRANSITIONS, np.float32),
        states=np.arange(TRANSITIONS),
    )


def one_round(learner: Any, sample: Sample) -> float:
    """Learn from as many transitions as `one_pass` has rows; return CPU-microseconds per transition."""
    start = time.process_time()
    learner.begin_round(SHARED)
    for _ in range(ROWS // TRANSITIONS):
        learner.learn(SHARED, sample)
    learner.finish_round(0, {SHARED: TRANSITIONS})
    return (time.process_time() - start) / ROWS * 1e6


def compare(title: str, passes: dict[str, Callable[[], float]], repeats: int) -> None:
    """Print the medians of repeats in turn; the first pass of each compiles and warms up."""
    found: dict[str, list[float]] = {gradients: [] for gradients in passes}
    for repeat in range(repeats + 1):
        for gradients, one in passes.items():
            microseconds = one()
            if repeat:
                found[gradients].append(microseconds)
    plain, fused = (statistics.median(found[gradients]) for gradients in ("torch", "fused"))
    print(f"{title}: torch {plain:.1f}, fused {fused:.1f} us per row and pass ({plain / fused:.2f} x)")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    for title, network in NETWORKS.items():
        learners = {gradients: make_learner("ppo", gradients, network) for gradients in ("torch", "fused")}
        rows = draw_rows(learners["torch"])
        for minibatch in (512, 2048):
            passes = {kind: partial(one_pass, learner, rows, minibatch) for kind, learner in learners.items()}
            compare(f"PPO, {title}, minibatches of {minibatch}", passes, repeats)
        learners = {gradients: make_learner("ddqn", gradients, network) for gradients in ("torch", "fused")}
        sample = draw_sample(learners["torch"])
        passes = {kind: partial(one_round, learner, sample) for kind, learner in learners.items()}
        compare(f"DDQN, {title}, batches of {TRANSITIONS}", passes, repeats)


if __name__ == "__main__":
    main()
