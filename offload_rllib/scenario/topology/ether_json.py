"""Networks in the JSON format in which PeersimGym stores what it made with Ether.

`nodes` holds, by name, an id, coordinates and a capacity of cpu_milis and memory; `links.neighbours` the ids that each
id is linked to, `links.path_info` one entry for each way with min_bandwidth in Mbit/s and expected_rtt in ms.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import find_data, nearest
from offload_rllib.config.topology.ether import EtherJson
from offload_rllib.scenario.network import Network, Node
from offload_rllib.scenario.text_files import opened_text
from offload_rllib.scenario.topology.ether_devices import MEGABIT, ether_node
from offload_rllib.scenario.topology.files import LinkRow, network_from

NODE_KEYS = ("id", "name", "coordinates", "capacity", "arch", "labels")
PATH_KEYS = ("id", "source", "target", "min_bandwidth", "expected_rtt", "path_bandwidths")


def build(config: EtherJson) -> Network:
    """Return the network of a file; it states rates and latencies if it holds `path_info` for its links.

    Raises:
        ConfigError: the file cannot be read, is not JSON, or is not of this form.
    """
    path = find_data(config.path)
    with opened_text(path) as file:
        try:
            content = json.load(file)
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not valid JSON: {error}") from error
    _check_keys(content, ("nodes", "links"), str(path))
    name_of: dict[str, str] = {}
    nodes = []
    for name, described in _mapping(content, "nodes", path).items():
        nodes.append(_node(config, name, described, f"{path}: nodes.{name}"))
        name_of[str(described["id"])] = name
    links = _mapping(content, "links", path)
    _check_keys(links, ("neighbours", "path_info"), f"{path}: links")
    facts = {}
    for number, entry in enumerate(links.get("path_info") or []):
        where = f"{path}: links.path_info.{number}"
        _check_keys(entry, PATH_KEYS, where)
        source, destination = (_field(entry, key, (int, str), where) for key in ("source", "target"))
        rate_bps = MEGABIT * _field(entry, "min_bandwidth", (int, float), where)
        latency_s = _field(entry, "expected_rtt", (int, float), where) / 2e3  # half the round trip, in s
        facts[str(source), str(destination)] = rate_bps, latency_s
    rows = {}
    for one, others in _mapping(links, "neighbours", path).items():
        for other in others:
            where = f"{path}: links.neighbours.{one}"
            for end in (one, str(other)):
                if end not in name_of:
                    raise ConfigError(f"{where}: no node has the id {end}")
            # Files state a link at both ends, and some of them twice.
            for a, b in ((one, str(other)), (str(other), one)):
                known = facts.get((a, b)) or facts.get((b, a)) or (None, None)
                rows[a, b] = LinkRow(where, name_of[a], name_of[b], *known, one_way=True)
    return network_from(nodes, rows.values(), str(path))


def _mapping(content: Any, key: str, path: object) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get(key), dict):
        raise ConfigError(f"{path}: '{key}' must be a mapping")
    return content[key]


def _field(content: Any, key: str, kinds: tuple[type, ...], where: str) -> Any:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ConfigError(f"{where}: {key}: must be {' or '.join(kind.__name__ for kind in kinds)} (given: {value!r})")
    if float in kinds and value is not None:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise ConfigError(f"{where}: {key}: must be finite")
    return value


def _check_keys(content: Any, known: Collection[str], where: str) -> None:
    """Reject keys that are not known: misspelt, they would be left out without a word."""
    for key in content if isinstance(content, dict) else ():
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'.{nearest(key, known)}")


def _node(config: EtherJson, name: str, described: Any, where: str) -> Node:
    _field(described, "id", (int, str), where)
    _check_keys(described, NODE_KEYS, where)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name):
        raise ConfigError(f"{where}: the name must consist of letters, digits, underscores and hyphens")
    position = _field(described, "coordinates", (list,), where)
    if len(position) != 2 or not all(isinstance(value, int | float) for value in position):
        raise ConfigError(f"{where}: coordinates: must be two numbers (given: {position})")
    capacity = _field(described, "capacity", (dict,), where)
    _check_keys(capacity, ("cpu_milis", "memory"), f"{where}: capacity")
    millicores, memory = (_field(capacity, key, (int, float), where) for key in ("cpu_milis", "memory"))
    if not millicores > 0:
        raise ConfigError(f"{where}: cpu_milis: must be above 0 (given: {millicores})")
    return ether_node(
        config,
        name,
        re.sub(r"_\d+$", "", name),
        position,
        millicores=millicores,
        memory_bytes=memory,
        cores=max(round(millicores / 1000), 1),
        client=name.startswith(config.clients),
    )
