"""What there is in an episode of the reference: nodes, links, channels and paths, as the configuration says."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import simpy

from helpers.reference.arrivals import recorded_rows
from helpers.reference.clock import Clock, Meter
from helpers.reference.parts import Link, Node, Task
from helpers.reference.routes import shortest_paths
from helpers.reference.sharing import Message, SharedChannel, SharedCores
from offload_rllib.config.cloud import Cloud
from offload_rllib.config.duration import Duration
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.links import Fixed, LinkOverride
from offload_rllib.config.topology import Manual, ManualNode
from offload_rllib.config.workload import TaskMix
from offload_rllib.config.workload.arrivals import Replay
from offload_rllib.simulator import streams

LINK_KEYS = ("rate_bps", "latency_s", "jitter_s", "loss_probability", "contention", "channel")


def described_cloud(cloud: Cloud) -> ManualNode:
    """Return the cloud as if it were a node of a manual topology."""
    return ManualNode(name="cloud", instructions_per_second=cloud.instructions_per_second, cores=cloud.vms)


def given(override: LinkOverride) -> dict[str, Any]:
    """Return what an override changes; another medium must be `fixed`."""
    values: dict[str, Any] = {}
    if override.medium is not None:
        assert isinstance(override.medium, Fixed)
        values |= {name: getattr(override.medium, name) for name in LINK_KEYS}
    return values | {name: getattr(override, name) for name in LINK_KEYS if getattr(override, name) is not None}


class Network:
    """The parts of one episode, at its start."""

    def __init__(self, config: EnvironmentConfig, key: int, actions: np.ndarray):
        assert isinstance(config.topology, Manual)
        self.config = config
        self.key = np.uint64(key)
        self.actions = actions
        self.at_once = config.decisions.when == "arrival"
        self.clock = Clock()
        self.tasks: list[Task] = []
        self.channels: dict[tuple[str, str], simpy.Resource | SharedChannel] = {}
        self.shared: list[tuple[Node, Link, Message]] = []  # messages on shared channels
        described = list(config.topology.nodes)
        pairs = list(config.topology.links)
        if config.cloud is not None:
            described.append(described_cloud(config.cloud))
            pairs += [(name, "cloud") for name in config.cloud.access.nodes or [node.name for node in described[:-1]]]
        self.names = [node.name for node in described]
        self.links = {
            (self.names.index(a), self.names.index(b)): self._link(np.uint64(key), a, b)
            for pair in pairs
            for a, b in (pair, pair[::-1])
        }
        graph = nx.Graph(list(self.links))
        graph.add_nodes_from(range(len(described)))
        self.clients = sorted(i for i, node in enumerate(config.topology.nodes) if node.client)
        # Hops from the nearest client: a task that reaches a node later than that has no more hops left.
        entries = set(self.clients)
        if isinstance(config.workload.arrivals, Replay):
            names = [node.name for node in config.topology.nodes]
            rows = [row for i in self.clients for row in recorded_rows(config, np.uint64(key), names[i])]
            entries = {names.index(row.node) for row in rows}
        # Nothing gets anywhere through the cloud.
        passable = graph.subgraph(range(len(config.topology.nodes)))
        # What a transfer to another node crosses.
        self.routes = {pair: [pair] for pair in self.links}
        if config.decisions.destinations == "routed":
            self.routes = self._shortest_paths(graph, set(graph) - set(passable))
            graph = nx.DiGraph(list(self.routes))
            graph.add_nodes_from(range(len(described)))
            passable = graph.subgraph(range(len(config.topology.nodes)))
        distance = nx.multi_source_dijkstra_path_length(passable, entries)
        self.nodes = [
            self._node(
                node,
                np.uint64(key),
                sorted(graph[i]),
                decides=distance.get(i, config.decisions.max_hops) < config.decisions.max_hops,
            )
            for i, node in enumerate(described)
        ]
        self.agents = [i for i, node in enumerate(self.nodes) if node.decides]
        # The cloud works at any time.
        self.in_ticks = range(len(config.topology.nodes) if config.tick_s is not None else 0)

    def _shortest_paths(self, graph: nx.Graph, impassable: set[int]) -> dict[tuple[int, int], list[tuple[int, int]]]:
        jobs = self.config.workload.jobs
        assert isinstance(jobs, TaskMix)
        mean_bits = sum(kind.weight * kind.bits_in.mean for kind in jobs.types) / sum(
            kind.weight for kind in jobs.types
        )
        step_s = {pair: link.mean_latency_s + mean_bits / link.rate_bps for pair, link in self.links.items()}
        most = self.config.decisions.reach_hops or len(self.names)
        return shortest_paths(graph, step_s, self.names, impassable, most)

    def _link(self, key: np.uint64, a: str, b: str) -> Link:
        """Return the direction from `a` to `b`, with what overrides say of it by name."""
        base = self.config.links
        assert isinstance(base, Fixed)
        values: dict[str, Any] = {name: getattr(base, name) for name in LINK_KEYS}
        cloud = self.config.cloud
        if cloud is not None and "cloud" in (a, b):
            assert cloud.link is not None
            none = Duration(constant=0.0)
            own = (cloud.link.rate_bps, Duration(constant=cloud.link.latency_s), none, 0.0, "none", "direction")
            values = dict(zip(LINK_KEYS, own, strict=True))
        for override in self.config.link_overrides:
            if override.between == (a, b) or (override.between == (b, a) and not override.one_way):
                values |= given(override)
        return Link(
            rate_bps=values["rate_bps"],
            latency=values["latency_s"],
            jitter=values["jitter_s"],
            loss_probability=values["loss_probability"],
            channel=self._channel(values["contention"], values["channel"], a, b),
            key=np.uint64(streams.node_key(key, np.uint64(streams.stable_hash(f"{a}\n{b}")))),
        )

    def _channel(self, contention: str, channel: str, a: str, b: str) -> simpy.Resource | SharedChannel | None:
        if contention == "none":
            return None
        if channel == "link":
            a, b = sorted((a, b))
        if (a, b) not in self.channels:
            self.channels[a, b] = simpy.Resource(self.clock) if contention == "fifo" else SharedChannel(self.clock)
        return self.channels[a, b]

    def _node(self, described: ManualNode, key: np.uint64, neighbours: list[int], *, decides: bool) -> Node:
        assert isinstance(self.config.topology, Manual)
        cloud = self.config.cloud if described not in self.config.topology.nodes else None
        pooled = self.config.service == "pooled" and cloud is None
        core_speed = described.instructions_per_second * (described.cores if pooled else 1)
        servers = 1 if pooled else described.cores
        given = cloud or self.config
        at_once, cores, busy = servers, None, Meter(self.clock)
        if given.service == "shared":
            at_once = None if given.tasks_per_core is None else servers * given.tasks_per_core
            cores = SharedCores(self.clock, self.names.index(described.name), servers, core_speed, busy)
        return Node(
            described=described,
            core_speed=core_speed,
            servers=servers,
            at_once=at_once,
            cores=cores,
            discipline=self.config.queue if cloud is None else cloud.queue,
            neighbours=neighbours,
            decides=decides,
            up=Meter(self.clock, 1),
            busy=busy,
            sending=Meter(self.clock),
            sending_bps=Meter(self.clock),
            key=np.uint64(streams.node_key(key, np.uint64(streams.stable_hash(described.name)))),
        )
