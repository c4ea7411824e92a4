"""A testbed in virtual time, in one process: the code of the nodes, without clocks and sockets that could be late."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.testbed.fates import Fates, fates
from offload_rllib.testbed.node import NodeProcess
from offload_rllib.testbed.node_tasks import NodeTasks
from offload_rllib.testbed.playing import Outcome
from offload_rllib.testbed.recorded import arrivals_of, network_of
from offload_rllib.testbed.setup import MOVE, ROW, SHAPED, Brain, NodeOrder, Options
from offload_rllib.testbed.wire import cut


class Timer:
    """What `VirtualClock.at` returns."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualClock:
    """Takes the place of `ScenarioClock`: time passes from one timer to the next."""

    def __init__(self) -> None:
        self.speed = 1.0
        self.late_s: list[float] = []
        self._now_s = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Timer, Callable[..., None], tuple[Any, ...]]] = []

    def now(self) -> float:
        return self._now_s

    def at(self, time_s: float, call: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer()
        heapq.heappush(self._timers, (max(time_s, self._now_s), next(self._order), timer, call, arguments))
        return timer

    def run(self, until_s: float) -> None:
        while self._timers and self._timers[0][0] <= until_s:
            self._now_s, _, timer, call, arguments = heapq.heappop(self._timers)
            if not timer.cancelled:
                call(*arguments)
        self._now_s = until_s


class Pipe:
    """Takes the place of a connection: what is written is there at once."""

    def __init__(self, source: int, target: NodeProcess) -> None:
        self.node = source
        self._target = target

    def write(self, data: bytes) -> None:
        for kind, body in cut(bytearray(data), 2**21):
            reader: Any = self
            self._target._on_frame(reader, kind, body)


class VirtualTestbed:
    """All nodes of an environment, in virtual time.

    Attributes:
        arriving: the tasks of the episode.
        tasks: what each node does with its tasks.
        clock: of all of them.
    """

    def __init__(self, env: ArrivalEnv, brain: Brain, key: int, links: str = SHAPED) -> None:
        self.arriving = arrivals_of(env, key)
        self.clock = VirtualClock()
        network, clock = network_of(env), self.clock
        self._horizon_s = float(network.arrays.settings[0]["horizon_s"])
        nodes = []
        for n in range(len(network.names)):
            mine = self.arriving[self.arriving["origin"] == n]
            order = NodeOrder(
                network, Options(speed=1.0, network=links), brain, n, key, mine, ("", 0), "", 0, b"", 1, 0.0
            )
            nodes.append(NodeProcess(order))
        self.tasks: list[NodeTasks] = []
        for n, node in enumerate(nodes):
            connections: Any = {m: Pipe(n, nodes[m]) for m in node._link_to}
            stand_in: Any = clock
            node._tasks = NodeTasks(node._order, node._view, stand_in, connections)
            self.tasks.append(node._tasks)

    def play(self) -> Fates:
        """Play to the end; return the fates of all tasks."""
        self.clock.run(self._horizon_s)
        for tasks in self.tasks:
            tasks.stop()
        taken = [tasks.journal.take() for tasks in self.tasks]
        told: Sequence[np.ndarray] = [np.concatenate([each[name] for each in taken]) for name in ("rows", "moves")]
        assert (told[0].dtype, told[1].dtype) == (ROW, MOVE)
        none = np.zeros(0, np.float32)
        return fates(self.arriving, Outcome(told[0], told[1], {}, none, none, (), {}, ()))
