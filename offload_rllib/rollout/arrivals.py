"""Sampling where a task is decided at the moment of its arrival."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.rollout.acting import choose_categorical, choose_greedy
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.hindsight import credit_arrivals
from offload_rllib.rollout.recorder import Recorder
from offload_rllib.rollout.sampling import How, SamplingRunner


class ArrivalSampling:
    """Samples `AgentSteps`: one decision of every environment per step, one forward pass per policy over them."""

    def __init__(self, runner: SamplingRunner, batch: ArrivalEnv) -> None:
        """Allocate what one step needs."""
        self._runner, self._batch = runner, batch
        size, agents = batch.num_envs, len(batch.agents)
        self._recorder = Recorder(
            size, tuple(batch.agents), batch.observation_size, batch.num_actions, joint=runner.has_central_critic
        )
        self._scores = np.zeros((size, batch.num_actions), np.float32)
        # Actions are drawn by episode, agent and decision; these are written where those of an agent stand.
        self._chosen = np.zeros(size * agents, np.int32)
        self._logp = np.zeros(size * agents, np.float32)
        self._places = np.arange(size) * agents
        self._agent_steps: dict[str, int] = {}

    def begin(self, which: np.ndarray) -> None:
        """Notice that episodes begin in some environments."""
        self._recorder.returns[which] = 0.0

    def restart(self) -> None:
        """Notice that all environments are reset."""
        self._recorder.restart()

    def sample(self, how: How, *, steps: int, episodes: int) -> tuple[list[AgentSteps], int]:
        """Return so many decisions, or whole episodes, of every environment, and the environment steps they are."""
        runner, batch = self._runner, self._batch
        start = runner.steps_in_series
        left = np.full(batch.num_envs, episodes)
        lasted: list[np.ndarray] = []
        step = 0
        while left.any() if episodes else step < steps:
            lasted.append(left > 0)
            new = self._recorder.note(batch)
            actions, log_probabilities = self._act(how, step)
            self._recorder.act(new, actions, log_probabilities)
            if batch.step(actions):
                self._end_episodes(np.flatnonzero(batch.truncated), left)
            step += 1
        whole = self._recorder.take(np.concatenate(lasted) if episodes else None)
        parts = whole.of_policies(runner.owner, runner.agents_of)
        self._agent_steps = {part.module_id: len(part) for part in parts}
        return [
            replace(part, source=runner.source, start=start, steps=step, environments=batch.num_envs) for part in parts
        ], whole.env_steps

    def agent_steps(self, module_id: str, env_steps: int) -> int:
        """Return how many steps of a policy's agents the last sample holds."""
        return self._agent_steps[module_id]

    def _end_episodes(self, which: np.ndarray, left: np.ndarray) -> None:
        runner, batch = self._runner, self._batch
        for e in which.tolist():
            self._recorder.close(batch, e)
            if runner.in_hindsight:
                places, rows = self._recorder.episode(e, int(batch.decisions[e]))
                credit_arrivals(batch.scenario_of(e), batch.task_log(e), places, rows)
        counted = which[left[which] > 0] if left.any() else which
        runner.finish_episodes(counted, self._recorder.returns[counted], batch.decisions[counted])
        left[counted] = np.maximum(left[counted] - 1, 0)
        runner.start_episodes(which)

    def _act(self, how: How, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the actions [E] of the pending decisions, and their log-probabilities [E]."""
        runner, batch = self._runner, self._batch
        order, ends = self._by_policy()
        seen, masks = batch.observations, batch.masks
        if order is not None:
            seen, masks = seen[order], masks[order]
        runner.score(self._scores, torch.from_numpy(seen), torch.from_numpy(masks), ends, how, step)
        places = self._places + batch.deciding
        rows = places if order is None else places[order]
        agents = len(batch.agents)
        if how.draws:
            decisions = batch.decisions
            choose_categorical(self._scores, masks, runner.keys, decisions, rows, agents, self._chosen, self._logp)
        else:
            choose_greedy(self._scores, masks, rows, self._chosen)
            self._logp[rows] = 0.0
        return self._chosen[places], self._logp[places]

    def _by_policy(self) -> tuple[np.ndarray | None, np.ndarray]:
        """Return the environments in the order of the policies that decide in them, and where each policy's end."""
        policies = len(self._runner.agents_of)
        if policies == 1:
            return None, np.array([self._batch.num_envs])
        owner = self._runner.owner[self._batch.deciding]
        return np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner, minlength=policies))
