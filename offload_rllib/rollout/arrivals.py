"""Sampling where a task is decided at the moment of its arrival."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.policies.remembering import Memories
from offload_rllib.rollout.acting import choose_at_arrivals
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.hindsight import DECISIONS, Present, credit_arrivals
from offload_rllib.rollout.recorder import Recorder
from offload_rllib.rollout.sampling import How, SamplingRunner
from offload_rllib.rollout.tally import Tally
from offload_rllib.rollout.team import TeamView
from offload_rllib.simulator.jit import entry_point


class ArrivalSampling:
    """Samples `AgentSteps`: one decision of every environment per step, one forward pass per policy over them."""

    def __init__(self, runner: SamplingRunner, batch: ArrivalEnv) -> None:
        """Allocate what one step needs."""
        self._runner, self._batch = runner, batch
        size = batch.num_envs
        self._team = TeamView(batch) if runner.joins else None
        # Whose decisions are recorded: every agent's as its own, or all as the team's.
        self._recorded = self._team or batch
        self._recorder = Recorder(
            size,
            tuple(self._recorded.agents),
            self._recorded.observation_size,
            batch.num_actions,
            joint=runner.has_central_critic,
            costs=batch.costs.shape[1],
            memory=1 + runner.memory if runner.memory else 0,
            hindsight=runner.credit,
        )
        self._memories = Memories(size, len(batch.agents), runner.memory) if runner.memory else None
        self._tally = Tally(batch)
        self._scores = torch.zeros((size, batch.num_actions))
        self._logits = self._scores.numpy()
        self._every, self._one_end = np.arange(size), np.array([size])
        # By policy: with a single one the rows stay where the environments write them.
        alone = len(runner.agents_of) == 1
        self._seen = batch.observations if alone else np.empty_like(batch.observations)
        self._masks = batch.masks if alone else np.empty_like(batch.masks)
        self._inputs = torch.from_numpy(self._seen), torch.from_numpy(self._masks)
        self._choose: Callable[..., None] | None = None
        self._agent_steps: dict[str, int] = {}

    def begin(self, which: np.ndarray) -> None:
        """Notice that episodes begin in some environments."""
        self._recorder.returns[which] = 0.0
        if self._team is not None:
            self._team.begin(which)

    def restart(self) -> None:
        """Notice that all environments are reset."""
        self._recorder.restart()
        self._tally.restart()

    def sample(self, how: How, *, steps: int, episodes: int) -> tuple[list[AgentSteps], int]:
        """Return so many decisions, or whole episodes, of every environment, and the environment steps they are."""
        runner, batch = self._runner, self._batch
        start = runner.steps_in_series
        left = np.full(batch.num_envs, episodes)
        lasted: list[np.ndarray] = []
        step = 0
        while left.any() if episodes else step < steps:
            if episodes:
                lasted.append(left > 0)
            if self._team is not None:
                self._team.look()
            new = self._recorder.note(self._recorded)
            if runner.in_hindsight:
                self._recorder.name_tasks(new, batch.pending_tasks())
            actions, log_probabilities = self._recorder.chosen(new)
            memory = None
            if self._memories is not None:
                memory = self._memories.before(batch)
                self._recorder.remember(new, memory)
            self._act(how, step, actions, log_probabilities, memory)
            if batch.step(actions):
                self._end_episodes(np.flatnonzero(batch.truncated), left)
            step += 1
        if runner.in_hindsight and not episodes:
            self._credit(np.flatnonzero(~batch.truncated), ended=False)
        whole = self._recorder.take(np.concatenate(lasted) if episodes else None)
        parts = whole.of_policies(runner.owner, runner.agents_of)
        self._agent_steps = {part.module_id: len(part) for part in parts}
        counted = self._tally.take()
        return [
            replace(
                part,
                source=runner.source,
                start=start,
                steps=step,
                environments=batch.num_envs,
                counted=counted,
            )
            for part in parts
        ], whole.env_steps

    def agent_steps(self, module_id: str, env_steps: int) -> int:
        """Return how many steps of a policy's agents the last sample holds."""
        return self._agent_steps[module_id]

    def _end_episodes(self, which: np.ndarray, left: np.ndarray) -> None:
        runner, batch = self._runner, self._batch
        for e in which.tolist():
            self._recorder.close(self._recorded, e, self._memories)
        if runner.in_hindsight:
            self._credit(which, ended=True)
        counted = which[left[which] > 0] if left.any() else which
        self._tally.close(which)
        # What the team earns is what each of its agents earns.
        returns = np.broadcast_to(self._recorder.returns[counted], (len(counted), len(batch.agents)))
        runner.finish_episodes(counted, returns, batch.decisions[counted])
        left[counted] = np.maximum(left[counted] - 1, 0)
        runner.start_episodes(which)

    def _credit(self, which: np.ndarray, *, ended: bool) -> None:
        """Note what decisions have cost, as far as that is known: all of episodes that have ended."""
        batch = self._batch
        for e in which.tolist():
            scenario = batch.scenario_of(e)
            present = None if ended else Present(float(batch.time_s[e]), batch.tasks_inside(e))
            until_s = np.inf if present is None else present.time_s - scenario.config.drain_s
            places, rows = self._recorder.waiting(e, until_s)
            if not len(places):
                continue
            pays, charges = self._runner.credit == DECISIONS, self._runner.charges
            credit_arrivals(scenario, batch.task_log(e), places, rows, charges, pays=pays, present=present)

    def _act(
        self, how: How, step: int, actions: np.ndarray, log_probabilities: np.ndarray, memory: np.ndarray | None
    ) -> None:
        """Write the actions [E] of the pending decisions, and their log-probabilities [E]; move what is remembered."""
        runner, batch = self._runner, self._batch
        order, ends = self._by_policy()
        if order is not self._every:
            batch.observations.take(order, 0, out=self._seen)
            batch.masks.take(order, 0, out=self._masks)
        if self._memories is None or memory is None:
            runner.score(self._scores, *self._inputs, ends, how, step)
        else:
            after = runner.score_remembering(self._scores, *self._inputs, ends, memory[order], how)
            states = np.empty_like(after)
            states[order] = after
            self._memories.after(states)
        arguments = (
            self._logits,
            self._masks,
            runner.keys,
            batch.decisions,
            batch.deciding,
            order,
            how.draws,
            actions,
            log_probabilities,
        )
        if self._choose is None:
            self._choose = entry_point(choose_at_arrivals, *arguments)
        self._choose(*arguments)

    def _by_policy(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the environments in the order of the policies that decide in them, and where each policy's end."""
        policies = len(self._runner.agents_of)
        if policies == 1:
            return self._every, self._one_end
        owner = self._runner.owner[self._batch.deciding]
        return np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner, minlength=policies))
