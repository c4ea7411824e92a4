"""Overrides from a client of a service, which may change numbers and choices, and may not reach files or code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offload_rllib.config.base import fields_in, names_a_file
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import apply_overrides, find, load_environment, read_yaml, validated
from offload_rllib.config.topology import PythonTopology
from offload_rllib.config.trust import functions_of


def files_of(config: EnvironmentConfig) -> list[str]:
    """Return the data files that a configuration names."""
    return [value for field, value in fields_in(config) if isinstance(value, str) and names_a_file(field)]


def load_for_client(
    env: str, overrides: Sequence[str], changes: Iterable[str], *, trust: bool = False
) -> EnvironmentConfig:
    """Return a served environment with a client's changes.

    Args:
        env: a preset's name, or a path to a YAML file.
        overrides: ``a.b=value`` texts of the one who serves it.
        changes: the same of a client, applied after them.
        trust: of the one who serves it, see `load_environment`.

    Raises:
        ConfigError: a change is invalid; or it names a file, a function, or arguments of a function, which the served
            environment does not name. No file that a client names is looked for.
    """
    changes = list(changes)
    if not changes:
        return load_environment(env, overrides, trust=trust)
    where = "environment"
    served = apply_overrides(read_yaml(find("envs", env)), overrides)
    # Without a context names of files are texts, and the disk is not asked whether they exist.
    _refuse_reach(
        validated(EnvironmentConfig, served, where),
        validated(EnvironmentConfig, apply_overrides(served, changes), where),
    )
    changed = load_environment(env, [*overrides, *changes], where=where, trust=trust)
    # Names are relative to the file or to an override: the same text might have become another file.
    _refuse_reach(load_environment(env, overrides, where=where, trust=trust), changed)
    return changed


def _refuse_reach(served: EnvironmentConfig, changed: EnvironmentConfig) -> None:
    for what, before, after in (
        ("the file", set(files_of(served)), files_of(changed)),
        ("the function", set(functions_of(served)), functions_of(changed)),
    ):
        for name in after:
            if name not in before:
                raise ConfigError(
                    f"overrides: {what} '{name[:100]}' is not accepted from a client. Accepted: "
                    f"{', '.join(sorted(before)) if what == 'the function' and before else 'changes of other keys'}"
                )
    if isinstance(changed.topology, PythonTopology) and changed.topology != served.topology:
        raise ConfigError("overrides: topology: arguments of a function are not accepted from a client")
