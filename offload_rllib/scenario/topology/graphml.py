"""Networks in GraphML files, read by networkx."""

from __future__ import annotations

from collections.abc import Collection
from xml.etree.ElementTree import ParseError

import networkx as nx

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import find_data, nearest
from offload_rllib.config.topology import GraphML
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.text_files import opened
from offload_rllib.scenario.topology.files import NODE_FIELDS, LinkRow, network_from, node_from, number_of

RATES = ("rate_bps", "latency_s")
NODE_ATTRIBUTES = tuple(name for name in NODE_FIELDS if name != "name")  # that is the node's id
LINK_ATTRIBUTES = (*RATES, "id")  # networkx adds the id that an edge may have


def build(config: GraphML) -> Network:
    """Return the network of a file. Nodes are named by their ids; a directed link states one way.

    Raises:
        ConfigError: the file cannot be read, is not GraphML, or describes an invalid network.
    """
    path = find_data(config.path)
    try:
        with opened(path) as file:
            graph = nx.read_graphml(file)
    except ConfigError:
        raise
    # networkx raises KeyError and ValueError for keys that are not declared and values of the wrong type.
    except (ParseError, nx.NetworkXError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not valid GraphML: {error}") from error
    nodes = []
    for name, values in graph.nodes(data=True):
        where = f"{path}: node '{name}'"
        described = graph.graph.get("node_default", {}) | values
        _check(described, NODE_ATTRIBUTES, where)
        nodes.append(node_from({**described, "name": str(name)}, where))
    rows = []
    for source, destination, values in graph.edges(data=True):
        where = f"{path}: link '{source}' - '{destination}'"
        described = graph.graph.get("edge_default", {}) | values
        _check(described, LINK_ATTRIBUTES, where)
        facts = {key: number_of(described.get(key), f"{where}: {key}") for key in RATES}
        rows.append(LinkRow(where, str(source), str(destination), one_way=graph.is_directed(), **facts))
    return network_from(nodes, rows, str(path))


def _check(described: Collection[str], known: Collection[str], where: str) -> None:
    for name in described:
        if name not in known:
            raise ConfigError(f"{where}: unknown attribute '{name}'.{nearest(name, known)}")
