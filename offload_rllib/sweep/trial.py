"""One trial of a sweep: a point of the search space, trained once with every training seed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from offload_rllib.algorithms.offload_algorithm import OffloadAlgorithm
from offload_rllib.cluster.placement import SMALLEST_RUNNER_CPUS
from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig
from offload_rllib.config.files import read_json
from offload_rllib.evaluation.evaluate import Player, evaluate
from offload_rllib.evaluation.players import Contender
from offload_rllib.policies.manifest import write_manifest
from offload_rllib.policies.saved import SavedPolicy
from offload_rllib.rollout.callbacks import LOGGED, PREFIX
from offload_rllib.sweep.plan import SweepPlan, Token
from offload_rllib.training.rllib_config import algorithm_config

VALIDATION = "validation"
BY_SEED = "validation_by_seed"
ENV_STEPS = "timesteps_total"
COST = "cost"
STATE = "trial.json"


class DivergedError(RuntimeError):
    """Training ended with weights or figures that are not finite."""


def seed_folder(checkpoint: Path, seed: int) -> Path:
    """Return where a checkpoint of a trial keeps the run with a training seed."""
    return checkpoint / f"seed_{seed}"


def trial_resources(plan: SweepPlan, values: Mapping[str, Any], cpus: float) -> tune.PlacementGroupFactory:
    """Return what a trial reserves: its own process, and the runners of every training seed.

    Args:
        plan: the sweep.
        values: of the space's keys.
        cpus: of the machine.
    """
    try:
        config: Any = _config(plan, *plan.trial(values), cpus)
    except ConfigError:
        return tune.PlacementGroupFactory([{"CPU": min(1.0, plan.cpus(cpus))}])  # the trial will say what is wrong
    runners = config.num_env_runners * len(plan.config.seeds)
    main = {"CPU": min(config.num_cpus_for_main_process, plan.cpus(cpus))}
    return tune.PlacementGroupFactory([main, *[{"CPU": config.num_cpus_per_env_runner}] * runners])


def _config(plan: SweepPlan, environment: EnvironmentConfig, policy: PolicyConfig, cpus: float) -> AlgorithmConfig:
    """Return RLlib's configuration; the runners of all seeds share what one run would have, because they take turns."""
    config: Any = algorithm_config(environment, policy, cpus=plan.cpus(cpus))
    share = math.floor(config.num_cpus_per_env_runner / len(plan.config.seeds) * 1000) / 1000
    if config.num_env_runners and share < SMALLEST_RUNNER_CPUS:
        raise ConfigError(
            f"training.runners: {config.num_env_runners} for each of {len(plan.config.seeds)} training "
            f"seeds do not fit on {plan.cpus(cpus):g} CPUs"
        )
    return config.env_runners(num_cpus_per_env_runner=share)


class SweepTrial(tune.Trainable):
    """Trains a policy with every training seed in turn, and reports the mean over the seeds.

    One `step` is `budget.report_env_steps` of training per seed, then validation episodes of each.
    """

    def setup(self, config: dict[str, Token], plan: SweepPlan, cpus: float) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - Tune's has no parameters
        """Begin; `config` holds tokens by key of the space."""
        self._plan, self._cpus = plan, cpus
        self._begin(config)

    def _begin(self, tokens: Mapping[str, Token]) -> None:
        self._player = Player()
        self._algorithms: dict[int, OffloadAlgorithm] = {}
        self._problem: str | None = None
        self._cost = dict.fromkeys(("training_s", "training_cpu_s", "validation_s"), 0.0)
        try:
            self._environment, policy = self._plan.trial(self._plan.decoded(tokens))
            for seed in self._plan.config.seeds:
                training = policy.training.model_copy(update={"seed": seed})
                seeded = policy.model_copy(update={"training": training})
                config: Any = _config(self._plan, self._environment, seeded, self._cpus)
                self._algorithms[seed] = config.algo_class(config=config, storage=self._storage)
        except ConfigError as error:
            # A failure to start would be reported as that of the process; as a failed step its own message is shown.
            self._problem = str(error)

    def step(self) -> dict[str, Any]:
        """Train until the next report, and play the validation episodes.

        Raises:
            ConfigError: such an environment or policy is invalid.
            DivergedError: weights or a metric are not finite.
        """
        if self._problem is not None:
            raise ConfigError(self._problem)
        results = [result for algorithm in self._algorithms.values() for result in self._train(algorithm)]
        figures = {seed: self._validate(seed, algorithm) for seed, algorithm in self._algorithms.items()}
        env_steps = min(algorithm.env_steps for algorithm in self._algorithms.values())
        validation = mean_of(figures.values())
        for metric in self._plan.config.metrics:
            if not math.isfinite(validation[metric.name]):
                raise DivergedError(f"{metric.name} is {validation[metric.name]} after {env_steps:,} environment steps")
        runners = mean_of(result[ENV_RUNNER_RESULTS] for result in results)
        report: dict[str, Any] = {
            ENV_STEPS: env_steps,
            VALIDATION: validation,
            ENV_RUNNER_RESULTS: {
                PREFIX: dict.fromkeys(LOGGED, math.nan) | runners.get(PREFIX, {}),
                "episode_return_mean": runners.get("episode_return_mean", math.nan),
            },
            LEARNER_RESULTS: mean_of(result[LEARNER_RESULTS] for result in results),
            COST: dict(self._cost),
        }
        if len(figures) > 1:
            names = [metric.name for metric in self._plan.config.metrics]
            report[BY_SEED] = {name: {f"seed_{seed}": figures[seed][name] for seed in figures} for name in names}
        return report

    def _train(self, algorithm: OffloadAlgorithm) -> list[dict[str, Any]]:
        began, cpu_began = time.perf_counter(), time.process_time()
        budget = self._plan.config.budget.env_steps
        target = min(algorithm.env_steps + self._plan.config.report_env_steps, budget)
        results = [algorithm.train()]
        while algorithm.env_steps < target:
            results.append(algorithm.train())
        self._cost["training_s"] += time.perf_counter() - began
        self._cost["training_cpu_s"] += time.process_time() - cpu_began
        return results

    def _validate(self, seed: int, algorithm: OffloadAlgorithm) -> dict[str, float]:
        """Return the mean figures of the validation episodes."""
        began = time.perf_counter()
        validation = self._plan.config.validation
        description, weights = algorithm.kept_policy()
        networks = {name: description.make_network() for name in weights}
        for name, network in networks.items():
            if not all(torch.isfinite(value).all() for value in weights[name].values()):
                raise DivergedError(
                    f"weights of policy '{name}' (training seed {seed}) are not finite after {algorithm.env_steps:,} "
                    "environment steps"
                )
            network.load_state_dict(weights[name])
        policy = SavedPolicy(description, networks)
        contender = Contender("policy", Path(str(self.logdir)), validation.play == "greedy", policy=policy)
        played = evaluate(
            self._environment,
            [contender],
            episodes=validation.episodes,
            seed=validation.seed,
            player=self._player,
        )
        self._cost["validation_s"] += time.perf_counter() - began
        return {metric: float(mean_of_numbers(played.of("policy", metric))) for metric in played.metrics}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save the run of every training seed."""
        for seed, algorithm in self._algorithms.items():
            folder = seed_folder(Path(checkpoint_dir), seed)
            folder.mkdir()
            algorithm.save_checkpoint(str(folder))
        (Path(checkpoint_dir) / STATE).write_text(json.dumps(self._cost), encoding="utf-8")
        write_manifest(Path(checkpoint_dir), self._last_result or {})

    def load_checkpoint(self, checkpoint: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as Algorithm
        """Continue from a checkpoint."""
        for seed, algorithm in self._algorithms.items():
            algorithm.load_checkpoint(str(seed_folder(Path(checkpoint), seed)))
        self._cost = read_json(Path(checkpoint) / STATE, "the costs of a trial")

    def reset_config(self, new_config: dict[str, Token]) -> bool:
        """Begin another trial in this process: starting one takes as long as some thousands of environment steps."""
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """End the runs."""
        for algorithm in self._algorithms.values():
            algorithm.stop()
        self._algorithms = {}


def mean_of_numbers(values: Iterable[Any]) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    numbers = [float(value) for value in values if math.isfinite(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def mean_of(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of nested results, leaf by leaf, over finite values, and without counts over a lifetime."""
    results = list(results)
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for result in results for key in result):
        values = [result[key] for result in results if key in result]
        if isinstance(values[0], Mapping):
            inner = mean_of(value for value in values if isinstance(value, Mapping))
            if inner:
                merged[key] = inner
        elif isinstance(values[0], int | float | np.number) and "lifetime" not in key:
            merged[key] = mean_of_numbers(values)
    return merged
