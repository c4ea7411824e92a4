"""Episodes of ours with the tasks, the clock and the policies of PeersimGym, for comparison with its statistics.

Tasks are drawn by its own rule. With `tick_s` the events of a tick come in random order here as there, the decisions
among them. Policies see what they see there: the own number of tasks, and what neighbours have told. There both count
tasks twice that have been received and have not joined the queue.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from helpers.peersimgym import Arrival, Network, Outcome, Replay
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.simulator import streams
from offload_rllib.simulator.batch import env_slice
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.ticks import moment, work_moment
from offload_rllib.simulator.types import WAITING

KEY = held_out_keys(0, 1)[0]


@kernel
def told_at(scenario, state, n, tick):
    """Return when node `n` of the first environment broadcasts in a tick."""
    return work_moment(scenario, env_slice(state, 0), n, tick)


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

    order = "random"

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
        self.entered_at = [
            sorted(self.entered_s[i] for i, t in enumerate(self.arrivals) if t.node == n) for n in range(count)
        ]
        self.arrived = np.zeros(count, int)
        self.sent = np.zeros(len(self.env.scenario.arrays.link), int)
        self.sent_now = np.zeros(count, bool)
        self.sent_before = np.zeros(len(self.env.scenario.arrays.node), bool)  # at the decision before the last
        self.worked_s = [0.0] * count  # when each node last worked

    def entries(self) -> list[float]:
        """Return random moments of the ticks in which the tasks arrive."""
        drawn = self.rng.random(len(self.arrivals))
        return [float(moment(KEY, u, task.delivered, 1.0)) for u, task in zip(drawn, self.arrivals, strict=True)]

    def run(self) -> Outcome:
        """Play the episode and return its outcome."""
        tick = 0
        while not self.step(self._choices(tick)):
            tick += self.network.cycle
        return self.outcome()

    def _choices(self, tick: int) -> dict[int, int]:
        own = self.env.state.node[0]["tasks"] + np.bincount(
            self._received()["node"], minlength=len(self.env.scenario.arrays.node)
        )
        self._listen(tick)
        choices = {}
        for n in self.controllers:
            told = [int(own[n]), *self.known[n].values()]
            choices[n] = action(self.policy, n, told, self.rng)
        return choices

    def _received(self) -> np.ndarray:
        tasks = self.env.state.task[0]
        return tasks[(tasks["stage"] == WAITING) & (tasks["received"] == 1)]

    def _counted_twice(self, n: int, tick: int, stamp_s: float, told: int, *, sent_here: bool) -> int:
        """Return how many tasks node `n` had received and not queued when it told its number of tasks in a tick.

        They join the queue in even ticks, when the node sends a task at a decision, and when the queue is empty.
        """
        since_s, self.worked_s[n] = self.worked_s[n], stamp_s
        if tick % 2 == 0:
            return 0
        if sent_here and tick < stamp_s:
            since_s = tick
        if self.sent_before[n]:
            since_s = max(since_s, tick - 1)
        tasks = self.env.state.task[0]
        here = (tasks["stage"] == WAITING) & (tasks["node"] == n) & (tasks["hops"] == 0)
        twice = int((here & (tasks["since_s"] > since_s) & (tasks["since_s"] <= stamp_s)).sum())
        return twice if twice < told else 0

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
            now_s = told_at(self.env.scenario.arrays, self.env.state, n, last)
            arrived = int(incoming[link["destination"] == n].sum()) + bisect.bisect_right(self.entered_at[n], now_s)
            # Sent at the last decision: told before this one if the node has worked since, else later.
            sent_here, worked = bool(sent_before[n]), now_s > tick - self.network.cycle
            told = int(message["tasks"])
            told += self._counted_twice(n, last, now_s, told, sent_here=sent_here)
            changed = arrived > self.arrived[n] or (sent_here and worked) or self.sent_now[n]
            self.sent_now[n] = sent_here and not worked
            self.arrived[n] = arrived
            if not changed:
                continue
            for other in self.network.neighbours[n]:
                if other == self.network.cloud:
                    continue
                if self.rng.random() < decided:
                    self.known[other][n] = told
                else:
                    self.underway.append((other, n, told))
        self.sent_before = sent_before


def simulate(config: dict[str, str], policy: str, seed: int, folder: Path) -> Outcome:
    """Return the outcome of an episode whose tasks are drawn by PeersimGym's rule."""
    return TickedReplay(Network(config), policy, folder, np.random.default_rng(seed)).run()
