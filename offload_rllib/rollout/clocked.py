"""Sampling where every agent acts once per interval."""

from __future__ import annotations

import sys

import numpy as np
import torch

from offload_rllib.envs.vector import VectorEnv
from offload_rllib.rollout.acting import choose_categorical, choose_greedy, find_choices, gather
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.hindsight import hindsight_rewards, settled_steps
from offload_rllib.rollout.sampling import How, SamplingRunner
from offload_rllib.rollout.tally import Tally


class ClockedSampling:
    """Samples `Fragment`s: one forward pass per policy and step, over the agents that have a choice.

    Attributes:
        decided: [E] int64, steps of each environment's episode so far.
    """

    def __init__(self, runner: SamplingRunner, batch: VectorEnv) -> None:
        """Allocate what one step needs."""
        self._runner, self._batch = runner, batch
        rows = batch.num_envs * len(batch.agents)
        self._owner = runner.owner
        self._ends = np.zeros(len(runner.agents_of), np.int64)
        self._scores = torch.zeros((rows, batch.num_actions))
        self.decided = np.zeros(batch.num_envs, np.int64)
        self._returns = np.zeros((batch.num_envs, len(batch.agents)))
        self._tally = Tally(batch)
        self._kept: tuple[np.ndarray, ...] | None = None
        self._rows = np.zeros(rows, np.int64)
        self._seen = torch.zeros((rows, batch.observation_size))
        self._valid = torch.zeros((rows, batch.num_actions), dtype=torch.int8)

    def begin(self, which: np.ndarray) -> None:
        """Notice that episodes begin in some environments."""
        self.decided[which] = 0
        self._returns[which] = 0.0

    def restart(self) -> None:
        """Notice that all environments are reset."""
        self._tally.restart()

    def sample(self, how: How, *, steps: int, episodes: int) -> tuple[list[Fragment], int]:
        """Return so many steps, or whole episodes, of every environment, and the environment steps they are."""
        runner, batch = self._runner, self._batch
        start = runner.steps_in_series
        steps = episodes * batch.steps_per_episode or steps
        observations, masks, actions, log_probabilities, rewards, truncated = self._arrays(steps)
        costs = np.zeros((steps, *batch.costs.shape), np.float32)
        final_observations: list[np.ndarray] = []
        final_masks: list[np.ndarray] = []
        for t in range(steps):
            observations[t] = batch.observations
            masks[t] = batch.masks
            self._act(actions[t], log_probabilities[t], how, t)
            ended = batch.step(actions[t])
            self.decided += 1
            self._returns += batch.rewards
            rewards[t] = batch.rewards
            costs[t] = batch.costs
            if ended:
                truncated[t] = batch.truncated
                which = np.flatnonzero(batch.truncated)
                final_observations.append(batch.observations[which])
                final_masks.append(batch.masks[which])
                if runner.in_hindsight:
                    for e in which.tolist():
                        _credit_decisions(batch, e, t, masks, actions, rewards, costs, runner.charges)
                self._tally.close(which)
                runner.finish_episodes(which, self._returns[which], self.decided[which])
                runner.start_episodes(which)
        observations[steps] = batch.observations
        masks[steps] = batch.masks
        none = np.zeros((0, *batch.observations.shape[1:]), np.float32)
        final_seen = np.concatenate([none, *final_observations])
        final_valid = np.concatenate([np.zeros((0, *batch.masks.shape[1:]), np.int8), *final_masks])
        counted = self._tally.take()
        fragments = [
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
                source=runner.source,
                start=start,
                interval_s=batch.scenario.config.decisions.interval_s,
                costs=_of_agents(costs, agents),
                counted=counted,
            )
            for module_id, agents in runner.agents_of.items()
        ]
        return fragments, steps * batch.num_envs

    def agent_steps(self, module_id: str, env_steps: int) -> int:
        """Return how many steps of a policy's agents so many environment steps are."""
        return env_steps * len(self._runner.agents_of[module_id])

    def _arrays(self, steps: int) -> tuple[np.ndarray, ...]:
        """Return the arrays of a sample: those of the last one, unless held, because fresh memory is slow."""
        batch = self._batch
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

    def _act(self, actions: np.ndarray, log_probabilities: np.ndarray, how: How, step: int) -> None:
        """Write the actions [E, A] of a step and their log-probabilities; 0 and 0.0 where there is no choice."""
        batch = self._batch
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
        self._runner.score(scores, seen, valid, self._ends, how, step)
        logits = scores.numpy()
        chosen = actions.reshape(-1)
        if how.draws:
            agents = len(batch.agents)
            logp = log_probabilities.reshape(-1)
            choose_categorical(logits, masks, self._runner.keys, self.decided, rows, agents, chosen, logp)
        else:
            choose_greedy(logits, masks, rows, chosen)


def _credit_decisions(
    batch: VectorEnv,
    e: int,
    t: int,
    masks: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    costs: np.ndarray,
    charges: np.ndarray,
) -> None:
    """Pay an episode that ended with step `t` in hindsight; its last decisions become steps without a choice."""
    steps = batch.steps_per_episode
    began = t + 1 - steps
    if began < 0:
        raise ValueError("credit in hindsight needs whole episodes: sample multiples of the steps of an episode")
    scenario = batch.scenario_of(e)
    episode = slice(began, t + 1)
    rewards[episode, e], costs[episode, e] = hindsight_rewards(scenario, batch.task_log(e), steps, charges)
    unsettled = slice(began + settled_steps(scenario, steps), t + 1)
    masks[unsettled, e, :, 1:] = 0
    actions[unsettled, e] = 0


def _of_agents(array: np.ndarray, agents: np.ndarray) -> np.ndarray:
    """Return the agents' part of an array [T, E, A, ...]: a view if they are all of them."""
    return array if len(agents) == array.shape[2] else np.ascontiguousarray(array[:, :, agents])
