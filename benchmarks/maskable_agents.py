"""MaskablePPO of sb3-contrib on several agents: each agent is one environment of its vector; needs `sb3-contrib`.

See `benchmarks/sample_efficiency.py`, which runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO  # pyright: ignore[reportMissingImports] - no dependency of this package
from stable_baselines3.common.callbacks import BaseCallback  # pyright: ignore[reportMissingImports] - the same
from stable_baselines3.common.vec_env import VecEnv  # pyright: ignore[reportMissingImports] - the same

import offload_rllib

# 1,024 s of each agent, in which an agent of `ether_12` decides on about fifty tasks.
STEPS = 1024


class AgentVector(VecEnv):
    """All agents of one environment with a clock, side by side; `decisions` counts the tasks that were on offer."""

    def __init__(self, env: str, overrides: Sequence[str]) -> None:
        """Make the environment; it has a clock."""
        self._env = offload_rllib.parallel_env(env, overrides=overrides)
        self._agents = self._env.possible_agents
        first: Any = self._env.observation_space(self._agents[0])
        super().__init__(len(self._agents), first["observation"], self._env.action_space(self._agents[0]))
        self.decisions = 0
        self._masks = np.zeros((self.num_envs, self.action_space.n), bool)
        self._actions = np.zeros(self.num_envs, np.int64)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Begin the series of episodes of a seed."""
        self._env.start_series(seed or 0)
        return [seed] * self.num_envs

    def _look(self) -> np.ndarray:
        seen, masks = self._env.observe_all()
        self._masks = masks.astype(bool)
        return seen

    def reset(self) -> np.ndarray:
        """Return the first observations [A, F] of the next episode."""
        self._env.begin_episode()
        return self._look()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions [A] of all agents."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Carry them out; return observations, rewards, ends, and with ends the last observations."""
        self.decisions += int((self._masks.sum(1) > 1).sum())
        ended = self._env.carry_out(dict(zip(self._agents, self._actions.tolist(), strict=True)))
        rewards = self._env.step_rewards().copy()
        seen = self._look()
        infos: list[dict[str, Any]] = [{} for _ in self._agents]
        if ended:
            infos = [{"terminal_observation": last, "TimeLimit.truncated": True} for last in seen]
            seen = self.reset()
        return seen, rewards, np.full(self.num_envs, ended), infos

    def env_method(self, *_: Any, **__: Any) -> list[Any]:
        """Return the masks [R] of all agents, which is all that is asked."""
        return list(self._masks)

    def has_attr(self, attr_name: str) -> bool:
        """Return that masks can be asked for."""
        return attr_name == "action_masks"

    def get_attr(self, *_: Any, **__: Any) -> list[Any]:
        """Return nothing: agents have no attributes."""
        return [None] * self.num_envs

    def set_attr(self, *_: Any, **__: Any) -> None:
        """Do nothing."""

    def env_is_wrapped(self, *_: Any, **__: Any) -> list[bool]:
        """Return that no agent is wrapped."""
        return [False] * self.num_envs

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


class _Enough(BaseCallback):
    """Stops after so many decisions."""

    def __init__(self, agents: AgentVector, decisions: int) -> None:
        super().__init__()
        self._agents, self._decisions = agents, decisions

    def _on_step(self) -> bool:
        return self._agents.decisions < self._decisions


def train(env: str, decisions: int, seed: int, overrides: Sequence[str], share: float) -> MaskablePPO:
    """Return a MaskablePPO after so many decisions.

    Args:
        env: a preset.
        decisions: tasks on offer to any agent.
        seed: of weights and episodes.
        overrides: of the preset; they give it a clock.
        share: of agent steps that offer a task, about: how long the schedule of the learning rate is.
    """
    agents = AgentVector(env, overrides)
    agents.seed(seed)
    model = MaskablePPO(
        "MlpPolicy",
        agents,
        seed=seed,
        device="cpu",
        n_steps=STEPS,
        batch_size=1024,
        n_epochs=6,
        learning_rate=lambda left: 1e-5 + max(left, 0.0) * (1e-3 - 1e-5),
        gae_lambda=0.98,
        ent_coef=0.03,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
    )
    model.learn(total_timesteps=round(decisions / share), callback=_Enough(agents, decisions))
    return model
