"""Nodes that work in ticks: at one moment of each, before or after the decision."""

from __future__ import annotations

import numpy as np

from helpers.reference.arrivals import draw
from helpers.reference.clock import EXPIRY, TICK, Life, Moment
from helpers.reference.network import Network
from offload_rllib.simulator import streams


class Ticks(Network):
    """A network whose nodes may work in ticks."""

    def _moment_s(self, tick: int, drawn: float, fixed: float) -> float:
        """Return when something happens in a tick: before or after the decision, as it has drawn less or more.

        With a fixed order it happens that share of a tick after the decision.
        """
        assert self.config.tick_s is not None
        if self.config.tick_order == "fixed":
            return (tick + fixed) * self.config.tick_s
        decision = float(streams.uniform(np.uint64(streams.stream(self.key, streams.TICK_DECISION)), tick))
        share = drawn / decision - 1 if drawn < decision else (drawn - decision) / (1 - decision)
        return (tick + share / 2) * self.config.tick_s

    def _works(self, n: int) -> Life:
        """Let node `n` work once in every tick."""
        assert self.config.tick_s is not None
        node = self.nodes[n]
        left = 0.0
        for tick in range(1, len(self.actions) * 1000):
            time_s = self._moment_s(tick, draw(node.key, streams.TICK_WORK, tick), -0.25)
            yield Moment(self.clock, time_s - self.clock.now, TICK, n)
            budget = node.core_speed * self.config.tick_s
            while budget > 0 and (node.current or node.queue or node.received):
                if node.current is None:
                    if not node.queue:
                        node.join_queue()
                    node.current = node.take_next()
                    left = node.current.work
                    node.current.decision.succeed(None)
                    yield self.clock.timeout(0)  # let it begin
                done = min(left, budget)
                left -= done
                budget -= done
                node.busy.total += done / node.core_speed
                if left <= 0:
                    node.current.served.succeed()
                    yield self.clock.timeout(0)  # let it leave
            if self.config.deadlines.expiry == "queued":
                for task in list(node.queue):
                    expires_s = task.created_s + task.relative_deadline_s + self.config.deadlines.grace_s
                    if expires_s <= (tick + 1e-9) * self.config.tick_s:
                        assert task.life is not None
                        task.life.interrupt(EXPIRY)
                yield self.clock.timeout(0)  # let them leave
            if tick % 2 == 0 or not node.queue:
                node.join_queue()
