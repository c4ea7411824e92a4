"""Scores at equal samples: several learners against one, by how they divide batches and how often they meet.

Usage: python benchmarks/score_of_learners.py [--learners 2 4 8] [--batches 1 4] [--seeds 5] [--file scores.jsonl]

`ether_12`, `ppo`: every training takes the preset's budget of decisions, all learners together. *Divided*: learners
divide a batch and its minibatches. *Whole*: each has as many decisions as a preset's batch, and its minibatches.
Learners are threads of one process, which learn what processes would, except for rounding. Policies play held-out
episodes, greedily.
Finished trainings are kept in a file, a line each, and the same command does what is missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from runners import table

from offload_rllib.algorithms.exchange.own_runner import OwnRunner
from offload_rllib.algorithms.exchange.threads import together
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.evaluation.statistics import mean_over_seeds_and_episodes, paired_difference
from offload_rllib.training.rllib_config import algorithm_config, built
from offload_rllib.training.train import quieten

ENVIRONMENT, POLICY = "ether_12", "ppo"
EPISODES = 20


class Variant(NamedTuple):
    """How a batch is learned from."""

    learners: int
    whole: bool
    """Whether each has a preset's batch; otherwise they divide one."""
    batches: int
    """Between two meetings."""


ONE = Variant(learners=1, whole=False, batches=1)


def changes_of(variant: Variant, seed: int) -> list[str]:
    """Return the changes of the preset."""
    preset: Any = load_policy_config(POLICY)
    envs = max(preset.training.runners, 1) * preset.training.envs_per_runner
    times = variant.learners if variant.whole else 1
    several = variant.learners if variant.learners > 1 else 0
    return [
        f"algorithm.batch_env_steps={preset.algorithm.batch_env_steps * times}",
        f"algorithm.minibatch_steps={preset.algorithm.minibatch_steps * times}",
        f"algorithm.exchange_batches={variant.batches}",
        f"training={{runners: 0, learners: {several}, seed: {seed}, env_steps: {preset.training.env_steps}}}",
        f"training.envs_per_runner={envs * times // variant.learners}",
    ]


def learned(variant: Variant, seed: int) -> dict[str, Any]:
    """Return the weights of the policies after a training with several learners, as threads."""
    policy: Any = load_policy_config(POLICY, changes_of(variant, seed))
    environment = load_environment(ENVIRONMENT)
    env = built(environment)
    config: Any = algorithm_config(environment, policy, cpus=variant.learners, env=env)
    spaces: Any = {module_id: (observation_space(env), action_space(env)) for module_id in config.policies}
    alone = config.copy(copy_frozen=False).learners(num_learners=0)
    learners: list[Any] = []
    for index in range(variant.learners):
        learner: Any = alone.build_learner(env=None, spaces=spaces)
        learner._learner_index, learner._rng = index, np.random.default_rng((seed, index))  # noqa: SLF001 - as `build`
        learner._own_runner = OwnRunner(config, index)  # noqa: SLF001 - that of `iterate`
        learners.append(learner)
    how = {"num_epochs": policy.algorithm.epochs, "minibatch_size": policy.algorithm.minibatch_steps}
    env_steps, batch = 0, policy.algorithm.batch_env_steps
    while env_steps < policy.training.env_steps:
        batches = min(variant.batches, -(-(policy.training.env_steps - env_steps) // batch))
        asked = {"env_steps": env_steps, "batches": batches} | how
        answers = together(learners, lambda learner, _, asked=asked: learner.iterate(**asked))
        env_steps += sum(int(sampled["num_env_steps_sampled"].peek()) for sampled, _, _ in answers)
    return learners[0].module.get_state()


def scores_of(variant: Variant, seed: int) -> list[float]:
    """Return the scores [EPISODES] of a training, s."""
    environment = load_environment(ENVIRONMENT)
    config = algorithm_config(environment, load_policy_config(POLICY, changes_of(ONE, seed)), cpus=1)
    algorithm: Any = config.build_algo()
    try:
        if variant.learners > 1:
            algorithm.learner_group._learner.module.set_state(learned(variant, seed))  # noqa: SLF001 - there is one
        else:
            budget = load_policy_config(POLICY).training.env_steps
            while algorithm.env_steps < budget:
                algorithm.train()
        with tempfile.TemporaryDirectory() as folder:
            algorithm.save_checkpoint(folder)
            (contender, *_) = make_contenders([folder])
            played = evaluate(environment, [contender], episodes=EPISODES)
        return played.of(contender.name, "score_mean_s").reshape(-1).tolist()
    finally:
        algorithm.stop()


def shown(found: dict[Variant, dict[int, list[float]]]) -> Iterator[str]:
    """Yield rows: means over seeds and episodes with 95 % intervals, and differences from one learner."""
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in found.values())))
    one = np.array([found[ONE][seed] for seed in seeds])
    for variant, by_seed in sorted(found.items()):
        scores = np.array([by_seed[seed] for seed in seeds])
        mean = mean_over_seeds_and_episodes(scores)
        name = f"{variant.learners} | {'whole' if variant.whole else 'divided'} | {variant.batches}"
        cells = f"{len(seeds)} | {mean.mean:.2f} ({mean.low:.2f} to {mean.high:.2f})"
        if variant == ONE:
            yield f"| {name} | {cells} | |"
            continue
        difference = paired_difference(scores, one)
        yield f"| {name} | {cells} | {difference.mean:+.2f} ({difference.low:+.2f} to {difference.high:+.2f}) |"


def main() -> None:
    """Train what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="between two meetings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--file", type=Path, default=Path("score_of_learners.jsonl"))
    options = parser.parse_args()
    variants = [ONE]
    variants += [Variant(*parts) for parts in itertools.product(options.learners, (False, True), options.batches)]
    found: dict[Variant, dict[int, list[float]]] = {variant: {} for variant in variants}
    if options.file.is_file():
        for line in map(json.loads, options.file.read_text().splitlines()):
            found.setdefault(Variant(*line["variant"]), {})[line["seed"]] = line["scores_s"]
    quieten()
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    for seed, variant in itertools.product(range(options.seeds), variants):
        if seed not in found[variant]:
            found[variant][seed] = scores_of(variant, seed)
            with options.file.open("a") as file:
                file.write(json.dumps({"variant": variant, "seed": seed, "scores_s": found[variant][seed]}) + "\n")
    ray.shutdown()
    head = "learners | batch | meeting after batches | seeds | score, s (95 % interval) | difference from 1"
    print(table(head, list(shown(found))))


if __name__ == "__main__":
    main()
