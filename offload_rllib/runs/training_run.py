"""The folder of a training run: what is in it, how it is named, and that it is never overwritten."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from offload_rllib.config import EnvironmentConfig, PolicyConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.loading import load_environment, load_policy_config
from offload_rllib.config.trust import functions_of
from offload_rllib.policies.manifest import is_whole
from offload_rllib.policies.saved import DESCRIPTION, POLICY_FOLDER
from offload_rllib.runs.folder import RecordedFolder, next_free

__all__ = ["POLICY_FOLDER", "RECORD", "RUNS", "TUNE", "RunFolder", "next_free"]

RUNS = Path("runs")
TUNE = "tune"
RECORD = "run.json"
STATUS = "status.json"
BEST = "best"


def is_uri(storage: str) -> bool:
    """Whether storage is an address of pyarrow's file systems, and not a folder."""
    return "://" in storage


@dataclass(frozen=True)
class RunFolder(RecordedFolder):
    """A training run on disk.

    Contents: `environment.yaml` and `policy.yaml` (resolved), `run.json` (versions, seed, state), `tune/` (Ray
    Tune's experiment: checkpoints, TensorBoard logs), `policy/` (the final policy), `evaluation/`, `MODEL_CARD.md`.
    """

    KIND = "run"
    VERB = "train"
    PARENT = RUNS
    RECORD = RECORD
    CONTENT = ("environment.yaml", "policy.yaml")

    @staticmethod
    def create(
        name: str | None,
        environment: EnvironmentConfig,
        policy: PolicyConfig,
        default_name: str,
        storage: str | None = None,
        *,
        environment_name: str = "environment",
    ) -> RunFolder:
        """Make the folder of a new run under `runs/`.

        Args:
            name: of the folder, or a path; None takes `default_name` with the next free number.
            environment: what is trained on.
            policy: how it is trained.
            default_name: used without a name.
            storage: a folder in place of `runs/` that all nodes of a cluster see, or the address (``s3://...``) below
                which Tune's experiment is kept, in addition to a folder under `runs/` for the rest.
            environment_name: what tables and figures call the environment.

        Raises:
            ConfigError: the folder exists, or cannot be made.
        """
        if storage is None or is_uri(storage):
            path = RunFolder.new_path(name, default_name)
        elif name is not None and "/" in name:
            raise ConfigError(f"--name '{name}': with --storage {storage} give a name, not a path")
        else:
            path = next_free(Path(storage), default_name) if name is None else Path(storage) / name
        run = RunFolder(path, trust=True)
        content = {
            "environment.yaml": environment.model_dump(mode="json"),
            "policy.yaml": policy.model_dump(mode="json", by_alias=True),
        }
        kept_at = {} if storage is None else {"storage": f"{storage.rstrip('/')}/{path.name}"}
        about = {"environment": fingerprint(environment), "environment_name": environment_name}
        run.make(content, **about, functions=functions_of(environment), **kept_at)
        return run

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path)

    @property
    def storage(self) -> str | None:
        """Where the run is kept if all nodes of a cluster see that: an address, or this folder; None: only here."""
        kept_at = self.entries().get("storage")
        return None if kept_at is None else str(kept_at) if is_uri(str(kept_at)) else str(self.path.resolve())

    @property
    def experiment(self) -> str:
        """Tune's folder, or its address."""
        return f"{self.storage or self.path.resolve()}/{TUNE}"

    @property
    def environment(self) -> EnvironmentConfig:
        """The environment it was trained on."""
        return load_environment(self.path / "environment.yaml", trust=self.trust)

    @property
    def environment_name(self) -> str:
        """What tables and figures call the environment."""
        return str(self.entries().get("environment_name", "environment"))

    @property
    def policy_config(self) -> PolicyConfig:
        """How it was trained."""
        return load_policy_config(self.path / "policy.yaml", trust=True)

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that are whole, oldest first."""
        found = (path.parent.parent for path in self.path.glob(f"{TUNE}/*/checkpoint_*/{POLICY_FOLDER}/{DESCRIPTION}"))
        return sorted(path for path in found if is_whole(path))

    def policy_folder(self) -> Path:
        """Return the folder of the trained policy: the final one, otherwise the newest checkpoint's.

        Raises:
            ConfigError: nothing has been saved yet.
        """
        if (self.path / POLICY_FOLDER / DESCRIPTION).is_file():
            return self.path / POLICY_FOLDER
        checkpoints = self.checkpoints()
        if not checkpoints:
            raise ConfigError(f"{self.path}: this run has no checkpoint yet")
        return checkpoints[-1] / POLICY_FOLDER

    def keep_final_policy(self, last: Path, weights: Path | None = None) -> None:
        """Copy the last policy to `policy/`, so that it outlives the checkpoints.

        Args:
            last: its folder.
            weights: folder of the policy whose weights it gets; None: its own.
        """
        partial = self.path / f"{POLICY_FOLDER}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(last, partial)
        if weights is not None and weights != last:
            for path in partial.glob("*.safetensors"):
                path.unlink()
            for path in weights.glob("*.safetensors"):
                shutil.copy(path, partial)
        shutil.rmtree(self.path / POLICY_FOLDER, ignore_errors=True)
        partial.replace(self.path / POLICY_FOLDER)
