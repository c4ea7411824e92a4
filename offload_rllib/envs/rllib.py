"""The environment for RLlib, and its registration."""

from __future__ import annotations

from typing import Any, ClassVar

from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from offload_rllib.config import presets
from offload_rllib.envs.parallel import OffloadParallelEnv
from offload_rllib.envs.series import unseeded_environment
from offload_rllib.envs.spaces import OBSERVATIONS


class _ParallelEnv(OffloadParallelEnv):
    """The same with the key that RLlib's masking modules, and ours, look for."""

    observation_key: ClassVar[str] = OBSERVATIONS


class OffloadMultiAgentEnv(MultiAgentEnv):
    """`OffloadParallelEnv` as RLlib's `MultiAgentEnv`; see there for spaces, rewards and episodes.

    Observations are `Dict(observations=..., action_mask=...)`: RLlib's masking modules, and ours, say it in the plural.

    `env_config` holds `env` (a preset's name, a path, or a resolved configuration as a mapping) and, optionally,
    `overrides`, `render_mode`, `trust` and `seed`. An episode's address is (`seed`, the worker's index, the seed that
    RLlib gives this environment, episode): RLlib's seeds alone overlap between neighbouring workers and between runs
    with neighbouring seeds, and without a seed all environments of a worker would play the same episodes.
    """

    def __init__(self, config: Any) -> None:
        """Build from an `env_config`."""
        self.render_mode = config.get("render_mode")
        self.parallel = _ParallelEnv(
            config["env"],
            overrides=config.get("overrides", ()),
            render_mode=self.render_mode,
            trust=config.get("trust", False),
        )
        self._seed = int(config.get("seed", 0))
        self._worker = int(getattr(config, "worker_index", 0))
        self._first_episode = 0
        self.parallel.start_series(self._seed, worker=self._worker, environment=unseeded_environment())
        self.possible_agents = list(self.parallel.possible_agents)
        self.agents = list(self.possible_agents)
        self.observation_spaces = self.parallel.observation_spaces  # pyright: ignore[reportAttributeAccessIssue] - declared None
        self.action_spaces = self.parallel.action_spaces  # pyright: ignore[reportAttributeAccessIssue] - declared None
        super().__init__()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Start an episode; see `OffloadParallelEnv.reset`. A seed starts this environment's series."""
        if seed is not None:
            self.parallel.start_series(
                self._seed, worker=self._worker, environment=seed, first_episode=self._first_episode
            )
        return self.parallel.reset(None, options)

    def continue_series(self, env_steps: int) -> None:
        """Let series begin where no earlier episode was: a resumed run must not play its first episodes again.

        Args:
            env_steps: environment steps done by the run so far; more than any series has had episodes.
        """
        self._first_episode = env_steps

    def step(self, action_dict: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:  # pyright: ignore[reportIncompatibleMethodOverride] - RLlib names another type
        """Let every agent act; see `OffloadParallelEnv.step`."""
        observations, rewards, terminated, truncated, infos = self.parallel.step(action_dict)
        ended = not self.parallel.agents
        terminated["__all__"] = False
        truncated["__all__"] = ended
        return observations, rewards, terminated, truncated, infos

    def render(self) -> Any:
        """Return what `OffloadParallelEnv.render` does."""
        return self.parallel.render()


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
    """Register every preset of `envs/` under its file name, and `offload` for any configuration; return the names.

    Ray's names are ASCII: a preset of another name is reached by `offload` and ``env_config={"env": NAME}``.
    """
    register_env("offload", create_environment)
    names = [name for name in presets("envs") if name.isascii()]
    for name in names:
        register_env(name, _Preset(name))
    return ["offload", *names]
