"""What one node sees that is a process of its own: observation, rules and broadcasts from its own knowledge.

A node of a real network holds its tasks and the last message of each neighbour, and nothing else. Its knowledge is
written into the arrays of the simulator, and the simulator's own kernels read them (`simulator.information`,
`simulator.heuristics`, `observation`), so that both sides of a comparison compute the same numbers by the same code.

The simulator works out which of a neighbour's regular broadcasts has arrived. A real node has received what it has
received: here every neighbour broadcasts once, at the time of the message that arrived last, and without a delay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from offload_rllib.envs.observation import clock_of_day, observe_agent, scaling
from offload_rllib.simulator import streams
from offload_rllib.simulator.batch import env_slice, scenario_of, shared
from offload_rllib.simulator.events.broadcasts import schedule_broadcasts
from offload_rllib.simulator.heuristics import LOCAL, decide
from offload_rllib.simulator.jit import entry_point, kernel
from offload_rllib.simulator.links import cross
from offload_rllib.simulator.objectives import begin_weights
from offload_rllib.simulator.queues import enqueue
from offload_rllib.simulator.state import allocate
from offload_rllib.simulator.streams import node_key, stream, uniform
from offload_rllib.simulator.tasks import append_held
from offload_rllib.simulator.types import NONE, Array, Scenario, State
from offload_rllib.simulator.variants import variant
from offload_rllib.simulator.waits import SERVING, advertised_free_at

# Longer than any episode: the message that was received last is a neighbour's first broadcast, and the only one.
ONE_BROADCAST_S = 1e12
FIRST_SLOTS = 64
# What a node of a real network never reads: the workload, which it meets task by task.
WORKLOAD = ("recording", "rate_piece", "burst_state", "burst_jump", "choice", "job")


class Resident(NamedTuple):
    """A task at a node, as far as waits, rules and observations depend on it. SI units; absolute scenario time."""

    number: int
    created_s: float
    deadline_s: float
    work: float
    bits_in: float
    bits_out: float
    return_latency_s: float
    return_seconds_per_bit: float
    hops: int
    destination: int
    """As recorded, or `NONE`."""


class Heard(NamedTuple):
    """A broadcast: what a node tells a neighbour of itself."""

    stamp_s: float
    """When it was sent."""
    tasks: int
    free_s: float
    """When a server is free there for one more task."""
    down: int
    arrived: int
    """Tasks that the sender has received from this neighbour."""
    arrived_work: float


def of_one_node(arrays: Scenario) -> Scenario:
    """Return the arrays of a scenario as a node needs them: no workload, and neighbours that broadcast once.

    All extensions are compiled in: a node's waits are computed from its real queue, not carried along.
    """
    settings, link = arrays.settings.copy(), arrays.link.copy()
    settings["broadcast_interval_s"] = ONE_BROADCAST_S
    link["broadcast_delay_s"] = 0.0
    emptied = {name: getattr(arrays, name)[:0] for name in WORKLOAD}
    return arrays._replace(variant=variant(full=True), settings=settings, link=link, **emptied)


@kernel
def _begin(scenario, environment, key, interval_s, phases):
    """Set the keys of an episode's random streams; write the phases [N] of the nodes' broadcasts."""
    environment.episode[0].key = key
    begin_weights(scenario, environment)
    for n in range(environment.node.shape[0]):
        node = environment.node[n]
        node.key = node_key(key, scenario.node[n].name_hash)
        phases[n] = uniform(stream(node.key, streams.BROADCAST_PHASE), 0) * interval_s
        node.phase_s = np.inf  # nothing has been heard of it
        schedule_broadcasts(scenario, environment, n)
        node.unsaved_turn = 1
    for link_index in range(environment.link.shape[0]):
        environment.link[link_index].unsaved_turn = 1


@kernel
def _write_tasks(scenario, environment, n, served, waiting, held, awaited):
    """Put the tasks of node `n` in their places: slots [0, served) are in service, then come those that wait.

    Args:
        scenario: that is played.
        environment: a `State` without its leading axis; `service_end_s` of the tasks in service ascends.
        n: index of the node.
        served: tasks in service.
        waiting: tasks that wait, in the slots behind, in the order in which they came.
        held: 1 if the task in the slot behind those is to be decided, otherwise 0.
        awaited: tasks made here whose result the node waits for.
    """
    here = scenario.node[n]
    node = environment.node[n]
    node.queue_head = NONE
    node.queue_tail = NONE
    node.held_head = NONE
    node.held_tail = NONE
    node.held = 0
    node.held_work = 0.0
    node.advertised_from_s = -1.0
    node.stale = 1
    node.busy = served
    node.tasks = served + waiting + held
    node.own_awaited = awaited
    node.busy_until_s = 0.0
    idle = here.servers - served
    # Ascending times are a heap.
    for server in range(here.servers):
        until_s = environment.task[server - idle].service_end_s if server >= idle else 0.0
        environment.server[SERVING, here.first_server + server] = until_s
        if here.servers == 1:
            node.busy_until_s = until_s
    for slot in range(served, served + waiting):
        enqueue(scenario, environment, n, slot)
    if held:
        append_held(environment, node, served + waiting)


@kernel
def _decide_held(scenario, environment, rule, parameter, agent, planned):
    slot = environment.node[scenario.agent_node[agent]].held_head
    return decide(scenario, environment, rule, parameter, agent, slot, 0, planned, environment.episode[0].now_s)


@kernel
def _cross(scenario, environment, link_index, bits, deadline_s, now_s):
    link = scenario.link[link_index]
    if link.plain:
        return now_s + link.latency_s + bits * link.seconds_per_bit, False
    return cross(scenario, environment, link_index, bits, 0, deadline_s, now_s)


# What Python calls: each takes a batch of one.


@kernel
def _begin_one(scenarios, state, key, interval_s, phases):
    _begin(scenario_of(scenarios, 0), env_slice(state, 0), key, interval_s, phases)


@kernel
def _write_one(scenarios, state, n, served, waiting, held, awaited):
    _write_tasks(scenario_of(scenarios, 0), env_slice(state, 0), n, served, waiting, held, awaited)


@kernel
def _advertise_one(scenarios, state, n, now_s):
    environment = env_slice(state, 0)
    environment.episode[0].now_s = now_s
    return advertised_free_at(scenario_of(scenarios, 0), environment, n, now_s)


@kernel
def _observe_one(scenarios, state, agent, now_s, scales, seen, mask):
    scenario = scenario_of(scenarios, 0)
    environment = env_slice(state, 0)
    environment.episode[0].now_s = now_s
    observe_agent(scenario, environment, scales, clock_of_day(scenario, environment), agent, seen, mask)


@kernel
def _decide_one(scenarios, state, rule, parameter, agent, now_s, planned):
    environment = env_slice(state, 0)
    environment.episode[0].now_s = now_s
    return _decide_held(scenario_of(scenarios, 0), environment, rule, parameter, agent, planned)


@kernel
def _cross_one(scenarios, state, link_index, bits, deadline_s, now_s):
    return _cross(scenario_of(scenarios, 0), env_slice(state, 0), link_index, bits, deadline_s, now_s)


class NodeView:
    """The knowledge of one node, in arrays of the simulator, and what follows from it.

    Attributes:
        n: index of the node.
        agent: its index among the deciding nodes, or `NONE`.
        phase_s: of its broadcasts in this episode.
    """

    def __init__(self, arrays: Scenario, n: int, key: int, interval_s: float, rows: int) -> None:
        """Begin an episode, in which nothing has been heard and nothing is here.

        Args:
            arrays: from `of_one_node`.
            n: index of the node.
            key: of the episode.
            interval_s: between two broadcasts of a node.
            rows: R, actions of an agent.
        """
        self.n = n
        self.agent = int(arrays.node[n]["agent"])
        self._link = arrays.link
        self._scenarios = shared(arrays)
        self._state = allocate(arrays, 1, task_slots=FIRST_SLOTS)
        self._rows = rows
        self._scales = scaling(arrays, rows)
        self._seen = np.zeros(self._scales.shape[1], np.float32)
        self._mask = np.zeros((1, rows), np.int8)
        self._planned = np.zeros((arrays.destination.shape[1], 2))
        self._compiled: dict[str, Callable[..., Any]] = {}
        phases = np.zeros(len(arrays.node))
        self._run(_begin_one, np.uint64(key), float(interval_s), phases)
        self.phase_s = float(phases[n])

    @property
    def state(self) -> State:
        """The arrays, for tests."""
        return self._state

    def prepare(self) -> None:
        """Load all kernels, so that the first call of none of them is slow; the node has no tasks yet."""
        self.write_tasks([], [])
        self.advertise(0.0)
        if self.agent != NONE:
            self.observe(0.0)
            task = Resident(0, 0.0, np.inf, 0.0, 0.0, 0.0, 0.0, 0.0, 0, NONE)
            self.write_tasks([], [], task)
            self.decide(LOCAL, 0.0, 0.0)
        links = np.flatnonzero(self._link["source"] == self.n)
        arguments = (int(links[0]), 0.0, np.inf, 0.0)
        every = (self._scenarios, self._state, *arguments)
        self._compiled[_cross_one.__name__] = entry_point(_cross_one, *every)  # a call would count as a transfer

    def _run(self, function: Any, *arguments: Any) -> Any:
        name = function.__name__
        every = (self._scenarios, self._state, *arguments)
        if name not in self._compiled:
            self._compiled[name] = entry_point(function, *every)
        return self._compiled[name](*every)

    def hear(self, link_index: int, heard: Heard) -> None:
        """Remember the broadcast of the destination of one of this node's links; an older one is left out."""
        there = int(self._link[link_index]["destination"])
        state = self._state
        stamp_s = float(state.node[0, there]["phase_s"])
        if np.isfinite(stamp_s) and heard.stamp_s < stamp_s:
            return
        state.node[0, there]["phase_s"] = heard.stamp_s
        state.broadcast[0, there, 0] = (heard.free_s, heard.tasks, heard.down)
        state.broadcast_link[0, link_index, 0] = (heard.arrived_work, heard.arrived)

    def sent(self, link_index: int, work: float, tasks: int = 1) -> None:
        """Count a task that was sent over one of this node's links; `tasks` -1 takes one back that was aborted."""
        link = self._state.link[0, link_index]
        link["sent"] += tasks
        link["sent_work"] += tasks * work

    def forget(self, link_index: int, tasks: int, work: float) -> None:
        """Count again what was sent over a link whose destination failed: only what is still to arrive there."""
        link = self._state.link[0, link_index]
        link["sent"], link["sent_work"] = tasks, work
        self._state.broadcast_link[0, link_index] = np.zeros((), self._state.broadcast_link.dtype)

    def arrived(self, link_index: int, work: float) -> None:
        """Count a task that arrived over a link into this node, or was lost on it."""
        link = self._state.link[0, link_index]
        link["arrived"] += 1
        link["arrived_work"] += work

    def counts(self, link_index: int) -> tuple[int, float]:
        """Return how many tasks arrived over a link into this node, and their instructions."""
        link = self._state.link[0, link_index]
        return int(link["arrived"]), float(link["arrived_work"])

    def write_tasks(
        self,
        served: Sequence[tuple[Resident, float]],
        waiting: Sequence[Resident],
        held: Resident | None = None,
        awaited: int = 0,
    ) -> None:
        """Write the node's own tasks.

        Args:
            served: those in service, each with the time at which its service is expected to end.
            waiting: those that wait, in the order in which they came.
            held: the one to be decided.
            awaited: tasks made here whose result the node waits for.
        """
        in_service = sorted(served, key=lambda each: each[1])
        residents = [task for task, _ in in_service] + list(waiting) + ([held] if held else [])
        count = len(residents)
        if count > self._state.task.shape[1]:
            self._make_room(count)
        if count:
            slots = self._state.task[0, :count]
            for field, values in zip(Resident._fields, zip(*residents, strict=True), strict=True):
                slots[field] = values
            slots["service_end_s"][: len(in_service)] = [until_s for _, until_s in in_service]
        self._run(_write_one, self.n, len(in_service), len(waiting), int(held is not None), int(awaited))

    def _make_room(self, count: int) -> None:
        slots = 1 << count.bit_length()
        state = self._state
        self._state = state._replace(
            task=np.zeros((1, slots), state.task.dtype),
            path=np.zeros((1, slots, state.path.shape[2]), np.int32),
            free=np.zeros((1, slots), np.int32),
        )

    def advertise(self, now_s: float) -> tuple[int, float]:
        """Return what the node broadcasts: its tasks, and when a server is free for one more. Tasks were written."""
        free_s = self._run(_advertise_one, self.n, float(now_s))
        return int(self._state.node[0, self.n]["tasks"]), float(free_s)

    def observe(self, now_s: float) -> tuple[Array, Array]:
        """Return what the agent of this node sees, [F] float32 in full, and its mask [R] int8. Tasks were written.

        The arrays are overwritten by the next call.
        """
        self._run(_observe_one, self.agent, float(now_s), self._scales, self._seen, self._mask)
        return self._seen, self._mask[0]

    def decide(self, rule: int, parameter: float, now_s: float) -> int:
        """Return the action of a rule (`simulator.heuristics`) for the held task. Tasks were written."""
        return int(self._run(_decide_one, int(rule), float(parameter), self.agent, float(now_s), self._planned))

    def chosen(self) -> None:
        """Count a decision: rules address their draws by its number."""
        self._state.node[0, self.n]["choices"] += 1

    def give_to_link(self, link_index: int, bits: float, deadline_s: float, now_s: float) -> tuple[float, bool]:
        """Give a message to one of this node's links: when it arrives, and whether it is lost (`simulator.links`)."""
        arrives_s, lost = self._run(_cross_one, int(link_index), float(bits), float(deadline_s), float(now_s))
        return float(arrives_s), bool(lost)

    def action_link(self, action: int) -> int:
        """Return the link of an action; `NONE` for 0 and for an action that is not valid."""
        row = self._scenarios.destination[0, self.agent]
        return int(row[action]) if 0 < action < len(row) else NONE
