"""Recordings of the real PeersimGym (arXiv 2403.17637, its Java simulator), replayed in ours.

A recording holds every task's arrival and every decision. The replay gives ours the same tasks and decisions, with the
rules that can be chosen set as there: queues serve the newest first, the newest waiting task is on offer, waiting tasks
expire five ticks after their deadline, a message takes a whole number of ticks, one at least. One second is one tick.

There, what arrives at a tick is worked on in that tick, and decisions come last; a task that needs one tick of work
thus ends in the tick in which it arrived. Here arrivals come in the middle of a tick, work takes its time, and the
decision of tick t is that at t + 1. So delays between nodes are half a tick shorter here, and a task of m ticks of
work is served in m instead of m - 1. Results travel there from a node to itself first, which takes one tick.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from offload_rllib.config import load_environment
from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.types import EXPIRED, FINISHED, QUEUE_FULL

MEGABYTE_BITS = 8e6
# Five ticks there; what arrives in the tick of the expiry comes before it.
GRACE_TICKS = 5.25
MIDDLE = 0.5  # of a tick


def recordings() -> Path | None:
    """Return the folder of recordings: that of $OFFLOAD_RLLIB_RECORDINGS, or `shared/peersimgym` beside a parent."""
    given = os.environ.get("OFFLOAD_RLLIB_RECORDINGS")
    if given:
        return Path(given)
    beside = (parent / "shared" / "peersimgym" for parent in Path(__file__).resolve().parents)
    return next((folder for folder in beside if folder.is_dir()), None)


@dataclass(frozen=True)
class Outcome:
    """What became of the tasks of an episode."""

    finished: int
    queue_full: int
    expired: int
    response_ticks: float
    """Mean of the finished, from the client's sending to the client's receiving."""
    waited_at_cloud: float
    """Mean over all tasks of the ticks that they waited for a machine of the cloud."""


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


class Replay:
    """An episode of ours with the tasks of a recording."""

    speed_error: Mapping[int, float] = MappingProxyType({})
    """What each layer's cores do less than they should, in instructions per tick."""
    grace_ticks = GRACE_TICKS
    tick_s: float | None = None
    link_shift = MIDDLE
    """What links take less than the original's delay."""

    def __init__(self, network: Network, arrivals: list[Arrival], folder: Path) -> None:
        """Build the episode; its arrivals are written to a file in `folder`."""
        self.network = network
        # Tasks that clients send to the cloud's idle worker vanish there without a trace.
        self.arrivals = [task for task in arrivals if task.node != network.cloud]
        self.shift = self.shift_of(network)
        path = folder / "arrivals.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time_s", "origin", "node", "work", "bits_in", "bits_out", "deadline_s"])
            for entered_s, task in sorted(zip(self.entries(), self.arrivals, strict=True), key=lambda pair: pair[0]):
                sizes = (task.work, task.megabytes_in * MEGABYTE_BITS, task.megabytes_out * MEGABYTE_BITS)
                where = (f"n{task.client}", f"n{task.node}")
                writer.writerow([entered_s, *where, *sizes, max(task.deadline + self.shift - entered_s, 0)])
        self.env = VectorEnv(build_scenario(load_environment(self._environment(path))), 1, log=True)
        arrays = self.env.scenario.arrays
        bits = max(task.megabytes_in for task in arrivals)
        for link in arrays.link:
            if self._has(int(link["source"])) and self._has(int(link["destination"])):
                ticks = network.delay(int(link["source"]), int(link["destination"]), bits)
                link["latency_s"], link["seconds_per_bit"] = ticks - self.link_shift, 0.0
        # Our action that sends from an agent's node to each other node.
        self.action = [
            {int(arrays.link["destination"][link]): a for a, link in enumerate(row) if link >= 0}
            for row in arrays.destination
        ]
        self.agent = {int(name[1:]): i for i, name in enumerate(self.env.agents) if name != "spare"}
        self.env.reset(held_out_keys(0, 1))

    @staticmethod
    def shift_of(network: Network) -> float:
        """Return how much later than there the same thing happens here."""
        return network.cycle - 1 + MIDDLE

    def entries(self) -> list[float]:
        """Return when the tasks enter their first nodes here."""
        return [task.delivered + self.shift for task in self.arrivals]

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
            access = [f"n{n}" for n, row in network.neighbours.items() if network.cloud in row]
            cloud = {
                "vms": int(network.config["protocol.cld.no_vms"]),
                "instructions_per_second": float(network.config["protocol.cld.VMProcessingPower"]),
                "access": {"nodes": access},
                "link": {"rate_bps": 1e15},
            }
        horizon = math.ceil((network.end + self.shift) / network.cycle) * network.cycle
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
            "tick_s": self.tick_s,
            "deadlines": {"expiry": "queued", "grace_s": self.grace_ticks},
            "score": {"drop_s": float(horizon)},
            "decisions": {"interval_s": network.cycle, "offer": "newest", "max_hops": 16},
            "information": {"kind": "broadcast" if self.tick_s else "fresh", "interval_s": self.tick_s or 1.0},
        }

    def step(self, choices: dict[int, int]) -> bool:
        """Let each node in `choices` take its action, as an index into its own list: itself, then its neighbours."""
        actions = np.zeros((1, len(self.env.agents)), np.int32)
        for n, index in choices.items():
            if index > 0 and n in self.agent:
                agent = self.agent[n]
                actions[0, agent] = self.action[agent][self.network.neighbours[n][index - 1]]
        return self.env.step(actions)

    def outcome(self) -> Outcome:
        """Return what became of the tasks, with the clients' own messages added."""
        log = self.env.task_log(0)
        # Tasks are logged in order of time, then node: equal to the order here after the same sorting.
        sent = sorted(self.arrivals, key=lambda task: (task.delivered, task.client))
        order = np.lexsort((log["origin"], log["created_s"]))
        finished, responses = 0, []
        for task, row in zip(sent, log[order], strict=False):
            if row["outcome"] != FINISHED:
                continue
            back = self.network.delay(task.node, task.client, task.megabytes_out)
            ended = row["ended_s"] + back
            if ended <= self.network.end + self.shift:
                finished += 1
                responses.append(row["ended_s"] - row["created_s"] + (task.delivered - task.sent) + back)
        return Outcome(
            finished=finished,
            queue_full=int((log["outcome"] == QUEUE_FULL).sum()),
            expired=int((log["outcome"] == EXPIRED).sum()),
            response_ticks=float(np.mean(responses)),
            waited_at_cloud=self.waited_at_cloud(log),
        )

    def waited_at_cloud(self, log: np.ndarray) -> float:
        """Return the mean over all tasks of the ticks that they waited for a machine of the cloud."""
        return float(np.mean(log["waiting_s"] * (log["node"] == self.network.cloud)))


def recorded_arrivals(recording: dict[str, Any]) -> list[Arrival]:
    """Return the tasks of a recording; those refused on arrival are among them."""
    return [Arrival(*(int(x) for x in event[1:5]), *event[6:10]) for event in recording["events"] if event[0] == "NEW"]


def replay(recording: dict[str, Any], folder: Path) -> Outcome:
    """Return what becomes here of the tasks of a recording under its decisions."""
    network = Network(recording["config"])
    controllers = [int(n) for n in recording["config"]["CONTROLLERS"].split(";")]
    decisions = {step[0]: dict(zip(controllers, step[1], strict=True)) for step in recording["steps"]}
    episode = Replay(network, recorded_arrivals(recording), folder)
    tick = -network.cycle  # of the decision; the first one here has no counterpart
    while not episode.step(decisions.get(tick, {})):
        tick += network.cycle
    return episode.outcome()
