"""Trust: Python functions that a configuration names, in folders that other users may have written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offload_rllib.config.base import NAMES_CODE, fields_in, is_function_path
from offload_rllib.config.errors import ConfigError

# Environment variable that says `trust` for every file, with the value 1; processes that a command starts inherit it.
TRUST = "OFFLOAD_RLLIB_TRUST"
# Files that mark a folder as a run, a sweep, a comparison or a saved policy, which users exchange.
RECORDS = ("run.json", "sweep.json", "state.json", "policy.json", "policy/policy.json")


def trusts_all() -> bool:
    """Return whether the environment variable `TRUST` says that code of all files may run."""
    return os.environ.get(TRUST) == "1"


def functions_of(config: Any) -> tuple[str, ...]:
    """Return the functions ``package.module:function`` that a configuration names, each once."""
    values = (value for field, value in fields_in(config) if NAMES_CODE in field.metadata)
    return tuple(dict.fromkeys(text for value in values for text in texts_in(value) if is_function_path(text)))


def texts_in(value: Any) -> Iterator[str]:
    """Return all texts in a value and in its parts, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def refuse_code(path: Path, config: Any, *, trust: bool) -> None:
    """Reject a file of a run that names functions, unless its folder is trusted: using it would run their code.

    Args:
        path: of the file.
        config: what was read from it.
        trust: whether the user asked for it.

    Raises:
        ConfigError: the file lies in a folder of a run, a sweep, a comparison or a policy, and names functions.
    """
    functions = functions_of(config)
    if trust or trusts_all() or not functions:
        return
    folders = {path.parent, path.resolve().parent}
    if any((folder / name).exists() for folder in folders for name in RECORDS):
        raise ConfigError(
            f"{path}: names Python code ({', '.join(functions)}), and lies in a folder that others may have made; "
            "if you trust it, say so: --trust, or trust=True in Python"
        )
