"""The native environment, without a clock: a batch of episodes, each of which stops where a task is to be decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.envs.batch import EnvBatch, observe_some
from offload_rllib.envs.earnings import AGENT_ACCOUNT, earned, pay_node, settle
from offload_rllib.envs.extensions import AgentView, checked
from offload_rllib.envs.observation import clock_of_day, observe_agent
from offload_rllib.envs.reward import CUSTOM, PAPER, PEERSIMGYM, paper_reward, peersimgym_reward
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator import state
from offload_rllib.simulator.batch import env_slice, scenario_of
from offload_rllib.simulator.epochs import apply_decision, run_to_decision
from offload_rllib.simulator.heuristics import decide_arrived, decide_pending, is_rule
from offload_rllib.simulator.jit import entry_point, kernel
from offload_rllib.simulator.loop import DONE, UNFINISHED
from offload_rllib.simulator.step import ACTIONS_PENDING, EVENTS_RUNNING, begin_step, end_step
from offload_rllib.simulator.types import NONE, Array


class Pending(NamedTuple):
    """The decision that each of E environments waits for; see the attributes of `ArrivalEnv`."""

    deciding: Array  # [E] int64
    time_s: Array  # [E] float64
    elapsed_s: Array  # [E] float64
    observations: Array  # [E, 1, F] float32
    masks: Array  # [E, 1, 1, R] int8
    rewards: Array  # [E] float32
    first: Array  # [E] bool
    decisions: Array  # [E] int64
    truncated: Array  # [E] bool


@kernel
def _pay_decision(scenario, environment, reward, paid, action):
    """Pay the node that decides now what `paper` or `peersimgym` pays for an action, before it is carried out."""
    agent = np.int64(environment.episode[0].deciding)
    n = scenario.agent_node[agent]
    if reward.name == PAPER:
        slot = environment.node[n].held_head
        pay_node(paid, n, paper_reward(scenario, environment, reward, agent, action, slot))
    elif reward.name == PEERSIMGYM:
        pay_node(paid, n, peersimgym_reward(scenario, environment, reward, agent, action))


@kernel
def _show_end(environment, pending, e):
    """Write that environment `e` has come to the end of its episode."""
    pending.deciding[e] = NONE
    pending.time_s[e] = environment.episode[0].now_s
    pending.elapsed_s[e] = 0.0
    pending.observations[e] = 0.0
    pending.masks[e] = 0
    pending.masks[e, 0, 0, 0] = 1
    pending.rewards[e] = 0.0
    pending.first[e] = False
    pending.decisions[e] = environment.episode[0].step
    pending.truncated[e] = True


@kernel
def _show_decision(scenario, environment, reward, paid, accounts, scales, pending, e):
    """Write who decides in environment `e`, what the agent sees, and what it has earned."""
    episode = environment.episode[0]
    agent = np.int64(episode.deciding)
    pending.deciding[e] = agent
    pending.time_s[e] = episode.now_s
    pending.elapsed_s[e] = episode.now_s - accounts[agent].since_s
    pending.first[e] = accounts[agent].begun == 0
    pending.decisions[e] = episode.step - 1
    if reward.name != CUSTOM:
        pending.rewards[e] = settle(scenario, environment, reward, paid, accounts, agent)
    clock = clock_of_day(scenario, environment)
    observe_agent(scenario, environment, scales, clock, agent, pending.observations[e, 0], pending.masks[e, 0])


@kernel
def _advance_batch(scenarios, batch, reward, others, planned, paid, accounts, actions, scales, pending, which, first):
    """Bring environments to their next decision: those in `which`, from place `first` on.

    Returns:
        The place of the first one that needs another call, or their number; and whether an episode has ended.
    """
    ended = False
    for i in range(first, which.shape[0]):
        e = which[i]
        if pending.truncated[e]:
            ended = True
            continue
        scenario = scenario_of(scenarios, e)
        environment = env_slice(batch, e)
        episode = environment.episode[0]
        by_function = reward[0].name == CUSTOM
        if episode.stage == ACTIONS_PENDING:
            if by_function:
                begin_step(environment)
            _pay_decision(scenario, environment, reward[0], paid[e], actions[e])
            apply_decision(scenario, environment, actions[e])
            episode.stage = EVENTS_RUNNING
        status = run_to_decision(scenario, environment, accounts.shape[1], others, planned)
        if status == UNFINISHED:
            return i, ended
        episode.stage = ACTIONS_PENDING
        if by_function:
            end_step(environment)
        if status == DONE:
            _show_end(environment, pending, e)
            ended = True
        else:
            own_scales = scales[min(e, scales.shape[0] - 1)]
            _show_decision(scenario, environment, reward[0], paid[e], accounts[e], own_scales, pending, e)
    return which.shape[0], ended


@kernel
def _play_batch(scenarios, batch, reward, others, planned, paid, agents, rule, parameter, pending, first):
    """Play environments to their ends under a rule, from `first` on; return the first one that needs another call."""
    for e in range(first, pending.truncated.shape[0]):
        if pending.truncated[e]:
            continue
        scenario = scenario_of(scenarios, e)
        environment = env_slice(batch, e)
        episode = environment.episode[0]
        while True:
            if episode.stage == ACTIONS_PENDING:
                action = decide_arrived(scenario, environment, rule, parameter, planned)
                _pay_decision(scenario, environment, reward[0], paid[e], action)
                apply_decision(scenario, environment, action)
                episode.stage = EVENTS_RUNNING
            status = run_to_decision(scenario, environment, agents, others, planned)
            if status == UNFINISHED:
                return e
            episode.stage = ACTIONS_PENDING
            if status == DONE:
                _show_end(environment, pending, e)
                break
    return pending.truncated.shape[0]


@kernel
def _settle_batch(scenarios, batch, reward, paid, accounts, deciding, environments, rewards):
    """Write what those who decide in some environments have earned, where a user's function has paid it."""
    for i in range(environments.shape[0]):
        e = environments[i]
        rewards[e] = 0.0
        if deciding[e] != NONE:
            scenario = scenario_of(scenarios, e)
            rewards[e] = settle(scenario, env_slice(batch, e), reward[0], paid[e], accounts[e], deciding[e])


@kernel
def _earned_by_all(scenarios, batch, reward, paid, accounts, e, rewards):
    """Write what every agent of environment `e` has earned since its last decision."""
    scenario = scenario_of(scenarios, e)
    environment = env_slice(batch, e)
    for agent in range(rewards.shape[0]):
        rewards[agent] = earned(scenario, environment, reward[0], paid[e], accounts[e], agent)[0]


@kernel
def _settle_first(scenarios, batch, reward, paid, accounts, e, rewards):
    """Write what the first agents of environment `e` have earned since their accounts were settled, and settle them."""
    scenario = scenario_of(scenarios, e)
    environment = env_slice(batch, e)
    for agent in range(rewards.shape[0]):
        rewards[agent] = settle(scenario, environment, reward[0], paid[e], accounts[e], agent)


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
        first: [E] bool, whether this is the agent's first decision of the episode.
        decisions: [E] int64, decisions of the episode so far: the number of the pending one.
        truncated: [E] bool, which episodes have ended; they wait for their reset.
        steps_per_episode: None: episodes differ.
    """

    def __init__(self, scenario: BuiltScenario, num_envs: int, *, log: bool = False) -> None:
        """Allocate the arrays; call `reset` before the first step. Arguments and errors as `EnvBatch`.

        Raises:
            ConfigError: as `EnvBatch`, or a function decides for nodes that are not agents.
        """
        self.deciding = np.full(num_envs, NONE, np.int64)
        super().__init__(scenario, num_envs, log=log)
        self._others = None
        if scenario.others:
            name = scenario.config.agents.others
            if not is_rule(name):
                raise ConfigError(
                    f"agents.others: the function '{name}' needs decisions.when: interval. Accepted with when: "
                    "arrival: a heuristic of this package"
                )
            self._others = np.array(self._rule(name), np.float64)
        nodes, agents = len(scenario.network.nodes), len(self.agents)
        self._paid = np.zeros((num_envs, nodes + 1))
        self._accounts = np.zeros((num_envs, agents), AGENT_ACCOUNT)
        self._step_accounts = np.zeros((num_envs, agents), AGENT_ACCOUNT)
        self.time_s = np.zeros(num_envs)
        self.elapsed_s = np.zeros(num_envs)
        self.rewards = np.zeros(num_envs, np.float32)
        self.first = np.zeros(num_envs, np.bool_)
        self.decisions = np.zeros(num_envs, np.int64)
        self.observations = self._observations[:, 0]
        self.masks = self._masks_shown[:, 0]
        self._pending = Pending(
            deciding=self.deciding,
            time_s=self.time_s,
            elapsed_s=self.elapsed_s,
            observations=self._full,
            masks=self._masks,
            rewards=self.rewards,
            first=self.first,
            decisions=self.decisions,
            truncated=self.truncated,
        )
        self.steps_per_episode = None
        self._every = np.arange(num_envs)
        self._pays_by_function = bool(self._reward[0]["name"] == CUSTOM)
        self._all_ended = True
        self._strict = scenario.config.decisions.strict
        self._advance_compiled: Callable[..., tuple[int, bool]] | None = None
        self._decide_compiled: Callable[..., None] | None = None

    @property
    def _agents_shown(self) -> int:
        return 1

    def _view(self) -> AgentView:
        return AgentView(
            self.agents, self._full, self._masks_shown, self._full_layout, self._arrays, self._state, self.deciding
        )

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
        self._advance(np.zeros(self.num_envs, np.int32), which)

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
        return self._advance(actions, self._every)

    def _advance(self, actions: np.ndarray, which: np.ndarray) -> bool:
        done, ended = 0, False
        moved = which[~self.truncated[which]] if self._pays_by_function else which
        while done < len(which):
            arguments = (
                self._arrays,
                self._state,
                self._reward,
                self._others,
                self._planned,
                self._paid,
                self._accounts,
                actions,
                self._scales,
                self._pending,
                which,
                done,
            )
            if self._advance_compiled is None:
                self._advance_compiled = entry_point(_advance_batch, *arguments)
            done, now_ended = self._advance_compiled(*arguments)
            ended |= now_ended
            if done < len(which) and state.lacks_room(self._state, which[done]):
                self._grow()
        if self._pays_by_function:
            self._pay_by_function(moved)
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
        _settle_batch(
            self._arrays, self._state, self._reward, self._paid, self._accounts, self.deciding, moved, self.rewards
        )

    def play(self, name: str) -> None:
        """Play all environments to the ends of their episodes under a heuristic, as `heuristic_actions` names them.

        A rule of this package decides inside the kernel: nothing is observed, and no rewards are written.
        """
        if not is_rule(name):
            while not self._all_ended:
                self.step(self.heuristic_actions(name))
            return
        code, parameter = self._rule(name)
        done = 0
        while done < self.num_envs:
            done = _play_batch(
                self._arrays,
                self._state,
                self._reward,
                self._others,
                self._planned,
                self._paid,
                len(self.agents),
                code,
                parameter,
                self._pending,
                done,
            )
            if done < self.num_envs and state.lacks_room(self._state, done):
                self._grow()
        self._all_ended = True
        self._show()

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
            if self._decide_compiled is None:
                self._decide_compiled = entry_point(decide_pending, *arguments)
            self._decide_compiled(*arguments)
            return actions
        shape = (self.num_envs, 1)
        chosen = checked(self._function(name, "heuristic")(self._view()), name, shape, np.integer)
        return np.where(self.truncated, 0, chosen[:, 0]).astype(np.int32)

    def closing(self, e: int) -> tuple[Array, Array, Array, Array, Array]:
        """Return what there is to say of every agent at the end of environment `e`'s episode.

        Returns:
            Observations [A, F] and masks [A, R]; rewards [A] float32, earned since the agent's last decision, or since
            the start; the time [A] float64 since then; and whether the agent had a decision at all [A] bool.

        Raises:
            RuntimeError: the episode has not ended.
        """
        if not self.truncated[e]:
            raise RuntimeError(f"the episode of environment {e} has not ended")
        observations, masks = self.observe_all(e)
        rewards = np.zeros(len(self.agents), np.float32)
        _earned_by_all(self._arrays, self._state, self._reward, self._paid, self._accounts, e, rewards)
        account = self._accounts[e]
        elapsed_s = float(self._state.episode[e]["now_s"]) - account["since_s"]
        return observations, masks, rewards, elapsed_s, account["begun"] == 1

    def step_rewards(self, e: int, count: int) -> Array:
        """Return what agents 0 to `count` - 1 of environment `e` have earned since this was asked last [count] float32.

        At first in an episode, since its start. With `reward.scope: team` agent 0 stands for all.
        """
        rewards = np.zeros(count, np.float32)
        _settle_first(self._arrays, self._state, self._reward, self._paid, self._step_accounts, e, rewards)
        return rewards

    def observe_all(self, e: int) -> tuple[Array, Array]:
        """Return what all agents of environment `e` observe now, [A, F] and [A, R].

        The mask of an agent that does not decide now allows 0 alone.
        """
        seen, masks = self._observed(np.array([e]))
        return seen[e], masks[e]

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
