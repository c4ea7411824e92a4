"""The answers of the service as a schema: what its OpenAPI document says, and what the tests hold answers against."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from offload_rllib.config.base import Count, Natural, Schema

Number = float | Literal["NaN", "Infinity", "-Infinity"]
Rows = list[list[Number]]
Bit = Annotated[int, Field(ge=0, le=1)]
Masks = list[list[Bit]] | list[list[list[Bit]]] | list[list[list[list[Bit]]]]
Figures = dict[str, Number]


class NumberSpace(Schema):
    """An array of numbers."""

    shape: list[int]
    """Its axes."""
    dtype: str
    """Type of its numbers in the binary form, as NumPy calls it."""
    low: float | None = None
    """Lowest number; null: unbounded."""
    high: float | None = None
    """Highest number."""


class ActionSpace(Schema):
    """The actions of an agent."""

    n: Count
    """R: actions are 0 to R - 1; 0 keeps the task, k sends it to destination k."""
    tasks: Count
    """k, tasks that are decided at a time."""


class Spaces(Schema):
    """Of every agent; all have the same."""

    observation: NumberSpace
    action_mask: NumberSpace
    action: ActionSpace


class SessionDescription(Schema):
    """A session and its environment."""

    session: str | None = None
    """The name of the session; when it is opened."""
    timeout_s: float | None = None
    """Without a request for so long it is closed; when it is opened."""
    calls: Natural | None = None
    """Resets and steps so far; when it is asked for."""
    interface: Literal["parallel", "vector"]
    environment: str
    description: str
    fingerprint: str
    """Hash of the configuration, overrides included."""
    when: Literal["arrival", "interval"]
    """Of decisions."""
    num_envs: Count
    agents: list[str]
    """Their names, in the order of all arrays."""
    spaces: Spaces
    observation_names: list[str]
    """Of the numbers of an observation."""
    steps_per_episode: int | None
    """Null where decisions come with arrivals: episodes differ."""


class ParallelAnswer(Schema):
    """What all agents of a `parallel` session observe and receive."""

    call: Count
    """Number of this call of the session."""
    observations: Rows
    """[A][F]"""
    action_masks: Masks
    """[A][R], or [A][k][R]; 1 where an action is valid."""
    deciding: str | None = None
    """The agent that decides now; null at the end, and where decisions come at intervals, when all decide."""
    rewards: list[Number] | None = None
    """[A], of this step; not after a reset."""
    truncated: bool | None = None
    """Whether the episode has ended; not after a reset."""
    figures: Figures | None = None
    """Of the episode, at its end."""


class VectorAnswer(Schema):
    """The arrays of a `vector` session, as those of the native batch."""

    call: Count
    """Number of this call of the session."""
    ended: bool
    """Whether an episode has ended."""
    observations: Rows | list[Rows]
    """[E][F] of the agents that decide, or [E][A][F] where decisions come at intervals."""
    action_masks: Masks
    """[E][R], [E][A][R] or [E][A][k][R]."""
    rewards: list[Number] | Rows
    """[E], or [E][A]."""
    truncated: list[bool]
    """[E], whose episodes have ended."""
    deciding: list[int] | None = None
    """[E], the agents that decide, -1 where an episode has ended; with arrivals, as the three below."""
    time_s: list[Number] | None = None
    """[E], time of the decision."""
    elapsed_s: list[Number] | None = None
    """[E], time since the same agent's previous decision."""
    decisions: list[int] | None = None
    """[E], decisions of the episode so far."""


class MetricsAnswer(Schema):
    """Figures of finished episodes."""

    figures: list[Figures]
    """One for each environment, its number among them as `environment`; texts where a figure is not finite."""


class ClosingAnswer(Schema):
    """What all agents get at the end of an episode where decisions come with arrivals."""

    observations: Rows
    action_masks: Masks
    rewards: list[Number]
    """[A], earned since the agent's last decision."""
    elapsed_s: list[Number]
    """[A], time since then."""


class DestinationsAnswer(Schema):
    """Where actions lead to."""

    destinations: dict[str, list[str]]
    """By agent: the node of action 0, 1 and so on, of those that are valid in this episode."""


class ClosedAnswer(Schema):
    """A session that was closed."""

    closed: Literal[True]


class HealthAnswer(Schema):
    """The service answers."""

    status: Literal["ok"]
    sessions: Natural
    """How many are open."""


class AboutAnswer(Schema):
    """What is served."""

    environment: str
    description: str
    limits: dict[str, float]
    """See `SessionLimits`."""
    offload_rllib: str
    """Version of the package."""


class ErrorAnswer(Schema):
    """A request that was rejected."""

    error: str
    """What is wrong, for people."""
    field: str | None = None
    """Which key of the request, header or state."""
    value: str | int | list[str] | None = None
    """What was given, shortened."""
    accepted: str | None = None
    """What would be accepted."""
