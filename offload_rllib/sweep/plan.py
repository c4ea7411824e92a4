"""From a sweep's file to what each trial trains, checked before anything runs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig, load_environment, load_policy_config
from offload_rllib.config.loading import nearest, validated, with_values
from offload_rllib.config.sweep import ENVIRONMENT, Domain, SweepConfig
from offload_rllib.envs.vector import compile_kernels
from offload_rllib.evaluation.evaluate import Player, evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.scenario import BuiltScenario

# Combinations that are checked before anything runs: all of a grid up to the larger number, otherwise so many draws.
LARGEST_GRID = 10_000
DRAWS = 64
SMALLEST_TRIAL_CPUS = 0.1

Token = bool | int | float | str | None
Values = Mapping[str, Any]


def token_of(option: Any) -> Token:
    """Return what stands for an option of a `choice` in Tune's and Optuna's records: lists and mappings as text."""
    return json.dumps(option) if isinstance(option, list | tuple | dict) else option


def option_of(domain: Domain, token: Token) -> Any:
    """Return the option of a `choice` that a token stands for, or the token itself of a range."""
    if domain.choice is None:
        return token
    return next(option for option in domain.choice if token_of(option) == token)


@dataclass(frozen=True)
class SweepPlan:
    """A sweep with the environment and the policy that its trials start from.

    Attributes:
        config: the sweep.
        environment: with the sweep's `fixed` keys.
        policy: with the sweep's `fixed` keys and its budget.
    """

    config: SweepConfig
    environment: EnvironmentConfig
    policy: PolicyConfig

    @property
    def touches_environment(self) -> bool:
        """Whether trials differ in their environment."""
        return any(key.startswith(f"{ENVIRONMENT}.") for key in self.config.space)

    @property
    def trials(self) -> int:
        """How many trials there are to be."""
        if self.config.search.kind == "grid":
            return math.prod(len(domain.choice or ()) for domain in self.config.space.values())
        return self.config.budget.trials

    def decoded(self, tokens: Mapping[str, Token]) -> dict[str, Any]:
        """Return the values of the space's keys for Tune's record of a trial."""
        return {key: option_of(domain, tokens[key]) for key, domain in self.config.space.items()}

    def trial(self, values: Values) -> tuple[EnvironmentConfig, PolicyConfig]:
        """Return what a trial trains, with the first of the training seeds.

        Args:
            values: for each key of the space (`environment.a.b`, `policy.a.b`), or for some of them.

        Raises:
            ConfigError: such an environment or policy is invalid.
        """
        return _changed(self.environment, self.policy, values)

    def cpus(self, available: float) -> float:
        """Return the CPUs that one trial may use."""
        return available / (self.config.concurrent_trials or 1)


def _changed(
    environment: EnvironmentConfig, policy: PolicyConfig, values: Values
) -> tuple[EnvironmentConfig, PolicyConfig]:
    parts: dict[str, dict[str, Any]] = {"environment": {}, "policy": {}}
    for key, value in values.items():
        part, _, path = key.partition(".")
        parts[part][path] = value
    shown = ", ".join(f"{key} = {value}" for key, value in values.items())
    if parts["environment"]:
        content = with_values(environment.model_dump(mode="json", by_alias=True), parts["environment"])
        environment = load_environment(content, where=f"environment with {shown}")
    if parts["policy"]:
        content = with_values(policy.model_dump(mode="json", by_alias=True), parts["policy"])
        policy = validated(PolicyConfig, content, f"policy with {shown}")
    return environment, policy


def plan_sweep(config: SweepConfig, *, trust: bool = False) -> SweepPlan:
    """Return the plan of a sweep; `trust` as in `load_environment`.

    Raises:
        ConfigError: environment or policy is invalid, or `fixed` names keys they do not have.
    """
    own = {
        "policy.training.env_steps": config.budget.env_steps,
        "policy.training.seed": config.seeds[0],
    }
    environment, policy = (
        load_environment(config.environment, trust=trust),
        load_policy_config(config.policy, trust=trust),
    )
    return SweepPlan(config, *_changed(environment, policy, config.fixed | own))


def check_plan(plan: SweepPlan, cpus: float) -> list[str]:
    """Check a sweep before anything is created.

    Args:
        plan: what is to be done.
        cpus: of the machine.

    Returns:
        Lines to show: what will be lost, though the sweep can continue.

    Raises:
        ConfigError: a key does not exist or rejects a value, no combination can be trained, a metric is not a figure of
            these environments, or trials do not fit on the machine.
    """
    from offload_rllib.training.train import check  # noqa: PLC0415 - it imports ray, which takes seconds

    if plan.policy.training.imitate is not None:
        raise ConfigError("training.imitate: a sweep clones nothing; accepted: null, with training.start_from of a run")
    if plan.trials > LARGEST_GRID:
        raise ConfigError(f"space: the grid has {plan.trials:,} combinations; at most {LARGEST_GRID:,} are taken")
    if plan.cpus(cpus) < SMALLEST_TRIAL_CPUS:
        raise ConfigError(f"concurrent_trials: {plan.config.concurrent_trials} do not fit on {cpus:g} CPUs")
    for key, domain in plan.config.space.items():
        for value in domain.corners:
            _check_value(plan, key, value)
    possible, reasons, tried = [], [], 0
    for values in _combinations(plan.config):
        tried += 1
        try:
            possible.append(plan.trial(values))
        except ConfigError as error:
            reasons.append(str(error))
    if not possible:
        raise ConfigError(f"space: none of {tried} combinations can be trained. The first: {reasons[0]}")
    first = possible[0]
    env = check(*first, cpus=plan.cpus(cpus))
    _check_metrics(plan, env.scenario)
    if not reasons:
        return []
    return [f"{len(reasons)} of {tried} combinations cannot be trained, and will fail. The first: {reasons[0]}"]


def _check_value(plan: SweepPlan, key: str, value: Any) -> None:
    """Reject a value that its key never takes; what only other values forbid is left to the combinations."""
    try:
        plan.trial({key: value})
    except ConfigError as error:
        problems = error.__cause__.errors() if isinstance(error.__cause__, ValidationError) else []
        last = key.rpartition(".")[2]
        between_keys = problems and all(
            problem["type"] == "value_error" and last not in map(str, problem["loc"]) for problem in problems
        )
        if not between_keys:
            raise ConfigError(f"space.{key}: {error}") from error


def _combinations(config: SweepConfig) -> Iterator[dict[str, Any]]:
    if config.search.kind == "grid":
        options = [domain.choice or () for domain in config.space.values()]
        yield from (dict(zip(config.space, values, strict=True)) for values in itertools.product(*options))
        return
    rng = np.random.default_rng(config.search.seed)
    for _ in range(DRAWS):
        yield {key: _draw(domain, rng) for key, domain in config.space.items()}


def _draw(domain: Domain, rng: np.random.Generator) -> Any:
    if domain.choice is not None:
        return domain.choice[rng.integers(len(domain.choice))]
    low, high = domain.bounds
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if domain.logarithmic else rng.uniform(low, high)
    return round(value) if domain.whole else value


def _check_metrics(plan: SweepPlan, scenario: BuiltScenario) -> None:
    compile_kernels(scenario)
    figures = evaluate(
        scenario.config,
        make_contenders(["local"]),
        episodes=2,
        seed=plan.config.validation.seed,
        player=Player(scenario),
    ).metrics
    for i, metric in enumerate(plan.config.metrics):
        if metric.name not in figures:
            raise ConfigError(
                f"metrics.{i}.name: '{metric.name}' is not a figure of this environment's episodes."
                f"{nearest(metric.name, figures)}"
            )
