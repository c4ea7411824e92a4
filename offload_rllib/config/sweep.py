"""The schema of a sweep (`tune_configs/*.yaml`): what is varied, how it is searched, and what that may cost."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from offload_rllib.config.base import NAMES_CODE, ConfigName, Count, Finite, Natural, Positive, Schema, bare_word_is
from offload_rllib.config.seeds import Seed

ENVIRONMENT, POLICY = "environment", "policy"
# Keys of a policy that a sweep sets itself, and what to use instead.
OWN_KEYS = {
    "policy.training.seed": "seeds",
    "policy.training.env_steps": "budget.env_steps",
    "policy.training.checkpoint_every": "budget.report_env_steps",
    "policy.training.keep_checkpoints": "budget.report_env_steps",
}

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr | None
Option = Scalar | list[Any] | dict[str, Any]
SpaceKey = Annotated[str, Field(min_length=3, strict=True)]


class Domain(Schema):
    """The values of one key; in YAML a bare list is a `choice`."""

    choice: Annotated[Annotated[tuple[Option, ...], Field(min_length=1)] | None, NAMES_CODE] = None
    """One of these, with equal probability; any value that the key accepts."""
    uniform: tuple[Finite, Finite] | None = None
    """A number from low to high."""
    log_uniform: tuple[Positive, Positive] | None = None
    """A number from low to high whose logarithm is uniform: for values that span orders of magnitude."""
    integer: tuple[Annotated[int, Field(strict=True)], Annotated[int, Field(strict=True)]] | None = None
    """A whole number from low to high, both included."""
    log_integer: tuple[Count, Count] | None = None
    """A whole number from low to high, both included, whose logarithm is about uniform."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {"choice": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Domain:
        kinds = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give a list of values, or exactly one of: {', '.join(type(self).model_fields)}")
        if self.choice is None:
            low, high = self.bounds
            if low >= high:
                raise ValueError(f"{kinds[0]} needs low < high (given: {low:g}, {high:g})")
        elif any(option in self.choice[:i] for i, option in enumerate(self.choice)):
            raise ValueError("choice has a value twice")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high end of a range; not of a `choice`."""
        return self.uniform or self.log_uniform or self.integer or self.log_integer or (0.0, 0.0)

    @property
    def logarithmic(self) -> bool:
        """Whether distances are those of logarithms."""
        return self.log_uniform is not None or self.log_integer is not None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn from the range."""
        return self.integer is not None or self.log_integer is not None

    @property
    def corners(self) -> tuple[Any, ...]:
        """All values of a choice, or both ends of a range."""
        return self.choice if self.choice is not None else self.bounds


class Metric(Schema):
    """A figure of the validation episodes; in YAML a bare word is its `name`."""

    name: str
    """One of the figures of an episode (`docs/simulator.md`)."""
    mode: Literal["min", "max"] = "min"
    """Which end is better."""

    _from_word = bare_word_is("name")


class Search(Schema):
    """How values are chosen; in YAML a bare word is its `kind`."""

    kind: Literal["random", "grid", "optuna"] = "random"
    """random: drawn independently; grid: every combination of choices; optuna: by the tree-structured Parzen
    estimator (TPE), which learns from the trials before; with several metrics it looks for the Pareto front."""
    seed: Seed = 0
    """Of the draws."""
    startup_trials: Natural = 6
    """With optuna: trials that are drawn at random before it learns from them."""

    _from_word = bare_word_is("kind")


class Scheduler(Schema):
    """Which trials end early; in YAML a bare word is its `kind`. Judged by the first metric."""

    kind: Literal["none", "asha", "median"] = "none"
    """none: all have the whole budget; asha: at `grace_env_steps` and each `reduction_factor` times further, only the
    best 1 / `reduction_factor` so far continue; median: a trial whose best is worse than the median of the others'
    running means ends."""
    grace_env_steps: Count | None = None
    """Environment steps that every trial has; null: budget.env_steps / reduction_factor^2."""
    reduction_factor: Annotated[float, Field(gt=1, le=100, strict=True)] = 3
    """See `kind`; of asha."""
    min_trials: Count = 3
    """Trials to compare with before any ends; of median."""

    _from_word = bare_word_is("kind")


class Budget(Schema):
    """When a sweep ends: at whichever comes first."""

    trials: Count = 16
    """Points of the search space to try; a grid has its own number."""
    env_steps: Count
    """Environment steps of each trial and training seed; the policy's schedules end there."""
    report_env_steps: Count | None = None
    """Environment steps between two reports of a trial, each with validation episodes, a checkpoint and a chance to
    end early; null: a ninth of `env_steps`. Iterations are whole, so that it may be more."""
    time_s: Positive | None = None
    """Wall-clock seconds of the whole sweep, also over several resumptions; null: no limit."""


class Validation(Schema):
    """The episodes that trials are judged by: the same for all, never trained on, nor those that `train` evaluates."""

    episodes: Annotated[int, Field(ge=2, strict=True)] = 8
    """How many per report."""
    seed: Natural = 1
    """Of the held-out episodes; `train` and `evaluate` use 0 by default."""
    play: Literal["sampled", "greedy"] = "sampled"
    """sampled: actions are drawn from the policy; greedy: the best-scored one is taken."""


class SweepConfig(Schema):
    """One sweep."""

    description: str = ""
    """One line about it."""
    environment: ConfigName
    """A preset of `envs/`, or a YAML file (relative to this one, or to the working folder)."""
    policy: ConfigName
    """A preset of `policies/`, or a YAML file."""
    fixed: dict[SpaceKey, Any] = Field(default_factory=dict)
    """Keys with another value in all trials: named as in `space`, one value each."""
    space: Annotated[dict[SpaceKey, Domain], Field(min_length=1)]
    """What is varied: `environment.` or `policy.` and the path of a key, with dots."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = (Metric(name="score_mean_s"),)
    """The metrics to optimise; schedulers and `best.yaml` use the first."""
    search: Search = Search()
    """How values are chosen."""
    scheduler: Scheduler = Scheduler()
    """Which trials end early."""
    budget: Budget
    """When it ends."""
    validation: Validation = Validation()
    """What trials are judged by."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Training seeds: every trial trains once with each and is judged by the mean."""
    concurrent_trials: Count | None = None
    """Trials at the same time; null: as many as the machine's CPUs hold. Given, each may use its share of them."""

    @model_validator(mode="after")
    def _keys_belong_to_one_place(self) -> SweepConfig:
        for key in (*self.fixed, *self.space):
            part, dot, rest = key.partition(".")
            if part not in (ENVIRONMENT, POLICY) or not (dot and rest):
                raise ValueError(f"{key}: must be '{ENVIRONMENT}.' or '{POLICY}.' and the path of a key")
            if key in OWN_KEYS:
                raise ValueError(f"{key}: a sweep sets it itself; use {OWN_KEYS[key]}")
            for other in self.space:
                if other != key and (other.startswith(f"{key}.") or key.startswith(f"{other}.")):
                    raise ValueError(f"{key} and {other}: one is a part of the other")
            if key in self.fixed and key in self.space:
                raise ValueError(f"{key}: either in fixed or in space")
        return self

    @model_validator(mode="after")
    def _nothing_is_named_twice(self) -> SweepConfig:
        for what, given in (("metrics", [metric.name for metric in self.metrics]), ("seeds", list(self.seeds))):
            if len(set(given)) < len(given):
                raise ValueError(f"{what}: one is given twice")
        return self

    @model_validator(mode="after")
    def _a_grid_is_made_of_choices(self) -> SweepConfig:
        if self.search.kind == "grid":
            for key, domain in self.space.items():
                if domain.choice is None:
                    raise ValueError(f"space.{key}: search: grid needs a list of values")
        return self

    @model_validator(mode="after")
    def _reports_fit(self) -> SweepConfig:
        grace, every = self.scheduler.grace_env_steps, self.budget.report_env_steps
        for key, value in (("scheduler.grace_env_steps", grace), ("budget.report_env_steps", every)):
            if value is not None and value > self.budget.env_steps:
                raise ValueError(f"{key} ({value}) must not exceed budget.env_steps ({self.budget.env_steps})")
        return self

    @property
    def report_env_steps(self) -> int:
        """Environment steps between two reports."""
        return self.budget.report_env_steps or max(self.budget.env_steps // 9, 1)

    @property
    def grace_env_steps(self) -> int:
        """Environment steps before a trial may end early."""
        given = self.scheduler.grace_env_steps
        return given or max(int(self.budget.env_steps / self.scheduler.reduction_factor**2), 1)
