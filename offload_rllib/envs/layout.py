"""The numbers of an observation: what each means, and where it is.

An observation is made of blocks: one of the agent's node, then, for each task on offer, one of the task followed by
one row per action. Row 0, of keeping the task here, is shorter: what a row says of the way there, and of how old the
information is, would be 0 in it. `FEATURES` says what is in the blocks, `ObservationLayout` where.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from offload_rllib.simulator.objectives import ENERGY, OBJECTIVES, PRICE

SELF = "self"
TASK = "task"
HERE = "here"
ROW = "row"
WEIGHT = "weight_"  # before the name of an objective


class Feature(NamedTuple):
    """One number of a block."""

    block: str
    """`SELF`, `TASK`, `HERE` (row 0) or `ROW` (the others)."""
    name: str
    group: str
    """What `observe` selects by."""
    scale: str
    """How the raw number is brought to [-1, 1]; see `observation.scaling`."""
    meaning: str
    unit: str
    """Of the raw number."""
    span: str
    """Range of the scaled number, as an interval or a set."""


FEATURES = (
    Feature(SELF, "held", "self", "2", "tasks held", "tasks", "[0, 1)"),
    Feature(SELF, "awaited", "self", "8", "tasks made here whose result the node waits for", "tasks", "[0, 1)"),
    Feature(SELF, "client", "self", "share", "1 if a client is here", "-", "{0, 1}"),
    Feature(SELF, "degree", "self", "4", "neighbours", "nodes", "(0, 1)"),
    Feature(TASK, "offered", "task", "share", "1 if a task is on offer", "-", "{0, 1}"),
    Feature(TASK, "work", "task", "work", "instructions", "instructions", "[0, 1)"),
    Feature(TASK, "bits_in", "task", "bits", "input size", "bit", "[0, 1)"),
    Feature(TASK, "bits_out", "task", "bits", "output size", "bit", "[0, 1)"),
    Feature(TASK, "time_left", "task", "time", "time to the deadline", "s", "(-1, 1]"),
    Feature(TASK, "age", "task", "time", "time since creation", "s", "[0, 1)"),
    Feature(TASK, "hops", "task", "hops", "hops made / largest number", "-", "[0, 1)"),
    Feature(HERE, "wait", "timing", "time", "time until a server is free for the task", "s", "[0, 1)"),
    Feature(HERE, "service", "timing", "time", "time of service", "s", "[0, 1)"),
    Feature(HERE, "return", "radio", "time", "time of the result to the origin", "s", "[0, 1)"),
    Feature(HERE, "finish", "timing", "time", "wait + service + return", "s", "[0, 1)"),
    Feature(HERE, "slack", "timing", "time", "time to the deadline - finish", "s", "(-1, 1]"),
    Feature(HERE, "tasks", "queue", "share", "tasks here without the one on offer / capacity", "tasks", "[0, 1]"),
    Feature(HERE, "speed", "speed", "speed", "speed / fastest node's speed", "instructions/s", "[0, 1]"),
    Feature(ROW, "valid", "valid", "share", "1 if the action is valid", "-", "{0, 1}"),
    Feature(ROW, "wait", "timing", "time", "time until a server is free there, by what is known", "s", "[0, 1)"),
    Feature(ROW, "service", "timing", "time", "time of service there", "s", "[0, 1)"),
    Feature(ROW, "transfer", "radio", "time", "time to get there", "s", "[0, 1)"),
    Feature(ROW, "return", "radio", "time", "time of the result to the origin", "s", "[0, 1)"),
    Feature(ROW, "finish", "timing", "time", "max(transfer, wait) + service + return", "s", "[0, 1)"),
    Feature(ROW, "slack", "timing", "time", "time to the deadline - finish", "s", "(-1, 1]"),
    Feature(ROW, "tasks", "queue", "share", "tasks known and sent there / capacity", "tasks", "[0, 1]"),
    Feature(ROW, "information_age", "information", "time", "age of the last broadcast", "s", "[0, 1)"),
    Feature(ROW, "sent", "information", "2", "tasks sent there that are not counted yet", "tasks", "[0, 1)"),
    Feature(ROW, "speed", "speed", "speed", "speed there / fastest node's speed", "instructions/s", "[0, 1]"),
    Feature(ROW, "offers_again", "hops", "share", "1 if the task would be offered once more there", "-", "{0, 1}"),
)
# Last in their block where there is something to see: the time of day where the load follows it, who is up where nodes
# fail. Which action rejects the task where one does, what an action costs where the reward counts that, and who holds
# the task's type where services may begin with a set-up.
CLOCK = (
    Feature(SELF, "clock_sin", "clock", "share", "sine of the time of day", "-", "[-1, 1]"),
    Feature(SELF, "clock_cos", "clock", "share", "cosine of the time of day", "-", "[-1, 1]"),
)
ALIVE = (
    Feature(HERE, "alive", "failures", "share", "1 if this node is up", "-", "{0, 1}"),
    Feature(ROW, "alive", "failures", "share", "1 if the destination was up, as last broadcast", "-", "{0, 1}"),
)
ADMISSION = (Feature(ROW, "rejects", "admission", "share", "1 if the action rejects the task", "-", "{0, 1}"),)
SETUPS = (
    Feature(HERE, "warm", "setups", "share", "1 if this node holds the type of the task", "-", "{0, 1}"),
    Feature(ROW, "warm", "setups", "share", "1 if the destination does, as last broadcast", "-", "{0, 1}"),
)
CHARGES = tuple(
    Feature(block, "charge", "charges", "time", "energy and price in the reward, of the action", "s", "[0, 1)")
    for block in (HERE, ROW)
)
# Where the objectives have weights: these, and a charge for energy and one for price in place of one for both.
WEIGHTS = tuple(
    Feature(SELF, f"{WEIGHT}{name}", "objectives", "share", f"weight of {meaning} in the reward", "-", "[0, 1]")
    for name, meaning in zip(OBJECTIVES, ("the response time", "drops", "energy", "price"), strict=True)
)
CHARGES_APART = tuple(
    feature._replace(name=f"charge_{name}", meaning=f"{name} in the reward at weight 1, of the action")
    for feature in CHARGES
    for name in (OBJECTIVES[ENERGY], OBJECTIVES[PRICE])
)
# Where broadcasts carry embeddings: what the destination saw at its last decision (see `outlook`), of which networks
# make them. Last in a row.
OUTLOOK = (
    Feature(ROW, "outlook_age", "embedding", "time", "time since the destination's last decision", "s", "[0, 1)"),
    *(
        feature._replace(
            block=ROW,
            name=f"outlook_{part}_{feature.name}",
            group="embedding",
            scale="share",
            meaning=f"{which}{feature.meaning}, as the destination saw it then",
        )
        for block, part, which in (
            (SELF, "self", ""),
            (TASK, "task", ""),
            (HERE, "here", ""),
            (ROW, "mean", "mean over its destinations: "),
            (ROW, "least", "least of its destinations: "),
        )
        for feature in FEATURES
        if feature.block == block
    ),
)
GROUPS = tuple(
    dict.fromkeys(
        feature.group for feature in (*FEATURES, *CLOCK, *ALIVE, *ADMISSION, *CHARGES, *SETUPS, *WEIGHTS, *OUTLOOK)
    )
)


# The observation of PeersimGym (arXiv 2403.17637): the own queue and speed, and the neighbours' queues as last
# broadcast.
PAPER_FEATURES = ((HERE, "tasks"), (HERE, "speed"), (ROW, "valid"), (ROW, "tasks"))


def available(
    *,
    failures: bool = False,
    clock: bool = False,
    rejects: bool = False,
    charges: bool = False,
    setups: bool = False,
    objectives: Collection[str] = (),
    embedding: bool = False,
) -> tuple[Feature, ...]:
    """Return all features of an environment.

    Args:
        failures: whether nodes fail.
        clock: whether the load follows the time of day.
        rejects: whether agents can reject tasks.
        charges: whether the reward has terms for energy or price.
        setups: whether services may begin with a set-up.
        objectives: of which the reward has weights.
        embedding: whether broadcasts carry embeddings.
    """
    weights = [feature for feature in WEIGHTS if feature.name.removeprefix(WEIGHT) in objectives]
    of_charge = CHARGES
    if objectives:
        of_charge = [feature for feature in CHARGES_APART if feature.name.removeprefix("charge_") in objectives]
    given = (
        (CLOCK, clock),
        (weights, True),
        (ALIVE, failures),
        (ADMISSION, rejects),
        (of_charge, charges),
        (SETUPS, setups),
        (OUTLOOK, embedding),
    )
    return (*FEATURES, *(feature for features, are_there in given if are_there for feature in features))


def features_of(observe: str | tuple[str, ...], every: tuple[Feature, ...] = FEATURES) -> tuple[Feature, ...]:
    """Return the features that the setting `observe` shows: ``full``, ``paper``, or a list of groups.

    Args:
        observe: the setting.
        every: the features of the environment, from `available`.
    """
    if observe == "full":
        return every
    if observe == "paper":
        return tuple(feature for feature in FEATURES if (feature.block, feature.name) in PAPER_FEATURES)
    return tuple(feature for feature in every if feature.group in observe)


def names_of(block: str) -> tuple[str, ...]:
    """Return the names of a block's features, in order."""
    return tuple(feature.name for feature in FEATURES if feature.block == block)


class Blocks(NamedTuple):
    """What a network that reads rows has to know of an observation."""

    first: int
    """Numbers before row 0."""
    here: int
    """Numbers of row 0."""
    row: int
    """Numbers of every other row."""
    outlook: int = 0
    """The last ones of these: what the destination saw at its last decision."""
    embedding: int = 0
    """Numbers that the network makes of those; 0: it reads them as they are."""


@dataclass(frozen=True)
class ObservationLayout:
    """Where the numbers of an observation are.

    [ self | task, row 0, ..., row R - 1 | task, row 0, ..., row R - 1 | ... ], once per task that is decided at a time.
    """

    self_size: int
    task_size: int
    here_size: int
    """Numbers of row 0."""
    row_size: int
    """Numbers of each other row."""
    rows: int
    """R: actions of an agent."""
    names: tuple[str, ...]
    """Of all numbers, e.g. ``row_2.finish``; from the second task on ``task_1.work``, ``task_1.row_2.finish``."""
    tasks: int = 1
    """k: tasks decided at a time."""
    embedding: int = 0
    """Numbers that networks make of the last ones of each row; see `Blocks`."""

    @property
    def first_row(self) -> int:
        """Index of the first number of row 0."""
        return self.self_size + self.task_size

    @property
    def size(self) -> int:
        """F: numbers of an observation."""
        return self.self_size + self.tasks * (self.task_size + self.here_size + (self.rows - 1) * self.row_size)

    @property
    def blocks(self) -> Blocks:
        """What a network that reads rows has to know."""
        outlook = len(OUTLOOK) - 1 if self.embedding else 0  # without its age
        return Blocks(self.first_row, self.here_size, self.row_size, outlook, self.embedding)

    @property
    def weights(self) -> dict[str, int]:
        """Index of the weight of each objective that is shown, by the objective's name."""
        prefix = f"{SELF}.{WEIGHT}"
        return {name.removeprefix(prefix): at for at, name in enumerate(self.names) if name.startswith(prefix)}

    def position(self, block: str, name: str) -> int:
        """Return the index of a feature within its block: ``self``, ``task``, ``here`` (row 0), or ``row``.

        Raises:
            ValueError: the block has no such feature.
        """
        starts = {
            SELF: (0, "self."),
            TASK: (self.self_size, "task."),
            HERE: (self.first_row, "row_0."),
            ROW: (self.first_row + self.here_size, "row_1."),
        }
        start, prefix = starts[block]
        if f"{prefix}{name}" not in self.names:
            raise ValueError(f"no feature '{name}' of the block {block} is shown; there are: {', '.join(self.names)}")
        return self.names.index(f"{prefix}{name}") - start

    def columns(self, name: str, task: int = 0) -> list[int]:
        """Return the indices [R] of a feature of all rows, for one of the tasks on offer.

        Raises:
            ValueError: not every row has that feature.
        """
        prefix = f"task_{task}." if task else ""
        wanted = [f"{prefix}row_{row}.{name}" for row in range(self.rows)]
        missing = sorted(set(wanted) - set(self.names))
        if missing:
            raise ValueError(f"no feature '{missing[0]}' is shown; there are: {', '.join(self.names)}")
        return [self.names.index(column) for column in wanted]

    def split(self, observations: Any) -> tuple[Any, Any, Any, Any]:
        """Return the blocks of observations [..., F], as views: of numpy arrays and of torch tensors alike.

        Returns:
            Self [..., self_size], tasks [..., k, task_size], row 0 [..., k, here_size], the other rows
            [..., k, R - 1, row_size].
        """
        lead = tuple(observations.shape[:-1])
        offers = observations[..., self.self_size :].reshape((*lead, self.tasks, -1))
        end = self.task_size + self.here_size
        rows = offers[..., end:].reshape((*lead, self.tasks, self.rows - 1, self.row_size))
        return (
            observations[..., : self.self_size],
            offers[..., : self.task_size],
            offers[..., self.task_size : end],
            rows,
        )


def layout_of(
    rows: int, tasks: int = 1, features: tuple[Feature, ...] = FEATURES, embedding: int = 0
) -> ObservationLayout:
    """Return the layout of observations that hold some features, in the order of `FEATURES`.

    Args:
        rows: R, actions of an agent.
        tasks: k, tasks decided at a time.
        features: which ones.
        embedding: numbers that networks make of an outlook; 0: none is shown.
    """
    of_self, of_task, of_here, of_row = (
        [feature.name for feature in features if feature.block == block] for block in (SELF, TASK, HERE, ROW)
    )
    names = [f"self.{name}" for name in of_self]
    for k in range(tasks):
        names += [f"task_{k}.{name}" if k else f"task.{name}" for name in of_task]
        prefix = f"task_{k}." if k else ""
        names += [f"{prefix}row_0.{name}" for name in of_here]
        names += [f"{prefix}row_{row}.{name}" for row in range(1, rows) for name in of_row]
    sizes = len(of_self), len(of_task), len(of_here), len(of_row)
    return ObservationLayout(*sizes, rows, tuple(names), tasks, embedding)
