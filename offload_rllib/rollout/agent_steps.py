"""What a learner learns from: the steps of agents as rows, each with its successor and the time between the two."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from offload_rllib.simulator.types import Array


def discounts(gamma: float, elapsed: Array) -> Array:
    """Return gamma^elapsed, [N] float64; 0 for a gamma of 0, even where no time passes.

    Args:
        gamma: discount per unit of time, in [0, 1].
        elapsed: [N] float64.
    """
    return np.power(gamma, elapsed) if gamma > 0 else np.zeros(len(elapsed))


@dataclass(frozen=True)
class AgentSteps:
    """N steps of the agents that one policy acts for, and C closing states, from which nothing was done yet.

    A row is one action of one agent. It is followed by the same agent's next row, or by a closing state: what the
    agent saw at the end of its episode, or where the sample ends. Rows come in the order of time: a row's successor
    stands behind it.
    """

    module_id: str
    """Of the policy, in RLlib."""
    agents: tuple[str, ...]
    """Names of the agents."""
    agent: Array
    """[N + C] int64: index in `agents`."""
    environment: Array
    """[N + C] int64: which of the source's environments."""
    observations: Array
    """[N, F] float32."""
    masks: Array
    """[N, R] int8, 1 where an action is valid."""
    actions: Array
    """[N] int32."""
    log_probabilities: Array
    """[N] float32: of the actions, under the policy that took them; 0 where there was no choice."""
    rewards: Array
    """[N] float32: earned until the successor."""
    elapsed_s: Array
    """[N] float64: time until the successor."""
    following: Array
    """[N] int64: the successor: a row, or N + the number of a closing state."""
    closing_observations: Array
    """[C, F] float32."""
    closing_masks: Array
    """[C, R] int8."""
    ended: Array
    """[C] bool: whether the episode ended there, by truncation."""
    env_steps: int
    """Steps of the environments in which the rows were sampled."""
    costs: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """[N, C] float32: charged until the successor, for each constraint, or what the decision has made counted where its
    cost in hindsight is in the place of the rewards; C = 0: there are none."""
    counted: Array = field(default_factory=lambda: np.zeros((0, 2)))
    """[C, 2] float64: of the tasks that ended in these steps of the environments, whichever agents', how many the
    figure of each constraint counts, and of how many it is a share."""
    hindsight: Array | None = None
    """[N] float32: minus what the decision has cost all tasks, as a reward; NaN where that is not known. None: it
    is not needed, or in the place of the rewards."""
    hindsight_costs: Array | None = None
    """[N, C] float32: how many more tasks the figure of each constraint counts because of the decision; beside
    `hindsight`, and known where that is."""
    joint: Array | None = None
    """[M, A, F] float32: what all agents of an environment saw at M moments; for central critics."""
    moment: Array | None = None
    """[N + C] int64: index into `joint`."""
    memory: Array | None = None
    """[N + C, 1 + H] float32: log(1 + s since the agent's previous decision), and the state of its memory before this
    one; for actors that remember alone."""
    source: str = ""
    """Whose environments these are; the samples of a source follow each other."""
    start: int | None = None
    """Steps that each of its environments took before, since all were restarted; None: not counted."""
    steps: int = 0
    """Steps of each environment in this sample."""
    environments: int = 1
    """How many environments the source has."""

    def __len__(self) -> int:
        """N."""
        return len(self.actions)

    @cached_property
    def choices(self) -> Array:
        """[N] bool: which rows had more than one valid action."""
        return self.masks.sum(-1, dtype=np.int32) > 1

    def discounts(self, gamma: float, discount_s: float) -> Array:
        """Return gamma^(elapsed_s / discount_s), [N] float64; 0 for a gamma of 0, even where no time passes.

        Args:
            gamma: discount per `discount_s`, in [0, 1].
            discount_s: s.
        """
        return discounts(gamma, self.elapsed_s / discount_s)

    def subset(self, keep: Array) -> AgentSteps:
        """Return some rows and closing states, with their successors.

        Args:
            keep: [N + C] bool; the successor of a row that is kept must be kept too.
        """
        rows = len(self)
        here, closing = keep[:rows], keep[rows:]
        place = np.cumsum(keep) - 1
        return replace(
            self,
            agent=self.agent[keep],
            environment=self.environment[keep],
            observations=self.observations[here],
            masks=self.masks[here],
            actions=self.actions[here],
            log_probabilities=self.log_probabilities[here],
            rewards=self.rewards[here],
            hindsight=None if self.hindsight is None else self.hindsight[here],
            hindsight_costs=None if self.hindsight_costs is None else self.hindsight_costs[here],
            costs=self.costs[here] if len(self.costs) else self.costs,
            elapsed_s=self.elapsed_s[here],
            following=place[self.following[here]],
            closing_observations=self.closing_observations[closing],
            closing_masks=self.closing_masks[closing],
            ended=self.ended[closing],
            moment=None if self.moment is None else self.moment[keep],
            memory=None if self.memory is None else self.memory[keep],
        )

    def of_policies(self, owner: Array, policies: dict[str, Array]) -> list[AgentSteps]:
        """Return one object per policy.

        Args:
            owner: [A] int64: number of the policy of each agent.
            policies: for each policy, in order, the indices of its agents.
        """
        if len(policies) == 1:
            return [replace(self, module_id=next(iter(policies)))]
        parts = []
        of_row = owner[self.agent]
        for number, (module_id, members) in enumerate(policies.items()):
            part = self.subset(of_row == number)
            index = np.full(len(owner), -1, np.int64)
            index[members] = np.arange(len(members))
            names = tuple(self.agents[i] for i in members)
            parts.append(replace(part, module_id=module_id, agents=names, agent=index[part.agent]))
        return parts
