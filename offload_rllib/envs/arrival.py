"""The native environment, without a clock: a batch of episodes, each of which stops where a task is to be decided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.envs.batch import EnvBatch, observe_one, observe_some
from offload_rllib.envs.costs import settle_costs, settle_costs_of_all
from offload_rllib.envs.earnings import AGENT_ACCOUNT
from offload_rllib.envs.epochs import Pending, Rules, advance_batch, earned_by_all, settle_batch, settle_first
from offload_rllib.envs.extensions import AgentView, checked
from offload_rllib.envs.reward import CUSTOM
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator import state
from offload_rllib.simulator.heuristics import decide_pending, is_rule
from offload_rllib.simulator.jit import entry_point
from offload_rllib.simulator.step import EVENTS_RUNNING
from offload_rllib.simulator.types import NONE, Array


class ArrivalEnv(EnvBatch):
    """E environments of one scenario, in which every task is decided at the moment at which it arrives.

    A step goes from one decision to the next, in each environment on its own: the times of the E pending decisions
    differ. Tasks that arrive at the same instant are decided one after the other, in the order of events. A reset goes
    to the first decision; an episode without any has ended by then. Networks as in `VectorEnv`.

    The arrays belong to the environment and are overwritten by each step.

    Attributes:
        agents: names of the A agents.
        num_envs: E.
        num_actions: R; action 0 keeps the task, action k sends it to the k-th destination.
        layout: what is where in an observation.
        observation_size: F.
        deciding: [E] int64, index of the agent that decides now; -1 where the episode has ended.
        time_s: [E] float64, time of the decision, or the horizon.
        elapsed_s: [E] float64, time since the same agent's previous decision; since 0 s at its first.
        observations: [E, F] float32 of the deciding agent, see `OffloadParallelEnv`.
        masks: [E, R] int8; 1 where an action is valid.
        rewards: [E] float32, what the deciding agent has earned since its previous decision, or since the start.
        costs: [E, C] float32, what the deciding agent has been charged since then, by figure; see `costs`.
        decisions: [E] int64, decisions of the episode so far: the number of the pending one.
        truncated: [E] bool, which episodes have ended; they wait for their reset.
        steps_per_episode: None: episodes differ.
    """

    def __init__(self, scenario: BuiltScenario, num_envs: int, *, log: bool = False, costs: Sequence[str] = ()) -> None:
        """Allocate the arrays; call `reset` before the first step. Arguments and errors as `EnvBatch`.

        Raises:
            ConfigError: as `EnvBatch`, or a function decides for nodes that are not agents.
        """
        self.deciding = np.full(num_envs, NONE, np.int64)
        super().__init__(scenario, num_envs, log=log, costs=costs)
        self._rules = Rules(NONE, 0.0, NONE, 0.0)
        if scenario.others:
            name = scenario.config.agents.others
            if not is_rule(name):
                raise ConfigError(
                    f"agents.others: the function '{name}' needs decisions.when: interval. Accepted with when: "
                    "arrival: a heuristic of this package"
                )
            code, parameter = self._rule(name)
            self._rules = self._rules._replace(others=code, others_parameter=parameter)
        nodes, agents = len(scenario.network.nodes), len(self.agents)
        self._paid = np.zeros((num_envs, nodes + 1))
        self._accounts = np.zeros((num_envs, agents), AGENT_ACCOUNT)
        self._step_accounts = np.zeros((num_envs, agents), AGENT_ACCOUNT)
        self.time_s = np.zeros(num_envs)
        self.elapsed_s = np.zeros(num_envs)
        self.rewards = np.zeros(num_envs, np.float32)
        self.costs = np.zeros((num_envs, len(costs)), np.float32)
        self._cost_accounts = np.zeros((num_envs, agents, len(costs)))
        self.decisions = np.zeros(num_envs, np.int64)
        self._pending = Pending(
            deciding=self.deciding,
            time_s=self.time_s,
            elapsed_s=self.elapsed_s,
            observations=self._full,
            masks=self._masks,
            rewards=self.rewards,
            decisions=self.decisions,
            truncated=self.truncated,
        )
        self.steps_per_episode = None
        self._every = np.arange(num_envs)
        self._pays_by_function = bool(self._reward[0]["name"] == CUSTOM)
        self._all_ended = True
        self._strict = scenario.config.decisions.strict

    @property
    def _agents_shown(self) -> int:
        return 1

    def _share(self) -> None:
        self.observations = self._observations[:, 0]
        self.masks = self._masks_shown[:, 0]

    def _view(self) -> AgentView:
        return AgentView(
            self.agents, self._full, self._masks_shown, self._full_layout, self._arrays, self._state, self.deciding
        )

    def pending_tasks(self) -> np.ndarray:
        """Return the numbers [E] int64 of the tasks that are to be decided now, in order of creation in their episodes.

        Where an episode has ended the number is -1.
        """
        held = self._state.node["held_head"][self._every, self._arrays.agent_node[self.deciding]]
        return np.where(self.truncated, NONE, self._state.task["number"][self._every, held])

    def reset(self, keys: np.ndarray, environments: np.ndarray | None = None) -> None:
        """Start a new episode in all environments, or in some, and go to its first decision.

        An episode in which no decision comes has ended then: `truncated` says so.

        Args:
            keys: [e] uint64 episode keys, e.g. from `held_out_keys`.
            environments: [e] which ones; all by default.
        """
        which = self._start_episodes(keys, environments)
        self._state.episode["stage"][which] = EVENTS_RUNNING
        self._paid[which] = 0.0
        self._accounts[which] = np.zeros((), AGENT_ACCOUNT)
        self._step_accounts[which] = np.zeros((), AGENT_ACCOUNT)
        self._cost_accounts[which] = 0.0
        self._advance(self._rules, np.zeros(self.num_envs, np.int32), which)

    def step(self, actions: np.ndarray) -> bool:
        """Carry out one decision in every environment, and go to the next.

        An environment whose episode has ended stays there until it is reset; its action does not matter.

        Args:
            actions: [E] integers. One that is not valid acts as 0 and is counted.

        Returns:
            Whether an episode has ended, by truncation: `truncated` says which.

        Raises:
            ValueError: wrong shape, or, in a strict environment, an action that is not valid.
            ConfigError: a user's function returned what does not fit, or the unfinished tasks do not fit into memory.
            RuntimeError: all episodes have ended and none was reset, or there was no reset yet.
        """
        actions = np.ascontiguousarray(actions, np.int32)
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape ({self.num_envs},) (environments), is {actions.shape}")
        if self._all_ended:
            raise RuntimeError("all episodes have ended, or none has begun; call reset before the next step")
        if self._strict:
            asked = np.where(self.truncated, 0, actions)
            self._refuse_invalid(asked[:, None, None], lambda e, _: self.agents[self.deciding[e]])
        return self._advance(self._rules, actions, self._every)

    def _advance(self, rules: Rules, actions: Array, which: Array) -> bool:
        done, ended = 0, False
        moved = which[~self.truncated[which]] if self._pays_by_function else which
        while done < len(which):
            arguments = (
                self._arrays,
                self._state,
                self._reward,
                rules,
                self._planned,
                self._paid,
                self._accounts,
                actions,
                self._scales,
                self._pending,
                which,
                done,
            )
            if "advance" not in self._compiled:
                self._compiled["advance"] = entry_point(advance_batch, *arguments)
            done, now_ended = self._compiled["advance"](*arguments)
            ended |= now_ended
            if done < len(which) and state.lacks_room(self._state, int(which[done])):
                self._grow()
        if self._pays_by_function:
            self._pay_by_function(moved)
        if self.costs.size:
            self._charge(which)
        self._show()
        # Those that were not brought further may have ended before.
        ended = bool(ended or (len(which) < self.num_envs and self.truncated.any()))
        self._all_ended = ended and bool(self.truncated.all())
        return ended

    def _pay_by_function(self, moved: Array) -> None:
        path = self.scenario.config.reward.name
        shape = (self.num_envs, self._paid.shape[1] - 1)
        paid = checked(self._function(path, "reward.name")(self._view()), path, shape, np.floating)
        self._paid[moved, :-1] += paid[moved]
        self._paid[moved, -1] += paid[moved].sum(axis=1)
        settle_batch(
            self._arrays, self._state, self._reward, self._paid, self._accounts, self.deciding, moved, self.rewards
        )

    def _charge(self, which: Array) -> None:
        arguments = (
            self._arrays,
            self._state,
            self._reward,
            self._cost_accounts,
            self.deciding,
            which,
            self.costs,
        )
        if "charge" not in self._compiled:
            self._compiled["charge"] = entry_point(settle_costs, *arguments)
        self._compiled["charge"](*arguments)

    def play(self, name: str) -> None:
        """Play all environments to the ends of their episodes under a heuristic, as `heuristic_actions` names them.

        A rule of this package decides inside the kernel: nothing is observed, and no rewards are written.
        """
        if not is_rule(name):
            while not self._all_ended:
                self.step(self.heuristic_actions(name))
            return
        code, parameter = self._rule(name)
        rules = self._rules._replace(agents=code, agents_parameter=parameter)
        self._advance(rules, np.zeros(self.num_envs, np.int32), self._every)

    def heuristic_actions(self, name: str) -> np.ndarray:
        """Return the actions [E] int32 of a heuristic for the pending decisions; 0 where the episode has ended.

        Args:
            name: a rule of `simulator.heuristics`, with its parameter if need be (``soft_finish:0.5``), or a user's
                function ``package.module:function``.

        Raises:
            ConfigError: there is no such rule or function, or the function returned what does not fit.
        """
        actions = np.zeros(self.num_envs, np.int32)
        if is_rule(name):
            arguments = (self._arrays, self._state, *self._rule(name), self._planned, actions)
            if "decide" not in self._compiled:
                self._compiled["decide"] = entry_point(decide_pending, *arguments)
            self._compiled["decide"](*arguments)
            return actions
        shape = (self.num_envs, 1)
        chosen = checked(self._function(name, "heuristic")(self._view()), name, shape, np.integer)
        return np.where(self.truncated, 0, chosen[:, 0]).astype(np.int32)

    def closing(self, e: int) -> tuple[Array, Array, Array, Array]:
        """Return what there is to say of every agent at the end of environment `e`'s episode.

        Returns:
            Observations [A, F] and masks [A, R]; rewards [A] float32, earned since the agent's last decision, or since
            the start; and the time [A] float64 since then.

        Raises:
            RuntimeError: the episode has not ended.
        """
        if not self.truncated[e]:
            raise RuntimeError(f"the episode of environment {e} has not ended")
        observations, masks = self.observe_all(e)
        rewards = np.zeros(len(self.agents), np.float32)
        arguments = (self._arrays, self._state, self._reward, self._paid, self._accounts, e, rewards)
        if "earned" not in self._compiled:
            self._compiled["earned"] = entry_point(earned_by_all, *arguments)
        self._compiled["earned"](*arguments)
        elapsed_s = float(self._state.episode[e]["now_s"]) - self._accounts[e]["since_s"]
        return observations, masks, rewards, elapsed_s

    def closing_costs(self, e: int) -> Array:
        """Return what every agent was charged since its last decision, at the end of environment `e`'s episode.

        Returns:
            [A, C] float32. Asked a second time it is 0.
        """
        costs = np.zeros((self.num_envs, *self._cost_accounts.shape[1:]), np.float32)
        settle_costs_of_all(self._arrays, self._state, self._reward, self._cost_accounts, np.array([e]), costs)
        return costs[e]

    def step_rewards(self, e: int, count: int) -> Array:
        """Return what agents 0 to `count` - 1 of environment `e` have earned since this was asked last [count] float32.

        At first in an episode, since its start. With `reward.scope: team` agent 0 stands for all.
        """
        rewards = np.zeros(count, np.float32)
        settle_first(self._arrays, self._state, self._reward, self._paid, self._step_accounts, e, rewards)
        return rewards

    def observe_all(self, e: int) -> tuple[Array, Array]:
        """Return what all agents of environment `e` observe now, [A, F] and [A, R].

        The mask of an agent that does not decide now allows 0 alone.
        """
        if self._columns is None and self.layout is not self._full_layout:
            # A user's function looks at all environments.
            seen, masks = self._observed(np.array([e]))
            return seen[e], masks[e]
        full = np.zeros((len(self.agents), self._full_layout.size), np.float32)
        masks = np.zeros((len(self.agents), 1, self.num_actions), np.int8)
        arguments = (self._arrays, self._state, e, self._scales, full, masks)
        if "observe" not in self._compiled:
            self._compiled["observe"] = entry_point(observe_one, *arguments)
        self._compiled["observe"](*arguments)
        return (full if self._columns is None else full[:, self._columns]), masks[:, 0]

    def observe_joint(self, out: Array) -> None:
        """Write what all agents of all environments observe now into `out` [E, A, F] float32."""
        out[:] = self._observed(self._every)[0]

    def _observed(self, which: np.ndarray) -> tuple[Array, Array]:
        """Return observations [E, A, F] and masks [E, A, R] of all agents; of other environments than `which` zeros."""
        lead = (self.num_envs, len(self.agents))
        full = np.zeros((*lead, self._full_layout.size), np.float32)
        masks = np.zeros((*lead, 1, self.num_actions), np.int8)
        observe_some(self._arrays, self._state, which, self._scales, 0, full, masks)
        if self._columns is not None:
            return full[..., self._columns], masks[:, :, 0]
        if self.layout is self._full_layout:
            return full, masks[:, :, 0]
        path = str(self.scenario.config.observe)
        view = AgentView(self.agents, full, masks[:, :, 0], self._full_layout, self._arrays, self._state, self.deciding)
        seen = checked(self._function(path, "observe")(view), path, (*lead, self.observation_size), np.floating)
        return seen.astype(np.float32), masks[:, :, 0]
