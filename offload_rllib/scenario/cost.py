"""The cost of an episode, estimated before it is played: tasks, events, memory, and decisions in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.workload.arrivals import BurstyRate, LinearRate, UniformRate, ZigzagRate
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology.size import physical_memory_bytes
from offload_rllib.scenario.workload.load import OfferedLoad
from offload_rllib.simulator import arrivals as kinds
from offload_rllib.simulator.state import remembered_broadcasts
from offload_rllib.simulator.types import EVENT, TASK, Scenario

# A task arrives, is sent, served and returned: about so many events.
EVENTS_PER_TASK = 5
# At about a million events a second these are hours, which are rarely intended, and minutes.
MOST_EVENTS = 10_000_000_000
MANY_EVENTS = 100_000_000
# Broadcasts of a node that are on their way at once.
MOST_REMEMBERED = 2**16


@dataclass(frozen=True)
class Cost:
    """The expected cost of one episode, at the highest load that an episode may draw."""

    tasks: float
    """Tasks created, on average."""
    events: float
    """Events that the simulator processes: arrivals, transfers, services, failures."""
    events_of: str
    """The key that causes most of the events."""
    task_slots: int
    """A first guess of the tasks inside at once, for the size of the arrays; they grow when it is too low."""
    task_bytes: float
    """Memory of the tasks that accumulate in one environment."""
    tasks_per_interval: float
    """Tasks that clients bring to the busiest deciding node between two of its decisions."""
    busiest: str
    """The name of that node."""


NOTHING = Cost(0.0, 0.0, "", 0, 0.0, 0.0, "")


def expected_cost(config: EnvironmentConfig, network: Network, arrays: Scenario, load: OfferedLoad) -> Cost:
    """Return the expected cost of an episode."""
    settings, arrivals = arrays.settings[0], arrays.arrivals[0]
    horizon_s = config.horizon_s
    # The rates of a recording are those of its rows; its range is one of speeds, and means that already.
    highest = 1.0 if arrivals["kind"] == kinds.RECORDING else float(arrivals["rate_to"])
    rate = float(arrays.node["arrival_rate"].sum()) * highest
    tasks = rate * horizon_s
    events = {"workload": tasks * EVENTS_PER_TASK} | _other_events(config, network)
    entering = np.array(load.entry_rates) * highest
    deciding = arrays.agent_node
    busiest = int(deciding[np.argmax(entering[deciding])])
    per_interval = float(entering[busiest]) * config.decisions.interval_s
    # Tasks that are neither decided nor served in time accumulate, unless deadlines or bounded queues end them.
    undecided = max(0.0, 1 - config.decisions.tasks_per_decision / per_interval) if per_interval > 0 else 0.0
    unserved = max(0.0, 1 - 1 / (load.rho_of_all_tasks * highest)) if load.rho_of_all_tasks > 0 else 0.0
    bounds = [tasks * max(undecided, unserved)]
    if config.deadlines.expiry != "never" and load.mean_deadline_s is not None:
        bounds.append(rate * (load.mean_deadline_s + config.deadlines.grace_s))
    if all(node.queue_capacity is not None for node in network.nodes):
        bounds.append(float(sum(node.queue_capacity or 0 for node in network.nodes)))
    stay_s = load.mean_deadline_s if load.mean_deadline_s is not None else 8 * load.mean_work / load.capacity
    per_task = TASK.itemsize + 4 * (int(settings["max_hops"]) + 1) + 3 * EVENT.itemsize
    return Cost(
        tasks=tasks,
        events=sum(events.values()),
        events_of=max(events, key=lambda key: events[key]),
        task_slots=int(np.clip(rate * stay_s, 2 * len(network.nodes), 2**16)) + 16,
        task_bytes=min(bounds) * per_task,
        tasks_per_interval=per_interval,
        busiest=network.nodes[busiest].name,
    )


def _other_events(config: EnvironmentConfig, network: Network) -> dict[str, float]:
    """Return the number of events of an episode that are not tasks, by the key that causes them."""
    count = len(network.nodes)
    clients = sum(node.client for node in network.nodes)
    events = {}
    if config.tick_s is not None:
        events["tick_s"] = count * config.horizon_s / config.tick_s
    for position, law in enumerate(config.failures.laws if config.failures is not None else ()):
        cycle_s = law.time_to_failure_s.mean + law.time_to_repair_s.mean
        events[f"failures.laws.{position}"] = 2 * count * config.horizon_s / cycle_s
    arrivals = config.workload.arrivals
    if isinstance(arrivals, ZigzagRate):
        events["workload.arrivals.period_s"] = 2 * clients * config.horizon_s / arrivals.period_s
    elif isinstance(arrivals, UniformRate):
        events["workload.arrivals.slot_s"] = clients * config.horizon_s / arrivals.slot_s
    elif isinstance(arrivals, BurstyRate):
        shortest_s = min(state.mean_s for state in arrivals.states)
        events["workload.arrivals.states"] = clients * config.horizon_s / shortest_s
    elif isinstance(arrivals, LinearRate):
        events["workload.arrivals.ramp_s"] = 2.0 * clients
    return events


def check_cost(cost: Cost, arrays: Scenario) -> None:
    """Reject an environment whose episodes would not end, or not fit into memory.

    Raises:
        ConfigError: they would not.
    """
    remembered = remembered_broadcasts(arrays)
    if remembered > MOST_REMEMBERED:
        raise ConfigError(
            f"information.interval_s: {arrays.settings[0]['broadcast_interval_s']:g} is so short that about "
            f"{remembered:,} broadcasts of a node are on their way at once over the slowest link "
            f"({arrays.link['broadcast_delay_s'].max():g} s); at most {MOST_REMEMBERED:,} can be remembered"
        )
    if not cost.events <= MOST_EVENTS:
        raise ConfigError(
            f"{cost.events_of}: about {cost.events:.2g} events in an episode ({cost.tasks:.2g} tasks); at most "
            f"{MOST_EVENTS:.0e} can be simulated, which takes hours. Lower the load, shorten horizon_s, or make what "
            "the key says less frequent"
        )
    memory = physical_memory_bytes()
    if not cost.task_bytes <= memory:
        raise ConfigError(
            f"workload: the tasks that gather in an episode need about {cost.task_bytes / 2**30:,.0f} GiB, and this "
            f"machine has {memory / 2**30:,.0f} GiB; lower the load, or give deadlines or bounded queues"
        )


def notes_of_cost(cost: Cost) -> tuple[str, ...]:
    """Return warnings for users who train on an environment."""
    notes = []
    if cost.events > MANY_EVENTS:
        notes.append(
            f"an episode has about {cost.events:.2g} events, most of them by {cost.events_of}: it takes minutes to play"
        )
    if cost.tasks < 1:
        notes.append(
            f"an episode has {cost.tasks:.2g} tasks on average: most have none, and nothing can be said of those; "
            "raise workload.load or horizon_s"
        )
    return tuple(notes)


def note_of_capacity(cost: Cost, config: EnvironmentConfig) -> str:
    """Return a warning if the busiest node cannot decide as many tasks as reach it; otherwise nothing."""
    decided = config.decisions.tasks_per_decision
    if config.decisions.offer != "arrival" or cost.tasks_per_interval < decided:
        return ""
    return (
        f"decisions cannot keep up: {cost.tasks_per_interval:.3g} tasks reach '{cost.busiest}' between two of them "
        f"(decisions.interval_s: {config.decisions.interval_s:g}), of which it decides {decided} "
        "(decisions.tasks_per_decision); the others are held ever longer, whatever the policy"
    )
