"""Records decisions at arrivals: each agent's steps are linked when it decides again, or when its episode ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.policies.remembering import Memories
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.hindsight import ANNEALED, STEPS
from offload_rllib.rollout.rows import Rows
from offload_rllib.rollout.team import TeamView
from offload_rllib.simulator.jit import entry_point, kernel
from offload_rllib.simulator.types import NONE, Array

# `following` of a row whose successor is the i-th closing state is CLOSED - i.
CLOSED = NONE - 1


def _allocate(rows: int, features: int, actions: int, costs: int) -> Rows:
    return Rows(
        agent=np.empty(rows, np.int64),
        environment=np.empty(rows, np.int64),
        time_s=np.empty(rows),
        observations=np.empty((rows, features), np.float32),
        masks=np.empty((rows, actions), np.int8),
        actions=np.empty(rows, np.int32),
        log_probabilities=np.empty(rows, np.float32),
        rewards=np.empty(rows, np.float32),
        costs=np.empty((rows, costs), np.float32),
        elapsed_s=np.empty(rows),
        hindsight=np.empty(rows, np.float32),
        hindsight_costs=np.empty((rows, costs), np.float32),
        task=np.empty(rows, np.int64),
        waits=np.empty(rows, np.bool_),
        following=np.empty(rows, np.int64),
    )


@kernel
def _note(deciding, time_s, elapsed_s, observations, masks, rewards, costs, first, waits, rows, last, returns):
    """Write the pending decision of each environment into the rows from `first` on; link each to its agent's last."""
    for e in range(deciding.shape[0]):
        row, a = first + e, deciding[e]
        rows.agent[row] = a
        rows.environment[row] = e
        rows.time_s[row] = time_s[e]
        for feature in range(observations.shape[1]):
            rows.observations[row, feature] = observations[e, feature]
        for action in range(masks.shape[1]):
            rows.masks[row, action] = masks[e, action]
        rows.following[row] = NONE
        rows.waits[row] = waits
        before = last[e, a]
        if before != NONE:
            rows.rewards[before] = rewards[e]
            for c in range(costs.shape[1]):
                rows.costs[before, c] = costs[e, c]
            rows.elapsed_s[before] = elapsed_s[e]
            rows.following[before] = row
        last[e, a] = row
        returns[e, a] += rewards[e]


class Recorder:
    """Turns the decisions of E environments into `AgentSteps`.

    A sample holds the decisions whose successors and costs are known. The others stay for the next sample; their states
    close this one. Without credit in hindsight they are at most one per agent and environment, as RLlib's own runner
    keeps them.
    """

    def __init__(
        self,
        environments: int,
        agents: tuple[str, ...],
        features: int,
        actions: int,
        *,
        joint: bool,
        costs: int = 0,
        memory: int = 0,
        hindsight: str = STEPS,
    ) -> None:
        """Begin without decisions.

        Args:
            environments: E.
            agents: names of the A agents.
            features: F.
            actions: R.
            joint: record what all agents see at each decision, for central critics.
            costs: C.
            memory: 1 + H, numbers that an agent remembers; 0: none.
            hindsight: how decisions are credited (see `rollout.hindsight`).
        """
        self._credits, self._hands_on = hindsight != STEPS, hindsight == ANNEALED
        self._environments, self._agents = environments, agents
        self._sizes = (features, actions, costs)
        self._keeps_joint = joint
        self.returns = np.zeros((environments, len(agents)))
        self._rows = _allocate(0, *self._sizes)
        self._joint = np.zeros((0, len(agents), features), np.float32)
        self._memory = np.zeros((0, memory), np.float32)
        self._write: Callable[..., None] | None = None
        self.restart()

    def restart(self) -> None:
        """Forget all decisions: the environments are reset."""
        self._last = np.full((self._environments, len(self._agents)), NONE, np.int64)
        self.returns[:] = 0.0
        self._carried = self._count = 0
        self._forget_closings()

    def _forget_closings(self) -> None:
        self._closing_agent: list[Array] = []
        self._closing_environment: list[Array] = []
        self._closing_observations: list[Array] = []
        self._closing_masks: list[Array] = []
        self._closing_joint: list[Array] = []
        self._closing_memory: list[Array] = []
        self._closed = 0

    def _make_room(self, rows: int) -> None:
        size = len(self._rows.agent)
        if rows <= size:
            return
        old, kept = self._rows, self._count
        self._rows = _allocate(max(rows, 2 * size), *self._sizes)
        for ours, theirs in zip(self._rows, old, strict=True):
            ours[:kept] = theirs[:kept]
        if self._keeps_joint:
            joint = np.empty((len(self._rows.agent), *self._joint.shape[1:]), np.float32)
            joint[:kept] = self._joint[:kept]
            self._joint = joint
        if self._memory.shape[1]:
            memory = np.empty((len(self._rows.agent), self._memory.shape[1]), np.float32)
            memory[:kept] = self._memory[:kept]
            self._memory = memory

    def note(self, batch: ArrivalEnv | TeamView) -> slice:
        """Record the pending decision of every environment of a native batch; return the place of the new rows."""
        self._make_room(self._count + self._environments)
        arguments = (
            batch.deciding,
            batch.time_s,
            batch.elapsed_s,
            batch.observations,
            batch.masks,
            batch.rewards,
            batch.costs,
            self._count,
            self._credits,
            self._rows,
            self._last,
            self.returns,
        )
        if self._write is None:
            self._write = entry_point(_note, *arguments)
        self._write(*arguments)
        new = slice(self._count, self._count + self._environments)
        if self._keeps_joint and isinstance(batch, ArrivalEnv):
            batch.observe_joint(self._joint[new])
        self._count = new.stop
        return new

    def remember(self, new: slice, memory: Array) -> None:
        """Record what agents remember [E, 1 + H] as they take the decisions that `note` has recorded."""
        self._memory[new] = memory

    def name_tasks(self, new: slice, tasks: Array) -> None:
        """Record the numbers [E] of the tasks that are decided in what `note` has recorded."""
        self._rows.task[new] = tasks

    def chosen(self, new: slice) -> tuple[Array, Array]:
        """Return where to write the actions [E] of what `note` has recorded, and their log-probabilities [E]."""
        return self._rows.actions[new], self._rows.log_probabilities[new]

    def close(self, batch: ArrivalEnv | TeamView, e: int, memories: Memories | None = None) -> None:
        """End the episode of environment `e`, which has reached its horizon.

        Args:
            batch: the native environments.
            e: which one.
            memories: of the agents, if they remember.
        """
        observations, masks, rewards, elapsed_s = batch.closing(e)
        self.returns[e] += rewards
        agents = np.flatnonzero(self._last[e] != NONE)
        rows = self._last[e, agents]
        self._rows.rewards[rows] = rewards[agents]
        if isinstance(batch, ArrivalEnv) and batch.costs.size:
            self._rows.costs[rows] = batch.closing_costs(e)[agents]
        self._rows.elapsed_s[rows] = elapsed_s[agents]
        self._rows.following[rows] = CLOSED - self._closed - np.arange(len(rows))
        self._closed += len(rows)
        self._closing_agent.append(agents)
        self._closing_environment.append(np.full(len(rows), e))
        self._closing_observations.append(observations[agents])
        self._closing_masks.append(masks[agents])
        if self._keeps_joint:
            self._closing_joint.append(np.broadcast_to(observations, (len(rows), *observations.shape)).copy())
        if memories is not None:
            self._closing_memory.append(memories.closing(e, elapsed_s)[agents])
        self._last[e] = NONE

    def waiting(self, e: int, until_s: float = np.inf) -> tuple[Array, Rows]:
        """Return where the decisions of environment `e` are that wait for their costs, and the columns to write to.

        Only those up to a time, and whose successors are known. They do not wait any longer.
        """
        rows = Rows(*(column[: self._count] for column in self._rows))
        known = rows.waits & (rows.following != NONE)
        found = np.flatnonzero(known & (rows.environment == e) & (rows.time_s <= until_s))
        rows.waits[found] = False
        return found, rows

    def take(self, keep: Array | None = None) -> AgentSteps:
        """Return the decisions whose successors and costs are known, of all agents, and keep the others.

        Args:
            keep: [n] bool, which of the decisions since the last call; all by default. With it, nothing is kept.
        """
        rows, count = Rows(*(column[: self._count] for column in self._rows)), self._count
        settled = (rows.following != NONE) & ~rows.waits
        pending = np.flatnonzero(~settled)
        if keep is not None:
            settled[self._carried :] &= keep
        done = np.flatnonzero(settled)
        place = np.empty(count, np.int64)
        place[done] = np.arange(len(done))
        place[pending] = len(done) + np.arange(len(pending))
        successor = rows.following[done]
        closed = successor < NONE
        following = np.where(
            closed, len(done) + len(pending) + CLOSED - successor, place[np.where(closed, 0, successor)]
        )
        joint = None
        if self._keeps_joint:
            joint = np.concatenate([self._joint[done], self._joint[pending], *self._closing_joint])
        memory = None
        if self._memory.shape[1]:
            memory = np.concatenate([self._memory[done], self._memory[pending], *self._closing_memory])
        steps = AgentSteps(
            module_id="",
            agents=self._agents,
            agent=np.concatenate([rows.agent[done], rows.agent[pending], *self._closing_agent]),
            environment=np.concatenate([rows.environment[done], rows.environment[pending], *self._closing_environment]),
            observations=rows.observations.take(done, 0),
            masks=rows.masks.take(done, 0),
            actions=rows.actions.take(done, 0),
            log_probabilities=rows.log_probabilities.take(done, 0),
            rewards=rows.rewards.take(done, 0),
            hindsight=rows.hindsight.take(done, 0) if self._hands_on else None,
            hindsight_costs=rows.hindsight_costs.take(done, 0) if self._hands_on else None,
            costs=rows.costs.take(done, 0),
            elapsed_s=rows.elapsed_s.take(done, 0),
            following=following,
            closing_observations=np.concatenate([rows.observations[pending], *self._closing_observations]),
            closing_masks=np.concatenate([rows.masks[pending], *self._closing_masks]),
            ended=np.arange(len(pending) + self._closed) >= len(pending),
            env_steps=count - self._carried if keep is None else int(keep.sum()),
            joint=joint,
            moment=None if joint is None else np.arange(len(joint)),
            memory=memory,
        )
        if keep is None:
            self._carry(pending, place - len(done))
        else:
            self.restart()
        return steps

    def _carry(self, pending: Array, place: Array) -> None:
        """Move the rows that are kept to the front; `place` [n] says where those of them are then."""
        for column in self._rows:
            column[: len(pending)] = column[pending]
        # What follows a row that is kept is kept, too: it was decided later.
        following = self._rows.following[: len(pending)]
        followed = following != NONE
        following[followed] = place[following[followed]]
        if self._keeps_joint:
            self._joint[: len(pending)] = self._joint[pending]
        if self._memory.shape[1]:
            self._memory[: len(pending)] = self._memory[pending]
        agents, environments = self._rows.agent[: len(pending)], self._rows.environment[: len(pending)]
        self._last[:] = NONE
        self._last[environments[~followed], agents[~followed]] = np.flatnonzero(~followed)
        self._carried = self._count = len(pending)
        self._forget_closings()
