"""Recordings of the real PeersimGym (arXiv 2403.17637, its Java simulator), replayed in ours.

A recording holds every task's arrival and every decision. The replay gives ours the same tasks and decisions, with the
rules that can be chosen set as there: time has ticks, queues serve the newest first, the newest waiting task is on
offer, waiting tasks expire five ticks after their deadline. One second is one tick.

Three things of there are not of ours, and are added here. Clients send their tasks to the first node and get their
results from it. Results travel from a node to itself first, and only until they pass the first node: see
`Replay.return_ticks`. And a machine of the cloud does more than its speed: see `cloud_machines`.
"""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from offload_rllib.config import load_environment
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.ticks import MESSAGES_AT, tick_of
from offload_rllib.simulator.types import EXPIRED, FINISHED, NONE, QUEUE_FULL, RETURNING

MEGABYTE_BITS = 8e6
GRACE_TICKS = 5.0
MANY_MACHINES = 10_000


def recordings() -> Path:
    """Return the folder of recordings: $OFFLOAD_RLLIB_RECORDINGS, or those beside the tests."""
    return Path(os.environ.get("OFFLOAD_RLLIB_RECORDINGS") or Path(__file__).parents[1] / "data" / "peersimgym")


def kolmogorov_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of the distribution functions of two samples."""
    at = np.union1d(a, b)
    shares = (np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b))
    return float(np.abs(np.subtract(*shares)).max())


@dataclass(frozen=True)
class Outcome:
    """What became of the tasks of an episode."""

    finished: int
    queue_full: int
    expired: int
    responses: np.ndarray
    """Ticks of the finished tasks, from the client's sending to the client's receiving."""
    tasks: np.ndarray
    """[ticks, nodes] of each node at each decision, the cloud left out."""

    @cached_property
    def response_ticks(self) -> float:
        """Mean of `responses`."""
        return float(self.responses.mean())

    @cached_property
    def tasks_in_node(self) -> float:
        """Mean of `tasks`."""
        return float(self.tasks.mean())


@dataclass(frozen=True)
class Arrival:
    """A task, as its client sends it."""

    sent: int
    delivered: int
    client: int
    node: int
    work: float
    megabytes_in: float
    megabytes_out: float
    deadline: float


class Network:
    """The nodes and messages of a recording's configuration, as its Java side reads it."""

    def __init__(self, config: dict[str, str]) -> None:
        """Read a configuration."""
        self.config = config
        per_layer = [int(float(n)) for n in config["NO_NODES_PER_LAYERS"].split(",")]
        self.layer = [layer for layer, count in enumerate(per_layer) for _ in range(count)]
        self.count = len(self.layer)
        self.scale = int(config["SCALE"])
        self.cycle = int(config["CYCLE"])
        self.end = int(config["CYCLES"]) * self.scale
        positions = [tuple(map(float, p.split(","))) for p in config["init.Net0.POSITIONS"].split(";")]
        rows = [[int(i) for i in row.split(",")] for row in config["init.Net1.TOPOLOGY"].split(";")]
        self.neighbours = {row[0]: row[1:] for row in rows}
        self.cloud: int | None = None
        if config["CLOUD_EXISTS"] == "1":
            self.cloud = self.count
            positions.append(tuple(map(float, config["CLOUD_POS"].split(","))))
            access = config["CLOUD_ACCESS"].split(",")
            for n in range(self.count):
                if access[self.layer[n]] == "1":
                    self.neighbours[n] = [*self.neighbours[n], self.cloud]
        self.positions = positions
        self.channels = config["protocol.urt.channelTypes"].split(";")
        self.channel = [
            [int(i) for i in row.split(",")] for row in config["protocol.urt.channelTypesBetweenLayers"].split(";")
        ]

    def per_layer(self, key: str, n: int) -> float:
        """Return the value of node `n`'s layer, or its own if the nodes are configured one by one."""
        own = {"FREQS": "MANUAL_FREQS", "NO_CORES": "MANUAL_CORES", "Q_MAX": "MANUAL_QMAX"}
        if self.config.get("MANUAL_CONFIG") == "true" and key in own:
            return float(self.config[own[key]].split(";")[n])
        return float(self.config[key].split(",")[self.layer[n]])

    def delay(self, a: int, b: int, megabytes: float) -> int:
        """Return the ticks that a message takes; its noise grows with the size of the message."""
        distance = math.dist(self.positions[a], self.positions[b])
        if distance == 0:
            return 1
        bits = MEGABYTE_BITS * megabytes
        bandwidth = 1e6 * float(self.config["protocol.props.B"])
        layers = [0 if n == self.cloud else self.layer[n] for n in (a, b)]
        if "Fiber" in self.channels[self.channel[layers[0]][layers[1]]]:
            snr_db = float(self.config["protocol.urt.SNR"])
        else:
            gain_db = 10 * math.log10(0.125**2 / (16 * math.pi**2)) - 20 * math.log10(distance)
            snr_db = float(self.config["protocol.props.P_ti"]) + gain_db + 174 - 10 * math.log10(bits)
        seconds = bits / (bandwidth * math.log2(1 + 10 ** (snr_db / 10)))
        return max(1, math.floor(seconds + 0.5) * self.scale)


def cloud_machines(network: Network, work: float) -> tuple[int, float]:
    """Return how many machines of which speed serve here as those of its cloud do there, for tasks of some work.

    There a machine that ends a task in a tick begins the next one in the same tick with a whole tick's work: a task of
    m ticks keeps it busy for m - 1. The message comes at a random moment of a tick: that is half a tick less.
    """
    count = int(network.config["protocol.cld.no_vms"])
    ticks = math.ceil(work / (float(network.config["protocol.cld.VMProcessingPower"]) / network.scale))
    machines = MANY_MACHINES if ticks == 1 else math.ceil(count * (ticks - 0.5) / (ticks - 1))
    return machines, work / (ticks - 0.5)


class Replay:
    """An episode of ours with the tasks of a recording."""

    speed_error: Mapping[int, float] = MappingProxyType({})
    """What each layer's cores do less than they should, in instructions per tick."""
    order: Literal["random", "fixed"] = "fixed"
    """Of what falls into a tick: the traces were recorded with messages first, then work, then decisions."""

    def __init__(self, network: Network, arrivals: list[Arrival], folder: Path) -> None:
        """Build the episode; its arrivals are written to a file in `folder`."""
        self.network = network
        # Tasks that clients send to the cloud's idle worker vanish there without a trace.
        self.arrivals = [task for task in arrivals if task.node != network.cloud]
        self.entered_s = self.entries()
        path = folder / "arrivals.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time_s", "origin", "node", "work", "bits_in", "bits_out", "deadline_s"])
            for entered_s, task in sorted(zip(self.entered_s, self.arrivals, strict=True), key=lambda pair: pair[0]):
                sizes = (task.work, task.megabytes_in * MEGABYTE_BITS, task.megabytes_out * MEGABYTE_BITS)
                where = (f"n{task.client}", f"n{task.node}")
                writer.writerow([entered_s, *where, *sizes, max(task.deadline - entered_s, 0)])
        self.env = VectorEnv(build_scenario(load_environment(self._environment(path))), 1, log=True)
        arrays = self.env.scenario.arrays
        bits = max(task.megabytes_in for task in arrivals)
        for link in arrays.link:
            if self._has(int(link["source"])) and self._has(int(link["destination"])):
                ticks = network.delay(int(link["source"]), int(link["destination"]), bits)
                link["latency_s"], link["seconds_per_bit"] = ticks, 0.0
        # Our action that sends from an agent's node to each other node.
        self.action = [
            {int(arrays.link["destination"][link]): a for a, link in enumerate(row) if link >= 0}
            for row in arrays.destination
        ]
        self.agent = {int(name[1:]): i for i, name in enumerate(self.env.agents) if name != "spare"}
        self.tasks: list[np.ndarray] = []
        self.path: dict[int, list[int]] = {}  # of each task by number: where it was sent, in order
        self.env.reset(held_out_keys(0, 1))

    def entries(self) -> list[float]:
        """Return when the tasks enter their first nodes: those of a tick in the order in which they were sent."""
        count: Counter[int] = Counter()
        entered_s = []
        for task in self.arrivals:
            entered_s.append(task.delivered + MESSAGES_AT + 1e-6 * count[task.delivered])
            count[task.delivered] += 1
        return entered_s

    def _has(self, n: int) -> bool:
        return n < self.network.count or n == self.network.cloud

    def _environment(self, path: Path) -> dict[str, Any]:
        network = self.network
        clients = {task.client for task in self.arrivals}
        nodes = [
            {
                "name": f"n{n}",
                "instructions_per_second": math.floor(
                    network.per_layer("NO_CORES", n)
                    * (network.per_layer("FREQS", n) - self.speed_error.get(network.layer[n], 0.0))
                ),
                "queue_capacity": int(network.per_layer("Q_MAX", n)),
                "client": n in clients,
            }
            for n in range(network.count)
        ]
        links = {tuple(sorted((a, b))) for a, row in network.neighbours.items() for b in row if b != network.cloud}
        names = [[f"n{a}", f"n{b}"] for a, b in sorted(links)]
        if network.count == 1:  # ours wants someone to send to
            nodes.append({"name": "spare", "instructions_per_second": 1.0})
            names = [["n0", "spare"]]
        cloud = None
        if network.cloud is not None:
            machines, speed = cloud_machines(network, max(task.work for task in self.arrivals))
            access = [f"n{n}" for n, row in network.neighbours.items() if network.cloud in row]
            cloud = {
                "vms": machines,
                "instructions_per_second": speed,
                "access": {"nodes": access},
                "link": {"rate_bps": 1e15},
            }
        horizon = math.ceil(network.end / network.cycle) * network.cycle
        return {
            "horizon_s": horizon,
            "topology": {"kind": "manual", "nodes": nodes, "links": names},
            "links": {"kind": "fixed", "rate_bps": 1e15},
            "service": "pooled",
            "queue": "lifo",
            "cloud": cloud,
            "workload": {
                "arrivals": {
                    "kind": "replay",
                    "path": str(path),
                    "columns": {
                        "origin": "origin",
                        "node": "node",
                        "work": "work",
                        "bits_in": "bits_in",
                        "bits_out": "bits_out",
                        "deadline": "deadline_s",
                    },
                },
            },
            "tick_s": 1.0,
            "tick_order": self.order,
            "deadlines": {"expiry": "queued", "grace_s": GRACE_TICKS},
            "score": {"drop_s": float(horizon)},
            "decisions": {"when": "interval", "interval_s": network.cycle, "offer": "newest", "max_hops": 16},
            "information": {"kind": "broadcast", "interval_s": 1.0},
        }

    def step(self, choices: dict[int, int]) -> bool:
        """Let each node in `choices` take its action, as an index into its own list: itself, then its neighbours."""
        self.tasks.append(self.env.state.node[0]["tasks"][: self.network.count].copy())
        actions = np.zeros((1, len(self.env.agents)), np.int32)
        for n, index in choices.items():
            if index > 0 and n in self.agent:
                agent, to = self.agent[n], self.network.neighbours[n][index - 1]
                actions[0, agent] = self.action[agent][to]
                slot = self.env.state.node[0, n]["held_tail"]
                if slot != NONE:
                    self.path.setdefault(int(self.env.state.task[0, slot]["number"]), []).append(to)
        return self.env.step(actions)

    def outcome(self) -> Outcome:
        """Return what became of the tasks, with results and the clients' messages travelling as there."""
        log = self.env.task_log(0)
        # Tasks are logged in order of time, then node: equal to the order here after the same sorting.
        at = sorted(range(len(self.arrivals)), key=lambda i: (self.entered_s[i], self.arrivals[i].client))
        sent = [self.arrivals[i] for i in at]
        order = np.lexsort((log["origin"], log["created_s"]))
        within = log["ended_s"] < self.network.end - 0.5
        inside = self.env.state.task[0]
        served = set(inside["number"][inside["stage"] == RETURNING].tolist())
        served |= set(np.flatnonzero(log["outcome"] == FINISHED).tolist())
        responses = []
        for task, number in zip(sent, order.tolist(), strict=False):
            row = log[number]
            if number not in served:
                continue
            served_s = sum(row[f"{part}_s"] for part in ("created", "holding", "waiting", "service", "transfer"))
            ended = int(tick_of(served_s, 1.0)) + self.return_ticks(task, self.path.get(number, []))
            # Clients give up at that time, and ignore what comes later.
            if ended < self.network.end and ended <= task.sent + task.deadline:
                responses.append(ended - task.sent)
        return Outcome(
            finished=len(responses),
            queue_full=int((log["outcome"][within] == QUEUE_FULL).sum()),
            expired=int((log["outcome"][within] == EXPIRED).sum()),
            responses=np.array(responses),
            tasks=np.array(self.tasks),
        )

    def return_ticks(self, task: Arrival, path: list[int]) -> int:
        """Return how long a result travels: back along the path until it is at its first node, then to the client."""
        places = [task.node, *path]
        ticks = self.network.delay(task.node, task.client, task.megabytes_out)
        if places[-1] not in {task.node, self.network.cloud}:
            ticks += 1  # from the node that served it to itself
        while places[-1] != task.node:
            here = places.pop()
            ticks += self.network.delay(here, places[-1], task.megabytes_out)
        return ticks


def recorded_arrivals(recording: dict[str, Any]) -> list[Arrival]:
    """Return the tasks of a recording; those refused on arrival are among them."""
    return [Arrival(*(int(x) for x in event[1:5]), *event[6:10]) for event in recording["events"] if event[0] == "NEW"]


def recorded_responses(recording: dict[str, Any]) -> np.ndarray:
    """Return the response times of a recording's finished tasks, in ticks, as `Outcome.responses`."""
    sent = {event[5]: event[1] for event in recording["events"] if event[0] == "NEW"}
    end = int(recording["config"]["CYCLES"]) * int(recording["config"]["SCALE"])
    return np.array([e[2] - sent[e[5]] for e in recording["events"] if e[0] == "FIN" and e[2] < end])


def replay(recording: dict[str, Any], folder: Path) -> Outcome:
    """Return what becomes here of the tasks of a recording under its decisions."""
    network = Network(recording["config"])
    controllers = [int(n) for n in recording["config"]["CONTROLLERS"].split(";")]
    decisions = {step[0]: dict(zip(controllers, step[1], strict=True)) for step in recording["steps"]}
    episode = Replay(network, recorded_arrivals(recording), folder)
    tick = 0
    while not episode.step(decisions.get(tick, {})):
        tick += network.cycle
    return episode.outcome()
