"""What the controller tells its hosts: the network, what is played on it, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offload_rllib.envs.node_view import of_one_node
from offload_rllib.policies.portable import Shape, Weights
from offload_rllib.simulator.arrivals import ARRIVALS, BURST_STATE, CLIENT, RATE_PIECE, RECORDED
from offload_rllib.simulator.changes.due import RATE_CHANGE
from offload_rllib.simulator.changes.movement import MOVEMENT, MOVING, PLACE, POSITION
from offload_rllib.simulator.types import (
    DISTRIBUTION,
    FAILURE_LAW,
    LINK,
    LINK_LAW,
    LOG,
    NODE,
    ONWARD,
    POWER,
    SETTINGS,
    Array,
    Scenario,
)

SCENARIO_TYPES: dict[str, Any] = {
    "variant": np.uint8,
    "settings": SETTINGS,
    "node": NODE,
    "link": LINK,
    "link_law": LINK_LAW,
    "failure_law": FAILURE_LAW,
    "power": POWER,
    "price": POWER,
    "charge": POWER,
    "weight": np.float64,
    "throughput": np.float64,
    "rate_change": RATE_CHANGE,
    "movement": MOVEMENT,
    "moving": MOVING,
    "position": POSITION,
    "place": PLACE,
    "next_link": np.int32,
    "agent_node": np.int32,
    "destination": np.int32,
    "first_leg": np.int32,
    "leg": np.int32,
    "setup_s": np.float64,
    "onward": ONWARD,
    "arrivals": ARRIVALS,
    "client": CLIENT,
    "recording": RECORDED,
    "rate_piece": RATE_PIECE,
    "burst_state": BURST_STATE,
    "burst_jump": np.float64,
    "type_share": np.float64,
    "type_weight": np.float64,
    "type_priority": np.int16,
    "distribution": DISTRIBUTION,
    "distribution_to": DISTRIBUTION,
    "choice": np.float64,
    "job": np.float64,
    "cost": np.float64,
}
assert SCENARIO_TYPES.keys() == set(Scenario._fields)  # noqa: S101 - one record, two places


def _record(*fields: tuple[str, str]) -> np.dtype:
    return np.dtype(list(fields))


# The fate of a task, as the node writes it that sees its end: as the simulator's log, and what only a testbed knows.
ROW = np.dtype([("number", "i8"), ("decision_s", "f8"), ("row", LOG)])
# A task that a node has sent to another one.
MOVE = _record(("time_s", "f8"), ("number", "i8"), ("node", "i4"), ("hops", "i4"))
ARRIVAL_ROW = _record(
    ("created_s", "f8"),
    ("deadline_s", "f8"),
    ("work", "f8"),
    ("bits_in", "f8"),
    ("bits_out", "f8"),
    ("number", "i8"),
    ("origin", "i4"),
    ("type", "i4"),
)
ARRAY_TYPES = SCENARIO_TYPES | {
    "arriving": ARRIVAL_ROW,
    "rows": ROW,
    "moves": MOVE,
    "columns": np.int64,
    "late_s": np.float32,
    "decision_wall_s": np.float32,
}

COMPUTE = ("emulate", "burn", "command")
SHAPED, REAL, NAMESPACES = "shaped", "real", "namespaces"
NETWORK = (SHAPED, REAL, NAMESPACES)


@dataclass(frozen=True)
class Options:
    """How a testbed plays.

    Attributes:
        speed: scenario seconds per real second.
        compute: how a server is busy: ``emulate`` (a timer), ``burn`` (the CPU works) or ``command`` (a program).
        command: the program and its arguments, with `compute` ``command``.
        network: ``shaped`` (senders keep to the rates and latencies of the scenario), ``real`` (as the link has it), or
            ``namespaces`` (the kernel keeps to the rates, senders to the latencies).
    """

    speed: float = 20.0
    compute: str = "emulate"
    command: tuple[str, ...] = ()
    network: str = SHAPED


@dataclass(frozen=True)
class Network:
    """The network that is played on.

    Attributes:
        arrays: of the scenario, as a node needs them.
        names: of the nodes.
        interval_s: between two broadcasts of a node.
        message_bits: of a broadcast.
        broadcast_delay_s: [M] of a broadcast over each link.
        rows: R, actions of an agent.
        agents: A: deciding nodes from number A on follow `others`.
        others: rule of those, and its parameter.
    """

    arrays: Scenario
    names: tuple[str, ...]
    interval_s: float
    broadcast_delay_s: Array
    rows: int
    agents: int
    others: tuple[int, float]

    @classmethod
    def of(cls, arrays: Scenario, names: tuple[str, ...], rows: int, agents: int, others: tuple[int, float]) -> Network:
        """Return the network of a scenario."""
        interval_s = float(arrays.settings[0]["broadcast_interval_s"])
        delay_s = np.ascontiguousarray(arrays.link["broadcast_delay_s"])
        return cls(of_one_node(arrays), names, interval_s, delay_s, rows, agents, others)

    def packed(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return what `unpacked` makes it of again."""
        content = {
            "names": list(self.names),
            "interval_s": self.interval_s,
            "broadcast_delay_s": self.broadcast_delay_s.tolist(),
            "rows": self.rows,
            "agents": self.agents,
            "others": list(self.others),
        }
        return content, self.arrays._asdict()

    @classmethod
    def unpacked(cls, content: Mapping[str, Any], arrays: Mapping[str, Array]) -> Network:
        """Return the network that was packed."""
        return cls(
            Scenario(**{name: arrays[name] for name in Scenario._fields}),
            tuple(content["names"]),
            content["interval_s"],
            np.array(content["broadcast_delay_s"]),
            content["rows"],
            content["agents"],
            (int(content["others"][0]), float(content["others"][1])),
        )


NO_NETWORK = Shape("logits", "mlp", "tanh", 0.0, False, (0, 0, 0))  # noqa: FBT003 - a field of a tuple


@dataclass(frozen=True)
class Brain:
    """How agents decide: by a rule, or by networks, of which each agent has one.

    Attributes:
        rule: code and parameter; None: by networks.
        shape: of the networks.
        weights: of each network by its name.
        policy_of: [A] name of the network of each agent.
        columns: of the full observation that the networks see; None: all.
        deterministic: take the best action; otherwise draw.
        seed: of the draws.
    """

    rule: tuple[int, float] | None = None
    shape: Shape = NO_NETWORK
    weights: Mapping[str, Weights] = field(default_factory=dict)
    policy_of: tuple[str, ...] = ()
    columns: Array | None = None
    deterministic: bool = True
    seed: int = 0

    def packed(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return what `unpacked` makes it of again."""
        content = {
            "rule": None if self.rule is None else list(self.rule),
            "shape": self.shape._asdict(),
            "policy_of": list(self.policy_of),
            "has_columns": self.columns is not None,
            "deterministic": self.deterministic,
            "seed": self.seed,
        }
        arrays = {f"{name}/{key}": value for name, of_one in self.weights.items() for key, value in of_one.items()}
        if self.columns is not None:
            arrays["columns"] = self.columns.astype(np.int64)
        return content, arrays

    @classmethod
    def unpacked(cls, content: Mapping[str, Any], arrays: Mapping[str, Array]) -> Brain:
        """Return the brain that was packed."""
        weights: dict[str, dict[str, Array]] = {}
        for name, value in arrays.items():
            policy, slash, key = name.partition("/")
            if slash:
                weights.setdefault(policy, {})[key] = value
        shape = content["shape"]
        return cls(
            None if content["rule"] is None else (int(content["rule"][0]), float(content["rule"][1])),
            Shape(**(shape | {"rows": tuple(shape["rows"])})),
            weights,
            tuple(content["policy_of"]),
            arrays["columns"] if content["has_columns"] else None,
            content["deterministic"],
            content["seed"],
        )


@dataclass(frozen=True)
class NodeOrder:
    """What a node process is started with.

    Attributes:
        network: that is played on.
        options: how.
        brain: how agents decide.
        n: index of the node.
        key: of the episode.
        arrivals: [a] ARRIVAL_ROW, of the client here.
        controller: address of the controller.
        bind: address to listen on.
        port: to listen on; 0 takes a free one.
        token: of this run.
        play: number of the play.
        units_per_s: of `compute.calibrate`; 0 if servers do not burn.
        namespace: file descriptor of the node's network namespace; None without.
    """

    network: Network
    options: Options
    brain: Brain
    n: int
    key: int
    arrivals: Array
    controller: tuple[str, int]
    bind: str
    port: int
    token: bytes
    play: int
    units_per_s: float
    namespace: int | None = None
