"""A short name for exactly this environment."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.loading import find_data


def fingerprint(config: EnvironmentConfig) -> str:
    """Return 12 hexadecimal digits that depend on every key of the resolved configuration but its description.

    A data file counts by what is in it, not by where it lies. Runs, saved policies and results carry the fingerprint,
    so that figures of different environments are never mixed.

    Raises:
        ConfigError: a data file is missing.
    """
    content = _with_contents(config.model_dump(mode="json", exclude={"description"}))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _with_contents(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _digest(item) if key == "path" and isinstance(item, str) else _with_contents(item)
            for key, item in value.items()
        }
    return [_with_contents(item) for item in value] if isinstance(value, list) else value


def _digest(name: str) -> str:
    with find_data(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
