"""A short name for exactly this environment."""

from __future__ import annotations

import hashlib
import json

from offload_rllib.config.environment import EnvironmentConfig


def fingerprint(config: EnvironmentConfig) -> str:
    """Return 12 hexadecimal digits that depend on every key of the resolved configuration but its description.

    Runs, saved policies and results carry it, so that figures of different environments are never mixed.
    """
    content = config.model_dump(mode="json", exclude={"description"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
