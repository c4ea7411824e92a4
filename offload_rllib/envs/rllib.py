"""The environment for RLlib, and its registration."""

from __future__ import annotations

from typing import Any, ClassVar

from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from offload_rllib.config import presets
from offload_rllib.envs.parallel import OffloadParallelEnv
from offload_rllib.envs.series import unseeded_environment
from offload_rllib.envs.spaces import ACTION_MASK, ELAPSED_S, INTERVAL_S, OBSERVATIONS, TIME_S


class _ParallelEnv(OffloadParallelEnv):
    """The same with the key that RLlib's masking modules, and ours, look for."""

    observation_key: ClassVar[str] = OBSERVATIONS


class OffloadMultiAgentEnv(MultiAgentEnv):
    """`OffloadParallelEnv` as RLlib's `MultiAgentEnv`; see there for spaces, rewards and episodes.

    Observations are `Dict(observations=..., action_mask=...)`: RLlib's masking modules, and ours, say it in the plural.

    With `decisions.when: arrival` only the agent that decides is named: it observes, gets what it has earned since its
    previous decision, or since the start, and its info says when it decides (`time_s`) and how long after its previous
    decision (`elapsed_s`). At the end all agents observe and get what they have earned since.

    `env_config` holds `env` (a preset's name, a path, or a resolved configuration as a mapping) and, optionally,
    `overrides`, `render_mode`, `trust` and `seed`. An episode's address is (`seed`, the worker's index, the seed that
    RLlib gives this environment, episode): RLlib's seeds alone overlap between neighbouring workers and between runs
    with neighbouring seeds. Without a seed all environments of a worker would play the same episodes.
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
        self._arrival = self.parallel.config.decisions.when == "arrival"
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
        if not self._arrival:
            observations, infos = self.parallel.reset(None, options)
            return observations, self._timed(infos)
        self.parallel.begin_episode()
        self.agents = list(self.possible_agents)
        return self._decision()

    def _decision(self) -> tuple[dict, dict]:
        """Return what the agent that decides observes, and when."""
        batch, agent = self.parallel.batch, self.parallel.deciding_agent
        seen = {OBSERVATIONS: batch.observations[0].copy(), ACTION_MASK: batch.masks[0].copy()}
        info = {TIME_S: float(batch.time_s[0]), ELAPSED_S: float(batch.elapsed_s[0])}
        return {agent: seen}, {agent: info}

    def _decide(self, action_dict: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """Carry out one decision; see `step`."""
        batch = self.parallel.batch
        ended = self.parallel.decide(action_dict.get(self.possible_agents[batch.deciding[0]], 0))
        if not ended:
            observations, infos = self._decision()
            agent = next(iter(observations))
            rewards = {agent: float(batch.rewards[0])}
            return observations, rewards, {"__all__": False}, {"__all__": False}, infos
        self.agents = []
        observations, rewards, infos = self.parallel.last_step()
        names = self.possible_agents
        return (
            observations,
            rewards,
            dict.fromkeys(names, False) | {"__all__": False},
            dict.fromkeys(names, True) | {"__all__": True},
            infos,
        )

    def continue_series(self, env_steps: int) -> None:
        """Let series begin where no earlier episode was: a resumed run must not play its first episodes again.

        Args:
            env_steps: environment steps done by the run so far; more than any series has had episodes.
        """
        self._first_episode = env_steps

    def step(self, action_dict: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:  # pyright: ignore[reportIncompatibleMethodOverride] - RLlib names another type
        """Let every agent act, or the one that decides; see `OffloadParallelEnv.step`."""
        if self._arrival:
            return self._decide(action_dict)
        observations, rewards, terminated, truncated, infos = self.parallel.step(action_dict)
        ended = not self.parallel.agents
        terminated["__all__"] = False
        truncated["__all__"] = ended
        return observations, rewards, terminated, truncated, self._timed(infos)

    def _timed(self, infos: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return infos that say how far steps are apart, for learners that discount by time."""
        interval_s = self.parallel.config.decisions.interval_s
        return {agent: info | {INTERVAL_S: interval_s} for agent, info in infos.items()}

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
