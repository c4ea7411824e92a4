"""One episode of the slow reference: who makes tasks, who decides, what fails, and what became of it all."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from helpers.reference.arrivals import Recorded, arrival_times, draw, recorded_rows
from helpers.reference.clock import ARRIVAL, DECISION, FAILURE, REPAIR, Life, Moment
from helpers.reference.draws import duration_s, sample
from helpers.reference.lives import Lives
from helpers.reference.parts import Task
from offload_rllib.config.energy import PowerDraw
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.workload import TaskMix
from offload_rllib.config.workload.arrivals import Replay
from offload_rllib.simulator import streams
from offload_rllib.simulator.types import OPEN


class Fate(NamedTuple):
    """How a task ended, and where its time went.

    The parts count the stages that the task has left, also those it was torn out of; a stage that the end of the
    episode cuts short counts nothing. The return counts for finished tasks only.
    """

    outcome: int  # FINISHED, a cause of a drop, or OPEN: still inside when the episode ended
    ended_s: float  # since the start of the episode
    hops: int
    type: int  # of the task
    node: int  # the last node that the task reached, or tried to enter
    holding_s: float
    waiting_s: float
    service_s: float
    transfer_s: float
    return_s: float


class Episode(NamedTuple):
    """What became of every task, and what every node has used."""

    fates: list[Fate]
    energy: dict[str, list[float]]  # by use (idle, compute, transmit), then by node


class _Reference(Lives):
    """Clients, agents and failures in a network in which tasks live."""

    def __init__(self, config: EnvironmentConfig, key: int, actions: np.ndarray) -> None:
        super().__init__(config, key, actions)
        self._start_clients()
        if self.at_once:
            self.next_action = iter(actions)
        else:
            self.clock.process(self._agents())
        for i in self.in_ticks:
            self.clock.process(self._works(i))
        if config.failures is not None:
            for i in range(len(config.topology.nodes)):  # the cloud does not fail
                self.clock.process(self._failures(i))

    def run(self) -> Episode:
        # Not `clock.run(until=...)`: that stops before the events at the very end, which still count.
        end_s = self.config.horizon_s if self.at_once else len(self.actions) * self.config.decisions.interval_s
        while self.clock.peek() <= end_s:
            self.clock.step()
        if self.clock.now < end_s:
            self.clock.run(until=end_s)  # what shares a channel is sent until then
        fates = [
            Fate(
                outcome=task.outcome,
                ended_s=end_s if task.outcome == OPEN else task.ended_s,
                hops=len(task.path),
                type=task.type,
                node=task.node,
                **{f"{stage}_s": seconds for stage, seconds in task.spent_s.items()},
            )
            for task in self.tasks
        ]
        return Episode(fates, self._energy(end_s))

    def _energy(self, end_s: float) -> dict[str, list[float]]:
        """Return what every node has used, by use, with one entry of `energy.devices` for all."""
        energy = self.config.energy
        if energy is None:
            return {}
        if isinstance(energy, PowerDraw):
            (power,) = energy.devices
            idle_w, core_w = power.idle_w, power.core_busy_w
            transmit_w, j_per_bit, j_per_result_bit = power.transmit_w, power.transmit_j_per_bit, 0.0
        else:
            idle_w = core_w = transmit_w = j_per_bit = 0.0
            j_per_result_bit = energy.cost / 8e6
        for node, link, message in self.shared:
            node.sending_bps.total += self._sent_bits(link, message)
        used: dict[str, list[float]] = {"idle": [], "compute": [], "transmit": []}
        for node in self.nodes:
            server_w = core_w * node.described.cores / node.servers
            if not isinstance(energy, PowerDraw):
                server_w = energy.cost * node.core_speed
            used["idle"].append(idle_w * node.up.until(end_s))
            used["compute"].append(server_w * node.busy.until(end_s))
            used["transmit"].append(
                transmit_w * node.sending.until(end_s)
                + j_per_bit * node.sending_bps.until(end_s)
                + j_per_result_bit * node.result_bits
            )
        return used

    def _failures(self, n: int) -> Life:
        """Take node `n` down and bring it up again."""
        assert self.config.failures is not None
        (law,) = self.config.failures.laws
        node = self.nodes[n]
        index = 0
        while True:
            up_s = duration_s(law.time_to_failure_s, node.key, streams.FAILURE_GAP, index)
            yield Moment(self.clock, up_s, FAILURE, n)
            node.down = True
            node.up.change(-1)
            for task in list(node.inside):
                assert task.life is not None
                task.life.interrupt(FAILURE)
            down_s = duration_s(law.time_to_repair_s, node.key, streams.REPAIR_TIME, index)
            yield Moment(self.clock, down_s, REPAIR, n)
            node.down = False
            node.up.change(1)
            index += 1

    def _start_clients(self) -> None:
        """Let all clients make their tasks."""
        workload = self.config.workload
        names = [node.described.name for node in self.nodes]
        weights = workload.load.client_weights if workload.load is not None else {}
        weight = {n: weights.get(names[n], weights.get(self.nodes[n].described.type, 1.0)) for n in self.clients}
        mean = sum(weight.values()) / len(weight)
        for n in self.clients:
            if isinstance(workload.arrivals, Replay):
                rows = recorded_rows(self.config, self.key, names[n])
                for index, row in enumerate(rows):
                    self.clock.process(self._arrival(n, index, row.time_s, row))
            else:
                times = arrival_times(self.config, self.key, self.nodes[n].key, weight[n] / mean)
                for index, time_s in enumerate(times):
                    self.clock.process(self._arrival(n, index, time_s, None))

    def _arrival(self, n: int, index: int, time_s: float, row: Recorded | None) -> Life:
        yield Moment(self.clock, time_s, ARRIVAL, n, index)
        self._make_task(n, index, row)

    def _make_task(self, n: int, index: int, row: Recorded | None) -> None:
        jobs, deadline_s = self.config.workload.jobs, self.config.workload.deadline_s
        node = self.nodes[n]
        which = priority = 0
        if isinstance(jobs, TaskMix):
            total = list(accumulate(kind.weight for kind in jobs.types))
            shares = [weight / total[-1] for weight in total]
            which = bisect_right(shares, draw(node.key, streams.TASK_TYPE, index))
            kind = jobs.types[which]
            priority = self.config.priorities.get(kind.name or f"type_{which}", 0)
            deadline_s = kind.deadline_s or deadline_s
            work = sample(kind.instructions, self.key, node.key, index, 0, which) * kind.cycles_per_instruction
            bits_in, bits_out = (
                sample(size, self.key, node.key, index, 1 + i, which)
                for i, size in enumerate((kind.bits_in, kind.bits_out))
            )
        else:
            assert row is not None
            assert row.work is not None
            work, bits_in, bits_out = row.work, row.bits_in, row.bits_out
            which = row.type
        relative_s = math.inf if deadline_s is None else sample(deadline_s, self.key, node.key, index, 3, which)
        if row is not None and row.deadline_s is not None:
            relative_s = row.deadline_s
        task = Task(
            number=len(self.tasks),
            origin=n,
            type=which,
            priority=priority,
            created_s=self.clock.now,
            relative_deadline_s=relative_s,
            work=work,
            bits_in=bits_in,
            bits_out=bits_out,
            decision=self.clock.event(),
            served=self.clock.event(),
            node=n if row is None else [other.described.name for other in self.nodes].index(row.node),
        )
        self.tasks.append(task)
        task.life = self.clock.process(self._live(task))
        if relative_s < math.inf and self.config.deadlines.expiry != "never":
            self.clock.process(self._watch(task))

    def _agents(self) -> Life:
        """Let every agent decide about the task on offer, once in a decision interval."""
        newest = self.config.decisions.offer == "newest"
        for step, actions in enumerate(self.actions):
            # The difference of successive multiples is exact, so that this comes at exactly `step` intervals.
            yield Moment(self.clock, step * self.config.decisions.interval_s - self.clock.now, DECISION)
            for n, action in zip(self.agents, actions, strict=True):
                node = self.nodes[n]
                in_ticks = n in self.in_ticks
                if node.held or (newest and node.received):
                    valid = 1 <= action <= len(node.neighbours)
                    if newest and in_ticks:
                        if not valid:
                            node.keep_newest()
                            continue
                        node.join_queue()
                    task = node.held.pop(-1 if newest else 0)
                    if valid and newest:
                        node.queue.remove(task)
                    if valid or not newest:
                        task.decision.succeed(node.neighbours[action - 1] if valid else None)


def reference_episode(config: EnvironmentConfig, key: int, actions: np.ndarray | Sequence[Sequence[int]]) -> Episode:
    """Run one episode.

    Args:
        config: a `manual` topology, `fixed` links with overrides by name, jobs of kind `mix`, load in tasks per second
            per client, no limit on destinations, and one law of failures and one power for all nodes.
        key: the episode's key.
        actions: [W, A] integers, row w applied at w decision intervals; with `decisions.when: arrival` [W], one for
            each decision in their order, at least as many as there are. One that is not valid acts as 0.

    Returns:
        What became of each task, in order of creation (then by node), times in seconds; and the energy of each node,
        without that of broadcasts.
    """
    return _Reference(config, key, np.asarray(actions)).run()
