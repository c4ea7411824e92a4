"""The folder of a training run: what is in it, how it is named, and that it is never overwritten."""

from __future__ import annotations

import itertools
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig
from offload_rllib.config.files import written_at_once
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.loading import load_environment, load_policy_config
from offload_rllib.policies.saved import DESCRIPTION, POLICY_FOLDER
from offload_rllib.version import __version__

RUNS = Path("runs")
TUNE = "tune"
RECORD = "run.json"
_PACKAGES = ("numpy", "numba", "ray", "torch", "gymnasium", "pettingzoo")


def next_free(folder: Path, stem: str) -> Path:
    """Return the first of `stem-1`, `stem-2`, ... that does not exist in a folder."""
    return next(path for number in itertools.count(1) if not (path := folder / f"{stem}-{number}").exists())


@dataclass(frozen=True)
class RunFolder:
    """A training run on disk.

    Contents: `environment.yaml` and `policy.yaml` (resolved), `run.json` (versions, seed, state), `tune/` (Ray
    Tune's experiment: checkpoints, TensorBoard logs), `policy/` (the final policy), `evaluation/`, `MODEL_CARD.md`.
    """

    path: Path

    @staticmethod
    def create(name: str | None, environment: EnvironmentConfig, policy: PolicyConfig, default_name: str) -> RunFolder:
        """Make the folder of a new run under `runs/`.

        Args:
            name: of the folder, or a path; None takes `default_name` with the next free number.
            environment: what is trained on.
            policy: how it is trained.
            default_name: used without a name.

        Raises:
            ConfigError: the folder exists, or cannot be made.
        """
        if name is None:
            path = next_free(RUNS, default_name)
        else:
            path = Path(name) if "/" in name else RUNS / name
            if path.resolve() in (RUNS.resolve(), Path.cwd()):
                raise ConfigError(f"--name '{name}': names no folder of its own; give a name for it under {RUNS}/")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError as error:
            raise ConfigError(
                f"{path}: this run folder exists and is not overwritten; choose another --name, "
                f"or go on with it: --resume {path}"
            ) from error
        except OSError as error:
            raise ConfigError(f"{path}: the run folder cannot be made: {error.strerror}") from error
        run = RunFolder(path)
        try:
            _write_yaml(path / "environment.yaml", environment.model_dump(mode="json"))
            _write_yaml(path / "policy.yaml", policy.model_dump(mode="json", by_alias=True))
            run.record(
                version=__version__,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                environment=fingerprint(environment),
                packages={name: metadata.version(name) for name in _PACKAGES},
                python=platform.python_version(),
                platform=platform.platform(),
                state="created",
            )
        except BaseException:
            shutil.rmtree(path)
            raise
        return run

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """Return an existing run.

        Raises:
            ConfigError: there is no such folder, or it is not a run.
        """
        run = RunFolder(Path(path))
        if not run.path.is_dir():
            raise ConfigError(f"{run.path}: no such run folder")
        missing = [name for name in (RECORD, "environment.yaml", "policy.yaml") if not (run.path / name).is_file()]
        if missing:
            raise ConfigError(f"{run.path}: not a run folder: {missing[0]} is missing")
        return run

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def environment(self) -> EnvironmentConfig:
        """The environment it was trained on."""
        return load_environment(self.path / "environment.yaml")

    @property
    def policy_config(self) -> PolicyConfig:
        """How it was trained."""
        return load_policy_config(self.path / "policy.yaml")

    def record(self, **entries: Any) -> None:
        """Add entries to `run.json`, in one step."""
        path = self.path / RECORD
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        with written_at_once(path) as partial:
            partial.write_text(json.dumps(content | entries, indent=2) + "\n", encoding="utf-8")

    @property
    def state(self) -> str:
        """``created``, ``training``, ``interrupted``, ``failed`` or ``finished``."""
        try:
            return str(json.loads((self.path / RECORD).read_text(encoding="utf-8"))["state"])
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{self.path / RECORD}: not the record of a run ({error})") from error

    @contextmanager
    def removed_if_not_begun(self) -> Iterator[None]:
        """Remove the folder if the block fails before training has begun: it would hold nothing, and block its name."""
        try:
            yield
        except BaseException:
            if self.state == "created":
                shutil.rmtree(self.path)
            raise

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that are whole, oldest first; the policy's description is written last into each."""
        return sorted(
            path.parent.parent for path in self.path.glob(f"{TUNE}/*/checkpoint_*/{POLICY_FOLDER}/{DESCRIPTION}")
        )

    def policy_folder(self) -> Path:
        """Return the folder of the trained policy: the final one, else the newest checkpoint's.

        Raises:
            ConfigError: nothing has been saved yet.
        """
        if (self.path / POLICY_FOLDER / DESCRIPTION).is_file():
            return self.path / POLICY_FOLDER
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise ConfigError(f"{self.path}: this run has no checkpoint yet")
        return checkpoints[-1] / POLICY_FOLDER

    def keep_final_policy(self) -> None:
        """Copy the newest checkpoint's policy to `policy/`, so that it outlives the checkpoints."""
        partial = self.path / f"{POLICY_FOLDER}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(self.checkpoints()[-1] / POLICY_FOLDER, partial)
        shutil.rmtree(self.path / POLICY_FOLDER, ignore_errors=True)
        partial.replace(self.path / POLICY_FOLDER)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
