"""The folder of a sweep, which is never overwritten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.config.loading import load_environment, load_policy_config, load_sweep
from offload_rllib.config.trust import functions_of
from offload_rllib.runs.folder import RecordedFolder
from offload_rllib.runs.training_run import TUNE
from offload_rllib.sweep.plan import SweepPlan

SWEEPS = Path("sweeps")
SWEEP_FILE, ENVIRONMENT_FILE, POLICY_FILE = "sweep.yaml", "environment.yaml", "policy.yaml"


@dataclass(frozen=True)
class SweepFolder(RecordedFolder):
    """A sweep on disk.

    Contents: `sweep.yaml`, `environment.yaml` and `policy.yaml` (resolved: what trials start from), `sweep.json`
    (versions, state), `tune/` (Ray Tune's experiment, a folder per trial), and what is made of it: see
    `sweep.report`.
    """

    KIND = "sweep"
    VERB = "tune"
    PARENT = SWEEPS
    RECORD = "sweep.json"
    CONTENT = (SWEEP_FILE, ENVIRONMENT_FILE, POLICY_FILE)

    @staticmethod
    def create(name: str | None, plan: SweepPlan, default_name: str) -> SweepFolder:
        """Make the folder of a new sweep under `sweeps/`.

        Args:
            name: of the folder, or a path; None takes `default_name` with the next free number.
            plan: what is to be done.
            default_name: used without a name.

        Raises:
            ConfigError: the folder exists, or cannot be made.
        """
        folder = SweepFolder(SweepFolder.new_path(name, default_name), trust=True)
        content = {
            SWEEP_FILE: plan.config.model_dump(mode="json", exclude_unset=True),
            ENVIRONMENT_FILE: plan.environment.model_dump(mode="json"),
            POLICY_FILE: plan.policy.model_dump(mode="json", by_alias=True),
        }
        functions = functions_of((plan.config, plan.environment, plan.policy))
        folder.make(content, environment=fingerprint(plan.environment), functions=functions)
        return folder

    @property
    def plan(self) -> SweepPlan:
        """What is to be done, from the files of the folder alone."""
        return SweepPlan(
            load_sweep(self.path / SWEEP_FILE, trust=self.trust),
            load_environment(self.path / ENVIRONMENT_FILE, trust=self.trust),
            load_policy_config(self.path / POLICY_FILE, trust=self.trust),
        )

    @property
    def experiment(self) -> Path:
        """Ray Tune's folder."""
        return self.path.resolve() / TUNE
