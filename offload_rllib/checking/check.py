"""What is to be checked, by its name, and the report of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress

from offload_rllib.checking.environment import Subject, environment_checks
from offload_rllib.checking.results import CheckReport, run_checks
from offload_rllib.config import ConfigError, EnvironmentConfig, PolicyConfig, load_environment, load_policy_config
from offload_rllib.config.loading import nearest, presets, read_yaml
from offload_rllib.runs.lookup import trained_policy_folder
from offload_rllib.runs.training_run import RECORD, RunFolder
from offload_rllib.scenario import build_scenario

# Where policies are checked that say nothing of an environment.
DEFAULT_ENVIRONMENT = "ether_12"

Checked = str | Path | Mapping[str, Any] | EnvironmentConfig | PolicyConfig


def check(
    what: Checked,
    *,
    env: str | Path | Mapping[str, Any] | EnvironmentConfig | None = None,
    overrides: Iterable[str] = (),
    policy_overrides: Iterable[str] = (),
    seed: int = 0,
    trust: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Check an environment, a policy's file, or a trained policy; see `docs/check.md`.

    Args:
        what: a preset's name, a YAML file, the folder of a run, of a checkpoint or of a policy, or a configuration.
        env: where a policy plays; by default the environment of the run, otherwise `DEFAULT_ENVIRONMENT`.
        overrides: ``a.b=value`` texts for the environment.
        policy_overrides: the same for a policy's file.
        seed: of the episodes that are played.
        trust: run Python code that a file of a run's folder, or a saved policy, names.
        progress: where to show which check runs.

    Raises:
        ConfigError: the file is missing or invalid; the message names file, key, value and what is accepted.
    """
    if _is_environment(what):
        if env is not None:
            raise ConfigError(f"env: only a policy is checked in an environment, and {_named(what)} is one itself")
        config = load_environment(what, overrides, trust=trust)  # pyright: ignore[reportArgumentType] - told apart above
        checks = environment_checks(Subject(config, build_scenario(config), seed))
        return CheckReport(f"environment {_named(what)}", run_checks(checks, progress))
    from offload_rllib.checking.policy import policy_file_checks, saved_policy_checks  # torch

    folder = _folder(what)
    place = env if env is not None else _environment_of(folder)
    config = load_environment(place, overrides, trust=trust)
    subject = f"policy {_named(what)} in environment {_named(place)}"
    build_scenario(config)
    if folder is None:
        policy = load_policy_config(what, policy_overrides, trust=trust)  # pyright: ignore[reportArgumentType] - as above
        return CheckReport(subject, run_checks(policy_file_checks(policy, config, seed), progress))
    from offload_rllib.policies.saved import load_saved_policy

    saved = load_saved_policy(trained_policy_folder(folder), trust=trust)
    return CheckReport(subject, run_checks(saved_policy_checks(saved, config, seed), progress))


def _folder(what: Checked) -> Path | None:
    """Return the folder that is named; a preset's name has precedence over a folder of that name."""
    if not isinstance(what, str | Path) or str(what) in {**presets("envs"), **presets("policies")}:
        return None
    return Path(what) if Path(what).is_dir() else None


def _environment_of(folder: Path | None) -> EnvironmentConfig | str:
    """Return the environment that a run was trained in, otherwise the default."""
    if folder is not None and (folder / RECORD).is_file():
        return RunFolder.open(folder).environment
    return DEFAULT_ENVIRONMENT


def _named(what: Any) -> str:
    if isinstance(what, str | Path):
        return str(what)
    return str(getattr(what, "description", "") or "of the call")


def _is_environment(what: Checked) -> bool:
    """Return whether something is an environment, and not a policy.

    Raises:
        ConfigError: it is neither, or cannot be read.
    """
    if isinstance(what, EnvironmentConfig | PolicyConfig):
        return isinstance(what, EnvironmentConfig)
    if isinstance(what, Mapping):
        return "algorithm" not in what
    text = str(what)
    if _folder(text) is not None:
        return False
    environments, policies = presets("envs"), presets("policies")
    if text in environments or text in policies:
        return text in environments
    if not text.endswith((".yaml", ".yml")) and "/" not in text:
        raise ConfigError(
            f"'{text}' is neither a preset of envs/ or policies/, nor a path ending in .yaml, nor a folder."
            f"{nearest(text, [*environments, *policies])}"
        )
    if not Path(text).is_file():
        raise ConfigError(f"{text}: no such file or folder")
    return "algorithm" not in read_yaml(Path(text))
