"""What the native environments have in common, whatever the moments at which tasks are decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from offload_rllib.config import ConfigError
from offload_rllib.config.base import is_function_path
from offload_rllib.envs.costs import cost_table, counted
from offload_rllib.envs.episode_keys import held_out_keys
from offload_rllib.envs.extensions import AgentView, checked
from offload_rllib.envs.goal import cost_of
from offload_rllib.envs.layout import ObservationLayout, features_of, layout_of
from offload_rllib.envs.observation import features_of_scenario, observe, scaling
from offload_rllib.envs.reward import CUSTOM, reward_record
from offload_rllib.scenario import BuiltScenario
from offload_rllib.scenario.build import check_rule, redrawn
from offload_rllib.scenario.functions import load_function
from offload_rllib.scenario.topology import resamples
from offload_rllib.scenario.topology.size import physical_memory_bytes
from offload_rllib.simulator import metrics, state
from offload_rllib.simulator.batch import env_slice, own_copies, put, scenario_of, shared
from offload_rllib.simulator.heuristics import is_rule, parse_rule
from offload_rllib.simulator.information import write_waits
from offload_rllib.simulator.jit import entry_point, kernel
from offload_rllib.simulator.types import FREE, NONE, Array


@kernel
def observe_some(scenarios, batch, environments, scales, first, observations, masks):
    """Write what deciding nodes of some environments see, from number `first` on."""
    for i in range(environments.shape[0]):
        e = environments[i]
        own_scales = scales[min(e, scales.shape[0] - 1)]
        observe(scenario_of(scenarios, e), env_slice(batch, e), own_scales, first, observations[e], masks[e])


@kernel
def observe_one(scenarios, batch, e, scales, observations, masks):
    """Write what the agents of environment `e` see into `observations` [A, F] and `masks` [A, k, R]."""
    own_scales = scales[min(e, scales.shape[0] - 1)]
    observe(scenario_of(scenarios, e), env_slice(batch, e), own_scales, 0, observations, masks)


class EnvBatch:
    """E environments of one scenario, and what can be done with them at any moment.

    With `topology.resample: episode` each has a network of its own, drawn at its reset; agents, observations and
    actions have the same sizes in all of them.

    Attributes:
        scenario: what they were built from.
        agents: names of the A agents.
        num_envs: E.
        num_actions: R; action 0 keeps the task, action k sends it to the k-th destination.
        tasks_per_decision: k.
        layout: what is where in an observation.
        observation_size: F.
        truncated: [E] bool, which episodes have ended.
    """

    costs: Array

    def __init__(self, scenario: BuiltScenario, num_envs: int, *, log: bool = False, costs: Sequence[str] = ()) -> None:
        """Allocate the arrays.

        Args:
            scenario: from `build_scenario`.
            num_envs: at least 1.
            log: keep the fate of every task (`task_log`).
            costs: names [C] of the figures whose costs are written as well (`costs.cost_table`).

        Raises:
            ConfigError: `num_envs` is less than 1, a figure has no cost, or a function that the configuration names
                cannot be used.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, is {num_envs}")
        table, self._share_of = cost_table(costs, scenario.arriving.types)
        config, arrays = scenario.config, scenario.arrays._replace(cost=table)
        self.scenario = scenario
        self.agents = scenario.agents
        self.num_envs = num_envs
        self.tasks_per_decision = config.decisions.tasks_per_decision
        self.num_actions = arrays.destination.shape[1]
        slots = scenario.cost.task_slots
        self._redraws = resamples(config.topology)
        # What changes in an episode is written into the scenario.
        changes = len(arrays.rate_change) + len(arrays.moving) > 0
        own = num_envs if self._redraws or changes else 1
        # Where networks are drawn every episode, rows are padded to what any of them may need.
        if not self._redraws and not config.decisions.reject:
            self.num_actions = 1 + int((arrays.destination[: len(self.agents), 1:] != NONE).sum(axis=1).max())
        self._full_layout = self._layout("full", self.num_actions)
        self._refuse_too_large()
        self._scenarios = [scenario] * own
        self._arrays = own_copies(arrays, own) if self._redraws or changes else shared(arrays)
        self._state = state.allocate(arrays, num_envs, task_slots=slots, log_rows=slots if log else 0)
        self._reward = reward_record(config.reward)
        self._planned = np.zeros((arrays.destination.shape[1], 2))
        self._scales = np.repeat(scaling(arrays, self.num_actions, self.tasks_per_decision)[np.newaxis], own, axis=0)
        self.truncated = np.ones(num_envs, np.bool_)  # no episode has begun
        self._functions: dict[str, Callable[[AgentView], Any]] = {}
        if self._reward[0]["name"] == CUSTOM:
            self._function(config.reward.name, "reward.name")
        if scenario.others and not is_rule(config.agents.others):
            self._function(config.agents.others, "agents.others")
        lead = (num_envs, self._agents_shown)
        self._full = np.zeros((*lead, self._full_layout.size), np.float32)
        self._masks = np.zeros((*lead, self.tasks_per_decision, self.num_actions), np.int8)
        self._compiled: dict[str, Callable[..., Any]] = {}  # see `jit.entry_point`
        self.layout, self._columns = self._shown()
        self.observation_size = self.layout.size
        self._observations = self._full
        if self.layout is not self._full_layout:
            self._observations = np.zeros((*lead, self.layout.size), np.float32)
        self._share()

    @property
    def _masks_shown(self) -> Array:
        return self._masks[:, :, 0] if self.tasks_per_decision == 1 else self._masks

    def _share(self) -> None:
        """Make `observations` and `masks`, which are parts of other arrays."""
        self.observations = self._observations
        self.masks = self._masks_shown

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: what is compiled belongs to this process."""
        return self.__dict__ | {"_compiled": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a copy, whose arrays are parts of its own."""
        self.__dict__.update(state)
        self._share()

    @property
    def _agents_shown(self) -> int:
        """How many agents of an environment are shown something at a time."""
        return len(self.agents)

    def _shown(self) -> tuple[ObservationLayout, Array | None]:
        """Return the layout of what agents are shown, and which columns of the full observation those are."""
        observe_what = self.scenario.config.observe
        if observe_what == "full":
            return self._full_layout, None
        if isinstance(observe_what, str) and is_function_path(observe_what):
            # What the function returns for the start of an episode tells how many numbers there are.
            every = np.arange(self.num_envs)
            state.reset(self._arrays, self._state, every, held_out_keys(0, self.num_envs))
            observe_some(self._arrays, self._state, every, self._scales, 0, self._full, self._masks)
            size = self._seen_by_function(None).shape[-1]
            names = tuple(f"function_{i}" for i in range(size))
            return ObservationLayout(size, 0, 0, 0, self.num_actions, names, self.tasks_per_decision), None
        layout = self._layout(observe_what, self.num_actions)
        index = {name: column for column, name in enumerate(self._full_layout.names)}
        return layout, np.array([index[name] for name in layout.names])

    def _view(self) -> AgentView:
        return AgentView(self.agents, self._full, self._masks_shown, self._full_layout, self._arrays, self._state)

    def _seen_by_function(self, size: int | None) -> Array:
        path = str(self.scenario.config.observe)
        seen = self._function(path, "observe")(self._view())
        return checked(seen, path, (*self._full.shape[:2], size), np.floating)

    def _show(self) -> None:
        """Bring what agents are shown up to date with all that there is to see."""
        if self._columns is not None:
            np.take(self._full, self._columns, axis=-1, out=self._observations)
        elif self._observations is not self._full:
            self._observations[:] = self._seen_by_function(self.observation_size)

    def reset(self, keys: np.ndarray, environments: np.ndarray | None = None) -> None:
        """Start a new episode in all environments, or in some."""
        raise NotImplementedError

    def _start_episodes(self, keys: np.ndarray, environments: np.ndarray | None) -> np.ndarray:
        """Start new episodes; return [e] int64 in which environments."""
        which = np.arange(self.num_envs) if environments is None else np.asarray(environments, np.int64)
        keys = np.asarray(keys, np.uint64)
        if keys.shape != which.shape:
            raise ConfigError(f"reset needs one key per environment: {len(which)}, got {keys.shape}")
        if self._redraws:
            for e, key in zip(which.tolist(), keys.tolist(), strict=True):
                self._draw_network(e, key)
        state.clear(self._state, which)
        if self._state.log.size:
            # A record is written when its task ends: until then it would be that of an earlier episode.
            self._state.log[which] = np.zeros((), self._state.log.dtype)
        arguments = (self._arrays, self._state, np.ascontiguousarray(which), np.ascontiguousarray(keys))
        if "start" not in self._compiled:
            self._compiled["start"] = entry_point(state.start, *arguments)
        self._compiled["start"](*arguments)
        self.truncated[which] = False
        return which

    def _refuse_invalid(self, decisions: np.ndarray, names: Callable[[int, int], str]) -> None:
        """Raise ValueError if one of the decisions [E, A, k] is not valid; `names` says whose it is."""
        inside = (decisions >= 0) & (decisions < self.num_actions)
        clipped = np.clip(decisions, 0, self.num_actions - 1)
        chosen = np.take_along_axis(self._masks, clipped[..., None], axis=-1)[..., 0]
        invalid = np.argwhere(~(inside & (chosen == 1)))
        if len(invalid):
            e, a, k = invalid[0]
            raise ValueError(
                f"agent '{names(e, a)}' of environment {e}: action {decisions[e, a, k]} is not valid now; accepted: "
                f"{np.flatnonzero(self._masks[e, a, k]).tolist()} (decisions.strict is on)"
            )

    def _rule(self, name: str) -> tuple[int, float]:
        check_rule(name, "heuristic")
        return parse_rule(name)

    def _layout(self, observe_what: str | tuple[str, ...], rows: int) -> ObservationLayout:
        features = features_of(observe_what, features_of_scenario(self.scenario.arrays))
        if not features:
            raise ConfigError(
                "observe: failures, clock, admission, charges, setups, objectives and embedding show nothing where no "
                "node fails, the load does not follow the time, agents cannot reject tasks, the reward has no term of "
                "energy or price, services begin with no set-up, objectives have no weights, and broadcasts carry no "
                "embeddings"
            )
        return layout_of(rows, self.tasks_per_decision, features, self.scenario.config.information.embedding)

    @property
    def shown_columns(self) -> Array | None:
        """Which numbers of the full observation are shown [F] int64; None: all, or what a function makes of them."""
        return self._columns

    @property
    def observation_bounds(self) -> tuple[float, float]:
        """Lowest and highest number of an observation; a user's function may return any."""
        by_function = self.layout.here_size == self.layout.row_size == self.layout.task_size == 0
        return (-np.inf, np.inf) if by_function else (-1.0, 1.0)

    def _function(self, path: str, where: str) -> Callable[[AgentView], Any]:
        if path not in self._functions:
            self._functions[path] = load_function(path, where)
        return self._functions[path]

    @property
    def state(self) -> state.State:
        """The simulator's arrays, for analysis and tests."""
        return self._state

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

    @property
    def bytes_per_environment(self) -> int:
        """Memory that one environment needs, by estimate: observations, masks, tasks and the simulator's state."""
        nodes, links = len(self.scenario.arrays.node), len(self.scenario.arrays.link)
        shown = 4 * self._full_layout.size + self.tasks_per_decision * self.num_actions
        return math.ceil(self._agents_shown * shown + 2048 * nodes + 256 * links + self.scenario.cost.task_bytes)

    def _refuse_too_large(self) -> None:
        """Raise ConfigError if the environments would not fit into memory."""
        per_env, nodes = self.bytes_per_environment, len(self.scenario.arrays.node)
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

    def destinations_of(self, e: int, agent: int) -> list[str]:
        """Return the node that each valid action of an agent leads to at present in environment `e`, itself first.

        Args:
            e: which environment.
            agent: index of the agent.
        """
        scenario = self.scenario_of(e)
        arrays, nodes = scenario.arrays, scenario.network.nodes
        present = (self.present_destination(e, agent, action) for action in range(1, self.num_actions))
        links = [link for link in present if link != NONE]
        return [self.agents[agent], *(nodes[arrays.link[link]["destination"]].name for link in links)]

    def present_destination(self, e: int, agent: int, action: int) -> int:
        """Return the link of an agent's action at present in environment `e`, or NONE."""
        rows = self._arrays.destination
        return int(rows[min(e, len(rows) - 1), agent, action])

    def counted(self) -> Array:
        """Return [E, C, 2] float64: the tasks that each cost's figure counts so far, and those it is a share of."""
        return counted(self._state, self._share_of)

    def waits(self, e: int) -> np.ndarray:
        """Return the seconds [N] that one more task would wait at each node of environment `e`, by its true state."""
        wait_s = np.zeros(self._state.node.shape[1])
        write_waits(self._arrays, self._state, e, wait_s)
        return wait_s

    def episode_metrics(self, e: int) -> dict[str, float]:
        """Return the figures of environment `e`'s finished episode: `simulator.metrics.summary` and `goal.cost_of`."""
        scenario = self.scenario_of(e)
        figures = metrics.summary(scenario.arrays, self._state, e, scenario.arriving.types)
        return figures | cost_of(scenario.config.reward, figures, int(self._state.episode[e]["tasks_made"]))

    def task_log(self, e: int) -> np.ndarray:
        """Return a copy of the records [tasks made] of environment `e`; tasks still inside have outcome OPEN."""
        return self._state.log[e, : self._state.episode["tasks_made"][e]].copy()

    def tasks_inside(self, e: int) -> np.ndarray:
        """Return a copy of the tasks [n] TASK that are inside environment `e`."""
        tasks = self._state.task[e]
        return tasks[tasks["stage"] != FREE]
