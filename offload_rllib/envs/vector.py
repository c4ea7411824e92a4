"""The native environment: a batch of episodes in arrays. The other faces are views of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment
from offload_rllib.envs.observation import observation_size, observe, scaling
from offload_rllib.envs.reward import PAPER, pay, price_decisions, reward_record
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.scenario.build import expected_tasks_inside, redrawn
from offload_rllib.scenario.topology import resamples
from offload_rllib.scenario.topology.size import physical_memory_bytes
from offload_rllib.simulator import metrics, state
from offload_rllib.simulator.batch import own_copies, put, shared
from offload_rllib.simulator.events import environment as environment_of
from offload_rllib.simulator.events import scenario_of
from offload_rllib.simulator.heuristics import HEURISTICS, decide_all
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.step import ACTIONS_PENDING, NEEDS_ROOM, advance
from offload_rllib.simulator.streams import episode_key

# Reserved first part of an episode's address, so that no purpose ever reuses another's episodes.
TRAINING = 0
HELD_OUT = 1


def training_key(seed: int, worker: int, environment: int, episode: int) -> int:
    """Return the key of a training episode; distinct for every worker, environment and episode."""
    return episode_key(TRAINING, seed, worker, environment, episode)


def held_out_keys(seed: int, episodes: int) -> np.ndarray:
    """Return the keys [episodes] uint64 of evaluation episodes, never used in training."""
    return np.array([episode_key(HELD_OUT, seed, episode) for episode in range(episodes)], np.uint64)


@kernel
def _step_batch(
    scenarios, batch, reward, decision_rewards, actions, scales, observations, masks, rewards, truncated, first
):
    """Step environments from `first` on; return the first one that needs room, or their number."""
    for e in range(first, actions.shape[0]):
        scenario = scenario_of(scenarios, e)
        environment = environment_of(batch, e)
        if reward[0].name == PAPER and environment.episode[0].stage == ACTIONS_PENDING:
            price_decisions(scenario, environment, reward[0], actions[e], decision_rewards[e])
        if advance(scenario, environment, actions[e]) == NEEDS_ROOM:
            return e
        pay(scenario, environment, reward[0], decision_rewards[e], rewards[e])
        observe(scenario, environment, scales[min(e, scales.shape[0] - 1)], observations[e], masks[e])
        truncated[e] = environment.episode[0].step == environment.bucket.shape[0]
    return actions.shape[0]


@kernel
def _observe_some(scenarios, batch, environments, scales, observations, masks):
    for i in range(environments.shape[0]):
        e = environments[i]
        own_scales = scales[min(e, scales.shape[0] - 1)]
        observe(scenario_of(scenarios, e), environment_of(batch, e), own_scales, observations[e], masks[e])


class VectorEnv:
    """E environments of one scenario, stepped together.

    With `topology.resample: episode` each has a network of its own, drawn at its reset; agents, observations and
    actions have the same sizes in all of them.

    The arrays `observations`, `masks` and `rewards` belong to the environment and are overwritten by each step.

    Attributes:
        agents: names of the A agents.
        num_envs: E.
        num_actions: R; action 0 keeps the task, action k sends it to the k-th destination.
        observation_size: F.
        steps_per_episode: decisions until truncation.
        observations: [E, A, F] float32, see `OffloadParallelEnv`.
        masks: [E, A, R] int8, 1 where an action is valid.
        rewards: [E, A] float32 of the last step.
        truncated: [E] bool, which episodes have ended; those must be reset before the next step.
    """

    def __init__(self, scenario: BuiltScenario, num_envs: int, *, log: bool = False) -> None:
        """Allocate the arrays; call `reset` before the first step.

        Args:
            scenario: from `build_scenario`.
            num_envs: at least 1.
            log: keep the fate of every task (`task_log`).

        Raises:
            ConfigError: `num_envs` is less than 1.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, is {num_envs}")
        self.scenario = scenario
        self.agents = scenario.agents
        self.num_envs = num_envs
        self.num_actions = scenario.arrays.destination.shape[1]
        failures = scenario.config.failures is not None
        self.observation_size = observation_size(self.num_actions, failures=failures)
        self.steps_per_episode = state.steps_per_episode(scenario.arrays)
        slots = expected_tasks_inside(scenario)
        self._redraws = resamples(scenario.config.topology)
        own = num_envs if self._redraws else 1
        self._refuse_too_large()
        self._scenarios = [scenario] * own
        self._arrays = own_copies(scenario.arrays, own) if self._redraws else shared(scenario.arrays)
        self._state = state.allocate(scenario.arrays, num_envs, task_slots=slots, log_rows=slots if log else 0)
        self._reward = reward_record(scenario.config.reward, scenario.load.mean_work)
        self._scales = np.repeat(scaling(scenario.arrays)[np.newaxis], own, axis=0)
        self._decision_rewards = np.zeros((num_envs, len(scenario.network.nodes)))
        shape = (num_envs, len(self.agents))
        self.observations = np.zeros((*shape, self.observation_size), np.float32)
        self.masks = np.zeros((*shape, self.num_actions), np.int8)
        self.rewards = np.zeros(shape, np.float32)
        self.truncated = np.ones(num_envs, np.bool_)  # no episode has begun
        self._an_episode_ended = True

    @property
    def state(self) -> state.State:
        """The simulator's arrays, for analysis and tests."""
        return self._state

    def reset(self, keys: np.ndarray, environments: np.ndarray | None = None) -> None:
        """Start a new episode in all environments, or in some.

        Args:
            keys: [e] uint64 episode keys, e.g. from `held_out_keys`.
            environments: [e] which ones; all by default.
        """
        which = np.arange(self.num_envs) if environments is None else np.asarray(environments, np.int64)
        keys = np.asarray(keys, np.uint64)
        if keys.shape != which.shape:
            raise ConfigError(f"reset needs one key per environment: {len(which)}, got {keys.shape}")
        if self._redraws:
            for e, key in zip(which.tolist(), keys.tolist(), strict=True):
                self._draw_network(e, key)
        state.reset(self._arrays, self._state, which, keys)
        self.rewards[which] = 0.0
        self.truncated[which] = False
        self._an_episode_ended = bool(self.truncated.any())
        _observe_some(self._arrays, self._state, which, self._scales, self.observations, self.masks)

    def step(self, actions: np.ndarray) -> bool:
        """Let every agent act and run one decision interval.

        Args:
            actions: [E, A] integers. One that is not valid acts as 0 and is counted.

        Returns:
            Whether an episode has ended, by truncation: `truncated` says which. They must be reset.

        Raises:
            ValueError: wrong shape, or, in a strict environment, an action that is not valid.
            RuntimeError: an episode has ended and was not reset, or there was no reset yet.
        """
        actions = np.ascontiguousarray(actions, np.int32)
        if actions.shape != self.rewards.shape:
            raise ValueError(f"actions must have shape {self.rewards.shape} (environments, agents), is {actions.shape}")
        if self._an_episode_ended:
            raise RuntimeError("an episode has ended, or none has begun; call reset before the next step")
        if self.scenario.config.decisions.strict:
            self._refuse_invalid(actions)
        done = 0
        while done < self.num_envs:
            done = _step_batch(
                self._arrays,
                self._state,
                self._reward,
                self._decision_rewards,
                actions,
                self._scales,
                self.observations,
                self.masks,
                self.rewards,
                self.truncated,
                done,
            )
            if done < self.num_envs:
                self._state = state.grow(self.scenario.arrays, self._state)
        self._an_episode_ended = bool(self.truncated.any())
        return self._an_episode_ended

    def _draw_network(self, e: int, key: int) -> None:
        """Give environment `e` the network of the episode with a key."""
        drawn = redrawn(self.scenario, key)
        self._scenarios[e] = drawn
        self._arrays = put(self._arrays, e, drawn.arrays)
        self._scales[e] = scaling(drawn.arrays)
        self._state = state.fit(drawn.arrays, self._state)

    def _refuse_too_large(self) -> None:
        """Raise ConfigError if observations, masks and the simulator's state would not fit into memory."""
        nodes, links, agents = (len(a) for a in (self.scenario.arrays.node, self.scenario.arrays.link, self.agents))
        per_env = 4 * agents * self.observation_size + agents * self.num_actions + 2048 * nodes + 256 * links
        memory = physical_memory_bytes()
        if self.num_envs * per_env > memory:
            raise ConfigError(
                f"num_envs: {self.num_envs} environments of {nodes:,} nodes and {self.num_actions:,} actions need "
                f"about {self.num_envs * per_env / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f} GiB; "
                "take fewer, or bound the actions with decisions.max_destinations"
            )

    def scenario_of(self, e: int) -> BuiltScenario:
        """Return the scenario of environment `e`'s episode: its own with `topology.resample: episode`."""
        return self._scenarios[e if self._redraws else 0]

    def _refuse_invalid(self, actions: np.ndarray) -> None:
        inside = (actions >= 0) & (actions < self.num_actions)
        chosen = np.take_along_axis(self.masks, np.clip(actions, 0, self.num_actions - 1)[..., None], axis=2)[..., 0]
        invalid = np.argwhere(~(inside & (chosen == 1)))
        if len(invalid):
            e, a = invalid[0]
            raise ValueError(
                f"agent '{self.agents[a]}' of environment {e}: action {actions[e, a]} is not valid now; accepted: "
                f"{np.flatnonzero(self.masks[e, a]).tolist()} (decisions.strict is on)"
            )

    def heuristic_actions(self, name: str) -> np.ndarray:
        """Return the actions [E, A] int32 of a heuristic (see `simulator.heuristics`) for the present state."""
        actions = np.zeros(self.rewards.shape, np.int32)
        decide_all(self._arrays, self._state, HEURISTICS[name], actions)
        return actions

    def episode_metrics(self, e: int) -> dict[str, float]:
        """Return the figures of environment `e`'s finished episode (see `simulator.metrics.summary`)."""
        return metrics.summary(self.scenario_of(e).arrays, self._state, e)

    def task_log(self, e: int) -> np.ndarray:
        """Return a copy of the records [tasks made] of environment `e`; tasks still inside have outcome OPEN."""
        return self._state.log[e, : self._state.episode["tasks_made"][e]].copy()


def vector_env(
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    num_envs: int = 1,
    *,
    overrides: Iterable[str] = (),
    log: bool = False,
) -> VectorEnv:
    """Return the native batched environment.

    Args:
        env: a preset's name, a path to a YAML file, a mapping, or a configuration.
        num_envs: how many episodes run side by side.
        overrides: ``a.b=value`` texts.
        log: keep the fate of every task.

    Raises:
        ConfigError: what was given cannot be.
    """
    return VectorEnv(build_scenario(load_environment(env, overrides)), num_envs, log=log)
