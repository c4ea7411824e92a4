"""Networks in two CSV files: nodes and links."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import find_data, nearest
from offload_rllib.config.topology import EdgeList
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.text_files import opened_text
from offload_rllib.scenario.topology.files import NODE_FIELDS, LinkRow, network_from, node_from, number_of

LINK_FIELDS = ("source", "destination", "rate_bps", "latency_s")


def rows_of(path: Path, known: Collection[str], needed: Collection[str]) -> list[tuple[str, dict[str, str]]]:
    """Return file and line, and the values by column, of each row.

    Raises:
        ConfigError: the file cannot be read, lacks a column, has an unknown one, or a row is too long or too short.
    """
    with opened_text(path) as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        for name in columns:
            if name not in known:
                raise ConfigError(f"{path}: line 1: unknown column '{name}'.{nearest(name, known)}")
            if columns.count(name) > 1:
                raise ConfigError(f"{path}: line 1: the column '{name}' is there more than once")
        for name in needed:
            if name not in columns:
                raise ConfigError(f"{path}: line 1: the column '{name}' is missing")
        rows = []
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            if None in row or None in row.values():
                raise ConfigError(f"{where}: must have {len(columns)} values: {', '.join(columns)}")
            rows.append((where, row))
        return rows


def build(config: EdgeList) -> Network:
    """Return the network of two files.

    Raises:
        ConfigError: a file cannot be read, or describes an invalid network.
    """
    nodes_path = find_data(config.nodes_path)
    links_path = find_data(config.links_path)
    nodes = [
        node_from(row, where) for where, row in rows_of(nodes_path, NODE_FIELDS, ("name", "instructions_per_second"))
    ]
    links = []
    for where, row in rows_of(links_path, LINK_FIELDS, ("source", "destination")):
        rate_bps, latency_s = (number_of(row.get(key), f"{where}: {key}") for key in ("rate_bps", "latency_s"))
        links.append(LinkRow(where, row["source"], row["destination"], rate_bps, latency_s))
    return network_from(nodes, links, str(links_path))
