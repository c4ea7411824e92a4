"""The arrays of a batch of environments: made once, grown when tasks need more slots, reset in place."""

from __future__ import annotations

import math

import numpy as np

from offload_rllib.simulator import streams
from offload_rllib.simulator.arrivals import begin_episode, next_arrival
from offload_rllib.simulator.batch import env_slice, scenario_of
from offload_rllib.simulator.changes.due import begin_changes
from offload_rllib.simulator.changes.movement import MOVING_STATE
from offload_rllib.simulator.events.broadcasts import schedule_broadcasts
from offload_rllib.simulator.events.failures import schedule_failure
from offload_rllib.simulator.events.loop import UNFINISHED, run_until
from offload_rllib.simulator.events.setups import WARM
from offload_rllib.simulator.events.tick_work import schedule_work
from offload_rllib.simulator.heap import event_key, push
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.metrics import HISTOGRAM_BINS, METRICS
from offload_rllib.simulator.objectives import begin_weights
from offload_rllib.simulator.sharing.channels import CHANNEL, MESSAGE, begin_channels
from offload_rllib.simulator.sharing.clock import begin_clocks
from offload_rllib.simulator.streams import node_key, stream, uniform
from offload_rllib.simulator.types import (
    ARRIVAL,
    BROADCAST,
    BROADCAST_LINK,
    CLIENT_STATE,
    CORE_SHARING,
    EPISODE,
    EVENT,
    FREE,
    LINK_STATE,
    LOG,
    NODE_STATE,
    NONE,
    TASK,
    USAGE,
    Scenario,
    State,
)
from offload_rllib.simulator.variants import has_extensions, has_ticks


def steps_per_episode(scenario: Scenario) -> int:
    """Return the number of decisions of an agent in an episode, where they are clocked."""
    return int(scenario.settings[0]["steps"])


def buckets_of_expiries(scenario: Scenario) -> int:
    """Return the number of buckets of expiries in an episode; see `deadlines`."""
    settings = scenario.settings[0]
    return math.ceil(float(settings["horizon_s"] / settings["bucket_s"]))


def remembered_broadcasts(scenario: Scenario) -> int:
    """Return how many broadcasts of a node must be kept so that each neighbour finds the last one that reached it."""
    interval_s = float(scenario.settings[0]["broadcast_interval_s"])
    if interval_s <= 0 or len(scenario.link) == 0:
        return 1
    if scenario.settings[0]["tick_s"] > 0:
        return 2  # the broadcast of this tick, and that of the last one, which is known
    # A broadcast that arrives after the episode need not be kept.
    longest_s = min(float(scenario.link["broadcast_delay_s"].max()), float(scenario.settings[0]["horizon_s"]))
    needed = math.floor(longest_s / interval_s) + 2
    return 1 << (needed - 1).bit_length()


def servers_of(scenario: Scenario) -> int:
    """Return the number of servers of all nodes."""
    return int(scenario.node["servers"].sum())


def heap_size(nodes: int, task_slots: int) -> int:
    """Return the room for events: three of each node (arrival, failure, tick), five of each task (see `has_room`)."""
    return 3 * nodes + 5 * task_slots


def allocate(scenario: Scenario, num_envs: int, *, task_slots: int, log_rows: int = 0) -> State:
    """Return the arrays of `num_envs` environments, not yet reset.

    Args:
        scenario: what the environments share.
        num_envs: E, at least 1.
        task_slots: T, the number of tasks that fit into each environment at once; `grow` makes more.
        log_rows: L, the number of tasks that are logged; 0 switches the log off, otherwise `grow` makes more.
    """
    nodes, links = len(scenario.node), len(scenario.link)
    kept = remembered_broadcasts(scenario)
    hops = int(scenario.settings[0]["max_hops"])
    varying = bool(scenario.arrivals[0]["parameters_vary"])
    setups = len(scenario.setup_s)
    outlook = int(scenario.settings[0]["outlook"])
    sharing = bool((scenario.node["concurrency"] > scenario.node["servers"]).any())
    channels = bool((scenario.link_law["channel"] != NONE).any())
    return State(
        episode=np.zeros(num_envs, EPISODE),
        node=np.zeros((num_envs, nodes), NODE_STATE),
        sharing=np.zeros((num_envs, nodes if sharing else 0), CORE_SHARING),
        usage=np.zeros((num_envs, nodes), USAGE),
        client=np.zeros((num_envs, nodes), CLIENT_STATE),
        distribution=np.repeat(scenario.distribution[None], num_envs if varying else 1, axis=0),
        server=np.zeros((num_envs, 3, servers_of(scenario))),
        link=np.zeros((num_envs, links), LINK_STATE),
        channel=np.zeros((num_envs, links if channels else 0), CHANNEL),
        message=np.zeros((num_envs, task_slots if channels else 0), MESSAGE),
        moving=np.zeros((num_envs, len(scenario.moving)), MOVING_STATE),
        warm=np.zeros((num_envs, nodes if setups else 0, setups), WARM),
        broadcast_warm=np.zeros((num_envs, nodes if setups else 0, kept), np.uint64),
        outlook=np.zeros((num_envs, nodes if outlook else 0, outlook), np.float32),
        broadcast_outlook=np.zeros((num_envs, nodes if outlook else 0, kept, outlook), np.float32),
        broadcast=np.zeros((num_envs, nodes, kept), BROADCAST),
        broadcast_link=np.zeros((num_envs, links, kept), BROADCAST_LINK),
        task=np.zeros((num_envs, task_slots), TASK),
        path=np.zeros((num_envs, task_slots, max(hops, 1)), np.int32),
        leg=np.zeros((num_envs, task_slots if len(scenario.leg) else 0), np.int32),
        free=np.zeros((num_envs, task_slots * (2 if sharing else 1)), np.int32),
        heap=np.zeros((num_envs, heap_size(nodes, task_slots)), EVENT),
        bucket=np.zeros((num_envs, buckets_of_expiries(scenario)), np.int32),
        metrics=np.zeros((num_envs, len(scenario.type_weight)), METRICS),
        histogram=np.zeros((num_envs, len(scenario.type_weight), 2, HISTOGRAM_BINS), np.uint32),
        log=np.zeros((num_envs, log_rows), LOG),
        cost=np.zeros((num_envs, nodes + 1, len(scenario.cost))),
        charged=np.zeros((num_envs, len(scenario.charge), nodes + 1)),
        weight=np.zeros((num_envs, len(scenario.weight))),
    )


def _extended(array: np.ndarray, size: int) -> np.ndarray:
    longer = np.zeros((array.shape[0], size, *array.shape[2:]), array.dtype)
    longer[:, : array.shape[1]] = array
    return longer


def _lacks_slots(state: State) -> np.ndarray:
    """Return [E] whether each environment needs more task slots before its next task."""
    episode, slots = state.episode, state.task.shape[1]
    expiries, overdue = episode["expiries_in_heap"] >= 2 * slots, episode["overdue_in_heap"] >= slots
    return (episode["free_slots"] == 0) | expiries | overdue


def _lacks_rows(state: State) -> np.ndarray:
    """Return [E] whether each environment needs more log rows before its next task."""
    rows = state.log.shape[1]
    return (rows > 0) & (state.episode["tasks_made"] >= rows)


def lacks_room(state: State, e: int) -> bool:
    """Return whether environment `e` has no room for another task: the opposite of `loop.has_room`, for Python."""
    return bool(_lacks_slots(state)[e] or _lacks_rows(state)[e])


def task_bytes(state: State) -> int:
    """Return the size of the arrays that `grow` doubles."""
    doubled = (state.task, state.message, state.path, state.leg, state.free, state.heap, state.log)
    return sum(array.nbytes for array in doubled)


def grow(scenario: Scenario, state: State) -> State:
    """Return the same state with twice the task slots, or the log rows, or both: of what an environment has run out of.

    The new slots lie below the old ones on the stack of free slots: an environment uses the same slots in the same
    order whether it was another environment or itself that needed more room.
    """
    if _lacks_rows(state).any():
        state = state._replace(log=_extended(state.log, 2 * state.log.shape[1]))
    if not _lacks_slots(state).any():
        return state
    old = state.task.shape[1]
    slots = 2 * old
    free = _extended(state.free, 2 * state.free.shape[1])
    for e, episode in enumerate(state.episode):
        used = int(episode["free_slots"])
        free[e, :old] = np.arange(slots - 1, old - 1, -1)
        free[e, old : old + used] = state.free[e, :used]
    state.episode["free_slots"] += old
    message = state.message
    if message.shape[1]:
        message = _extended(message, slots)
        message["link"][:, old:] = NONE
    return state._replace(
        task=_extended(state.task, slots),
        message=message,
        path=_extended(state.path, slots),
        leg=_extended(state.leg, slots) if state.leg.shape[1] else state.leg,
        free=free,
        heap=_extended(state.heap, heap_size(scenario.node.shape[-1], slots)),
    )


def fit(scenario: Scenario, state: State) -> State:
    """Return the same state with room for the links and servers of `scenario` and for the broadcasts on their way.

    Call it before the reset of an environment whose network was drawn again.
    """
    links, kept = len(scenario.link), remembered_broadcasts(scenario)
    if links > state.link.shape[1]:
        state = state._replace(link=_extended(state.link, links), broadcast_link=_extended(state.broadcast_link, links))
        if state.channel.shape[1]:
            state = state._replace(channel=_extended(state.channel, links))
    more = servers_of(scenario) - state.server.shape[2]
    if more > 0:
        state = state._replace(server=np.pad(state.server, ((0, 0), (0, 0), (0, more))))
    have = state.broadcast.shape[2]
    if kept > have:
        # The places of broadcasts follow from their numbers modulo the room, so those that are remembered move.
        state = state._replace(
            broadcast=_spread(state.broadcast, kept, state.node["unsaved_turn"]),
            broadcast_warm=_spread(state.broadcast_warm, kept, state.node["unsaved_turn"][:, : state.warm.shape[1]]),
            broadcast_outlook=_spread(
                state.broadcast_outlook, kept, state.node["unsaved_turn"][:, : state.outlook.shape[1]]
            ),
            broadcast_link=_spread(state.broadcast_link, kept, state.link["unsaved_turn"]),
        )
    return state


def _spread(array: np.ndarray, kept: int, unsaved: np.ndarray) -> np.ndarray:
    """Return [E, n, have, ...] in [E, n, kept, ...] places: those of the turns before the first that is not saved."""
    have = array.shape[2]
    wider = np.zeros((*array.shape[:2], kept, *array.shape[3:]), array.dtype)
    for back in range(1, have + 1):
        e, n = np.nonzero(unsaved >= back)
        turn = unsaved[e, n] - back
        wider[e, n, turn % kept] = array[e, n, turn % have]
    return wider


def clear(state: State, environments: np.ndarray) -> None:
    """Forget all that has happened in some environments; `start` begins their next episodes."""
    for array in (
        state.episode,
        state.node,
        state.sharing,
        state.usage,
        state.client,
        state.server,
        state.warm,
        state.outlook,
        state.link,
        state.channel,
        state.moving,
        state.metrics,
        state.histogram,
        state.cost,
        state.charged,
    ):
        # As bytes: numpy sets records field by field.
        in_bytes = array[..., np.newaxis].view(np.uint8)
        for e in environments:
            in_bytes[e] = 0
    state.bucket[environments] = NONE


def reset(scenario: Scenario, state: State, environments: np.ndarray, keys: np.ndarray) -> None:
    """Start a new episode in some environments; nothing has happened yet.

    Args:
        scenario: of the batch (see `types.Scenario`).
        state: changed in place.
        environments: [e] int64, which ones.
        keys: [e] uint64, one episode key each (see `streams.episode_key`).
    """
    clear(state, environments)
    start(scenario, state, environments, keys)


def run_first_instant(scenario: Scenario, state: State, environments: np.ndarray) -> State:
    """Run what happens at 0 s in environments that have just been reset: before the first decision of a clock.

    Returns:
        The state, grown if more recorded tasks arrive at 0 s than it has room for.
    """
    # Only rows of a recording arrive at the very start; without any, nothing is compiled for it.
    first_s = state.heap["time_s"][environments, 0]
    at_start = environments[(state.episode["heap_size"][environments] > 0) & (first_s <= 0.0)]
    done = 0
    while done < len(at_start):
        done = _run_start(scenario, state, at_start, done)
        if done < len(at_start):
            state = grow(scenario, state)
    return state


@kernel
def _run_start(scenarios, state, environments, first):
    """Run the events at 0 s, from environment number `first` on; return the first that needs room, or their number."""
    for i in range(first, environments.shape[0]):
        e = environments[i]
        if run_until(scenario_of(scenarios, e), env_slice(state, e), 0.0) == UNFINISHED:
            return i
    return environments.shape[0]


@kernel
def start(scenarios, state, environments, keys):
    """Begin episodes in environments that were cleared; arguments as `reset`.

    Set what does not start at zero; schedule every client's first task and every node's first failure.
    """
    for i in range(environments.shape[0]):
        scenario = scenario_of(scenarios, environments[i])
        environment = env_slice(state, environments[i])
        environment.episode[0].key = keys[i]
        environment.episode[0].deciding = NONE
        # Of a single bucket, every expiry is an event at once.
        environment.episode[0].bucket_end_s = np.inf
        if environment.bucket.shape[0] > 1:
            environment.episode[0].bucket_end_s = scenario.settings[0].bucket_s
        slots = environment.task.shape[0]
        environment.episode[0].free_slots = slots
        for slot in range(slots):
            environment.task[slot].stage = FREE
            environment.free[slot] = slots - 1 - slot
        for n in range(environment.node.shape[0]):
            node = environment.node[n]
            node.held_head = NONE
            node.held_tail = NONE
            node.queue_head = NONE
            node.queue_tail = NONE
            node.received_head = NONE
            node.received_tail = NONE
            node.overdue_s = np.inf
            node.key = node_key(keys[i], scenario.node[n].name_hash)
            node.phase_s = (
                uniform(stream(node.key, streams.BROADCAST_PHASE), 0) * scenario.settings[0].broadcast_interval_s
            )
            schedule_broadcasts(scenario, environment, n)
        if has_extensions(scenario):
            begin_clocks(environment.sharing)
            begin_channels(environment)
        begin_episode(scenario, environment)
        if has_extensions(scenario):
            begin_changes(scenario, environment)
            begin_weights(scenario, environment)
        for n in range(environment.node.shape[0]):
            node = environment.node[n]
            if scenario.node[n].arrival_rate > 0.0:
                time_s = next_arrival(scenario, environment, n, 0.0)
                if time_s <= scenario.settings[0].horizon_s:
                    push(environment, time_s, event_key(ARRIVAL, n, 0), NONE)
            node.failure_s = np.inf
            if has_extensions(scenario) and scenario.failure_law[n].fails:
                schedule_failure(scenario, environment, n, 0.0)
            # A node that works at any time, the cloud, has a moment in each tick for its broadcast.
            broadcasts = scenario.settings[0].broadcast_interval_s > 0.0
            if has_ticks(scenario) and (scenario.node[n].works_in_ticks or broadcasts):
                schedule_work(scenario, environment, n, 1)
