"""The environment for RLlib, and its registration."""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from offload_rllib.config import presets
from offload_rllib.envs.parallel import OffloadParallelEnv


class OffloadMultiAgentEnv(MultiAgentEnv):
    """`OffloadParallelEnv` as RLlib's `MultiAgentEnv`; see there for spaces, rewards and episodes.

    `env_config` holds `env` (a preset's name, a path, or a resolved configuration as a mapping) and, optionally,
    `overrides`. The worker's index is part of the address of the random streams: RLlib's own seeds of neighbouring
    workers overlap.
    """

    def __init__(self, config: Any) -> None:
        """Build from an `env_config`."""
        self.parallel = OffloadParallelEnv(
            config["env"], overrides=config.get("overrides", ()), worker=getattr(config, "worker_index", 0)
        )
        self.possible_agents = list(self.parallel.possible_agents)
        self.agents = list(self.possible_agents)
        self.observation_spaces = self.parallel.observation_spaces
        self.action_spaces = self.parallel.action_spaces
        super().__init__()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Start an episode; see `OffloadParallelEnv.reset`."""
        return self.parallel.reset(seed, options)

    def step(self, action_dict: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Let every agent act; see `OffloadParallelEnv.step`."""
        observations, rewards, terminated, truncated, infos = self.parallel.step(action_dict)
        ended = not self.parallel.agents
        terminated["__all__"] = False
        truncated["__all__"] = ended
        return observations, rewards, terminated, truncated, infos


def create_environment(config: Any) -> OffloadMultiAgentEnv:
    """Return the environment of an `env_config`; module-level, so that workers can find it."""
    return OffloadMultiAgentEnv(config)


class _Preset:
    """Creates one preset, with `env_config` for overrides."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, config: Any) -> OffloadMultiAgentEnv:
        config.setdefault("env", self.name)
        return create_environment(config)


def register_environments() -> list[str]:
    """Register every preset of `envs/` under its file name, and `offload` for any configuration; return the names."""
    register_env("offload", create_environment)
    names = list(presets("envs"))
    for name in names:
        register_env(name, _Preset(name))
    return ["offload", *names]
