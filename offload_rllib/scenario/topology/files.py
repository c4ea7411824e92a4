"""The common part of the readers of topology files: from rows to a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import validated
from offload_rllib.config.topology import ManualNode
from offload_rllib.scenario.network import Network, Node
from offload_rllib.scenario.topology.manual import indices_of, node_of

NUMBERS = ("instructions_per_second", "x_m", "y_m")
WHOLE = ("cores", "queue_capacity")
NODE_FIELDS = ("name", "type", *NUMBERS, *WHOLE, "client")
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class LinkRow:
    """One link of a file, from `source` to `destination`; None: not stated."""

    where: str
    source: str
    destination: str
    rate_bps: float | None
    latency_s: float | None
    one_way: bool = False
    """The rate and the latency are those from source to destination alone."""


def number_of(text: Any, where: str) -> float | None:
    """Return a number from a file, None for nothing.

    Raises:
        ConfigError: it is something else.
    """
    if text is None or text == "":
        return None
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: must be a number (given: {text!r})") from error


def node_from(row: Mapping[str, Any], where: str) -> Node:
    """Return the node of a row of a file; the values may be text, and an empty one counts as absent.

    Raises:
        ConfigError: a value is invalid, or the speed is missing; the message begins with `where`.
    """
    given = {key: value for key, value in row.items() if value is not None and value != ""}
    content: dict[str, Any] = {key: given[key] for key in ("name", "type") if key in given}
    x_m, y_m = (number_of(given.get(key), f"{where}: {key}") for key in ("x_m", "y_m"))
    if x_m is not None or y_m is not None:
        content["position_m"] = (x_m or 0.0, y_m or 0.0)
    if "instructions_per_second" in given:
        content["instructions_per_second"] = number_of(
            given["instructions_per_second"], f"{where}: instructions_per_second"
        )
    for key in WHOLE:
        value = number_of(given.get(key), f"{where}: {key}")
        if value is not None:
            content[key] = int(value) if value.is_integer() else value
    if "client" in given:
        text = str(given["client"]).lower()
        if text not in TRUTH:
            raise ConfigError(f"{where}: client: must be true or false (given: {given['client']!r})")
        content["client"] = TRUTH[text]
    return node_of(validated(ManualNode, content, where))


def network_from(nodes: Iterable[Node], rows: Iterable[LinkRow], where: str) -> Network:
    """Return a network. A link may be stated once, for both ways, or once each way.

    Raises:
        ConfigError: a link names a node that is not there, is stated twice, or some links state rates and some none.
    """
    nodes = tuple(nodes)
    index = {node.name: i for i, node in enumerate(nodes)}
    ways: dict[tuple[int, int], LinkRow] = {}
    for row in rows:
        a, b = indices_of((row.source, row.destination), index, row.where)
        for pair in ((a, b),) if row.one_way else ((a, b), (b, a)):
            if pair in ways and a != b:
                raise ConfigError(f"{row.where}: the link '{row.source}' - '{row.destination}' is stated twice")
            ways[pair] = row
    links = tuple(sorted({(min(pair), max(pair)) for pair in ways}))
    # A direction that the file leaves out is like the other one.
    both = [(ways.get((a, b)) or ways[b, a], ways.get((b, a)) or ways[a, b]) for a, b in links]
    stated = [row for pair in both for row in pair if row.rate_bps is not None]
    if not stated:
        return Network(nodes, links)
    silent = next((row for pair in both for row in pair if row.rate_bps is None), None)
    if silent is not None:
        raise ConfigError(f"{silent.where}: rate_bps is missing; other links of {where} state it")
    return Network(
        nodes,
        links,
        rates_bps=tuple((there.rate_bps or 0.0, back.rate_bps or 0.0) for there, back in both),
        latencies_s=tuple((there.latency_s or 0.0, back.latency_s or 0.0) for there, back in both),
    )
