"""Policies on common random numbers: every policy plays the same held-out episodes."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.config.files import written_at_once
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.experiment.contenders import Contender
from offload_rllib.scenario import build_scenario

# Episodes of one policy are played side by side in batches; more would only cost memory.
LARGEST_BATCH = 32


@dataclass(frozen=True)
class Evaluation:
    """Figures of policies on the same episodes.

    Attributes:
        environment: fingerprint of the environment.
        seed: of the held-out episodes.
        policies: names, in the order given.
        metrics: names of the figures (see `simulator.metrics.summary`).
        values: [policies, episodes, metrics] float64.
        decision_s: [policies] wall-clock seconds per agent and step spent choosing actions, episodes side by side.
    """

    environment: str
    seed: int
    policies: tuple[str, ...]
    metrics: tuple[str, ...]
    values: np.ndarray
    decision_s: np.ndarray

    def of(self, policy: str, metric: str) -> np.ndarray:
        """Return the values [episodes] of one metric of one policy."""
        return self.values[self.policies.index(policy), :, self.metrics.index(metric)]

    def write_csv(self, path: Path) -> None:
        """Write one row per policy and episode, in one step."""
        with written_at_once(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["environment", "seed", "policy", "episode", *self.metrics])
            for p, policy in enumerate(self.policies):
                for episode, row in enumerate(self.values[p]):
                    writer.writerow([self.environment, self.seed, policy, episode, *map(float, row)])


def evaluate(
    config: EnvironmentConfig,
    contenders: Sequence[Contender],
    *,
    episodes: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Let every policy play the same held-out episodes.

    Args:
        config: the environment.
        contenders: from `make_contenders`; names must differ.
        episodes: how many, at least 2.
        seed: of the held-out episodes, which training never uses, whatever its seed.
        progress: where to show it.

    Raises:
        ConfigError: too few episodes, equal names, or a policy that does not fit the environment.
    """
    if episodes < 2:
        raise ConfigError(f"episodes must be at least 2 for an interval, is {episodes}")
    names = tuple(contender.name for contender in contenders)
    if len(set(names)) < len(names):
        raise ConfigError(f"policies must have different names; given: {', '.join(names)}")
    scenario = build_scenario(config)
    keys = held_out_keys(seed, episodes)
    batches = [keys[first : first + LARGEST_BATCH] for first in range(0, episodes, LARGEST_BATCH)]
    envs = {size: VectorEnv(scenario, size) for size in {len(batch) for batch in batches}}
    for contender in contenders:
        contender.begin(envs[len(batches[0])], seed)  # all fit, before any plays
    values: list[list[dict[str, float]]] = []
    decision_s = np.zeros(len(contenders))
    task = progress.add_task("evaluating", total=len(contenders) * len(batches)) if progress else None
    for p, contender in enumerate(contenders):
        rows: list[dict[str, float]] = []
        for b, batch in enumerate(batches):
            env = envs[len(batch)]
            contender.begin(env, seed + b)
            decision_s[p] += _play(env, contender, batch) / (env.steps_per_episode * episodes * len(env.agents))
            rows += [env.episode_metrics(e) for e in range(env.num_envs)]
            if progress and task is not None:
                progress.advance(task)
        values.append(rows)
    metrics = tuple(values[0][0])
    table = np.array([[[row[metric] for metric in metrics] for row in rows] for rows in values])
    return Evaluation(fingerprint(config), seed, names, metrics, table, decision_s)


def _play(env: VectorEnv, contender: Contender, keys: np.ndarray) -> float:
    """Play one batch of episodes; return the wall-clock seconds spent deciding."""
    env.reset(keys)
    deciding_s = 0.0
    done = False
    while not done:
        start = time.perf_counter()
        actions = contender.actions(env)
        deciding_s += time.perf_counter() - start
        done = env.step(actions)
    return deciding_s
