"""MaskablePPO of sb3-contrib, every agent one environment of its vector, for `benchmarks/sample_efficiency.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO  # pyright: ignore[reportMissingImports] - no dependency of this package
from stable_baselines3.common.vec_env import VecEnv  # pyright: ignore[reportMissingImports] - the same

import offload_rllib


class AgentVector(VecEnv):
    """All agents of one environment, side by side: in a step one of them decides, and the others may only choose 0."""

    def __init__(self, env: str, seed: int) -> None:
        """Make the environment, and begin its series of episodes."""
        self._env = offload_rllib.parallel_env(env)
        self._env.start_series(seed)
        self._agents = self._env.possible_agents
        space: Any = self._env.observation_space(self._agents[0])
        super().__init__(len(self._agents), space["observation"], self._env.action_space(self._agents[0]))
        self._masks = np.zeros(0, bool)
        self._actions = np.zeros(0, np.int64)

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
        """Carry them out; return observations, rewards, ends, and at an end the last observations."""
        ended = self._env.carry_out(dict(zip(self._agents, self._actions.tolist(), strict=True)))
        rewards, seen = self._env.step_rewards().copy(), self._look()
        infos: list[dict[str, Any]] = [{} for _ in self._agents]
        if ended:
            infos = [{"terminal_observation": last, "TimeLimit.truncated": True} for last in seen]
            seen = self.reset()
        return seen, rewards, np.full(self.num_envs, ended), infos

    def env_method(self, *_: Any, **__: Any) -> list[Any]:
        """Return the masks [R] of all agents: nothing else is asked for."""
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


def train(env: str, decisions: int, seed: int) -> MaskablePPO:
    """Return a MaskablePPO after so many decisions: batches of 1,024, the rest as in `ppo_small`."""
    agents = AgentVector(env, seed)
    model = MaskablePPO(
        "MlpPolicy",
        agents,
        seed=seed,
        device="cpu",
        n_steps=1024,
        batch_size=1024,
        n_epochs=6,
        learning_rate=lambda left: 1e-5 + left * (1e-3 - 1e-5),
        gae_lambda=0.98,
        ent_coef=0.03,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
    )
    model.learn(total_timesteps=agents.num_envs * decisions)
    return model
