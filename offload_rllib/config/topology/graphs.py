"""The schema of topologies that are generated: a graph, and devices that are placed on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import Natural, Positive, Schema, Share
from offload_rllib.config.devices import Device, DeviceClass

LARGEST_NETWORK = 2**20

# networkx draws gaps between links from the logarithm of 1 minus this.
LEAST_PROBABILITY = 1e-12

Nodes = Annotated[int, Field(strict=True, ge=2, le=LARGEST_NETWORK)]
Side = Annotated[int, Field(strict=True, ge=1, le=LARGEST_NETWORK)]
Degree = Annotated[int, Field(strict=True, ge=1, le=4096)]
Resample = Literal["never", "episode"]


class Drawn(Schema):
    """The keys of all topologies that are drawn at random."""

    seed: Natural = 0
    """Everything that is drawn follows from it."""
    resample: Resample = "never"
    """never: one network; episode: every episode draws its own, addressed by `seed` and the episode's key."""


class Placed(Drawn):
    """Devices, and the area they stand in."""

    devices: tuple[DeviceClass, ...] = Field(min_length=1, max_length=64)
    """The types of devices; which node is of which type is drawn."""
    area_m: tuple[Positive, Positive] = (100.0, 100.0)
    """Width and height of the area that holds all positions."""


class Geometric(Placed):
    """Random geometric graph: nodes anywhere in the area, linked if they are near enough.

    Separate pieces are joined by the shortest links that do it.
    """

    kind: Literal["geometric"]
    """Chooses this kind."""
    nodes: Nodes
    """Number of nodes."""
    radius_m: Positive
    """Nodes at most this far apart are linked."""


class Full(Placed):
    """Every node linked to every other; anywhere in the area."""

    kind: Literal["full"]
    """Chooses this kind."""
    nodes: Nodes
    """Number of nodes."""


class Ring(Placed):
    """A ring of nodes, on an ellipse in the area."""

    kind: Literal["ring"]
    """Chooses this kind."""
    nodes: Annotated[int, Field(strict=True, ge=3, le=LARGEST_NETWORK)]
    """Number of nodes."""


class Grid(Placed):
    """A lattice that fills the area: links to the left, right, upper and lower neighbour."""

    kind: Literal["grid"]
    """Chooses this kind."""
    rows: Side
    """Nodes from bottom to top."""
    columns: Side
    """Nodes from left to right."""

    @model_validator(mode="after")
    def _has_links(self) -> Grid:
        if not 2 <= self.rows * self.columns <= LARGEST_NETWORK:
            raise ValueError(f"rows x columns is {self.rows * self.columns}; must be 2 to {LARGEST_NETWORK}")
        return self


class RandomGraph(Placed):
    """Erdos-Renyi graph: every pair is linked with the same probability; anywhere in the area.

    Separate pieces are joined one after the other, each by a link between two random nodes.
    """

    kind: Literal["random"]
    """Chooses this kind."""
    nodes: Nodes
    """Number of nodes."""
    mean_degree: Positive
    """Expected number of neighbours, before pieces are joined; at most nodes - 1."""

    @model_validator(mode="after")
    def _degree_fits(self) -> RandomGraph:
        if self.mean_degree > self.nodes - 1:
            raise ValueError(f"mean_degree ({self.mean_degree:g}) must be at most nodes - 1 ({self.nodes - 1})")
        if self.mean_degree < LEAST_PROBABILITY * (self.nodes - 1):
            raise ValueError(
                f"mean_degree ({self.mean_degree:g}) must be at least {LEAST_PROBABILITY:g} x (nodes - 1): no pair "
                "would be linked"
            )
        return self


class BridgedClusters(Placed):
    """Clusters side by side, each with all links inside it, and bridges from each to the next."""

    kind: Literal["bridged_clusters"]
    """Chooses this kind."""
    cluster_sizes: tuple[Side, ...] = Field(min_length=2, max_length=4096)
    """Number of nodes of each cluster."""
    bridges: Degree = 1
    """Links between a cluster and the next, between nodes that are drawn; at most one for each pair of nodes."""

    @model_validator(mode="after")
    def _fits(self) -> BridgedClusters:
        if sum(self.cluster_sizes) > LARGEST_NETWORK:
            raise ValueError(f"cluster_sizes add up to {sum(self.cluster_sizes)}; at most {LARGEST_NETWORK} nodes")
        pairs = min(a * b for a, b in zip(self.cluster_sizes, self.cluster_sizes[1:], strict=False))
        if self.bridges > pairs:
            raise ValueError(f"bridges ({self.bridges}) must be at most {pairs}, the pairs between two of the clusters")
        return self


class BarabasiAlbert(Placed):
    """Barabasi-Albert graph: each new node is linked to earlier ones, in proportion to their degrees; few hubs."""

    kind: Literal["barabasi_albert"]
    """Chooses this kind."""
    nodes: Nodes
    """Number of nodes."""
    links_per_node: Degree = 2
    """Links that each new node brings; less than `nodes`."""

    @model_validator(mode="after")
    def _fits(self) -> BarabasiAlbert:
        if self.links_per_node >= self.nodes:
            raise ValueError(f"links_per_node ({self.links_per_node}) must be less than nodes ({self.nodes})")
        return self


class WattsStrogatz(Placed):
    """Watts-Strogatz graph: a ring with links to the nearest nodes, some of which are rewired at random.

    Separate pieces are joined one after the other, each by a link between two random nodes.
    """

    kind: Literal["watts_strogatz"]
    """Chooses this kind."""
    nodes: Nodes
    """Number of nodes."""
    neighbours: Annotated[int, Field(strict=True, ge=2, le=4096, multiple_of=2)] = 4
    """Links of each node to its nearest on the ring, half to either side; less than `nodes`."""
    rewiring_probability: Share = 0.1
    """Of each link: its far end moves to a random node."""

    @model_validator(mode="after")
    def _fits(self) -> WattsStrogatz:
        if self.neighbours >= self.nodes:
            raise ValueError(f"neighbours ({self.neighbours}) must be less than nodes ({self.nodes})")
        return self


class Tier(Device):
    """One tier of a `tiers` topology."""

    nodes: Side
    """Number of nodes."""
    uplinks: Degree = 1
    """Links of each node to the nearest nodes of the next tier; the last tier has none."""
    peers: Annotated[int, Field(strict=True, ge=0, le=4096)] = 0
    """Links of each node to the nearest nodes of its own tier; the last tier has all links inside it."""


class Tiers(Drawn):
    """Tiers from the edge to the core; nodes anywhere in the area, linked to the nearest of the next tier."""

    kind: Literal["tiers"]
    """Chooses this kind."""
    tiers: tuple[Tier, ...] = Field(min_length=2, max_length=16)
    """From the edge to the core."""
    area_m: tuple[Positive, Positive] = (100.0, 100.0)
    """Width and height of the area that holds all positions."""

    @model_validator(mode="after")
    def _types_differ(self) -> Tiers:
        types = [tier.type for tier in self.tiers]
        repeated = [name for name in types if types.count(name) > 1]
        if repeated:
            raise ValueError(f"two tiers have the type '{repeated[0]}'; types name the nodes and must differ")
        if sum(tier.nodes for tier in self.tiers) > LARGEST_NETWORK:
            raise ValueError(f"the tiers have more than {LARGEST_NETWORK} nodes")
        return self
