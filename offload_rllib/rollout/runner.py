"""The batched EnvRunner: all environments of a runner as one array program, an ordinary RLlib runner otherwise."""

# RLlib declares its attributes as optional, or by base types that lack what is there; the checks would say so of
# nearly every line that meets it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOptionalCall=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.utils.metrics import (
    EPISODE_DURATION_SEC_MEAN,
    EPISODE_LEN_MEAN,
    EPISODE_MODULE_RETURN_MEAN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
)

from offload_rllib.envs.spaces import FIGURES, action_space, observation_space
from offload_rllib.envs.vector import VectorEnv, compile_kernels, training_key, vector_env
from offload_rllib.rollout.acting import choose_categorical, choose_greedy, find_choices, gather
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.hindsight import hindsight_rewards, settled_steps

# Key of `env_config`, and what it may be (see `config.algorithms.OnPolicy.credit`).
CREDIT = "credit"
STEPS, DECISIONS = "steps", "decisions"


class BatchedEnvs:
    """The environments of one runner, with the attributes that RLlib reads of a vector environment."""

    def __init__(self, batch: VectorEnv) -> None:
        """Wrap a native batch."""
        self.batch = batch
        self.num_envs = batch.num_envs
        self.single_observation_space = spaces.Dict({agent: observation_space(batch) for agent in batch.agents})
        self.single_action_space = spaces.Dict({agent: action_space(batch) for agent in batch.agents})
        self.observation_space = self.single_observation_space
        self.action_space = self.single_action_space

    @property
    def unwrapped(self) -> BatchedEnvs:
        """Itself."""
        return self

    def close(self) -> None:
        """Release nothing; for the interface."""


class FinishedEpisode:
    """What is known of an episode that ended, for `on_episode_end` callbacks: RLlib's names, without the steps."""

    def __init__(self, returns: Mapping[str, float], env_steps: int, figures: dict[str, float]) -> None:
        """Keep the return of each agent, the length, and the figures of `simulator.metrics.summary`."""
        self.agent_returns = dict(returns)
        self._env_steps = env_steps
        self._figures = figures
        self.is_done = True

    def __len__(self) -> int:
        """The number of environment steps."""
        return self._env_steps

    def env_steps(self) -> int:
        """Return the number of environment steps."""
        return self._env_steps

    def get_return(self) -> float:
        """Return the sum of all agents' rewards."""
        return sum(self.agent_returns.values())

    def get_infos(self, _indices: int = -1) -> dict[str, dict[str, Any]]:
        """Return the infos of the last step, as `OffloadParallelEnv` gives them; no others are kept."""
        return {agent: {FIGURES: self._figures} for agent in self.agent_returns}


class BatchedEnvRunner(MultiAgentEnvRunner):
    """Samples `Fragment`s: one array program over all environments, one forward pass per policy.

    A drop-in for RLlib's `MultiAgentEnvRunner` (`config.env_runners(env_runner_cls=BatchedEnvRunner)`) for
    environments of this package. Only agents with a choice go through the network: the others can only take 0.
    Episodes go on from one call of `sample` to the next; connectors are not run, for observations are ready as they
    come. With the same seed and weights it gives the trajectories of RLlib's runner.
    """

    def make_env(self) -> None:
        """Make the environments named by `env_config` (see `envs.rllib.OffloadMultiAgentEnv`)."""
        context = self.config.env_config
        source = context.get("env", self.config.env)
        count = self.config.num_envs_per_env_runner
        self._in_hindsight = context.get(CREDIT, STEPS) == DECISIONS
        overrides = context.get("overrides", ())
        self.env = BatchedEnvs(vector_env(source, count, overrides=overrides, log=self._in_hindsight))
        self.num_envs = count
        compile_kernels(self.env.batch.scenario)  # here, for nobody waits long for a sample
        self._root_seed = int(context.get("seed", 0))
        self._first_episode = 0
        self._next_episode = np.zeros(count, np.int64)
        self._needs_initial_reset = True
        make_callback(
            "on_environment_created",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_environment_created,
            kwargs={
                "env_runner": self,
                "metrics_logger": self.metrics,
                "env": self.env,
                "env_context": context,
            },
        )

    def make_module(self) -> None:
        """Build the modules, and find which agents each acts for."""
        super().make_module()
        for module in self.module.values():
            module.eval()
        if self.worker_index:
            # Several runners share a machine, and their matrices are too small to be worth a second thread.
            torch.set_num_threads(1)
        if self.env is None:
            return
        agents = self.env.batch.agents
        mapped = [self.config.policy_mapping_fn(agent, None) for agent in agents]
        self.agents_of = {
            module_id: np.array([i for i, owner in enumerate(mapped) if owner == module_id], np.int64)
            for module_id in sorted(set(mapped))
        }
        self._owner = np.array([list(self.agents_of).index(module_id) for module_id in mapped], np.int64)
        self._ends = np.zeros(len(self.agents_of), np.int64)
        batch = self.env.batch
        rows = batch.num_envs * len(agents)
        self._scores = np.zeros((rows, batch.num_actions), np.float32)
        # The lifetime count is that of the run, which RLlib sends; between two messages all runners are taken as alike.
        self._runners = max(self.config.num_env_runners, 1)
        self._keys = np.zeros(batch.num_envs, np.uint64)
        self._steps = np.zeros(batch.num_envs, np.int64)
        self._returns = np.zeros((batch.num_envs, len(agents)))
        self._began_s = np.zeros(batch.num_envs)
        self._kept: tuple[np.ndarray, ...] | None = None
        self._rows = np.zeros(rows, np.int64)
        self._seen = torch.zeros((rows, batch.observation_size))
        self._valid = torch.zeros((rows, batch.num_actions), dtype=torch.int8)

    def continue_series(self, env_steps: int) -> None:
        """Let episodes begin where no earlier one was: a resumed run must not play its first episodes again.

        Args:
            env_steps: environment steps done by the run so far; more than any environment has had episodes.
        """
        if self.env is not None:
            self._first_episode = env_steps
            self._needs_initial_reset = True

    def _start_episodes(self, which: np.ndarray) -> None:
        for e in which:
            # RLlib's runner gives environment e of a runner this seed; the address is that of `OffloadMultiAgentEnv`.
            environment = (self._seed or 0) + int(e)
            episode = self._first_episode + int(self._next_episode[e])
            self._keys[e] = training_key(self._root_seed, self.worker_index or 0, environment, episode)
        self._next_episode[which] += 1
        self._steps[which] = 0
        self._returns[which] = 0.0
        self._began_s[which] = time.perf_counter()
        self.env.batch.reset(self._keys[which], which)

    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Fragment]:
        """Sample at least so many environment steps, or whole episodes; arguments as `sample`."""
        batch = self.env.batch
        if num_episodes is not None or force_reset or self._needs_initial_reset:
            self._start_episodes(np.arange(self.num_envs))
            self._needs_initial_reset = num_episodes is not None
            self._steps_in_series = 0
        if num_episodes is not None:
            steps = math.ceil(num_episodes / self.num_envs) * batch.steps_per_episode
        else:
            steps = math.ceil((num_timesteps or 0) / self.num_envs)
        observations, masks, actions, log_probabilities, rewards, truncated = self._arrays(steps)
        final_observations: list[np.ndarray] = []
        final_masks: list[np.ndarray] = []
        for t in range(steps):
            observations[t] = batch.observations
            masks[t] = batch.masks
            env_steps = self.num_env_steps_sampled_lifetime + t * self.num_envs * self._runners
            self._act(actions[t], log_probabilities[t], env_steps, explore=explore, random_actions=random_actions)
            ended = batch.step(actions[t])
            self._steps += 1
            self._returns += batch.rewards
            rewards[t] = batch.rewards
            if ended:
                truncated[t] = batch.truncated
                which = np.flatnonzero(batch.truncated)
                final_observations.append(batch.observations[which])
                final_masks.append(batch.masks[which])
                if self._in_hindsight:
                    for e in which.tolist():
                        _credit_decisions(batch, e, t, masks, actions, rewards)
                self._finish_episodes(which)
                self._start_episodes(which)
        observations[steps] = batch.observations
        masks[steps] = batch.masks
        self._log_steps(steps)
        start = self._steps_in_series
        self._steps_in_series += steps
        none = np.zeros((0, *batch.observations.shape[1:]), np.float32)
        final_seen = np.concatenate([none, *final_observations])
        final_valid = np.concatenate([np.zeros((0, *batch.masks.shape[1:]), np.int8), *final_masks])
        return [
            Fragment(
                module_id=module_id,
                agents=tuple(batch.agents[i] for i in agents),
                observations=_of_agents(observations, agents),
                masks=_of_agents(masks, agents),
                actions=_of_agents(actions, agents),
                log_probabilities=_of_agents(log_probabilities, agents),
                rewards=_of_agents(rewards, agents),
                truncated=truncated,
                final_observations=final_seen[:, agents],
                final_masks=final_valid[:, agents],
                source=f"runner {self.worker_index or 0}",
                start=start,
            )
            for module_id, agents in self.agents_of.items()
        ]

    def _arrays(self, steps: int) -> tuple[np.ndarray, ...]:
        """Return the arrays of a sample: those of the last one if nobody holds them, for fresh memory takes long."""
        batch = self.env.batch
        arrays = self._kept
        # The tuple, the loop and the call hold three references.
        if arrays is None or len(arrays[2]) != steps or any(sys.getrefcount(array) > 3 for array in arrays):
            shape = (steps, *batch.rewards.shape)
            arrays = (
                np.empty((steps + 1, *batch.observations.shape), np.float32),
                np.empty((steps + 1, *batch.masks.shape), np.int8),
                np.empty(shape, np.int32),
                np.empty(shape, np.float32),
                np.empty(shape, np.float32),
                np.empty(shape[:2], np.bool_),
            )
            self._kept = arrays
        _, _, actions, log_probabilities, _, truncated = arrays
        actions[:] = 0
        log_probabilities[:] = 0.0
        truncated[:] = False
        return arrays

    def _act(
        self,
        actions: np.ndarray,
        log_probabilities: np.ndarray,
        env_steps: int,
        *,
        explore: bool,
        random_actions: bool,
    ) -> None:
        """Write the actions [E, A] of a step and their log-probabilities; 0 and 0.0 where there is no choice."""
        batch = self.env.batch
        find_choices(batch.masks, self._owner, self._rows, self._ends)
        count = int(self._ends[-1])
        if count == 0:
            return
        rows = self._rows[:count]
        seen, valid = self._seen[:count], self._valid[:count]
        masks = valid.numpy()
        gather(
            batch.observations.reshape(-1, batch.observation_size),
            batch.masks.reshape(-1, batch.num_actions),
            rows,
            count,
            seen.numpy(),
            masks,
        )
        scores = self._scores[:count]
        first = 0
        for module_id, end in zip(self.agents_of, self._ends.tolist(), strict=True):
            if random_actions:
                scores[:] = 0.0
            elif first < end:
                columns = {Columns.OBS: {"observations": seen[first:end], "action_mask": valid[first:end]}}
                module = self.module[module_id]
                outputs = (
                    module.forward_exploration(columns, t=env_steps) if explore else module.forward_inference(columns)
                )
                scores[first:end] = outputs[Columns.ACTION_DIST_INPUTS].numpy()
            first = end
        chosen = actions.reshape(-1)
        if explore or random_actions:
            agents = len(batch.agents)
            logp = log_probabilities.reshape(-1)
            choose_categorical(scores, masks, self._keys, self._steps, rows, agents, chosen, logp)
        else:
            choose_greedy(scores, masks, rows, chosen)

    def _finish_episodes(self, which: np.ndarray) -> None:
        batch = self.env.batch
        agents = batch.agents
        self.metrics.log_value(NUM_EPISODES, len(which), reduce="sum")
        self.metrics.log_value(NUM_EPISODES_LIFETIME, len(which), reduce="lifetime_sum")
        returns = self._returns[which]
        totals = returns.sum(1)
        duration_s = time.perf_counter() - self._began_s[which]
        self.metrics.log_value(EPISODE_RETURN_MEAN, float(totals.mean()), reduce="mean")
        self.metrics.log_value(EPISODE_RETURN_MIN, float(totals.min()), reduce="min")
        self.metrics.log_value(EPISODE_RETURN_MAX, float(totals.max()), reduce="max")
        self.metrics.log_value(EPISODE_LEN_MEAN, float(batch.steps_per_episode), reduce="mean")
        self.metrics.log_value(EPISODE_DURATION_SEC_MEAN, float(duration_s.mean()), reduce="mean")
        for module_id, members in self.agents_of.items():
            self.metrics.log_value(
                (EPISODE_MODULE_RETURN_MEAN, module_id), float(returns[:, members].sum(1).mean()), reduce="mean"
            )
        for i, e in enumerate(which):
            episode = FinishedEpisode(
                dict(zip(agents, returns[i].tolist(), strict=True)),
                batch.steps_per_episode,
                batch.episode_metrics(int(e)),
            )
            make_callback(
                "on_episode_end",
                callbacks_objects=self._callbacks,
                callbacks_functions=self.config.callbacks_on_episode_end,
                kwargs={
                    "episode": episode,
                    "env_runner": self,
                    "metrics_logger": self.metrics,
                    "env": self.env,
                    "rl_module": self.module,
                    "env_index": int(e),
                    "prev_episode_chunks": [],
                },
            )

    def _log_steps(self, steps: int) -> None:
        """Count once per sample what RLlib's runner counts for every agent in every step."""
        env_steps = steps * self.num_envs
        self.num_env_steps_sampled_lifetime += env_steps * self._runners
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, env_steps, reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, env_steps, reduce="lifetime_sum", with_throughput=True)
        for module_id, agents in self.agents_of.items():
            agent_steps = env_steps * len(agents)
            self.metrics.log_value((NUM_MODULE_STEPS_SAMPLED, module_id), agent_steps, reduce="sum")
            self.metrics.log_value((NUM_MODULE_STEPS_SAMPLED_LIFETIME, module_id), agent_steps, reduce="lifetime_sum")

    def get_metrics(self) -> dict[str, Any]:
        """Return what was counted since the last call."""
        return self.metrics.reduce()


def _credit_decisions(
    batch: VectorEnv, e: int, t: int, masks: np.ndarray, actions: np.ndarray, rewards: np.ndarray
) -> None:
    """Pay an episode that ended with step `t` in hindsight; its last decisions become steps without a choice."""
    steps = batch.steps_per_episode
    began = t + 1 - steps
    if began < 0:
        raise ValueError("credit in hindsight needs whole episodes: sample multiples of the steps of an episode")
    scenario = batch.scenario_of(e)
    rewards[began : t + 1, e] = hindsight_rewards(scenario, batch.task_log(e), steps)
    unsettled = slice(began + settled_steps(scenario, steps), t + 1)
    masks[unsettled, e, :, 1:] = 0
    actions[unsettled, e] = 0


def _of_agents(array: np.ndarray, agents: np.ndarray) -> np.ndarray:
    """Return the agents' part of an array [T, E, A, ...]: a view if they are all of them."""
    return array if len(agents) == array.shape[2] else np.ascontiguousarray(array[:, :, agents])
