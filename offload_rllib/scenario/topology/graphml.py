"""Networks in GraphML files, read by networkx."""

from __future__ import annotations

from xml.etree.ElementTree import ParseError

import networkx as nx

from offload_rllib.config.errors import ConfigError
from offload_rllib.config.loading import find_data
from offload_rllib.config.topology import GraphML
from offload_rllib.scenario.network import Network
from offload_rllib.scenario.topology.files import LinkRow, network_from, node_from, number_of


def build(config: GraphML) -> Network:
    """Return the network of a file. Nodes are named by their ids; a directed link states one way.

    Raises:
        ConfigError: the file cannot be read, is no GraphML, or describes what cannot be.
    """
    path = find_data(config.path)
    try:
        graph = nx.read_graphml(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    # networkx raises KeyError and ValueError for keys that are not declared and values of the wrong type.
    except (ParseError, nx.NetworkXError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not valid GraphML: {error}") from error
    nodes = [
        node_from({**values, "name": str(name)}, f"{path}: node '{name}'") for name, values in graph.nodes(data=True)
    ]
    rows = []
    for source, destination, values in graph.edges(data=True):
        where = f"{path}: link '{source}' - '{destination}'"
        facts = {key: number_of(values.get(key), f"{where}: {key}") for key in ("rate_bps", "latency_s")}
        rows.append(LinkRow(where, str(source), str(destination), one_way=graph.is_directed(), **facts))
    return network_from(nodes, rows, str(path))
