"""What can be compared: heuristics by name, and trained policies by their run's folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.config.base import is_function_path
from offload_rllib.config.loading import nearest
from offload_rllib.envs.extensions import load_function
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.experiment.run_folder import RECORD, RunFolder
from offload_rllib.policies.saved import DESCRIPTION, POLICY_FOLDER, SavedPolicy, load_saved_policy
from offload_rllib.scenario.build import check_rule
from offload_rllib.simulator.heuristics import HEURISTICS


class Contender(Protocol):
    """A policy under evaluation."""

    name: str

    def begin(self, env: VectorEnv, seed: int) -> None:
        """Prepare for a batch of episodes; `seed` is for the policy's own draws."""

    def actions(self, env: VectorEnv) -> np.ndarray:
        """Return actions [E, A] for the environments' present state."""
        ...


@dataclass
class Heuristic:
    """A rule of `simulator.heuristics`, or a user's function; a rule's draws follow from the episode's key."""

    name: str

    def begin(self, env: VectorEnv, seed: int) -> None:
        """Nothing to prepare."""

    def actions(self, env: VectorEnv) -> np.ndarray:
        """Return the rule's actions."""
        return env.heuristic_actions(self.name)


@dataclass
class Trained:
    """A trained policy, greedy or sampled."""

    name: str
    policy: SavedPolicy
    deterministic: bool
    source: Path
    _fitted: SavedPolicy = field(init=False, repr=False)

    def begin(self, env: VectorEnv, seed: int) -> None:
        """Fit the policy to the environment and seed its draws.

        Raises:
            ConfigError: the policy does not fit the environment.
        """
        try:
            self._fitted = self.policy.on(env)
        except ConfigError as error:
            raise ConfigError(f"{self.source}: {error}") from error
        self._fitted.seed(seed)

    def actions(self, env: VectorEnv) -> np.ndarray:
        """Return the policy's actions."""
        return self._fitted(env.observations, env.masks, deterministic=self.deterministic)


def trained_policy_folder(path: Path) -> Path:
    """Return the folder with the policy of a run, of a checkpoint, or of a policy folder itself.

    Raises:
        ConfigError: there is none.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder")
    if (path / DESCRIPTION).is_file():
        return path
    if (path / POLICY_FOLDER / DESCRIPTION).is_file():
        return path / POLICY_FOLDER
    if (path / RECORD).is_file():
        return RunFolder.open(path).policy_folder()
    raise ConfigError(f"{path}: neither a run folder nor a checkpoint: it holds no {RECORD} and no {DESCRIPTION}")


def make_contenders(names: Iterable[str]) -> list[Contender]:
    """Return the policies that names stand for; a trained one twice, greedy and sampled.

    Args:
        names: heuristics, functions ``package.module:function``, or folders of runs or checkpoints.

    Raises:
        ConfigError: a name is neither.
    """
    contenders: list[Contender] = []
    for name in dict.fromkeys(names):
        if name.partition(":")[0] in HEURISTICS:
            check_rule(name, "policies")
            contenders.append(Heuristic(name))
            continue
        if is_function_path(name):
            load_function(name, "policies")
            contenders.append(Heuristic(name))
            continue
        path = Path(name)
        if "/" not in name and not path.exists():
            raise ConfigError(
                f"'{name}' is neither a heuristic, nor a function package.module:function, nor a run folder."
                f"{nearest(name, HEURISTICS)}"
            )
        folder = trained_policy_folder(path)
        label = path.resolve().name
        for suffix, deterministic in (("", True), (" (sampled)", False)):
            contenders.append(Trained(f"{label}{suffix}", load_saved_policy(folder), deterministic, folder))
    return contenders
