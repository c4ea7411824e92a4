"""The schema of an environment file (`envs/*.yaml`). Units are in the names: SI throughout."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import ADDED, Count, NonNegative, Positive, Schema
from offload_rllib.config.cloud import Cloud, Queue, TasksPerCore, check_sharing
from offload_rllib.config.decisions import Agents, Decisions, Information, Observe, Reward
from offload_rllib.config.energy import Energy, Price
from offload_rllib.config.failures import Failures
from offload_rllib.config.links import LinkOverride, Links
from offload_rllib.config.score import Priority, Score, TypeName
from offload_rllib.config.topology import Topology
from offload_rllib.config.topology.mobility import Mobility
from offload_rllib.config.workload import Deadlines, Workload
from offload_rllib.config.workload.setup import Setup

FORMAT_VERSION = 1
LARGEST_STEPS = 10_000_000


class EnvironmentConfig(Schema):
    """One environment."""

    description: str = ""
    """One line for the list of environments."""
    format: Literal[1] = FORMAT_VERSION
    """Version of the file format."""
    version: Count = 1
    """Version of the preset: the next number whenever its results change; not part of the fingerprint."""
    horizon_s: Positive = 1000.0
    """Length of an episode; with `decisions.when: interval` a multiple of `decisions.interval_s`."""
    warmup_s: NonNegative = 0.0
    """Tasks created earlier do not count in the score."""
    drain_s: NonNegative = 0.0
    """Nor do tasks created in this last part, which may have no time to finish."""
    topology: Topology
    """Nodes, and which of them are linked."""
    links: Links
    """Rate, latency, loss and contention of the links."""
    link_overrides: tuple[LinkOverride, ...] = ()
    """Exceptions on some of them."""
    service: Literal["pooled", "parallel", "shared"] = "pooled"
    """pooled: all cores of a node on one task at a time; parallel: one task per core; shared: all tasks at once, with
    equal shares of the cores, each at most one core (processor sharing)."""
    tasks_per_core: TasksPerCore | None = None
    """With `service: shared`, a node serves so many tasks per core at once, and the others wait; null: all of them."""
    queue: Queue = "fifo"
    """Order in which a node serves its waiting tasks: first in first out, last in first out, earliest deadline first,
    shortest job first, highest priority first. Tasks in service are not interrupted."""
    priorities: Annotated[dict[TypeName, Priority], ADDED] = Field(default={})
    """With `queue: priority` here or in `cloud`: the priority of tasks, by the name of their type; 0 if not given.
    Tasks of a higher one are served first, equals in order of creation."""
    tick_s: Positive | None = None
    """null: time is continuous. Otherwise it has ticks of this length, as in PeersimGym: nodes do the work of a tick at
    one random moment of it, transfers take whole ticks, and the order of the events in a tick is random; see
    `docs/peersimgym.md`."""
    tick_order: Literal["random", "fixed"] = "random"
    """With `tick_s`. random: each order of the events in a tick is equally likely; fixed: messages arrive, nodes
    work, agents decide."""
    mobility: Annotated[Mobility, ADDED] | None = None
    """Nodes that move; null: none does."""
    cloud: Cloud | None = None
    """A data centre behind the network."""
    workload: Workload
    """What arrives."""
    deadlines: Deadlines = Deadlines()
    """What happens at a deadline."""
    score: Score = Score()
    """What a task scores that does not finish, and how much each type counts."""
    decisions: Decisions = Decisions()
    """Who decides what, and when."""
    agents: Agents = Agents()
    """Who decides; `all`: every node that tasks reach and that has a choice."""
    information: Information = Information()
    """What neighbours know of each other."""
    failures: Failures | None = None
    """Nodes that go down and up again; null: no node fails."""
    setup: Annotated[Setup, ADDED] | None = None
    """What a node does before it serves a task of a type that it does not hold; null: nothing."""
    energy: Energy | None = None
    """The power that nodes draw; null: energy is not accounted for."""
    price: Annotated[Price, ADDED] | None = None
    """What tasks cost at the nodes that they use; null: nothing."""
    observe: Observe = "full"
    """What agents see: everything, PeersimGym's few numbers, groups of features, or a function; see
    `docs/observation.md`."""
    reward: Reward = Reward()
    """The reward of agents."""

    @model_validator(mode="after")
    def _times_fit(self) -> EnvironmentConfig:
        if self.decisions.when == "interval":
            self._steps_fit()
        self._ticks_fit()
        check_sharing(self.service, self.tasks_per_core, self.queue)
        self._weights_are_seen()
        self._embeddings_are_seen()
        if self.service == "shared" and self.tasks_per_core is None and self.decisions.offer == "newest":
            raise ValueError(
                "decisions.offer: newest offers waiting tasks, and with service: shared no task waits; accepted: "
                "decisions.offer: arrival, or tasks_per_core"
            )
        if self.warmup_s + self.drain_s >= self.horizon_s:
            raise ValueError(
                f"warmup_s + drain_s ({self.warmup_s + self.drain_s:g}) must be less than horizon_s "
                f"({self.horizon_s:g}): no task would count"
            )
        return self

    def _shown_without(self, group: str) -> str:
        """Return what agents are shown if a group of features is not part of it, otherwise nothing."""
        if self.observe == "paper":
            return "paper"
        return ", ".join(self.observe) if isinstance(self.observe, tuple) and group not in self.observe else ""

    def _embeddings_are_seen(self) -> None:
        if not self.information.embedding:
            return
        if self.decisions.when != "arrival":
            raise ValueError(
                f"information.embedding: {self.information.embedding} needs decisions at arrivals; accepted: "
                "decisions.when: arrival, or embedding: 0"
            )
        shown = self._shown_without("embedding")
        if shown:
            raise ValueError(
                f"information.embedding: {self.information.embedding} needs agents that see it; accepted: observe: "
                f"full, or embedding among its groups; it is {shown}"
            )

    def _weights_are_seen(self) -> None:
        shown = self._shown_without("objectives")
        if self.reward.weights == "drawn" and shown:
            raise ValueError(
                f"reward.weights: drawn needs agents that see them; accepted: observe: full, or objectives among its "
                f"groups (given: {shown})"
            )

    def _steps_fit(self) -> None:
        steps = self.horizon_s / self.decisions.interval_s
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-9 * steps:
            raise ValueError(
                f"horizon_s ({self.horizon_s:g}) must be a multiple of decisions.interval_s "
                f"({self.decisions.interval_s:g})"
            )
        if steps > LARGEST_STEPS:
            raise ValueError(
                f"horizon_s / decisions.interval_s is {steps:.3g} decisions per episode; at most {LARGEST_STEPS:,} "
                "can be simulated"
            )

    def _ticks_fit(self) -> None:
        if self.tick_s is None:
            if self.tick_order != "random":
                raise ValueError(f"tick_order: {self.tick_order} needs tick_s: without it there are no ticks")
            return
        if self.decisions.when == "arrival":
            raise ValueError(
                f"tick_s: {self.tick_s:g} needs decisions.when: interval; decisions.when: arrival has no ticks. "
                "Accepted: no tick_s"
            )
        count = self.horizon_s / self.tick_s
        if count > LARGEST_STEPS:
            raise ValueError(
                f"horizon_s / tick_s is {count:.3g} ticks per episode; at most {LARGEST_STEPS:,} can be simulated"
            )
        ticks = self.decisions.interval_s / self.tick_s
        if round(ticks) < 1 or abs(ticks - round(ticks)) > 1e-9 * ticks:
            raise ValueError(
                f"decisions.interval_s ({self.decisions.interval_s:g}) must be a multiple of tick_s ({self.tick_s:g})"
            )
        if self.service != "pooled":
            raise ValueError(f"tick_s needs service: pooled (given: {self.service})")
        if self.information.kind == "broadcast" and self.information.interval_s != self.tick_s:
            raise ValueError(
                f"with tick_s nodes broadcast once a tick: information.interval_s ({self.information.interval_s:g}) "
                f"must be {self.tick_s:g}, or information.kind fresh"
            )
