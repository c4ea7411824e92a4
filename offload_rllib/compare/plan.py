"""The plan of a comparison: environments, swept keys, policies, and where the trained ones are trained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig, load_environment, load_policy_config
from offload_rllib.config.base import NAMES_CODE, Natural, Schema
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.loading import nearest, override_value, presets, read_yaml
from offload_rllib.config.names import plain_name
from offload_rllib.config.seeds import Seeds
from offload_rllib.config.trust import refuse_code
from offload_rllib.config.workload.arrivals import Replay
from offload_rllib.envs.vector import batch_of
from offload_rllib.evaluation.evaluate import Place, check
from offload_rllib.evaluation.metrics import chosen
from offload_rllib.evaluation.own_metrics import load_own_metrics
from offload_rllib.evaluation.players import Contender, trained_contenders
from offload_rllib.evaluation.results import SAMPLED
from offload_rllib.policies.fitting import misfit_of, other_embedding, other_form
from offload_rllib.policies.heuristic import is_heuristic
from offload_rllib.policies.objectives import other_weights
from offload_rllib.policies.sharing import assign_in, device_types
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.training.train import check as check_training

# Keys that are swept so often that they have a short name.
SHORT_KEYS = {"rho": "workload.load.rho"}
HERE = "here"


class SweptKey(Schema):
    """A key of the environments, and the values it is given in turn."""

    column: str
    """Its name in tables."""
    key: str
    """Its path, with dots."""
    values: Annotated[tuple[Any, ...], Field(min_length=1), NAMES_CODE]
    """In the order played."""


class ComparisonPlan(Schema):
    """Everything that a comparison depends on, resolved; `compare.yaml` of its folder."""

    kind: Literal["comparison"] = "comparison"
    """Distinguishes the file from an environment or a policy."""
    environments: Annotated[dict[str, EnvironmentConfig], Field(min_length=1)]
    """By label, before the swept keys are set."""
    training_environments: dict[str, EnvironmentConfig] = Field(default_factory=dict)
    """Where policies are trained instead; empty: in each environment itself."""
    sweep: tuple[SweptKey, ...] = ()
    """Every combination of values is a point of the comparison."""
    policies: Annotated[tuple[str, ...], Field(min_length=1), NAMES_CODE]
    """Heuristics, functions, folders of runs, and names of `trained`, in the order of the tables."""
    trained: dict[str, PolicyConfig] = Field(default_factory=dict)
    """Policies to train, by name."""
    runs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Folders of runs that are one policy with several training seeds, by name."""
    train_at_every_point: bool = False
    """Whether policies are trained at every swept value; otherwise at the value of the environment's file."""
    training_seeds: Seeds = tuple(range(5))
    """Of the runs of each trained policy; a number n stands for 0 to n - 1."""
    episodes: Annotated[int, Field(ge=2, strict=True)] = 20
    """Held-out episodes, the same for all policies."""
    held_out_seed: Natural = 0
    """Of the held-out episodes."""
    metrics: Annotated[tuple[str, ...], NAMES_CODE] = ()
    """What tables and figures show: names, and functions of an episode's figures; empty: the usual ones."""
    reference: str
    """The policy that others are compared with."""
    task_log: bool = False
    """Whether to log every task."""


@dataclass(frozen=True)
class Training:
    """One policy to be trained in one place with one seed."""

    name: str
    """Of the policy."""
    seed: int
    """Training seed."""
    place: Place
    """Where."""
    config: PolicyConfig
    """How, with the seed in it."""

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        parts = [self.name, self.place.environment, *(f"{k}={v}" for k, v in self.place.values.items())]
        return "-".join([*parts, f"seed_{self.seed}"]).replace("/", "_")


def parse_sweep(text: str) -> SweptKey:
    """Return a swept key from ``KEY=LOW:HIGH:STEP`` (both ends included) or ``KEY=V1,V2,...``.

    Raises:
        ConfigError: it is neither.
    """
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise ConfigError(f"--sweep '{text}': must be KEY=LOW:HIGH:STEP or KEY=V1,V2,..., e.g. rho=0.3:1.2:0.1")
    path = SHORT_KEYS.get(key, key)
    if ":" in values:
        try:
            low, high, step = map(float, values.split(":"))
        except ValueError:
            raise ConfigError(f"--sweep '{text}': {values} is not LOW:HIGH:STEP") from None
        if not (step > 0 and low <= high and (high - low) / step < 1000):
            raise ConfigError(f"--sweep '{text}': needs LOW <= HIGH, STEP > 0 and at most 1000 values")
        numbers = low + step * np.arange(round((high - low) / step + 1e-9) + 1)
        parsed: list[Any] = [float(f"{number:.10g}") for number in numbers if number <= high + 1e-9 * step]
    else:
        parsed = [override_value(f"{path}={value}") for value in values.split(",")]
    if any(value in parsed[:i] for i, value in enumerate(parsed)):
        raise ConfigError(f"--sweep '{text}': a value is given twice")
    return SweptKey(column=path.rpartition(".")[2], key=path, values=tuple(parsed))


def _columns_apart(sweep: list[SweptKey]) -> tuple[SweptKey, ...]:
    """Return swept keys with columns of their own: the whole key where the last parts of two are the same.

    Raises:
        ConfigError: a key is swept twice.
    """
    keys, columns = [swept.key for swept in sweep], [swept.column for swept in sweep]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--sweep: {key} is given twice; give all its values at once: {key}=V1,V2,...")
    return tuple(
        swept.model_copy(update={"column": swept.key}) if columns.count(swept.column) > 1 else swept for swept in sweep
    )


def plan_of(
    policies: Sequence[str],
    environments: Sequence[str],
    *,
    training_environments: Sequence[str] = (),
    sweep: Sequence[str] = (),
    overrides: Sequence[str] = (),
    policy_overrides: Sequence[str] = (),
    trust: bool = False,
    reference: str | None = None,
    **keys: Any,
) -> ComparisonPlan:
    """Return a plan from names, as the command line gives them.

    Args:
        policies: heuristics, functions, run folders, several of them that are one policy with several training seeds
            as ``NAME=FOLDER,FOLDER,...``, presets of `policies/` or YAML files of policies.
        environments: presets or YAML files.
        training_environments: the same, and ``here`` for each of `environments`; empty: as with ``here``.
        sweep: as for `parse_sweep`.
        overrides: of all environments.
        policy_overrides: of all policies that are trained.
        trust: use files of runs that name code.
        reference: the policy that others are compared with; None: the first policy.
        keys: the other keys of `ComparisonPlan`.

    Raises:
        ConfigError: a name is unknown.
    """
    loaded = _environments(environments, overrides, trust=trust)
    trained = {}
    runs = {}
    names = []
    for name in dict.fromkeys(policies):
        called, equals, folders = name.partition("=")
        called = plain_name(called)
        if equals and not Path(name).is_dir():
            if called in runs or "/" in called:
                raise ConfigError(f"'{name}': '{called}' must be a name of its own, without /")
            runs[called] = _run_folders(name, folders)
            names.append(called)
            continue
        kept, config = _policy(name, policy_overrides)
        if kept in names:
            raise ConfigError(f"two policies are called '{kept}': give their files different names")
        names.append(kept)
        if config is not None:
            trained[kept] = config
    if not (trained or runs or any(Path(name).is_dir() for name in names)):
        for option, given in (
            ("--train-env", training_environments),
            ("--train-at-every-point", keys.get("train_at_every_point")),
            ("--set-policy", policy_overrides),
        ):
            if given:
                raise ConfigError(f"{option}: nothing is trained here: {', '.join(names)} need no training")
    elsewhere = {}
    for name in training_environments:
        elsewhere |= loaded if name == HERE else _environments([name], overrides, trust=trust)
    return ComparisonPlan(
        environments=loaded,
        training_environments=elsewhere,
        sweep=_columns_apart([parse_sweep(text) for text in sweep]),
        policies=tuple(names),
        trained=trained,
        runs=runs,
        reference=reference or names[0],
        **keys,
    )


def _environments(names: Sequence[str], overrides: Sequence[str], *, trust: bool) -> dict[str, EnvironmentConfig]:
    labels = [plain_name(Path(name).stem) for name in names]
    for called in labels:
        if labels.count(called) > 1:
            raise ConfigError(f"two environments are called '{called}': give their files different names")
    return {called: load_environment(name, overrides, trust=trust) for called, name in zip(labels, names, strict=True)}


def _run_folders(text: str, folders: str) -> tuple[str, ...]:
    """Return the folders of NAME=FOLDER,FOLDER,..."""
    found = tuple(dict.fromkeys(folder for folder in folders.split(",") if folder))
    for folder in found:
        if not Path(folder).is_dir():
            raise ConfigError(f"'{text}': {folder} is not a run folder")
    if not found:
        raise ConfigError(f"'{text}': must be NAME=FOLDER,FOLDER,... with folders of runs")
    return found


def _policy(name: str, overrides: Sequence[str]) -> tuple[str, PolicyConfig | None]:
    """Return a policy's name in the plan, and how it is trained, if it is to be."""
    if is_heuristic(name, "policies"):
        return name, None
    if name.endswith((".yaml", ".yml")) or name in presets("policies"):
        return plain_name(Path(name).stem), load_policy_config(name, overrides)
    if Path(name).is_dir():
        return name, None
    raise ConfigError(
        f"'{name}' is neither a heuristic, nor a policy (a preset or a YAML file), nor a run folder."
        f"{nearest(name, [*HEURISTICS, *presets('policies')])}"
    )


def load_plan(path: str | Path, *, trust: bool = False) -> ComparisonPlan:
    """Return a plan that was written as YAML.

    Args:
        path: the file.
        trust: use it though it lies in a comparison's folder and names code.

    Raises:
        ConfigError: the file holds none, or names code that is not trusted.
    """
    content = read_yaml(Path(path))
    try:
        plan = ComparisonPlan.model_validate(content)
    except ValueError as error:
        raise ConfigError(f"{path}: not a comparison: {' '.join(str(error).split())}") from error
    refuse_code(Path(path), plan, trust=trust)
    return plan


def is_plan(path: str) -> bool:
    """Return whether a text is the path of a YAML file that holds a plan."""
    return (
        path.endswith((".yaml", ".yml")) and Path(path).is_file() and read_yaml(Path(path)).get("kind") == "comparison"
    )


def places_of(plan: ComparisonPlan, environments: dict[str, EnvironmentConfig] | None = None) -> list[Place]:
    """Return every environment at every combination of swept values.

    Raises:
        ConfigError: an environment does not take a swept value.
    """
    places = []
    for label, config in (environments or plan.environments).items():
        for values in itertools.product(*(swept.values for swept in plan.sweep)):
            changes = [f"{swept.key}={value}" for swept, value in zip(plan.sweep, values, strict=True)]
            columns = {swept.column: value for swept, value in zip(plan.sweep, values, strict=True)}
            places.append(Place(label, _changed(label, config, changes), columns))
    return places


def _changed(label: str, config: EnvironmentConfig, changes: list[str]) -> EnvironmentConfig:
    if not changes:
        return config
    try:
        return load_environment(config, changes)
    except ConfigError as error:
        why = f"--sweep: {label} with {', '.join(changes)}: {error}"
        if isinstance(config.workload.arrivals, Replay) and any("workload.load." in change for change in changes):
            why += (
                f" ({label} replays a recording, whose load is what it is: sweep how fast it is played instead, e.g. "
                "--sweep workload.arrivals.speed=0.5,1,2)"
            )
        raise ConfigError(why) from error


def trainings_of(plan: ComparisonPlan) -> list[Training]:
    """Return what has to be trained, in order."""
    environments = plan.training_environments or plan.environments
    if plan.train_at_every_point:
        places = places_of(plan, environments)
    else:
        places = [Place(label, config) for label, config in environments.items()]
    return [
        Training(name, seed, place, _seeded(config, seed))
        for place in places
        for name, config in plan.trained.items()
        for seed in plan.training_seeds
    ]


def _seeded(config: PolicyConfig, seed: int) -> PolicyConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def trained_name(plan: ComparisonPlan, name: str, label: str) -> str:
    """Return the name in tables of a policy that was trained in the environment `label`."""
    return f"{name} from {label}" if len(plan.training_environments) > 1 else name


def contenders_at(plan: ComparisonPlan, place: Place, runs: Sequence[tuple[Training, Path]] = ()) -> list[Contender]:
    """Return the players at a place, in the order of the plan.

    Args:
        plan: the comparison.
        place: where.
        runs: the trainings that are done, with their folders; policies of others are left out.
    """
    contenders: list[Contender] = []
    known = {fingerprint(config): label for label, config in (plan.training_environments | plan.environments).items()}
    for name in plan.policies:
        if name in plan.runs:
            contenders += trained_contenders(name, [Path(folder) for folder in plan.runs[name]], known)
            continue
        if name not in plan.trained:
            if is_heuristic(name, "policies"):
                contenders.append(Contender(name, name))
            else:
                contenders += trained_contenders(Path(name).resolve().name, [Path(name)], known)
            continue
        mine = [(training, folder) for training, folder in runs if training.name == name]
        mine = [(training, folder) for training, folder in mine if _plays_at(plan, training, place)]
        for label in dict.fromkeys(training.place.environment for training, _ in mine):
            group = [(training, folder) for training, folder in mine if training.place.environment == label]
            labels = {training.place.fingerprint: label for training, _ in group}
            folders = [folder for _, folder in group]
            contenders += trained_contenders(trained_name(plan, name, label), folders, labels)
    return contenders


def check_plan(plan: ComparisonPlan) -> None:
    """Check a comparison before anything runs.

    Raises:
        ConfigError: a policy does not fit an environment or cannot be trained there, the reference or a metric does
            not exist, a swept key has no such value.
    """
    names = set()
    reported: set[str] = set()
    for place in places_of(plan):
        contenders = contenders_at(plan, place)
        reported |= set(check(place, contenders, episodes=plan.episodes, seed=plan.held_out_seed))
        names |= {contender.name for contender in contenders}
    names |= _check_trainings(plan)
    chosen(plan.metrics, reported | load_own_metrics(plan.metrics).keys())
    reference = reference_of(plan)
    if reference not in names:
        raise ConfigError(f"--reference '{plan.reference}': no policy here.{nearest(plan.reference, names)}")


def _check_trainings(plan: ComparisonPlan) -> set[str]:
    """Reject policies that cannot be trained, or will not fit where they play; return the table names of the others.

    Raises:
        ConfigError: says which policy, and where.
    """
    names: set[str] = set()
    if not plan.trained:
        return names
    met = [(place, batch_of(build_scenario(place.config), 1)) for place in places_of(plan)]
    for training in trainings_of(plan):
        if training.seed != plan.training_seeds[0]:
            continue
        called = trained_name(plan, training.name, training.place.environment)
        names |= {called, f"{called}{SAMPLED}"}
        home = check_training(training.place.config, training.config)
        rows = home.layout.blocks
        size = (home.observation_size, home.num_actions)
        assignment = assign_in(training.config.sharing, home.scenario)
        for place, env in met:
            if not _plays_at(plan, training, place):
                continue
            reason = other_weights(home.layout.weights, env.layout.weights)
            reason = reason or misfit_of(training.config.network, rows, size, (env.observation_size, env.num_actions))
            reason = reason or other_embedding(rows, env.layout.blocks)
            reason = reason or other_form(training.place.config.decisions.when, place.config.decisions.when)
            if not reason:
                try:
                    assignment.applied_to(env.agents, device_types(env.scenario))
                except ConfigError as error:
                    reason = str(error)
            if reason:
                raise ConfigError(
                    f"policy '{training.name}', trained on {training.place.label}, does not fit {place.label}: {reason}"
                )
    return names


def _plays_at(plan: ComparisonPlan, training: Training, place: Place) -> bool:
    """Return whether the policy of a training plays at a place."""
    if plan.train_at_every_point and training.place.values != place.values:
        return False
    return bool(plan.training_environments) or training.place.environment == place.environment


def reference_of(plan: ComparisonPlan) -> str:
    """Return the policy that others are compared with, as tables call it."""
    path = Path(plan.reference)
    if plan.reference in plan.runs:
        return plan.reference
    if plan.reference in plan.policies and plan.reference not in plan.trained and path.is_dir():
        return path.resolve().name
    if plan.reference in plan.trained:
        return trained_name(plan, plan.reference, next(iter(plan.training_environments), ""))
    return plan.reference
