"""The schema of `topology`: nodes, and which of them are linked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from offload_rllib.config.base import Capacity, Count, Finite, Flag, Natural, Positive, Schema


class EtherClusters(Schema):
    """Edge cells after the Ether urban-sensing scenario, as the PeersimGym paper used it.

    Each cell is one NUC with two TX2 and a number of Raspberry Pi 3; one server serves all cells.
    """

    kind: Literal["ether_clusters"]
    """Chooses this kind."""
    rpi3_per_cluster: tuple[Annotated[int, Field(strict=True, ge=1, le=1000)], ...] = Field(min_length=1, max_length=4)
    """Raspberry Pis of each cell; one to four cells."""
    nuc_millicores: Count = 4000
    """Computing power of a NUC: 4000 in the paper, 32000 in later files of its repository."""
    instructions_per_second_per_millicore: Positive = 1000.0
    """Speed of a thousandth of a core; Ether states cores, not clock frequencies, and PeersimGym uses 1000."""
    memory_per_task_bytes: Positive | None = 32e7
    """A node's queue holds its memory divided by this many tasks; null: unbounded queues."""
    seed: Natural = 0
    """Draws the positions."""


class ManualNode(Schema):
    """One node of a `manual` topology."""

    name: Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9_]+$")]
    """Unique; the address of its random streams."""
    instructions_per_second: Positive
    """Speed of one core."""
    cores: Annotated[int, Field(strict=True, ge=1, le=4096)] = 1
    """Number of cores."""
    queue_capacity: Capacity | None = None
    """Tasks held, waiting and served together; null: unbounded."""
    position_m: tuple[Finite, Finite] = (0.0, 0.0)
    """Coordinates x, y."""
    client: Flag = False
    """Whether a client here makes tasks."""
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


Topology = Annotated[EtherClusters | Manual, Field(discriminator="kind")]
