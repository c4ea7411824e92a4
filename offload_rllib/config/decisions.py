"""The schema of `decisions`, `agents`, `information`, `observe` and `reward`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema, model_validator

from offload_rllib.config.base import (
    ADDED,
    FUNCTION_PATH,
    NAMES_CODE,
    Count,
    Finite,
    Flag,
    NonNegative,
    Positive,
    Reference,
    Schema,
    Share,
    is_function_path,
)
from offload_rllib.config.errors import ConfigError


class Decisions(Schema):
    """What is decided, and when."""

    when: Literal["arrival", "interval"] = "arrival"
    """arrival: a task is decided at the moment at which it enters an agent's node; interval: all agents decide every
    `interval_s`, and tasks are held until then."""
    interval_s: NonNegative = 1.0
    """`when: interval` only: time between two decisions of every agent; 0 with `when: arrival`."""
    offer: Literal["arrival", "newest"] = "arrival"
    """arrival: a task that enters is held, unserved, until it is decided, oldest first; newest: tasks wait in the
    queue and are served meanwhile, and the newest waiting task is on offer."""
    tasks_per_decision: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """Tasks that an agent decides at a time, those it has held longest."""
    max_hops: Annotated[int, Field(strict=True, ge=1, le=16)] = 2
    """A task that has travelled this often stays where it is."""
    max_destinations: Count | None = None
    """Offer at most this many neighbours, those with the fastest links; null: all."""
    reject: Annotated[Flag, ADDED] = False
    """Whether agents have a last action that rejects the task: it is dropped at once, and scores as a drop."""
    destinations: Annotated[Literal["neighbours", "routed"], ADDED] = "neighbours"
    """neighbours: tasks are sent to neighbours; routed: to any node within reach, over the links of the shortest path,
    one after the other. Such a transfer is one hop of `max_hops`."""
    reach_hops: Annotated[Count, ADDED] | None = None
    """`destinations: routed` only: the most links of a path; null: any number."""
    strict: Flag = False
    """Raise on an action that is not valid, instead of treating it as 0 and counting it."""

    @model_validator(mode="before")
    @classmethod
    def _no_clock(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("when", "arrival") == "arrival":
            return {"interval_s": 0.0} | value
        return value

    @model_validator(mode="after")
    def _fits_when(self) -> Decisions:
        if self.reach_hops is not None and self.destinations != "routed":
            raise ValueError(f"reach_hops: {self.reach_hops} needs destinations: routed (given: {self.destinations})")
        if self.reject and self.offer != "arrival":
            raise ValueError(f"reject: true needs offer: arrival (given: {self.offer})")
        if self.when == "interval":
            if self.interval_s <= 0:
                raise ValueError("interval_s: must be above 0 with when: interval (given: 0)")
            return self
        if self.interval_s != 0:
            raise ValueError(
                f"interval_s: {self.interval_s:g} needs when: interval; with when: arrival every task is decided when "
                "it arrives. Accepted: no interval_s, or 0"
            )
        if self.tasks_per_decision != 1:
            raise ValueError(
                f"tasks_per_decision: {self.tasks_per_decision} needs when: interval; with when: arrival every task is "
                "a decision of its own. Accepted: 1"
            )
        if self.offer != "arrival":
            raise ValueError(
                f"offer: {self.offer} needs when: interval; with when: arrival the task that arrives is decided. "
                "Accepted: arrival"
            )
        return self


class Agents(Schema):
    """Who decides: `all`, or those of some device types, or those named; the other nodes follow a rule."""

    types: Annotated[tuple[Reference, ...], Field(min_length=1)] | None = None
    """Device types whose nodes are agents."""
    nodes: Annotated[tuple[Reference, ...], Field(min_length=1)] | None = None
    """Names of the nodes that are agents."""
    others: Annotated[Reference, NAMES_CODE] = "local"
    """Rule of the nodes that could decide and are not agents: a heuristic, e.g. `shortest_finish` or
    `soft_finish:0.5`, or a function `package.module:function`."""

    @model_validator(mode="before")
    @classmethod
    def _from_all(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value != "all":
                raise ValueError("must be all, or a mapping with types or nodes, and others")
            return {}
        return value

    @model_validator(mode="after")
    def _one_choice(self) -> Agents:
        if self.types is not None and self.nodes is not None:
            raise ValueError("give types or nodes, not both")
        for key in ("types", "nodes"):
            given = getattr(self, key) or ()
            if len(set(given)) < len(given):
                raise ValueError(f"{key} names one of them twice")
        if self.types is None and self.nodes is None and "others" in self.model_fields_set and self.others != "local":
            raise ValueError("others needs types or nodes: otherwise all nodes with a choice are agents")
        return self


# Of a number that a broadcast carries.
NUMBER_BITS = 32.0


class Information(Schema):
    """What neighbours know of each other."""

    kind: Literal["broadcast", "fresh"] = "broadcast"
    """broadcast: the last message that arrived; fresh: the true state at once."""
    interval_s: Positive = 1.0
    """Time between two broadcasts of a node; the phases are drawn per node and episode."""
    message_bits: NonNegative = 512.0
    """Size of a broadcast; its delay over a link is latency + size / rate."""
    embedding: Annotated[int, Field(strict=True, ge=0, le=256), ADDED] = 0
    """Numbers that a broadcast carries besides: learned ones, of what the node saw at its last decision. Each, and the
    time of that decision, adds 32 bits to the broadcast. 0: none."""

    @property
    def broadcast_bits(self) -> float:
        """Size of a broadcast with what it carries besides."""
        return self.message_bits + (NUMBER_BITS * (self.embedding + 1) if self.embedding else 0.0)


OBSERVATION_GROUPS = (
    "queue",
    "self",
    "speed",
    "task",
    "valid",
    "timing",
    "radio",
    "information",
    "hops",
    "clock",
    "failures",
    "admission",
    "charges",
    "setups",
    "objectives",
    "embedding",
)


def _observe(value: Any) -> Any:
    accepted = f"full, paper, package.module:function, or a list of {', '.join(OBSERVATION_GROUPS)}"
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"the list is empty; accepted: {accepted}")
        for group in value:
            if group not in OBSERVATION_GROUPS:
                raise ValueError(f"'{group}' is not a group of features; accepted: {accepted}")
        if len(set(value)) < len(value):
            raise ValueError("names a group twice")
        return tuple(value)
    if isinstance(value, str) and (value in ("full", "paper") or is_function_path(value)):
        return value
    raise ValueError(f"must be {accepted}")


Observe = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_observe),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["full", "paper"]},
                {"type": "string", "pattern": FUNCTION_PATH},
                {"type": "array", "items": {"enum": list(OBSERVATION_GROUPS)}, "minItems": 1},
            ]
        }
    ),
    NAMES_CODE,
]


class Shaping(Schema):
    """Potential-based shaping: weight x (gamma^(time / discount_s) x potential after - potential before)."""

    potential: Literal["backlog", "tasks", "unfinished"]
    """Minus, at the agent's node: the wait of one more task; the tasks there; the unfinished tasks created there."""
    gamma: Share
    """Discount in `discount_s`; that of the algorithm, or the best policy changes."""
    discount_s: Positive = 1.0
    """Seconds that `gamma` is a discount for; that of the algorithm."""
    weight: Positive = 1.0
    """Factor on the shaping term."""


REWARD_NAMES = ("delay", "sparse", "paper", "peersimgym")


def _reward_name(value: str) -> str:
    if value in REWARD_NAMES or is_function_path(value):
        return value
    accepted = ", ".join(f"'{name}'" for name in REWARD_NAMES)
    raise ValueError(f"must be {accepted} or package.module:function")


RewardName = Annotated[
    str,
    AfterValidator(_reward_name),
    WithJsonSchema({"anyOf": [{"enum": list(REWARD_NAMES)}, {"type": "string", "pattern": FUNCTION_PATH}]}),
    NAMES_CODE,
]


class Weights(Schema):
    """The weights of the reward's terms. They are divided by their sum."""

    response: NonNegative = 0.0
    """Of the response time, with the score of dropped tasks."""
    drops: NonNegative = 0.0
    """Of `drop_penalty_s`."""
    energy: NonNegative = 0.0
    """Of `energy_weight`."""
    price: NonNegative = 0.0
    """Of `price_weight`."""

    @model_validator(mode="after")
    def _some(self) -> Weights:
        if not any(self.model_dump().values()):
            raise ValueError("all weights are 0; accepted: one or more above 0")
        return self


def parse_weights(text: str) -> Weights:
    """Return weights from ``OBJECTIVE=WEIGHT,...``, as ``response=0.7,energy=0.3``.

    Raises:
        ConfigError: they are not of that form, or are not accepted.
    """
    accepted = ", ".join(Weights.model_fields)
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            given[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(
                f"weights '{text}': must be OBJECTIVE=WEIGHT,..., e.g. response=0.7,energy=0.3; objectives: {accepted}"
            ) from None
    unknown = sorted(set(given) - set(Weights.model_fields))
    if unknown:
        raise ConfigError(f"weights '{text}': {unknown[0]} is no objective; objectives: {accepted}")
    try:
        return Weights.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = f"{first['loc'][0]}: " if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"weights '{text}': {where}{message}; objectives: {accepted}") from None


class Reward(Schema):
    """The reward; formulas in `docs/rewards.md`."""

    name: RewardName = "delay"
    """The formula, or a function."""
    scope: Literal["own", "neighbourhood", "team"] = "neighbourhood"
    """Average over: the agent's node; it and its neighbours; all nodes (sum over nodes / number of agents).

    With `own`, agents without a client of their own (relays, servers) receive nothing for tasks of other nodes."""
    scale: Positive = 1.0
    """Factor on every reward."""
    shaping: Shaping | None = None
    """What is added to speed up learning; null: nothing."""
    drop_penalty_s: NonNegative = 0.0
    """`delay` only: seconds that a dropped task costs in addition to its score, for policies that are to drop
    little."""
    energy_weight: Annotated[NonNegative, ADDED] = 0.0
    """`delay` and `sparse` only: what a joule that a task uses (or a unit of PeersimGym's account) takes off the
    reward of its origin, in seconds, or in tasks with `sparse`; needs `energy`."""
    price_weight: Annotated[NonNegative, ADDED] = 0.0
    """The same for a unit of money that a task costs; needs `price`."""
    weights: Annotated[Weights | Literal["drawn"] | None, ADDED] = None
    """`delay` only: several objectives. Every term of the reward is multiplied by its weight, and agents see the
    weights. drawn: for each episode, uniformly from all that sum to 1; null: no term has a weight, and none is seen."""
    utility: Finite = 10.0
    """`paper` and `peersimgym` only: r_u."""
    waiting_weight: NonNegative = 1.0
    """`paper`: chi_wait; `peersimgym`: cap of the waiting term, as a multiple of r_u."""
    communication_weight: NonNegative = 1.0
    """`paper`: chi_comm; `peersimgym`: cap of the communication term."""
    execution_weight: NonNegative = 1.0
    """`paper`: chi_exc; `peersimgym`: cap of the execution term."""
    overload_weight: NonNegative = 1.0
    """`paper` and `peersimgym` only: chi_O."""
    no_op_reward: Finite = 0.0
    """`peersimgym` only: the reward while the node has no task."""
