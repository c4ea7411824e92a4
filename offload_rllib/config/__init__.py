"""Typed configuration: the schema of the YAML files, presets, overrides, and errors."""

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import load_environment, load_policy_config, presets
from offload_rllib.config.policy import PolicyConfig

__all__ = ["ConfigError", "EnvironmentConfig", "PolicyConfig", "load_environment", "load_policy_config", "presets"]
