"""The schema of `decisions`, `information` and `reward`: who decides what, knowing what, paid for what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from offload_rllib.config.base import Count, Finite, Flag, NonNegative, Positive, Schema


class Decisions(Schema):
    """Who decides what, and when."""

    interval_s: Positive = 1.0
    """Time between two decisions of every agent."""
    offer: Literal["arrival", "newest"] = "arrival"
    """arrival: a task that enters is held, unserved, until it is decided, oldest first; newest: tasks wait in the
    queue and are served meanwhile, and the newest waiting task is on offer."""
    max_hops: Annotated[int, Field(strict=True, ge=1, le=16)] = 2
    """A task that has travelled this often stays where it is."""
    max_destinations: Count | None = None
    """Offer at most this many neighbours, those with the fastest links; null: all."""
    strict: Flag = False
    """Raise on an action that is not valid, instead of treating it as 0 and counting it."""


class Information(Schema):
    """What neighbours know of each other."""

    kind: Literal["broadcast", "fresh"] = "broadcast"
    """broadcast: the last message that arrived; fresh: the true state at once."""
    interval_s: Positive = 1.0
    """Time between two broadcasts of a node; the phases are drawn per node and episode."""
    message_bits: NonNegative = 512.0
    """Size of a broadcast; its delay over a link is latency + size / rate."""


class Reward(Schema):
    """What agents are paid; formulas in `docs/rewards.md`."""

    name: Literal["delay", "sparse", "paper"] = "delay"
    """The formula."""
    scope: Literal["own", "neighbourhood", "team"] = "neighbourhood"
    """Average over: the agent's node; it and its neighbours; all nodes (sum over nodes / number of agents).

    With `own`, agents without a client of their own (relays, servers) are paid nothing for the tasks of others."""
    scale: Positive = 1.0
    """Factor on every reward."""
    utility: Finite = 10.0
    """`paper` only: r_u."""
    waiting_weight: NonNegative = 1.0
    """`paper` only: chi_wait."""
    communication_weight: NonNegative = 1.0
    """`paper` only: chi_comm."""
    execution_weight: NonNegative = 1.0
    """`paper` only: chi_exc."""
    overload_weight: NonNegative = 1.0
    """`paper` only: chi_O."""
