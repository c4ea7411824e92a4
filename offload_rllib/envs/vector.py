"""The native environment, clocked: a batch of episodes in arrays. The other faces are views of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import EnvironmentConfig, load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.batch import EnvBatch, observe_some
from offload_rllib.envs.costs import settle_costs_of_all
from offload_rllib.envs.episode_keys import held_out_keys, training_key
from offload_rllib.envs.extensions import AgentView, checked
from offload_rllib.envs.observation import observe, scaling
from offload_rllib.envs.reward import (
    CUSTOM,
    NO_POTENTIAL,
    PAPER,
    PEERSIMGYM,
    account_step,
    decision_rewards,
    potential_of,
    shape,
    write_agent_rewards,
)
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.simulator import state
from offload_rllib.simulator.batch import env_slice, scenario_of
from offload_rllib.simulator.events.loop import UNFINISHED
from offload_rllib.simulator.heuristics import decide_all, is_rule
from offload_rllib.simulator.jit import entry_point, kernel
from offload_rllib.simulator.step import ACTIONS_PENDING, advance

__all__ = ["ArrivalEnv", "VectorEnv", "batch_of", "compile_kernels", "held_out_keys", "training_key", "vector_env"]


@kernel
def _step_batch(
    scenarios, batch, reward, node_rewards, potential, decisions, scales, observations, masks, rewards, truncated, first
):
    """Step environments from `first` on; return the first one that is not done with its step, or their number."""
    name = reward[0].name
    for e in range(first, decisions.shape[0]):
        scenario = scenario_of(scenarios, e)
        environment = env_slice(batch, e)
        if name in (PAPER, PEERSIMGYM) and environment.episode[0].stage == ACTIONS_PENDING:
            decision_rewards(scenario, environment, reward[0], rewards.shape[1], decisions[e], node_rewards[e])
        if advance(scenario, environment, decisions[e]) == UNFINISHED:
            return e
        account_step(scenario, environment, reward[0], node_rewards[e])
        if name != CUSTOM:
            if reward[0].potential != NO_POTENTIAL:
                shape(scenario, environment, reward[0], node_rewards[e], potential[e])
            write_agent_rewards(scenario, reward[0], node_rewards[e], rewards[e])
        observe(scenario, environment, scales[min(e, scales.shape[0] - 1)], 0, observations[e], masks[e])
        truncated[e] = environment.episode[0].step == scenario.settings[0].steps
    return decisions.shape[0]


@kernel
def _pay_batch(scenarios, batch, reward, node_rewards, potential, rewards):
    """Write the agents' rewards [E, A] from what a user's function gave each node."""
    for e in range(rewards.shape[0]):
        scenario = scenario_of(scenarios, e)
        if reward[0].potential != NO_POTENTIAL:
            shape(scenario, env_slice(batch, e), reward[0], node_rewards[e], potential[e])
        write_agent_rewards(scenario, reward[0], node_rewards[e], rewards[e])


@kernel
def _start_potential(scenarios, batch, reward, environments, potential):
    """Write the potential of the first states of some episodes: that of an empty network, or of what came at 0 s."""
    for i in range(environments.shape[0]):
        e = environments[i]
        for n in range(potential.shape[1]):
            potential[e, n] = potential_of(scenario_of(scenarios, e), env_slice(batch, e), reward[0].potential, n)


class VectorEnv(EnvBatch):
    """E environments of one scenario, stepped together by a clock: all agents decide every `decisions.interval_s`.

    With `topology.resample: episode` each has a network of its own, drawn at its reset; agents, observations and
    actions have the same sizes in all of them.

    The arrays `observations`, `masks` and `rewards` belong to the environment and are overwritten by each step.

    Attributes:
        agents: names of the A agents.
        num_envs: E.
        num_actions: R; action 0 keeps the task, action k sends it to the k-th destination.
        tasks_per_decision: k. Where it is 1, masks and actions lack that axis.
        layout: what is where in an observation.
        observation_size: F.
        steps_per_episode: decisions until truncation.
        observations: [E, A, F] float32, see `OffloadParallelEnv`.
        masks: [E, A, R] int8, or [E, A, k, R]; 1 where an action is valid.
        rewards: [E, A] float32 of the last step.
        costs: [E, A, C] float32 of the last step, by figure; see `costs`.
        truncated: [E] bool, which episodes have ended; those must be reset before the next step.
    """

    def __init__(self, scenario: BuiltScenario, num_envs: int, *, log: bool = False, costs: Sequence[str] = ()) -> None:
        """Allocate the arrays; call `reset` before the first step. Arguments and errors as `EnvBatch`."""
        super().__init__(scenario, num_envs, log=log, costs=costs)
        self.steps_per_episode = state.steps_per_episode(scenario.arrays)
        self._node_rewards = np.zeros((num_envs, len(scenario.network.nodes)))
        self._potential = np.zeros_like(self._node_rewards)
        self.rewards = np.zeros((num_envs, len(self.agents)), np.float32)
        self.costs = np.zeros((num_envs, len(self.agents), len(costs)), np.float32)
        self._cost_accounts = np.zeros(self.costs.shape)
        self._every = np.arange(num_envs)
        self._an_episode_ended = True

    def reset(self, keys: np.ndarray, environments: np.ndarray | None = None) -> None:
        """Start a new episode in all environments, or in some.

        Args:
            keys: [e] uint64 episode keys, e.g. from `held_out_keys`.
            environments: [e] which ones; all by default.
        """
        which = self._start_episodes(keys, environments)
        self._state = state.run_first_instant(self._arrays, self._state, which)
        self.rewards[which] = 0.0
        self.costs[which] = 0.0
        self._cost_accounts[which] = 0.0
        if self._reward[0]["potential"] != NO_POTENTIAL:
            _start_potential(self._arrays, self._state, self._reward, which, self._potential)
        self._an_episode_ended = bool(self.truncated.any())
        observe_some(self._arrays, self._state, which, self._scales, 0, self._full, self._masks)
        self._show()

    def step(self, actions: np.ndarray) -> bool:
        """Let every agent act and run one decision interval.

        Args:
            actions: [E, A] integers, or [E, A, k]. One that is not valid acts as 0 and is counted.

        Returns:
            Whether an episode has ended, by truncation: `truncated` says which. They must be reset.

        Raises:
            ValueError: wrong shape, or, in a strict environment, an action that is not valid.
            ConfigError: a user's function returned what does not fit, or the unfinished tasks do not fit into memory.
            RuntimeError: an episode has ended and was not reset, or there was no reset yet.
        """
        actions = np.ascontiguousarray(actions, np.int32)
        expected = self.masks.shape[:-1]
        if actions.shape != expected:
            axes = "environments, agents" + (", tasks" if self.tasks_per_decision > 1 else "")
            raise ValueError(f"actions must have shape {expected} ({axes}), is {actions.shape}")
        if self._an_episode_ended:
            raise RuntimeError("an episode has ended, or none has begun; call reset before the next step")
        decisions = actions.reshape(self._masks.shape[:-1])
        if self.scenario.config.decisions.strict:
            self._refuse_invalid(decisions, lambda _, a: self.agents[a])
        if self.scenario.others:
            decisions = np.concatenate([decisions, self._decisions_of_others()], axis=1)
        done = 0
        while done < self.num_envs:
            arguments = (
                self._arrays,
                self._state,
                self._reward,
                self._node_rewards,
                self._potential,
                decisions,
                self._scales,
                self._full,
                self._masks,
                self.rewards,
                self.truncated,
                done,
            )
            if "step" not in self._compiled:
                self._compiled["step"] = entry_point(_step_batch, *arguments)
            done = self._compiled["step"](*arguments)
            if done < self.num_envs and state.lacks_room(self._state, done):
                self._grow()
        if self._reward[0]["name"] == CUSTOM:
            self._pay_by_function()
        if self.costs.size:
            settle_costs_of_all(self._arrays, self._state, self._reward, self._cost_accounts, self._every, self.costs)
        self._show()
        self._an_episode_ended = bool(self.truncated.any())
        return self._an_episode_ended

    def _pay_by_function(self) -> None:
        path = self.scenario.config.reward.name
        self._node_rewards[:] = checked(
            self._function(path, "reward.name")(self._view()), path, self._node_rewards.shape, np.floating
        )
        _pay_batch(self._arrays, self._state, self._reward, self._node_rewards, self._potential, self.rewards)

    def play(self, name: str) -> None:
        """Play all environments to the ends of their episodes under a heuristic, as `heuristic_actions` names them."""
        while not self.step(self.heuristic_actions(name)):
            pass

    def heuristic_actions(self, name: str) -> np.ndarray:
        """Return the actions [E, A] int32, or [E, A, k], of a heuristic for the present state.

        Args:
            name: a rule of `simulator.heuristics`, with its parameter if need be (``soft_finish:0.5``), or a user's
                function ``package.module:function``.

        Raises:
            ConfigError: there is no such rule or function, or the function returned what does not fit.
        """
        if is_rule(name):
            return self._by_rule(name, 0, len(self.agents)).reshape(self.masks.shape[:-1])
        actions = self._function(name, "heuristic")(self._view())
        return checked(actions, name, self.masks.shape[:-1], np.integer).astype(np.int32)

    def _by_rule(self, name: str, first: int, nodes: int) -> np.ndarray:
        """Return the actions [E, nodes, k] int32 of deciding nodes under a rule."""
        code, parameter = self._rule(name)
        actions = np.zeros((self.num_envs, nodes, self.tasks_per_decision), np.int32)
        decide_all(self._arrays, self._state, code, parameter, first, self._planned, actions)
        return actions

    def _decisions_of_others(self) -> np.ndarray:
        """Return the actions [E, D - A, k] int32 of the deciding nodes that are not agents."""
        name, first, count = self.scenario.config.agents.others, len(self.agents), len(self.scenario.others)
        if is_rule(name):
            return self._by_rule(name, first, count)
        rows, k = self._arrays.destination.shape[2], self.tasks_per_decision
        layout = self._layout("full", rows)
        observations = np.zeros((self.num_envs, count, layout.size), np.float32)
        masks = np.zeros((self.num_envs, count, k, rows), np.int8)
        scales = np.stack([scaling(scenario.arrays, rows, k) for scenario in self._scenarios])
        observe_some(self._arrays, self._state, np.arange(self.num_envs), scales, first, observations, masks)
        shown = masks[:, :, 0] if k == 1 else masks
        view = AgentView(self.scenario.others, observations, shown, layout, self._arrays, self._state)
        actions = checked(self._function(name, "agents.others")(view), name, shown.shape[:-1], np.integer)
        return actions.astype(np.int32).reshape(self.num_envs, count, k)


NativeEnv = VectorEnv | ArrivalEnv


def batch_of(scenario: BuiltScenario, num_envs: int, *, log: bool = False, costs: Sequence[str] = ()) -> Any:
    """Return the native batched environment of a scenario: of the class that its `decisions.when` asks for."""
    arrival = scenario.config.decisions.when == "arrival"
    return (ArrivalEnv if arrival else VectorEnv)(scenario, num_envs, log=log, costs=costs)


def vector_env(
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    num_envs: int = 1,
    *,
    overrides: Iterable[str] = (),
    log: bool = False,
    costs: Sequence[str] = (),
    trust: bool = False,
) -> Any:
    """Return the native batched environment: a `VectorEnv`, or an `ArrivalEnv` with `decisions.when: arrival`.

    Args:
        env: a preset's name, a path to a YAML file, a mapping, or a configuration.
        num_envs: how many episodes run in parallel.
        overrides: ``a.b=value`` texts.
        log: keep the fate of every task.
        costs: figures whose costs are given beside the rewards (`docs/constraints.md`).
        trust: run Python code that a file of a run's folder names.

    Raises:
        ConfigError: the input is invalid, or names code that is not trusted.
    """
    return batch_of(build_scenario(load_environment(env, overrides, trust=trust)), num_envs, log=log, costs=costs)


def compile_kernels(scenario: BuiltScenario) -> None:
    """Compile the kernels for a scenario, or load them from the cache, by playing one step.

    In a new checkout that takes a minute, which could exceed the timeout of a caller.
    """
    env = batch_of(scenario, 1)
    env.reset(held_out_keys(0, 1))
    if not env.truncated[0]:
        env.step(np.zeros(env.masks.shape[:-1], np.int32))
