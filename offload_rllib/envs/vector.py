"""The native environment: a batch of episodes in arrays. The other faces are views of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment
from offload_rllib.config.base import is_function_path
from offload_rllib.envs.extensions import AgentView, checked
from offload_rllib.envs.layout import ObservationLayout, features_of, layout_of
from offload_rllib.envs.observation import observe, scaling
from offload_rllib.envs.reward import (
    CUSTOM,
    NO_POTENTIAL,
    PAPER,
    PEERSIMGYM,
    account_step,
    decision_rewards,
    potential_of,
    reward_record,
    shape,
    write_agent_rewards,
)
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.scenario.build import check_rule, redrawn
from offload_rllib.scenario.functions import load_function
from offload_rllib.scenario.topology import resamples
from offload_rllib.scenario.topology.size import physical_memory_bytes
from offload_rllib.simulator import metrics, state
from offload_rllib.simulator.batch import env_slice, own_copies, put, scenario_of, shared
from offload_rllib.simulator.heuristics import decide_all, is_rule, parse_rule
from offload_rllib.simulator.information import write_waits
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.step import ACTIONS_PENDING, UNFINISHED, advance
from offload_rllib.simulator.streams import episode_key
from offload_rllib.simulator.types import NONE, Array

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
        account_step(environment, reward[0], node_rewards[e])
        if name != CUSTOM:
            if reward[0].potential != NO_POTENTIAL:
                shape(scenario, environment, reward[0], node_rewards[e], potential[e])
            write_agent_rewards(scenario, reward[0], node_rewards[e], rewards[e])
        observe(scenario, environment, scales[min(e, scales.shape[0] - 1)], 0, observations[e], masks[e])
        truncated[e] = environment.episode[0].step == environment.bucket.shape[0]
    return decisions.shape[0]


@kernel
def _pay_batch(scenarios, batch, reward, node_rewards, potential, rewards):
    """Pay what a user's function wrote into `own`."""
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


@kernel
def _observe_some(scenarios, batch, environments, scales, first, observations, masks):
    for i in range(environments.shape[0]):
        e = environments[i]
        own_scales = scales[min(e, scales.shape[0] - 1)]
        observe(scenario_of(scenarios, e), env_slice(batch, e), own_scales, first, observations[e], masks[e])


class VectorEnv:
    """E environments of one scenario, stepped together.

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
        truncated: [E] bool, which episodes have ended; those must be reset before the next step.
    """

    def __init__(self, scenario: BuiltScenario, num_envs: int, *, log: bool = False) -> None:
        """Allocate the arrays; call `reset` before the first step.

        Args:
            scenario: from `build_scenario`.
            num_envs: at least 1.
            log: keep the fate of every task (`task_log`).

        Raises:
            ConfigError: `num_envs` is less than 1, or a function that the configuration names cannot be used.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, is {num_envs}")
        config, arrays = scenario.config, scenario.arrays
        self.scenario = scenario
        self.agents = scenario.agents
        self.num_envs = num_envs
        self.tasks_per_decision = config.decisions.tasks_per_decision
        self.num_actions = arrays.destination.shape[1]
        self.steps_per_episode = state.steps_per_episode(arrays)
        slots = scenario.cost.task_slots
        self._redraws = resamples(config.topology)
        own = num_envs if self._redraws else 1
        # Where networks are drawn anew, rows are padded to what any of them may need.
        if not self._redraws:
            self.num_actions = 1 + int((arrays.destination[: len(self.agents), 1:] != NONE).sum(axis=1).max())
        self._full_layout = self._layout("full", self.num_actions)
        self._refuse_too_large()
        self._scenarios = [scenario] * own
        self._arrays = own_copies(arrays, own) if self._redraws else shared(arrays)
        self._state = state.allocate(arrays, num_envs, task_slots=slots, log_rows=slots if log else 0)
        self._reward = reward_record(config.reward)
        self._node_rewards = np.zeros((num_envs, len(scenario.network.nodes)))
        self._potential = np.zeros_like(self._node_rewards)
        self._planned = np.zeros((arrays.destination.shape[1], 2))
        agents = (num_envs, len(self.agents))
        self._scales = np.repeat(scaling(arrays, self.num_actions, self.tasks_per_decision)[np.newaxis], own, axis=0)
        self._full = np.zeros((*agents, self._full_layout.size), np.float32)
        self._masks = np.zeros((*agents, self.tasks_per_decision, self.num_actions), np.int8)
        self.masks = self._masks[:, :, 0] if self.tasks_per_decision == 1 else self._masks
        self.rewards = np.zeros(agents, np.float32)
        self.truncated = np.ones(num_envs, np.bool_)  # no episode has begun
        self._an_episode_ended = True
        self._functions: dict[str, Callable[[AgentView], Any]] = {}
        if self._reward[0]["name"] == CUSTOM:
            self._function(config.reward.name, "reward.name")
        if scenario.others and not is_rule(config.agents.others):
            self._function(config.agents.others, "agents.others")
        self.layout, self._columns = self._shown()
        self.observation_size = self.layout.size
        self.observations = (
            self._full if self.layout is self._full_layout else np.zeros((*agents, self.layout.size), np.float32)
        )

    def _shown(self) -> tuple[ObservationLayout, Array | None]:
        """Return the layout of what agents are shown, and which columns of the full observation those are."""
        observe_what = self.scenario.config.observe
        if observe_what == "full":
            return self._full_layout, None
        if isinstance(observe_what, str) and is_function_path(observe_what):
            self._function(observe_what, "observe")
            # What the function returns for the start of an episode tells how many numbers there are.
            every = np.arange(self.num_envs)
            self._state = state.reset(self._arrays, self._state, every, held_out_keys(0, self.num_envs))
            size = self._observe_by_function(every, None).shape[-1]
            names = tuple(f"function_{i}" for i in range(size))
            return ObservationLayout(size, 0, 0, 0, self.num_actions, names, self.tasks_per_decision), None
        layout = self._layout(observe_what, self.num_actions)
        index = {name: column for column, name in enumerate(self._full_layout.names)}
        return layout, np.array([index[name] for name in layout.names])

    def _layout(self, observe_what: str | tuple[str, ...], rows: int) -> ObservationLayout:
        failures = self.scenario.config.failures is not None
        clock = bool(self.scenario.arrays.settings[0]["clock_period_s"] > 0)
        features = features_of(observe_what, failures=failures, clock=clock)
        if not features:
            raise ConfigError(
                "observe: failures and clock show nothing where no node fails and the load does not follow the time"
            )
        return layout_of(rows, self.tasks_per_decision, features)

    @property
    def observation_bounds(self) -> tuple[float, float]:
        """Lowest and highest number of an observation; a user's function may return any."""
        by_function = self.layout.here_size == self.layout.row_size == self.layout.task_size == 0
        return (-np.inf, np.inf) if by_function else (-1.0, 1.0)

    def _function(self, path: str, where: str) -> Callable[[AgentView], Any]:
        if path not in self._functions:
            self._functions[path] = load_function(path, where)
        return self._functions[path]

    def _view(self) -> AgentView:
        return AgentView(self.agents, self._full, self.masks, self._full_layout, self._arrays, self._state)

    def _observe_by_function(self, which: np.ndarray, size: int | None) -> np.ndarray:
        _observe_some(self._arrays, self._state, which, self._scales, 0, self._full, self._masks)
        path = str(self.scenario.config.observe)
        return checked(self._function(path, "observe")(self._view()), path, (*self.rewards.shape, size), np.floating)

    def _show(self) -> None:
        """Bring `observations` up to date with the full ones."""
        if self._columns is not None:
            np.take(self._full, self._columns, axis=-1, out=self.observations)
        elif self.observations is not self._full:
            path = str(self.scenario.config.observe)
            seen = self._function(path, "observe")(self._view())
            self.observations[:] = checked(seen, path, self.observations.shape, np.floating)

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
        self._state = state.reset(self._arrays, self._state, which, keys)
        self.rewards[which] = 0.0
        if self._reward[0]["potential"] != NO_POTENTIAL:
            _start_potential(self._arrays, self._state, self._reward, which, self._potential)
        self.truncated[which] = False
        self._an_episode_ended = bool(self.truncated.any())
        _observe_some(self._arrays, self._state, which, self._scales, 0, self._full, self._masks)
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
            self._refuse_invalid(decisions)
        if self.scenario.others:
            decisions = np.concatenate([decisions, self._decisions_of_others()], axis=1)
        done = 0
        while done < self.num_envs:
            done = _step_batch(
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
            if done < self.num_envs and state.lacks_room(self._state, done):
                self._grow()
        if self._reward[0]["name"] == CUSTOM:
            self._pay_by_function()
        self._show()
        self._an_episode_ended = bool(self.truncated.any())
        return self._an_episode_ended

    def _grow(self) -> None:
        """Make room for more tasks.

        Raises:
            ConfigError: this machine has not the memory.
        """
        # Old and new arrays are there at the same time.
        needed, memory = 3 * state.task_bytes(self._state), physical_memory_bytes()
        if needed > memory:
            raise ConfigError(
                f"workload: {self._state.task.shape[1]:,} unfinished tasks in an environment of {self.num_envs}, and "
                f"more to come: {needed / 2**30:,.0f} GiB are needed, and this machine has {memory / 2**30:,.0f} GiB; "
                "lower the load, or give deadlines or bounded queues"
            )
        self._state = state.grow(self.scenario.arrays, self._state)

    def _draw_network(self, e: int, key: int) -> None:
        """Give environment `e` the network of the episode with a key."""
        drawn = redrawn(self.scenario, key)
        self._scenarios[e] = drawn
        self._arrays = put(self._arrays, e, drawn.arrays)
        self._scales[e] = scaling(drawn.arrays, self.num_actions, self.tasks_per_decision)
        self._state = state.fit(drawn.arrays, self._state)

    def _refuse_too_large(self) -> None:
        """Raise ConfigError if observations, masks, tasks and the simulator's state would not fit into memory."""
        nodes, links, agents = (len(a) for a in (self.scenario.arrays.node, self.scenario.arrays.link, self.agents))
        shown = 4 * self._full_layout.size + self.tasks_per_decision * self.num_actions
        per_env = agents * shown + 2048 * nodes + 256 * links + self.scenario.cost.task_bytes
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

    def _pay_by_function(self) -> None:
        path = self.scenario.config.reward.name
        self._node_rewards[:] = checked(
            self._function(path, "reward.name")(self._view()), path, self._node_rewards.shape, np.floating
        )
        _pay_batch(self._arrays, self._state, self._reward, self._node_rewards, self._potential, self.rewards)

    def _refuse_invalid(self, decisions: np.ndarray) -> None:
        inside = (decisions >= 0) & (decisions < self.num_actions)
        clipped = np.clip(decisions, 0, self.num_actions - 1)
        chosen = np.take_along_axis(self._masks, clipped[..., None], axis=-1)[..., 0]
        invalid = np.argwhere(~(inside & (chosen == 1)))
        if len(invalid):
            e, a, k = invalid[0]
            raise ValueError(
                f"agent '{self.agents[a]}' of environment {e}: action {decisions[e, a, k]} is not valid now; accepted: "
                f"{np.flatnonzero(self._masks[e, a, k]).tolist()} (decisions.strict is on)"
            )

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
        check_rule(name, "heuristic")
        code, parameter = parse_rule(name)
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
        _observe_some(self._arrays, self._state, np.arange(self.num_envs), scales, first, observations, masks)
        shown = masks[:, :, 0] if k == 1 else masks
        view = AgentView(self.scenario.others, observations, shown, layout, self._arrays, self._state)
        actions = checked(self._function(name, "agents.others")(view), name, shown.shape[:-1], np.integer)
        return actions.astype(np.int32).reshape(self.num_envs, count, k)

    def waits(self, e: int) -> np.ndarray:
        """Return the seconds [N] that one more task would wait at each node of environment `e`, by its true state."""
        wait_s = np.zeros(self._node_rewards.shape[1])
        write_waits(self._arrays, self._state, e, wait_s)
        return wait_s

    def episode_metrics(self, e: int) -> dict[str, float]:
        """Return the figures of environment `e`'s finished episode (see `simulator.metrics.summary`)."""
        scenario = self.scenario_of(e)
        return metrics.summary(scenario.arrays, self._state, e, scenario.arriving.types)

    def task_log(self, e: int) -> np.ndarray:
        """Return a copy of the records [tasks made] of environment `e`; tasks still inside have outcome OPEN."""
        return self._state.log[e, : self._state.episode["tasks_made"][e]].copy()


def vector_env(
    env: str | Path | Mapping[str, Any] | EnvironmentConfig,
    num_envs: int = 1,
    *,
    overrides: Iterable[str] = (),
    log: bool = False,
    trust: bool = False,
) -> VectorEnv:
    """Return the native batched environment.

    Args:
        env: a preset's name, a path to a YAML file, a mapping, or a configuration.
        num_envs: how many episodes run side by side.
        overrides: ``a.b=value`` texts.
        log: keep the fate of every task.
        trust: run Python code that a file of a run's folder names.

    Raises:
        ConfigError: what was given cannot be, or names code that is not trusted.
    """
    return VectorEnv(build_scenario(load_environment(env, overrides, trust=trust)), num_envs, log=log)


def compile_kernels(scenario: BuiltScenario) -> None:
    """Compile the kernels for a scenario, or load them from the cache, by playing one step.

    In a new checkout that takes a minute, which must not fall into a time for which somebody waits no longer.
    """
    env = VectorEnv(scenario, 1)
    env.reset(held_out_keys(0, 1))
    env.step(np.zeros(env.masks.shape[:-1], np.int32))
