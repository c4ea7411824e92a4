"""The schema of `topology`: nodes, and which of them are linked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from offload_rllib.config.base import NAMES_CODE, DataFile, Finite, Name, Schema
from offload_rllib.config.devices import Hardware
from offload_rllib.config.topology.ether import (
    EtherClusters,
    EtherIndustrialIoT,
    EtherInterRegion,
    EtherJson,
    EtherUrbanSensing,
)
from offload_rllib.config.topology.graphs import (
    BarabasiAlbert,
    BridgedClusters,
    Drawn,
    Full,
    Geometric,
    Grid,
    RandomGraph,
    Ring,
    Tiers,
    WattsStrogatz,
)
from offload_rllib.config.topology.wide_area import WideArea


class ManualNode(Hardware):
    """One node of a `manual` topology."""

    name: Name
    """Unique; the address of its random streams."""
    position_m: tuple[Finite, Finite] = (0.0, 0.0)
    """Coordinates x, y."""
    type: Annotated[str, Field(min_length=1)] = "node"
    """Device type, for display."""


class Manual(Schema):
    """Nodes and links written out."""

    kind: Literal["manual"]
    """Chooses this kind."""
    nodes: tuple[ManualNode, ...] = Field(min_length=1)
    """The nodes."""
    links: tuple[tuple[str, str], ...] = ()
    """Pairs of node names; every link works both ways."""


class GraphML(Schema):
    """A network in a GraphML file, with the attributes that `docs/topologies.md` lists."""

    kind: Literal["graphml"]
    """Chooses this kind."""
    path: DataFile
    """The file; relative to this YAML file."""


class EdgeList(Schema):
    """A network in two CSV files, with the columns that `docs/topologies.md` lists."""

    kind: Literal["edge_list"]
    """Chooses this kind."""
    nodes_path: DataFile
    """The CSV file of the nodes, one a row; relative to this YAML file."""
    links_path: DataFile
    """The CSV file of the links, one a row; relative to this YAML file."""


class PythonTopology(Drawn):
    """A network that your own function returns. Building the environment runs that code."""

    kind: Literal["python"]
    """Chooses this kind."""
    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"), NAMES_CODE]
    """`package.module:function`, importable where the environment is built; called with `seed` and the arguments."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for it."""


Topology = Annotated[
    EtherClusters
    | Manual
    | Geometric
    | Tiers
    | Full
    | Ring
    | Grid
    | RandomGraph
    | BridgedClusters
    | BarabasiAlbert
    | WattsStrogatz
    | EtherUrbanSensing
    | EtherIndustrialIoT
    | EtherInterRegion
    | WideArea
    | EtherJson
    | GraphML
    | EdgeList
    | PythonTopology,
    Field(discriminator="kind"),
]
