"""The environments as a task of BenchMARL (https://github.com/facebookresearch/BenchMARL); needs `benchmarl`.

Pass `task=OffloadTask.OFFLOAD.get_task({"env": "ether_12"})` to BenchMARL's `Experiment`; see `docs/clients.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarl.environments.common import Task, TaskClass  # pyright: ignore[reportMissingImports] - no dependency of this package
from torchrl.data import Composite  # pyright: ignore[reportMissingImports] - no dependency of this package
from torchrl.envs import EnvBase, PettingZooWrapper  # pyright: ignore[reportMissingImports] - no dependency of this package

from offload_rllib.envs.parallel import OffloadParallelEnv
from offload_rllib.envs.series import process_number, unseeded_environment
from offload_rllib.envs.spaces import ACTION_MASK, OBSERVATION

AGENTS = "agents"
STATE = "state"


class OffloadTaskClass(TaskClass):
    """All agents in one group, so that they share a policy, with masks and the state for central critics.

    `config` holds `env` (a preset's name, a path, a mapping, or a configuration) and, optionally, `overrides`.
    """

    def get_env_fun(
        self,
        num_envs: int,
        continuous_actions: bool,
        seed: int | None,
        device: Any,
    ) -> Callable[[], EnvBase]:
        """Return what makes one environment; BenchMARL puts several in parallel."""
        config = dict(self.config)

        def make() -> EnvBase:
            env = OffloadParallelEnv(config["env"], overrides=config.get("overrides", ()))
            if seed is not None:
                # BenchMARL gives all environments of an experiment, those for evaluation too, the same seed.
                env.start_series(seed, worker=process_number(), environment=unseeded_environment())
            return PettingZooWrapper(
                env=env,
                return_state=True,
                group_map={AGENTS: list(env.possible_agents)},
                categorical_actions=True,
                device=device,
            )

        return make

    def supports_continuous_actions(self) -> bool:
        """Return that actions are not numbers on a scale."""
        return False

    def supports_discrete_actions(self) -> bool:
        """Return that they are one of some."""
        return True

    def max_steps(self, env: EnvBase) -> int:
        """Return the length of an episode."""
        played = OffloadParallelEnv(self.config["env"], overrides=self.config.get("overrides", ()))
        if played.steps_per_episode is not None:
            return played.steps_per_episode
        # Where decisions have no clock: more than there will be.
        return 1000 + math.ceil(2 * played.config.decisions.max_hops * played.batch.scenario.cost.tasks)

    def has_render(self, env: EnvBase) -> bool:
        """Return that BenchMARL makes no videos of it."""
        return False

    def group_map(self, env: EnvBase) -> dict[str, list[str]]:
        """Return the one group, of all agents."""
        wrapped: Any = env  # torchrl's wrapper of PettingZoo has it, its base type does not
        return wrapped.group_map

    def observation_spec(self, env: EnvBase) -> Composite:
        """Return what agents observe, without their masks."""
        return Composite({AGENTS: _only(env, OBSERVATION)})

    def info_spec(self, env: EnvBase) -> Composite | None:
        """Return that infos hold nothing but at the end of an episode."""
        return None

    def state_spec(self, env: EnvBase) -> Composite | None:
        """Return what central critics see."""
        return Composite({STATE: env.observation_spec[STATE].clone()})

    def action_mask_spec(self, env: EnvBase) -> Composite | None:
        """Return which actions are valid."""
        return Composite({AGENTS: _only(env, ACTION_MASK)})

    def action_spec(self, env: EnvBase) -> Composite:
        """Return what agents choose from."""
        return env.full_action_spec

    @staticmethod
    def env_name() -> str:
        """Return the name of this kind of tasks."""
        return "offload"


def _only(env: EnvBase, key: str) -> Composite:
    """Return the specification of the agents' observations with one of its keys."""
    group = env.observation_spec[AGENTS].clone()
    for other in list(group.keys()):
        if other != key:
            del group[other]
    return group


class OffloadTask(Task):
    """Tasks of this package; `config` of `get_task` says which environment."""

    OFFLOAD = None

    @staticmethod
    def associated_class() -> type[TaskClass]:
        """Return the class of its tasks."""
        return OffloadTaskClass
