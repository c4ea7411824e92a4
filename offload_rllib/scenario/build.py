"""From an environment's configuration to the arrays of the simulator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import nearest
from offload_rllib.config.workload.arrivals import Replay
from offload_rllib.scenario.channels import rate_changes, write_channels
from offload_rllib.scenario.checks import check_channels, check_keys
from offload_rllib.scenario.cloud import with_cloud
from offload_rllib.scenario.cost import NOTHING, Cost, check_cost, expected_cost, note_of_capacity, notes_of_cost
from offload_rllib.scenario.destinations import destination_rows, hops_of_tasks, offered_links
from offload_rllib.scenario.failures import failure_laws, powers, prices
from offload_rllib.scenario.links import link_arrays, link_directions
from offload_rllib.scenario.mobility import attached, moving_arrays, moving_nodes, with_access
from offload_rllib.scenario.network import Network, Node
from offload_rllib.scenario.objectives import charges, objective_weights
from offload_rllib.scenario.processors import check_entries, check_processors, leading_to_processors, onward_routes
from offload_rllib.scenario.routes import check_routed, routes_of
from offload_rllib.scenario.score import check_drop_penalty
from offload_rllib.scenario.setups import keep_warm_s_of, setup_times, slots_of
from offload_rllib.scenario.topology import build_network, most_neighbours, resamples
from offload_rllib.scenario.workload.arriving import BuiltWorkload, arriving_tasks
from offload_rllib.scenario.workload.load import OfferedLoad, offered_load
from offload_rllib.scenario.workload.rates import clock_of
from offload_rllib.simulator.heap import MAX_NODES
from offload_rllib.simulator.heuristics import (
    ADMIT_IF_IN_TIME,
    ALWAYS_CLOUD,
    AS_RECORDED,
    HEURISTICS,
    LEAST_COST,
    is_rule,
    parse_rule,
)
from offload_rllib.simulator.streams import stable_hash
from offload_rllib.simulator.types import (
    EDF,
    ENERGY_NONE,
    ENERGY_PEERSIMGYM,
    ENERGY_POWER,
    EXPIRY_ABORT,
    EXPIRY_NEVER,
    EXPIRY_QUEUED,
    FAILURES_NONE,
    FIFO,
    LIFO,
    NODE,
    NONE,
    OFFER_ARRIVAL,
    OFFER_NEWEST,
    OUTCOMES,
    OUTLOOK,
    PRIORITY,
    SETTINGS,
    SJF,
    TASKS_LOST,
    TASKS_RETURNED,
    UNBOUNDED,
    Scenario,
)
from offload_rllib.simulator.variants import variant

QUEUE = {"fifo": FIFO, "lifo": LIFO, "edf": EDF, "sjf": SJF, "priority": PRIORITY}
OFFER = {"arrival": OFFER_ARRIVAL, "newest": OFFER_NEWEST}
EXPIRY = {"abort": EXPIRY_ABORT, "queued": EXPIRY_QUEUED, "never": EXPIRY_NEVER}
ENERGY = {"power": ENERGY_POWER, "peersimgym": ENERGY_PEERSIMGYM}
# Of expiries (`simulator.deadlines`), in a mean deadline and in an episode.
BUCKETS_PER_DEADLINE = 32
LARGEST_BUCKETS = 2**16
# The rule of nodes that send nothing on.
KEEPS_ALL = "local"
FAILURES = {"lost": TASKS_LOST, "returned": TASKS_RETURNED}


@dataclass(frozen=True)
class BuiltScenario:
    """A scenario: its configuration, its network in words, its load, and its arrays."""

    config: EnvironmentConfig
    network: Network
    load: OfferedLoad
    arrays: Scenario
    agents: tuple[str, ...]
    """Names of the nodes that are agents, in the order of the arrays."""
    arriving: BuiltWorkload
    """The workload. It stays the same where episodes draw other networks: its files are read once."""
    mean_deadline_s: float | None
    """Mean relative deadline of the tasks that have one; None if none has."""
    ways: tuple[np.ndarray, ...] = ()
    """Of each path behind the links of the network, the links that it is made of (`routes`)."""
    others: tuple[str, ...] = ()
    """Names of the nodes that decide by the rule `agents.others`; they follow the agents in the arrays."""
    cost: Cost = NOTHING
    """The expected cost of an episode on this machine."""
    notes: tuple[str, ...] = ()
    """Notes on the data, e.g. rows that were left out."""


def _nodes(
    config: EnvironmentConfig, network: Network, link: np.ndarray, rates: np.ndarray, mean_bits_in: float
) -> np.ndarray:
    node = np.zeros(len(network.nodes), NODE)
    first = np.searchsorted(link["source"], np.arange(len(network.nodes) + 1))
    for i, described in enumerate(network.nodes):
        pooled = config.service == "pooled" and not described.cloud
        node[i]["name_hash"] = stable_hash(described.name)
        servers = 1 if pooled or described.speed <= 0 else described.cores
        node[i]["core_speed"] = described.speed if pooled else described.core_speed
        node[i]["servers"] = servers
        node[i]["concurrency"] = _concurrency(config, described, servers)
        node[i]["speed"] = described.speed
        node[i]["seconds_per_instruction"] = _seconds_per_instruction(config, described)
        node[i]["capacity"] = UNBOUNDED if described.queue_capacity is None else described.queue_capacity
        bits = described.queue_capacity_bits
        node[i]["capacity_bits"] = np.inf if bits is None else bits
        node[i]["room"] = np.inf if described.queue_capacity is None else described.queue_capacity
        if bits is not None and mean_bits_in > 0:
            node[i]["room"] = min(node[i]["room"], bits / mean_bits_in)
        node[i]["queue"] = QUEUE[config.cloud.queue if config.cloud and described.cloud else config.queue]
        node[i]["cloud"] = described.cloud
        node[i]["works_in_ticks"] = config.tick_s is not None and not described.cloud
        node[i]["arrival_rate"] = rates[i]
        node[i]["agent"] = NONE
        node[i]["first_link"] = first[i]
        node[i]["degree"] = first[i + 1] - first[i]
    node["first_server"] = np.cumsum(node["servers"]) - node["servers"]
    return node


def _seconds_per_instruction(config: EnvironmentConfig, described: Node) -> float:
    """Return the seconds that an instruction of a task alone at a node takes; infinite without a processor."""
    speed = described.speed if config.service == "pooled" and not described.cloud else described.core_speed
    return 1 / speed if speed > 0 else math.inf


def _concurrency(config: EnvironmentConfig, described: Node, servers: int) -> int:
    """Return the number of tasks that a node serves at once."""
    given = config.cloud if config.cloud is not None and described.cloud else config
    if given.service != "shared" or described.speed <= 0:
        return servers
    return UNBOUNDED if given.tasks_per_core is None else min(given.tasks_per_core * servers, UNBOUNDED)


def _deciding_nodes(
    config: EnvironmentConfig, network: Network, entries: np.ndarray, link: np.ndarray, offered: np.ndarray
) -> list[int]:
    """Return the nodes that a task can enter with a hop left, and that have a neighbour to send it to.

    Where every episode draws its network, these are all nodes except the cloud: any may be one of them in some episode.
    """
    cloud = np.array([node.cloud for node in network.nodes])
    if resamples(config.topology):
        return np.flatnonzero(~cloud).tolist()
    count, hops = len(cloud), config.decisions.max_hops - 1
    reached = hops_of_tasks(entries, link, offered & ~cloud[link["source"]], count, hops) <= hops
    has_choice = np.bincount(link["source"][offered], minlength=count) > 0
    return np.flatnonzero(reached & has_choice & ~cloud).tolist()


def _used_links(
    config: EnvironmentConfig,
    network: Network,
    link: np.ndarray,
    offered: np.ndarray,
    agents: list[int],
    others: list[int],
) -> np.ndarray:
    """Return [M] bool: the links that tasks may be sent over, those offered to nodes that do not keep all tasks."""
    keeping = config.agents.others == KEEPS_ALL
    sending = agents + [i for i in others if not keeping or network.nodes[i].speed <= 0]
    return offered & np.isin(link["source"], sending)


def _split_deciders(config: EnvironmentConfig, network: Network, deciding: list[int]) -> tuple[list[int], list[int]]:
    """Return which of the deciding nodes are agents, and which follow the rule `agents.others`.

    Raises:
        ConfigError: `agents` names a node or type that does not exist or has no choice, or an unknown rule.
    """
    chosen = config.agents
    if chosen.types is not None:
        types = {network.nodes[i].type for i in deciding}
        for kind in chosen.types:
            if kind not in types:
                raise ConfigError(f"agents.types: no node of type '{kind}' has a choice.{nearest(kind, types)}")
        agents = [i for i in deciding if network.nodes[i].type in chosen.types]
    elif chosen.nodes is not None:
        index = {network.nodes[i].name: i for i in deciding}
        for name in chosen.nodes:
            if name not in index:
                known = any(node.name == name for node in network.nodes)
                what = "no task reaches it with a hop left" if known else "there is no such node"
                raise ConfigError(f"agents.nodes: '{name}' cannot be an agent: {what}.{nearest(name, index)}")
        agents = sorted(index[name] for name in chosen.nodes)
    else:
        return deciding, []
    if is_rule(chosen.others):
        check_rule(chosen.others, "agents.others", config)
    return agents, [i for i in deciding if i not in set(agents)]


def check_rule(text: str, where: str, config: EnvironmentConfig | None = None, *, beside: Sequence[str] = ()) -> None:
    """Check the name and the parameter of a heuristic, and that it makes sense in an environment.

    Args:
        text: the heuristic.
        where: what the message begins with.
        config: of the environment.
        beside: other texts that would have been accepted, for the message.

    Raises:
        ConfigError: there is no such rule, it takes no such parameter, or the environment lacks what it needs.
    """
    try:
        code, _ = parse_rule(text)
    except KeyError as error:
        raise ConfigError(
            f"{where}: '{text}' is not a heuristic, nor a function package.module:function."
            f"{nearest(text.partition(':')[0], [*HEURISTICS, *beside])}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    lacking = _lacking(code, config) if config is not None else ""
    if lacking:
        raise ConfigError(f"{where}: '{text}' needs {lacking}")


def _lacking(code: int, config: EnvironmentConfig) -> str:
    """Return what a rule needs and an environment has not; empty if it has all."""
    arrivals = config.workload.arrivals
    if code == ALWAYS_CLOUD and config.cloud is None:
        return "a cloud, and this environment has none (key cloud)"
    if code == ADMIT_IF_IN_TIME and not (config.decisions.reject and config.workload.has_deadlines):
        return "decisions.reject: true, and deadlines"
    if code == LEAST_COST and not (config.reward.energy_weight or config.reward.price_weight):
        return "energy or a price in the reward (reward.energy_weight, reward.price_weight)"
    if code == AS_RECORDED and not (isinstance(arrivals, Replay) and arrivals.columns.destination):
        return (
            "recorded destinations, and this environment has none (workload.arrivals.kind: replay, columns.destination)"
        )
    return ""


def fitting_rules(config: EnvironmentConfig) -> tuple[str, ...]:
    """Return the names of the heuristics that make sense in an environment: all that `check_rule` accepts there."""
    return tuple(name for name, rule in HEURISTICS.items() if not _lacking(rule.code, config))


def _settings(config: EnvironmentConfig, network: Network, arriving: BuiltWorkload, load: OfferedLoad) -> np.ndarray:
    deadline_s = arriving.demand.mean_deadline_s
    fastest = max(node.speed for node in network.nodes)
    at_the_edge = [node.speed for node in network.nodes if node.speed > 0 and not node.cloud] or [fastest]
    average = math.fsum(at_the_edge) / len(at_the_edge)  # whatever the order of the nodes
    settings = np.zeros(1, SETTINGS)
    record = settings[0]
    record["decision_interval_s"] = config.decisions.interval_s
    record["horizon_s"] = config.horizon_s
    clocked = config.decisions.when == "interval"
    record["steps"] = round(config.horizon_s / config.decisions.interval_s) if clocked else 0
    record["bucket_s"] = _bucket_width(config.horizon_s, deadline_s)
    record["score_from_s"] = config.warmup_s
    record["score_until_s"] = config.horizon_s - config.drain_s
    record["broadcast_interval_s"] = 0.0 if config.information.kind == "fresh" else config.information.interval_s
    record["expiry_grace_s"] = config.deadlines.grace_s
    record["drop_s"] = config.score.drop_s or 0.0
    record["tick_s"] = config.tick_s or 0.0
    record["ticks_in_order"] = config.tick_order == "fixed"
    record["rejects"] = config.decisions.reject
    record["slots"], record["keep_warm_s"] = slots_of(config), keep_warm_s_of(config)
    record["outlook"] = OUTLOOK if config.information.embedding else 0
    record["offer"] = OFFER[config.decisions.offer]
    record["max_hops"] = config.decisions.max_hops
    record["expiry"] = EXPIRY[config.deadlines.expiry]
    record["failures"] = FAILURES_NONE if config.failures is None else FAILURES[config.failures.tasks]
    record["energy"] = ENERGY_NONE if config.energy is None else ENERGY[config.energy.kind]
    record["has_deadline"] = deadline_s is not None
    # Scales at which an observation shows 0.5. A quarter of the deadline, or four mean services without one,
    # is about the response time at moderate load in the presets.
    typical_s = deadline_s / 4 if deadline_s is not None else 4 * load.mean_work / average
    record["time_scale_s"] = max(typical_s, config.decisions.interval_s)
    record["work_scale"] = max(record["time_scale_s"] * average, 1.0)
    record["bits_scale"] = max(float(arriving.demand.mean[1:].mean()), 1.0)
    record["max_speed"] = fastest
    record["mean_work"] = load.mean_work
    record["mean_service_s"] = load.mean_work / average
    record["mean_bits_in"] = float(arriving.demand.mean[1])
    record["clock_period_s"], record["clock_phase"] = clock_of(arriving.shape.record[0], config.horizon_s)
    return settings


def _bucket_width(horizon_s: float, deadline_s: float | None) -> float:
    """Return the width of the buckets in which expiries are filed: short beside deadlines, few in an episode."""
    if deadline_s is None:
        return horizon_s
    return horizon_s / min(max(math.ceil(BUCKETS_PER_DEADLINE * horizon_s / deadline_s), 1), LARGEST_BUCKETS)


def _arriving(config: EnvironmentConfig, network: Network, like: BuiltScenario | None) -> BuiltWorkload:
    """Return the workload: that of another episode if its clients are the same, whatever the links and speeds."""

    def clients(of: Network) -> list[tuple[str, str, bool, bool]]:
        return [(node.name, node.type, node.client, node.cloud) for node in of.nodes]

    if like is not None and clients(network) == clients(like.network):
        return like.arriving
    return arriving_tasks(config, network)


def _notes_of_cost(cost: Cost, config: EnvironmentConfig) -> tuple[str, ...]:
    capacity = note_of_capacity(cost, config)
    return (*notes_of_cost(cost), *([capacity] if capacity else []))


def build_scenario(
    config: EnvironmentConfig, episode_key: int | None = None, like: BuiltScenario | None = None
) -> BuiltScenario:
    """Return the scenario of a configuration.

    Args:
        config: the environment.
        episode_key: with `topology.resample: episode`, of the episode whose network to draw; None: the network of the
            topology's seed alone, of the same nodes and sizes as all others.
        like: that of another episode, whose workload is taken over if the same clients sit on the same nodes.

    Raises:
        ConfigError: the parts do not fit together; the message names them.
    """
    made = build_network(config.topology, episode_key if resamples(config.topology) else None)
    network = with_access(config, with_cloud(config.cloud, made))
    if len(network.nodes) > MAX_NODES:
        raise ConfigError(f"topology: {len(network.nodes)} nodes; at most {MAX_NODES} can be simulated")
    check_keys(config)
    check_processors(config, network)
    check_routed(config)
    directions = link_directions(config, network)
    link, link_law = link_arrays(config, network, directions)
    moving = moving_nodes(config, network)
    throughput = write_channels(directions, network, moving, link, link_law)
    changes = rate_changes(directions, network, link_law, config.horizon_s)
    arriving = _arriving(config, network, like)
    check_drop_penalty(
        config, network, all_have_deadlines=arriving.demand.all_have_deadlines, drawn=episode_key is not None
    )
    check_channels(config, link_law)
    entries, max_hops = np.flatnonzero(arriving.entries.share), config.decisions.max_hops
    seconds_per_instruction = np.array([_seconds_per_instruction(config, node) for node in network.nodes])
    work, bits_in, bits_out = arriving.demand.mean.tolist()
    own_link, routes = link, routes_of(config, network, link, link_law, entries, bits_in)
    link, link_law = routes.link, routes.law
    limit = config.decisions.max_destinations
    offered = offered_links(link, link_law, routes.offered, len(network.nodes), limit, moving)
    onward = onward_routes(seconds_per_instruction, link, offered, (work, bits_in, bits_out), max_hops)
    check_entries(onward, entries, network, max_hops)
    offered = leading_to_processors(onward, link, offered, max_hops)
    deciding = _deciding_nodes(config, network, entries, link, offered)
    if not deciding:
        raise ConfigError("topology: no node has a choice: a client needs a neighbour to send tasks to")
    if arriving.recording is not None:
        arriving.recording.check_destinations(network, link[offered & np.isin(link["source"], deciding)])
    agents, others = _split_deciders(config, network, deciding)
    used = _used_links(config, network, link, offered, agents, others)
    rate = like.load.rate_per_client if like is not None else None
    load = offered_load(config, network, link, used, arriving.demand, arriving.entries, rate)
    if not load.mean_work > 0:
        raise ConfigError("workload.jobs: tasks need no instructions at all, so no load is defined")
    rates = load.rate_per_client * arriving.entries.client_rate
    node = _nodes(config, network, own_link, rates, float(arriving.demand.mean[1]))
    deciding = agents + others
    node["agent"][deciding] = np.arange(len(deciding))
    setup_s = setup_times(config, network, arriving.types)
    padded_to = most_neighbours(config.topology, network, limit) if resamples(config.topology) else 0
    power, price, weight = powers(config, network), prices(config, network), objective_weights(config)
    unusual = (
        config.failures is not None
        or config.energy is not None
        or config.price is not None
        or config.decisions.offer != "arrival"
        or not link["plain"].all()
        or not (node["queue"] == FIFO).all()
        or (node["concurrency"] > node["servers"]).any()
        or np.isfinite(node["capacity_bits"]).any()
        or len(moving) > 0
        or config.decisions.reject
        or config.information.embedding > 0
        or len(routes.first_leg) > 0
        or len(onward) + len(setup_s) + len(weight) > 0
    )
    arrays = Scenario(
        variant=variant(full=bool(unusual), ticks=config.tick_s is not None, nodes=len(network.nodes)),
        settings=_settings(config, network, arriving, load),
        node=node,
        link=link,
        link_law=link_law,
        failure_law=failure_laws(config, network),
        power=power,
        price=price,
        charge=charges(config, power, price),
        weight=weight,
        throughput=throughput,
        rate_change=changes,
        **vars(moving_arrays(config, network, moving, directions)),
        agent_node=np.array(deciding, np.int32),
        destination=destination_rows(
            link, attached(network, moving, link, offered), deciding, padded_to, rejects=config.decisions.reject
        ),
        first_leg=routes.first_leg,
        leg=routes.leg,
        setup_s=setup_s,
        onward=onward,
        cost=np.zeros((0, len(arriving.weights), OUTCOMES)),
        **arriving.arrays(load),
    )
    # A network that an episode draws is only played, not shown.
    cost = expected_cost(config, network, arrays, load) if like is None else like.cost
    if like is None:
        check_cost(cost, arrays)
    names = [node.name for node in network.nodes]
    return BuiltScenario(
        config=config,
        network=network,
        load=load,
        arrays=arrays,
        agents=tuple(names[i] for i in agents),
        arriving=arriving,
        mean_deadline_s=arriving.demand.mean_deadline_s,
        ways=routes.ways,
        others=tuple(names[i] for i in others),
        cost=cost,
        notes=(*arriving.notes, *(_notes_of_cost(cost, config) if like is None else ())),
    )


def redrawn(scenario: BuiltScenario, episode_key: int) -> BuiltScenario:
    """Return the scenario of an episode that draws its own network.

    Raises:
        ConfigError: the draw has other nodes (only a function of the user can do that).
    """
    drawn = build_scenario(scenario.config, episode_key, scenario)
    if drawn.agents != scenario.agents:
        raise ConfigError(
            "topology.resample: episode: the network of an episode has other nodes than that of the seed alone; the "
            "names of the nodes and their order must be the same in every episode"
        )
    arrays, others = scenario.arrays, drawn.arrays
    by_client = len(arrays.recording) or len(arrays.rate_piece)
    if by_client and ((arrays.node["arrival_rate"] > 0) != (others.node["arrival_rate"] > 0)).any():
        raise ConfigError(
            "topology.resample: episode: the network of an episode has its clients at other nodes, and the arrivals "
            "are given for each client (a recording or a table)"
        )
    return drawn
