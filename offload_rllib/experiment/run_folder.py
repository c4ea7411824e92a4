"""The folder of a training run: what is in it, how it is named, and that it is never overwritten."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from offload_rllib.config import EnvironmentConfig, PolicyConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.loading import load_environment, load_policy_config
from offload_rllib.experiment.recorded_folder import RecordedFolder, next_free
from offload_rllib.policies.saved import DESCRIPTION, POLICY_FOLDER

__all__ = ["RECORD", "RUNS", "TUNE", "RunFolder", "next_free"]

RUNS = Path("runs")
TUNE = "tune"
RECORD = "run.json"


@dataclass(frozen=True)
class RunFolder(RecordedFolder):
    """A training run on disk.

    Contents: `environment.yaml` and `policy.yaml` (resolved), `run.json` (versions, seed, state), `tune/` (Ray
    Tune's experiment: checkpoints, TensorBoard logs), `policy/` (the final policy), `evaluation/`, `MODEL_CARD.md`.
    """

    KIND = "run"
    PARENT = RUNS
    RECORD = RECORD
    CONTENT = ("environment.yaml", "policy.yaml")

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
        run = RunFolder(RunFolder.new_path(name, default_name))
        content = {
            "environment.yaml": environment.model_dump(mode="json"),
            "policy.yaml": policy.model_dump(mode="json", by_alias=True),
        }
        run.make(content, environment=fingerprint(environment))
        return run

    @property
    def environment(self) -> EnvironmentConfig:
        """The environment it was trained on."""
        return load_environment(self.path / "environment.yaml")

    @property
    def policy_config(self) -> PolicyConfig:
        """How it was trained."""
        return load_policy_config(self.path / "policy.yaml")

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
