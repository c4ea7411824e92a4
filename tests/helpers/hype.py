"""A short environment for the tests of scripts/hype."""

from __future__ import annotations

from offload_rllib.config import EnvironmentConfig, load_environment


def short_environment(*changes: str) -> EnvironmentConfig:
    """Return a network of twenty nodes with episodes of about 400 decisions, in which an invalid action raises."""
    return load_environment("geometric_20", ["horizon_s=100", "decisions.strict=true", *changes])
