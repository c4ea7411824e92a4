"""Files of public libraries of wide-area networks: sites on the globe, and lines between them.

The formats are SNDlib's native one and its XML (Orlowski, Pioro, Tomaszewski, Wessaly, "SNDlib 1.0 - survivable
network design library", Networks 55, 2010). Further there are GML and GraphML of the Internet Topology Zoo (Knight,
Nguyen, Falkner, Bowden, Roughan, "The Internet Topology Zoo", IEEE JSAC 29, 2011). JSON is that of TopoHub
(Jurkiewicz, "TopoHub: a repository of reference Gabriel graph and real-world topologies for networking research",
SoftwareX 24, 2023).
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import networkx as nx

from offload_rllib.config.errors import ConfigError
from offload_rllib.scenario.text_files import opened
from offload_rllib.scenario.topology.files import number_of

ACCEPTED = "SNDlib (native or XML), Internet Topology Zoo (GML or GraphML), TopoHub (JSON)"
NATIVE_HEADER = "?SNDlib native format"
# A name, and what stands in the first brackets behind it.
NATIVE_ITEM = re.compile(r"(?P<name>[\w.-]+)\s*\(\s*(?P<values>[^()]*?)\s*\)")
NATIVE_SECTION = re.compile(r"(?P<name>[A-Z_]+)\s*\(")


@dataclass(frozen=True)
class Site:
    """A place of the network, in degrees; None: the file does not say where it is."""

    longitude: float | None
    latitude: float | None


@dataclass(frozen=True)
class Line:
    """A line between two sites; None: not stated."""

    where: str
    source: str
    target: str
    rate_bps: float | None = None
    length_m: float | None = None


@dataclass(frozen=True)
class SitesAndLines:
    """What a file says, by the names that it gives to the sites."""

    sites: dict[str, Site]
    lines: list[Line]


def read(path: Path) -> SitesAndLines:
    """Return the sites and lines of a file; its content tells which format it is.

    Raises:
        ConfigError: the file cannot be read, is of no known format, or is damaged; the message says where.
    """
    with opened(path) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8: {error}") from error
    begin = text.lstrip()[:4096]
    if begin.startswith(NATIVE_HEADER):
        return _sndlib_native(text, path)
    if begin.startswith("<"):
        return _graphml(text, path) if "graphml" in begin else _sndlib_xml(text, path)
    if begin.startswith("{"):
        return _topohub(text, path)
    if re.search(r"^\s*graph\s*\[", text, re.MULTILINE):
        return _gml(text, path)
    raise ConfigError(f"{path}: a format that is not known; accepted: {ACCEPTED}")


def _sndlib_native(text: str, path: Path) -> SitesAndLines:
    sites: dict[str, Site] = {}
    lines: list[Line] = []
    section = None
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}: line {number}"
        content = line.partition("#")[0].strip()
        opening = NATIVE_SECTION.fullmatch(content)
        if opening:
            section = opening["name"]
        elif content == ")":
            section = None
        elif content and section in ("NODES", "LINKS"):
            item = NATIVE_ITEM.match(content)
            values = item["values"].split() if item else []
            if not item or len(values) != 2:
                expected = "NAME ( LONGITUDE LATITUDE )" if section == "NODES" else "NAME ( SOURCE TARGET )"
                raise ConfigError(f"{where}: must be {expected} (given: '{content[:80]}')")
            if section == "NODES":
                _add(sites, item["name"], values[0], values[1], where)
            else:
                lines.append(Line(f"{where}: line '{item['name']}'", values[0], values[1]))
    if section is not None:
        raise ConfigError(f"{path}: ends within the section {section}: it is cut off")
    return SitesAndLines(sites, lines)


def _sndlib_xml(text: str, path: Path) -> SitesAndLines:
    root = _xml(text, path)
    places = root.find(".//{*}nodes")
    if not root.tag.endswith("network") or places is None:
        raise ConfigError(f"{path}: XML that is not a network of SNDlib; accepted: {ACCEPTED}")
    if places.get("coordinatesType", "geographical") != "geographical":
        raise ConfigError(
            f"{path}: nodes: coordinatesType is '{places.get('coordinatesType')}'; accepted: geographical, because "
            "latencies follow from distances on the globe"
        )
    sites: dict[str, Site] = {}
    for node in places.iterfind("{*}node"):
        where = f"{path}: node '{node.get('id')}'"
        x, y = (node.findtext(f"{{*}}coordinates/{{*}}{axis}") for axis in "xy")
        _add(sites, node.get("id"), x, y, where)
    lines = [
        Line(
            f"{path}: line '{link.get('id')}'",
            (link.findtext("{*}source") or "").strip(),
            (link.findtext("{*}target") or "").strip(),
        )
        for link in root.iterfind(".//{*}links/{*}link")
    ]
    return SitesAndLines(sites, lines)


def _xml(text: str, path: Path) -> ET.Element:
    try:
        return ET.fromstring(text)  # noqa: S314 - expat bounds the expansion of entities from 2.4.1 on
    except (ET.ParseError, ValueError) as error:
        raise ConfigError(f"{path}: not valid XML: {error}") from error


def _graphml(text: str, path: Path) -> SitesAndLines:
    try:
        graph = nx.read_graphml(io.BytesIO(text.encode()))
    # networkx raises KeyError and ValueError for keys that are not declared and values of the wrong type.
    except (ET.ParseError, nx.NetworkXError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not valid GraphML: {error}") from error
    return _topology_zoo(graph, path)


def _gml(text: str, path: Path) -> SitesAndLines:
    try:
        graph = nx.parse_gml(text, label="id")
    except (nx.NetworkXError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not valid GML: {error}") from error
    return _topology_zoo(graph, path)


def _topology_zoo(graph: nx.Graph, path: Path) -> SitesAndLines:
    """Return the sites and lines of a graph of the Topology Zoo, with its names of attributes."""
    sites: dict[str, Site] = {}
    for name, facts in graph.nodes(data=True):
        where = f"{path}: node '{name}'"
        _add(sites, str(name), facts.get("Longitude"), facts.get("Latitude"), where)
    lines = []
    for source, target, facts in graph.edges(data=True):
        where = f"{path}: line '{source}' - '{target}'"
        lines.append(
            Line(where, str(source), str(target), number_of(facts.get("LinkSpeedRaw"), f"{where}: LinkSpeedRaw"))
        )
    return SitesAndLines(sites, lines)


def _topohub(text: str, path: Path) -> SitesAndLines:
    try:
        content: Any = json.loads(text)
        sites: dict[str, Site] = {}
        for node in content["nodes"]:
            x, y = node["pos"]
            _add(sites, str(node["id"]), x, y, f"{path}: node '{node['id']}'")
        lines = []
        for link in content["links" if "links" in content else "edges"]:
            where = f"{path}: line '{link['source']}' - '{link['target']}'"
            kilometres = number_of(link.get("dist"), f"{where}: dist")
            length_m = None if kilometres is None else 1000 * kilometres
            lines.append(Line(where, str(link["source"]), str(link["target"]), length_m=length_m))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    except KeyError as error:
        raise ConfigError(f"{path}: not a topology of TopoHub: the key {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: not a topology of TopoHub: {error}") from error
    return SitesAndLines(sites, lines)


def _add(sites: dict[str, Site], name: str | None, longitude: Any, latitude: Any, where: str) -> None:
    """Add a site to those of a file.

    Raises:
        ConfigError: it has no name or the name of another one, or its place is not on the globe.
    """
    if not name or name in sites:
        raise ConfigError(f"{where}: every site must have a name of its own")
    x, y = (number_of(value, f"{where}: {axis}") for value, axis in ((longitude, "longitude"), (latitude, "latitude")))
    for value, axis, largest in ((x, "longitude", 180.0), (y, "latitude", 90.0)):
        if value is not None and not (math.isfinite(value) and abs(value) <= largest):
            raise ConfigError(f"{where}: {axis} is {value:g}; accepted: degrees from {-largest:g} to {largest:g}")
    sites[name] = Site(None, None) if x is None or y is None else Site(x, y)


def filled_in(
    network: SitesAndLines, neighbours: dict[str, Iterable[str]], path: Path
) -> dict[str, tuple[float, float]]:
    """Return (longitude, latitude) of every site: one that the file does not place is amid those it is linked to.

    Args:
        network: the sites and lines.
        neighbours: of each site, the sites that lines lead to.
        path: for the message.

    Raises:
        ConfigError: no site has a place.
    """
    found = {
        name: (site.longitude, site.latitude)
        for name, site in network.sites.items()
        if site.longitude is not None and site.latitude is not None
    }
    while len(found) < len(network.sites):
        known = {
            name: [found[other] for other in neighbours[name] if other in found]
            for name in network.sites
            if name not in found
        }
        if not any(known.values()):
            name = next(iter(known))
            raise ConfigError(f"{path}: the site '{name}' has no longitude and latitude, nor has any it is linked to")
        found |= {
            name: (math.fsum(x for x, _ in places) / len(places), math.fsum(y for _, y in places) / len(places))
            for name, places in known.items()
            if places
        }
    return found
