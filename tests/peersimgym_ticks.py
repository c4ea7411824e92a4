"""Episodes of ours with the tasks, the clock and the policies of PeersimGym, for comparison with its statistics.

Tasks are drawn by its own rule. With `tick_s` the events of a tick come in random order here as there, the decisions
among them. Policies see what they see there: the own number of tasks, and what neighbours have told.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from peersimgym import Arrival, Network, Outcome, Replay

from offload_rllib.envs.vector import held_out_keys
from offload_rllib.simulator import streams
from offload_rllib.simulator.ticks import moment, tick_of
from offload_rllib.simulator.types import EXPIRED, FINISHED, QUEUE_FULL

KEY = held_out_keys(0, 1)[0]


def action(policy: str, n: int, told: Sequence[int], rng: np.random.Generator) -> int:
    """Return what a policy chooses at node `n`: an index into the node itself and its neighbours.

    Args:
        policy: as the recordings name it.
        n: the node.
        told: the number of tasks of each, as far as the node knows.
        rng: of the random policy.
    """
    match policy:
        case "local":
            return 0
        case "random":
            return int(rng.integers(len(told)))
        case "leastq":
            return int(np.argmin(told))  # the lowest index among equals
        case "offload1":
            return 1
        case "offload0only":
            return int(n == 0)
        case "cloud":
            return len(told) - 1
    raise ValueError(f"no such policy: {policy}")


class Schedule:
    """The rate of a client's streams over time, tasks per tick."""

    def __init__(self, text: str, scale: int) -> None:
        """Read `rate-seconds,rate-seconds,...`."""
        pieces = [tuple(map(float, piece.split("-"))) for piece in text.split(",")]
        self.rates = [rate / scale for rate, _ in pieces]
        self.ends = list(accumulate(seconds * scale for _, seconds in pieces))[:-1]  # the last rate holds

    def rate(self, tick: int) -> float:
        """Return the rate at a tick."""
        return self.rates[bisect.bisect_right(self.ends, tick)]


def numbers(text: str) -> list[float]:
    """Return the numbers of a list in a configuration."""
    return [float(x) for x in text.replace(";", ",").split(",")]


def draw_type(weights: list[float], rng: np.random.Generator) -> int:
    """Return the index of a task type, drawn as there: a binary search for a number that is often too large."""
    cumulative = list(accumulate(weight / sum(weights) for weight in weights))
    drawn = rng.uniform(0, len(weights))
    low, high, middle = 0, len(weights) - 1, 0
    while low <= high:
        middle = (low + high) // 2
        if drawn < cumulative[middle]:
            high = middle - 1
        else:
            low = middle + 1
    return middle


def drawn_arrivals(network: Network, rng: np.random.Generator) -> list[Arrival]:
    """Return tasks by PeersimGym's own rule.

    Each client has a stream of rounded exponential gaps for itself and for each neighbour whose layer gets tasks. Where
    its own stream is due it sends on that alone (`clientIsSelf`), else on all that are due, each once a tick at most. A
    change of the rate starts its own stream anew.
    """
    config = network.config
    eligible = {int(layer) for layer in config["layersThatGetTasks"].split(",")}
    clients = sorted(int(layer) for layer in config["clientLayers"].split(","))
    schedules = dict(
        zip(clients, (Schedule(text, network.scale) for text in config["schedules"].split(";")), strict=False)
    )
    patience = int(config["protocol.clt.minDeadline"]) * network.scale
    kinds = int(config["protocol.clt.numberOfTasks"])
    weights = numbers(config["protocol.clt.weight"])[:kinds]
    sizes, instructions, cycles = (numbers(config[f"protocol.clt.{key}"]) for key in ("T", "I", "CPI"))
    tasks = []
    for client in (n for n in range(network.count) if network.layer[n] in schedules):
        schedule = schedules[network.layer[client]]
        targets = [
            n for n in [client, *network.neighbours[client]] if n == network.cloud or network.layer[n] in eligible
        ]
        rate = schedule.rate(0)
        due = [_gap(rate, rng) for _ in targets]
        for tick in range(network.end):
            if schedule.rate(tick) != rate:
                rate = schedule.rate(tick)
                if targets[0] == client:
                    due[0] = tick + _gap(rate, rng)
            streams_due = [k for k, when in enumerate(due) if when <= tick]
            if config["clientIsSelf"] == "1" and 0 in streams_due and targets[0] == client:
                streams_due = [0]
            for k in streams_due:
                kind = draw_type(weights, rng) if kinds > 1 else 0
                work, size = instructions[kind] * cycles[kind], sizes[kind]
                deadline = tick + int(rng.integers(patience, 2 * patience))
                delivered = tick + network.delay(client, targets[k], size)
                tasks.append(Arrival(tick, delivered, client, targets[k], work, size, size, deadline))
                due[k] = tick + _gap(rate, rng)
    return [task for task in tasks if task.delivered < network.end]


def _gap(rate: float, rng: np.random.Generator) -> float:
    return round(rng.exponential(1 / rate)) if rate > 0 else np.inf


class TickedReplay(Replay):
    """An episode of ours in ticks, under a policy that knows what it knows there."""

    grace_ticks = 5.0
    tick_s = 1.0
    link_shift = 0.0

    def __init__(self, network: Network, policy: str, folder: Path, rng: np.random.Generator) -> None:
        """Draw the episode's tasks and build it."""
        self.rng = rng
        variations = numbers(network.config["VARIATIONS"])
        self.speed_error = {layer: rng.uniform(-v, v) for layer, v in enumerate(variations) if v > 0}
        self.policy = policy
        self.controllers = [int(n) for n in network.config["CONTROLLERS"].split(";")]
        super().__init__(network, drawn_arrivals(network, rng), folder)
        count = network.count
        # By node: neighbours' numbers of tasks as last told, and what was told too late to be known at this decision.
        self.known = {n: dict.fromkeys(network.neighbours[n], 0) for n in range(count)}
        self.underway: list[tuple[int, int, int]] = []
        self.entered_s = [
            sorted(self._entered[i] for i, t in enumerate(self.arrivals) if t.node == n) for n in range(count)
        ]
        self.arrived = np.zeros(count, int)
        self.sent = np.zeros(len(self.env.scenario.arrays.link), int)
        self.sent_now = np.zeros(count, bool)

    @staticmethod
    def shift_of(network: Network) -> float:  # noqa: ARG004  # of the replay, which this one is not
        """Return 0: the ticks are the same."""
        return 0.0

    def entries(self) -> list[float]:
        """Return random moments of the ticks in which the tasks arrive."""
        drawn = self.rng.random(len(self.arrivals))
        pairs = zip(drawn, self.arrivals, strict=True)
        self._entered = [float(moment(KEY, u, task.delivered, 1.0)) for u, task in pairs]
        return self._entered

    def run(self) -> Outcome:
        """Play the episode and return its outcome."""
        tick = 0
        while not self.step(self._choices(tick)):
            tick += self.network.cycle
        return self.outcome()

    def _choices(self, tick: int) -> dict[int, int]:
        own = self.env.state.node[0]["tasks"]
        self._listen(tick)
        choices = {}
        for n in self.controllers:
            told = [int(own[n]), *self.known[n].values()]
            choices[n] = action(self.policy, n, told, self.rng)
        return choices

    def _listen(self, tick: int) -> None:
        """Let what nodes told in the last tick arrive: at a random moment of this one, before the decision or after.

        A node tells its number of tasks, as it is when it has worked, if tasks came or were sent since it last did.
        """
        for n, other, tasks in self.underway:
            self.known[n][other] = tasks
        self.underway = []
        last = tick - 1
        link = self.env.scenario.arrays.link
        sent = self.env.state.link[0]["sent"]
        sent_before = np.bincount(link["source"], sent > self.sent, len(self.env.scenario.arrays.node)) > 0
        self.sent = sent.copy()
        if last < 1:
            return
        decided = streams.uniform(np.uint64(streams.stream(KEY, streams.TICK_DECISION)), tick)
        place = last & (self.env.state.broadcast.shape[2] - 1)
        incoming = self.env.state.broadcast_link[0, :, place]["arrived"]
        for n in range(self.network.count):
            message = self.env.state.broadcast[0, n, place]
            now_s = float(message["stamp_s"])
            arrived = int(incoming[link["destination"] == n].sum()) + bisect.bisect_right(self.entered_s[n], now_s)
            # Sent at the last decision: told before this one if the node has worked since, else later.
            sent_here, worked = bool(sent_before[n]), now_s > tick - self.network.cycle
            changed = arrived > self.arrived[n] or (sent_here and worked) or self.sent_now[n]
            self.sent_now[n] = sent_here and not worked
            self.arrived[n] = arrived
            if not changed:
                continue
            for other in self.network.neighbours[n]:
                if other == self.network.cloud:
                    continue
                if self.rng.random() < decided:
                    self.known[other][n] = int(message["tasks"])
                else:
                    self.underway.append((other, n, int(message["tasks"])))

    def outcome(self) -> Outcome:
        """Return what became of the tasks, with the original's own messages added."""
        log = self.env.task_log(0)
        order = np.argsort(self._entered, kind="stable")
        sent = [self.arrivals[i] for i in order]
        within = log["ended_s"] < self.network.end - 0.5
        finished, responses = 0, []
        for task, row in zip(sent, log, strict=False):
            if row["outcome"] != FINISHED:
                continue
            # Served by its first node, a result does not travel there; elsewhere it goes to the same node first.
            at_home = row["node"] == task.node
            ended = int(tick_of(row["ended_s"] - (row["return_s"] if at_home else 0.0), 1.0))
            ended += (0 if at_home else 1) + self.network.delay(task.node, task.client, task.megabytes_out)
            # Clients give up at that time, and ignore what comes later.
            if ended < self.network.end and ended <= task.sent + task.deadline:
                finished += 1
                responses.append(ended - task.sent)
        return Outcome(
            finished=finished,
            queue_full=int((log["outcome"][within] == QUEUE_FULL).sum()),
            expired=int((log["outcome"][within] == EXPIRED).sum()),
            response_ticks=float(np.mean(responses)),
            waited_at_cloud=self.waited_at_cloud(log),
        )


def simulate(config: dict[str, str], policy: str, seed: int, folder: Path) -> Outcome:
    """Return the outcome of an episode whose tasks are drawn by PeersimGym's rule."""
    return TickedReplay(Network(config), policy, folder, np.random.default_rng(seed)).run()
