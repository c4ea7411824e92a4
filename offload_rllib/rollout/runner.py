"""The batched EnvRunner: all environments of a runner as one array program, an ordinary RLlib runner otherwise."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from ray.rllib.callbacks.utils import make_callback
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

from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.costs import cost_table
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.envs.vector import VectorEnv, compile_kernels, training_key, vector_env
from offload_rllib.policies.module import CENTRAL, LOCAL, MEMORY, MIXER
from offload_rllib.policies.remembering import remembered_scores
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.arrivals import ArrivalSampling
from offload_rllib.rollout.clocked import ClockedSampling
from offload_rllib.rollout.finished import EpisodeLog, FinishedEpisode
from offload_rllib.rollout.forward import scores_of
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.hindsight import STEPS
from offload_rllib.rollout.sampling import How

# Key of `env_config`: how decisions are credited (see `config.algorithms.OnPolicy.credit`).
CREDIT = "credit"
# Key of `env_config`: the figures whose costs are sampled with the rewards (see `envs.costs`).
COSTS = "costs"
# So many episodes in a row without a task to decide are no chance.
MOST_EMPTY_EPISODES = 100


class BatchedEnvs:
    """The environments of one runner, with the attributes that RLlib reads of a vector environment."""

    def __init__(self, batch: VectorEnv | ArrivalEnv) -> None:
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


class BatchedEnvRunner(MultiAgentEnvRunner):
    """Samples with one array program over all environments, and one forward pass per policy.

    A sample is `Fragment`s where decisions come at intervals, `AgentSteps` where they come at arrivals.

    A drop-in for RLlib's `MultiAgentEnvRunner` (`config.env_runners(env_runner_cls=BatchedEnvRunner)`) for
    environments of this package. Only agents with a choice go through the network: the others can only take 0.
    Episodes continue from one call of `sample` to the next; connectors are not run, because observations need none.
    With the same seed and weights it gives the trajectories of RLlib's runner.
    """

    # RLlib declares these as optional, or by base types.
    config: Any
    env: Any
    module: Any

    def make_env(self) -> None:
        """Make the environments named by `env_config` (see `envs.rllib.OffloadMultiAgentEnv`)."""
        context = self.config.env_config
        source = context.get("env", self.config.env)
        count = self.config.num_envs_per_env_runner
        self.credit = context.get(CREDIT, STEPS)
        self.in_hindsight = self.credit != STEPS
        self._samples_episodes = False
        overrides, costs = context.get("overrides", ()), tuple(context.get(COSTS, ()))
        self.env = BatchedEnvs(vector_env(source, count, overrides=overrides, log=self.in_hindsight, costs=costs))
        self.charges, _ = cost_table(costs, self.env.batch.scenario.arriving.types)
        self.num_envs = count
        compile_kernels(self.env.batch.scenario)  # compile now; compiling later would exceed the sample timeout
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
        # Not reported yet.
        self.episode_log, self._ended = EpisodeLog(), 0
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
        self.owner = np.array([list(self.agents_of).index(module_id) for module_id in mapped], np.int64)
        batch = self.env.batch
        # The lifetime count is that of the run, which RLlib sends; between two messages all runners are taken as alike.
        self._runners = max(self.config.num_env_runners, 1)
        self.source = f"runner {self.worker_index or 0}"
        self.has_central_critic = any(
            (module.model_config or {}).get("critic", LOCAL) == CENTRAL for module in self.module.values()
        )
        self.joins = any((module.model_config or {}).get(MIXER) is not None for module in self.module.values())
        self.memory = max(int((module.model_config or {}).get(MEMORY, 0)) for module in self.module.values())
        self.steps_in_series = 0
        self.keys = np.zeros(batch.num_envs, np.uint64)
        self._began_s = np.zeros(batch.num_envs)
        if isinstance(batch, ArrivalEnv):
            # Without a drain no cost is known before the end of an episode: a sample is one of each environment.
            self._samples_episodes = self.in_hindsight and not batch.scenario.config.drain_s
            self._sampling = ArrivalSampling(self, batch)
        else:
            self._sampling = ClockedSampling(self, batch)

    def continue_series(self, env_steps: int) -> None:
        """Let episodes begin where no earlier one was: a resumed run must not play its first episodes again.

        Args:
            env_steps: environment steps done by the run so far; more than any environment has had episodes.
        """
        if self.env is not None:
            self._first_episode = env_steps
            self._needs_initial_reset = True

    def start_episodes(self, which: np.ndarray) -> None:
        """Begin the next episodes of some environments.

        Raises:
            ConfigError: there are no tasks to decide.
        """
        for _ in range(MOST_EMPTY_EPISODES):
            for e in which:
                # RLlib's runner gives environment e of a runner this seed; the address is that of
                # `OffloadMultiAgentEnv`.
                environment = (self._seed or 0) + int(e)
                episode = self._first_episode + int(self._next_episode[e])
                self.keys[e] = training_key(self._root_seed, self.worker_index or 0, environment, episode)
            self._next_episode[which] += 1
            self._began_s[which] = time.perf_counter()
            self._sampling.begin(which)
            self.env.batch.reset(self.keys[which], which)
            # An episode without a decision has ended before it began.
            which = which[self.env.batch.truncated[which]]
            if not len(which):
                return
        raise ConfigError(
            f"workload: no task was to be decided in {MOST_EMPTY_EPISODES} episodes; raise the load or horizon_s"
        )

    def _sample(  # pyright: ignore[reportIncompatibleMethodOverride] - our learners take these samples
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Fragment] | list[AgentSteps]:
        """Sample at least so many environment steps, or whole episodes; arguments as `sample`."""
        if num_episodes is not None or force_reset or self._needs_initial_reset:
            self._sampling.restart()
            self.start_episodes(np.arange(self.num_envs))
            self._needs_initial_reset = num_episodes is not None
            self.steps_in_series = 0
        how = How(explore=explore, random=random_actions)
        # For every sample again: weights and modules may have been exchanged since the last one.
        rows = self.num_envs * len(self.env.batch.agents)
        self._scores = [scores_of(self.module[module_id], rows) for module_id in self.agents_of]
        episodes = math.ceil((num_episodes or 0) / self.num_envs)
        if self._samples_episodes:
            episodes, self._needs_initial_reset = max(episodes, 1), True
        steps = math.ceil((num_timesteps or 0) / self.num_envs)
        samples, env_steps = self._sampling.sample(how, steps=steps, episodes=episodes)
        self.steps_in_series += env_steps // self.num_envs
        self._log_steps(env_steps)
        return samples

    def score(
        self, scores: torch.Tensor, seen: torch.Tensor, valid: torch.Tensor, ends: np.ndarray, how: How, step: int
    ) -> None:
        """Write the scores [n, R] of actions, one forward pass per policy.

        Args:
            scores: overwritten.
            seen: [n, F] float32 observations, those of the first policy first.
            valid: [n, R] int8.
            ends: [M] int64: where the rows of each policy end.
            how: whether to explore.
            step: number of the step in this sample.
        """
        if how.random:
            scores.zero_()
            return
        env_steps = self.num_env_steps_sampled_lifetime + step * self.num_envs * self._runners
        if len(self._scores) == 1:
            self._scores[0](seen, valid, scores, explore=how.explore, env_steps=env_steps)
            return
        first = 0
        for write, end in zip(self._scores, ends.tolist(), strict=True):
            if first < end:
                rows = slice(first, end)
                write(seen[rows], valid[rows], scores[rows], explore=how.explore, env_steps=env_steps)
            first = end

    def score_remembering(
        self,
        scores: torch.Tensor,
        seen: torch.Tensor,
        valid: torch.Tensor,
        ends: np.ndarray,
        memory: np.ndarray,
        how: How,
    ) -> np.ndarray:
        """Write the scores [n, R] of actions of actors that remember; return the states [n, H] behind the decisions.

        Args:
            scores: overwritten.
            seen: [n, F] float32 observations, those of the first policy first.
            valid: [n, R] int8.
            ends: [M] int64: where the rows of each policy end.
            memory: [n, 1 + H] float32 before the decisions, as `RememberingActor` takes it.
            how: whether to act at random.
        """
        owners = np.searchsorted(ends, np.arange(len(memory)), side="right")
        actors = {module_id: self.module[module_id].unwrapped().actor for module_id in self.agents_of}
        found, states = remembered_scores(actors, owners, seen.numpy(), valid.numpy(), memory)
        scores.copy_(torch.from_numpy(found))
        if how.random:
            scores.zero_()
        return states

    def finish_episodes(self, which: np.ndarray, returns: np.ndarray, env_steps: np.ndarray) -> None:
        """Log the episodes that ended in some environments.

        Args:
            which: [n] numbers of the environments.
            returns: [n, A] of the agents.
            env_steps: [n] steps of the episodes.
        """
        batch, log = self.env.batch, self.episode_log
        now_s = time.perf_counter()
        for e, of_agents, length in zip(which.tolist(), returns, env_steps.tolist(), strict=True):
            total = float(of_agents.sum())
            log.add(
                {
                    EPISODE_RETURN_MEAN: total,
                    EPISODE_LEN_MEAN: length,
                    EPISODE_DURATION_SEC_MEAN: now_s - float(self._began_s[e]),
                    **{
                        (EPISODE_MODULE_RETURN_MEAN, module_id): float(of_agents[members].sum())
                        for module_id, members in self.agents_of.items()
                    },
                }
            )
            log.add({EPISODE_RETURN_MIN: total}, "min")
            log.add({EPISODE_RETURN_MAX: total}, "max")
            self._ended += 1
            episode = FinishedEpisode(
                dict(zip(batch.agents, of_agents.tolist(), strict=True)), length, batch.episode_metrics(e)
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
                    "env_index": e,
                    "prev_episode_chunks": [],
                },
            )

    def _log_steps(self, env_steps: int) -> None:
        """Count once per sample what RLlib's runner counts for every agent in every step."""
        self.num_env_steps_sampled_lifetime += env_steps * self._runners
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, env_steps, reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, env_steps, reduce="lifetime_sum", with_throughput=True)
        for module_id in self.agents_of:
            agent_steps = self._sampling.agent_steps(module_id, env_steps)
            self.metrics.log_value((NUM_MODULE_STEPS_SAMPLED, module_id), agent_steps, reduce="sum")
            self.metrics.log_value((NUM_MODULE_STEPS_SAMPLED_LIFETIME, module_id), agent_steps, reduce="lifetime_sum")

    def get_metrics(self) -> dict[str, Any]:
        """Return what was counted since the last call."""
        if self._ended:
            self.metrics.log_value(NUM_EPISODES, self._ended, reduce="sum")
            self.metrics.log_value(NUM_EPISODES_LIFETIME, self._ended, reduce="lifetime_sum")
        self._ended = 0
        self.episode_log.write(self.metrics)
        return self.metrics.reduce()
