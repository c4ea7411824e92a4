"""Players of a comparison: heuristics by name, and trained policies by their run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offload_rllib.config import ConfigError, PolicyConfig
from offload_rllib.config.loading import nearest
from offload_rllib.config.names import plain_name
from offload_rllib.envs.remote.connection import is_service
from offload_rllib.envs.vector import NativeEnv
from offload_rllib.evaluation.results import SAMPLED
from offload_rllib.policies.heuristic import is_heuristic
from offload_rllib.policies.policy import Policy
from offload_rllib.policies.saved import PolicyDescription, load_description, packed, version_of
from offload_rllib.runs.lookup import load_policy, trained_policy_folder
from offload_rllib.runs.training_run import RECORD, RunFolder
from offload_rllib.simulator.heuristics import HEURISTICS

# Keys of a policy that may differ between its training seeds: none of them changes what is learned.
NOT_LEARNING = (
    "description",
    "training.seed",
    "training.tracking",
    "training.cpus_per_runner",
    "training.checkpoint_every",
    "training.checkpoint_every_s",
    "training.keep_checkpoints",
    "training.keep_best",
    "training.sample_timeout_s",
    "training.sample_attempts",
)


# Runs of one budget may end so far apart, as a share of it.
STEPS_APART = 0.05


@dataclass
class Contender:
    """A policy in an evaluation: its name there, where it is loaded from, and whether it draws its actions.

    Pickled, it leaves the policy out: the process that plays loads it from `source`.
    """

    name: str
    source: Path | str
    """Folder of a trained policy, address of a service, or a heuristic."""
    deterministic: bool = True
    """Take the best actions; otherwise draw them, if the policy draws at all."""
    trained_on: str = ""
    """Where it was trained: an environment's label or fingerprint; empty if it was not."""
    training_seed: int | None = None
    policy: Policy | None = field(default=None, repr=False, compare=False)
    """Loaded from `source` when it is needed first, unless given."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the policy out."""
        return self.__dict__ | {"policy": None}

    def begin(self, env: NativeEnv, seed: int) -> Policy:
        """Return the policy, fitted to an environment.

        Args:
            env: where it will play.
            seed: of the policy's own draws.

        Raises:
            ConfigError: the policy does not fit the environment.
        """
        if self.policy is None:
            self.policy = load_policy(self.source)
        fitted = self.policy.on(env)
        fitted.seed(seed)
        return fitted


def make_contenders(names: Iterable[str]) -> list[Contender]:
    """Return the policies that names stand for; a trained one twice, greedy and sampled.

    Args:
        names: heuristics, functions ``package.module:function``, folders of runs or checkpoints, or addresses of
            services (``http://HOST:PORT``).

    Raises:
        ConfigError: a name is not one of these.
        ServiceError: no service answers at an address.
    """
    contenders: list[Contender] = []
    for name in dict.fromkeys(names):
        if is_heuristic(name, "policies"):
            contenders.append(Contender(name, name))
            continue
        if is_service(name):
            called = name.partition("://")[2].rstrip("/")
            contenders.append(Contender(called, name))
            contenders.append(Contender(f"{called}{SAMPLED}", name, deterministic=False))
            continue
        path = Path(name)
        if "/" not in name and not path.exists():
            raise ConfigError(
                f"'{name}' is neither a heuristic, nor a function package.module:function, nor a run folder."
                f"{nearest(name, HEURISTICS)}"
            )
        contenders += trained_contenders(plain_name(path.resolve().name), [path])
    return contenders


def trained_contenders(name: str, folders: Sequence[Path], labels: dict[str, str] | None = None) -> list[Contender]:
    """Return one policy, trained with one seed or several, as contenders: each seed greedy and sampled.

    Args:
        name: of the policy.
        folders: of runs, checkpoints or policies that differ by their training seed, and by nothing else.
        labels: names of environments by fingerprint, for `Contender.trained_on`.

    Raises:
        ConfigError: a folder holds no policy, they were not trained alike, or two are the same.
    """
    policies = [trained_policy_folder(folder) for folder in folders]
    descriptions = [load_description(policy) for policy in policies]
    configs = [_config_of(folder) for folder in folders]
    for folder, description, config in zip(folders, descriptions, configs, strict=True):
        _refuse_unlike(folders[0], descriptions[0], folder, description)
        if configs[0] is not None and config is not None:
            _refuse_other_settings(folders[0], configs[0], folder, config)
    _refuse_copies(folders, policies)
    known = [None if config is None else config.training.seed for config in configs]
    _refuse_equal_seeds(folders, known)
    seeds = list(range(len(folders))) if None in known and len(known) > 1 else known  # checkpoints do not know theirs
    contenders: list[Contender] = []
    for suffix, deterministic in (("", True), (SAMPLED, False)):
        for policy, description, seed in zip(policies, descriptions, seeds, strict=True):
            trained_on = (labels or {}).get(description.environment, description.environment)
            contenders.append(Contender(name + suffix, policy, deterministic, trained_on, seed))
    return contenders


def _config_of(folder: Path) -> PolicyConfig | None:
    """Return how a run was trained; None of a checkpoint or a policy alone."""
    return RunFolder.open(folder).policy_config if (folder / RECORD).is_file() else None


def _refuse_copies(folders: Sequence[Path], policies: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for folder, policy in zip(folders, policies, strict=True):
        version = version_of(packed(policy))
        if version in seen:
            raise ConfigError(
                f"{seen[version]} and {folder} hold the same policy: copies of one run are not several training seeds"
            )
        seen[version] = folder


def _refuse_equal_seeds(folders: Sequence[Path], seeds: Sequence[int | None]) -> None:
    seen: dict[int, Path] = {}
    for folder, seed in zip(folders, seeds, strict=True):
        if seed is None:
            continue
        if seed in seen:
            raise ConfigError(
                f"{seen[seed]} and {folder} were both trained with training.seed {seed}: give runs of different seeds"
            )
        seen[seed] = folder


def _refuse_other_settings(first: Path, one: PolicyConfig, folder: Path, other: PolicyConfig) -> None:
    """Reject runs whose settings differ by more than the seed, apart from keys without effect on learning."""
    mine, theirs = (dict(_leaves(config.model_dump(mode="json", by_alias=True))) for config in (one, other))
    for key in sorted(mine.keys() | theirs.keys()):
        if key not in NOT_LEARNING and mine.get(key) != theirs.get(key):
            raise ConfigError(
                f"{first} and {folder} are not one policy with different training seeds: {key} is {mine.get(key)} and "
                f"{theirs.get(key)}"
            )


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(content, dict):
        yield path, content
        return
    for key, value in content.items():
        yield from _leaves(value, f"{path}.{key}" if path else key)


def _refuse_unlike(first: Path, one: PolicyDescription, folder: Path, other: PolicyDescription) -> None:
    for what, mine, theirs in (
        ("environment (fingerprint)", one.environment, other.environment),
        ("algorithm", one.algorithm, other.algorithm),
        ("sharing", one.sharing, other.sharing),
        ("network", one.network, other.network),
        ("environment steps", one.env_steps, other.env_steps),
    ):
        # Training ends with an iteration, and iterations of asynchronous learners are not all of one length.
        near = (
            isinstance(mine, int) and isinstance(theirs, int) and abs(mine - theirs) <= STEPS_APART * max(mine, theirs)
        )
        if mine != theirs and not near:
            raise ConfigError(
                f"{first} and {folder} are not one policy with different training seeds: {what} {mine} and {theirs}"
            )
