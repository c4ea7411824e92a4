"""The fingerprint of an environment: a hash of its configuration and data."""

from __future__ import annotations

import hashlib
import json
from typing import Any, get_args

from pydantic.fields import FieldInfo

from offload_rllib.config.base import ADDED, Schema, names_a_file
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.loading import find_data


def fingerprint(config: EnvironmentConfig) -> str:
    """Return 12 hexadecimal digits that depend on every key of the resolved configuration but description and version.

    A key that was added to the format later counts where it is not its default: fingerprints from before stay as they
    were.

    A data file counts by its content, not by its location. Runs, saved policies and results carry the fingerprint,
    so that figures of different environments are never mixed.

    Raises:
        ConfigError: a data file is missing.
    """
    content = _with_contents(config, config.model_dump(mode="json", exclude={"description", "version"}))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _with_contents(value: Any, dumped: Any) -> Any:
    """Return what was dumped of a value, with digests of data files in place of their names."""
    if isinstance(value, Schema):
        files = {name for name, field in type(value).model_fields.items() if names_a_file(field)}
        return {
            name: _digest(item) if name in files and item is not None else _with_contents(getattr(value, name), item)
            for name, item in dumped.items()
            if not _is_added_default(type(value).model_fields[name], item)
        }
    if isinstance(value, tuple):
        return [_with_contents(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


def _is_added_default(field: FieldInfo, value: Any) -> bool:
    options = [getattr(option, "__metadata__", ()) for option in get_args(field.annotation)]
    return any(ADDED in metadata for metadata in (field.metadata, *options)) and value == field.default


def _digest(name: str) -> str:
    with find_data(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
