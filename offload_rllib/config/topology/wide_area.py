"""The schema of topologies from public libraries of wide-area networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from offload_rllib.config.base import DataFile, Positive
from offload_rllib.config.devices import DeviceClass
from offload_rllib.config.topology.graphs import Drawn


class WideArea(Drawn):
    """Sites and lines of a wide-area network, from a file of SNDlib, the Internet Topology Zoo or TopoHub.

    Such a file says nothing of computing, so devices are placed on its sites. Links state their rates and latencies,
    for `links.kind: topology`.
    """

    kind: Literal["wide_area"]
    """Chooses this kind."""
    path: DataFile
    """The file; relative to this YAML file."""
    devices: tuple[DeviceClass, ...] = Field(min_length=1, max_length=64)
    """The types of devices; which site is of which type is drawn."""
    rate_bps: Positive = 1e9
    """Rate of the lines whose rate the file does not state in bit/s."""
    path_stretch: Annotated[float, Field(ge=1, le=10, strict=True)] = 1.5
    """Length of a line over the distance of its ends on the globe."""
