"""The schema of the topologies of the Ether framework, and of files in its format."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offload_rllib.config.base import Count, DataFile, Name, Positive, Schema
from offload_rllib.config.topology.graphs import Drawn

Some = Annotated[int, Field(strict=True, ge=1, le=1000)]


class EtherDevices(Schema):
    """How Ether's devices, which have cores and memory, become nodes with a speed and a queue."""

    instructions_per_second_per_millicore: Positive = 1000.0
    """Speed of a thousandth of a core; Ether states cores, not clock frequencies, and PeersimGym uses 1000."""
    memory_per_task_bytes: Positive | None = 32e7
    """A node's queue holds its memory divided by this many tasks; null: unbounded queues."""


class EtherClusters(Drawn, EtherDevices):
    """Edge cells after the Ether urban-sensing scenario, as the PeersimGym paper used it.

    Each cell is one NUC with two TX2 and a number of Raspberry Pi 3; one server serves all cells.
    """

    kind: Literal["ether_clusters"]
    """Chooses this kind."""
    rpi3_per_cluster: tuple[Some, ...] = Field(min_length=1, max_length=4)
    """Raspberry Pis of each cell; one to four cells."""
    nuc_millicores: Count = 4000
    """Computing power of a NUC: 4000 in the paper, 32000 in later files of its repository."""


class EtherUrbanSensing(Drawn, EtherDevices):
    """Ether's urban sensing: neighbourhoods of sensor boxes and their gateway, a cloudlet behind mobile links.

    Links state their rates and latencies, for `links.kind: topology`.
    """

    kind: Literal["ether_urban_sensing"]
    """Chooses this kind."""
    neighbourhoods: Some = 3
    """Number of neighbourhoods."""
    sizes: tuple[Some, ...] | None = None
    """Size s of each neighbourhood: 2 s Raspberry Pi 3, 2 s TX2, one NUC; null: drawn from Ether's distribution."""
    racks: Some = 2
    """Racks of the cloudlet."""
    servers_per_rack: Some = 5
    """Servers of a rack."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> EtherUrbanSensing:
        if self.sizes is not None and len(self.sizes) != self.neighbourhoods:
            raise ValueError(f"sizes has {len(self.sizes)} entries for neighbourhoods: {self.neighbourhoods}")
        if self.sizes is None and self.resample == "episode":
            raise ValueError("resample: episode needs sizes: the number of nodes must be the same in every episode")
        return self


class EtherIndustrialIoT(Drawn, EtherDevices):
    """Ether's industrial IoT: premises with sensors, a gateway and an accelerator, a cloudlet behind business links.

    Links state their rates and latencies, for `links.kind: topology`.
    """

    kind: Literal["ether_industrial_iot"]
    """Chooses this kind."""
    premises: Some = 3
    """Number of premises, each with one NUC, one TX2 and three Raspberry Pi 3."""
    racks: Some = 3
    """Racks of the cloudlet."""
    servers_per_rack: Some = 5
    """Servers of a rack."""


class Region(Schema):
    """A place with a cloudlet."""

    name: Name
    """Unique; part of the names of its nodes."""
    latitude_deg: Annotated[float, Field(ge=-90, le=90, strict=True)]
    """Geographic latitude, north positive."""
    longitude_deg: Annotated[float, Field(ge=-180, le=180, strict=True)]
    """Geographic longitude, east positive."""
    gateways: Some = 1
    """NUCs with a client, behind business links."""


class EtherInterRegion(Drawn, EtherDevices):
    """Ether's cloud regions: cloudlets far apart, each with gateways where tasks are created.

    Links state their rates and latencies, for `links.kind: topology`.
    """

    kind: Literal["ether_inter_region"]
    """Chooses this kind."""
    regions: tuple[Region, ...] = Field(min_length=2, max_length=1000)
    """The regions."""
    servers_per_region: Some = 2
    """Servers of each region's cloudlet."""
    path_stretch: Annotated[float, Field(ge=1, le=10, strict=True)] = 1.5
    """Length of the fibre between two regions over their distance on the globe."""


class EtherJson(EtherDevices):
    """A network in the JSON format in which PeersimGym stores what it made with Ether."""

    kind: Literal["ether_json"]
    """Chooses this kind."""
    path: DataFile
    """The file; relative to this YAML file."""
    clients: tuple[str, ...] = Field(default=("rpi",), min_length=1)
    """Nodes whose names begin with one of these have a client."""
