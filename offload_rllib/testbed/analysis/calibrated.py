"""The environment that a calibration makes of a model: the same, except speeds, rates and latencies."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offload_rllib.config import load_environment
from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.topology import Manual
from offload_rllib.config.topology.graphs import Placed, Tiers
from offload_rllib.runs.folder import refuse_existing, write_yaml
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.scenario.links import Direction, link_directions
from offload_rllib.scenario.topology import resamples
from offload_rllib.testbed.analysis.calibration import Calibration, Fit

# Of numbers that are written; measurements have no more.
DIGITS = 6


def calibrated(scenario: BuiltScenario, calibration: Calibration) -> dict[str, Any]:
    """Return the environment of a scenario with the values that were measured, as the content of a YAML file.

    Speeds are changed where they stand. A topology that states none for each type of device (Ether's, files,
    functions) is written out as `manual`, with the same nodes, places and links. Rates and latencies are added to
    `link_overrides`, behind those that are there. All other keys stay.

    Raises:
        ConfigError: every episode draws a network of a kind that states no speed of each type of device, or links of
            such a network draw a latency beside those that it states.
    """
    config = scenario.config
    content = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    overrides: list[dict[str, Any]] = list(content.get("link_overrides", ()))
    fitted = {fit.group: fit for fit in calibration.devices if not fit.kept}
    in_network = {kind: fit for kind, fit in fitted.items() if not (config.cloud and _is_cloud(scenario, kind))}
    if in_network:
        if _states_speeds(config):
            _change_speeds(content["topology"], config, in_network)
        else:
            content["topology"], stated = _written_out(scenario, in_network)
            if stated:
                content["links"], overrides = _stated_links(scenario, content["links"]), stated + overrides
    for kind, fit in fitted.items():
        if kind not in in_network:
            content["cloud"]["instructions_per_second"] = _slower(config.cloud.instructions_per_second, fit)  # pyright: ignore[reportOptionalMemberAccess]
    overrides += _link_overrides(scenario, calibration)
    if overrides:
        content["link_overrides"] = overrides
    return content


def _is_cloud(scenario: BuiltScenario, kind: str) -> bool:
    return all(node.cloud for node in scenario.network.nodes if node.type == kind)


def _states_speeds(config: EnvironmentConfig) -> bool:
    return isinstance(config.topology, Manual | Placed | Tiers)


def _slower(speed: float, fit: Fit) -> float:
    return _rounded(speed / fit.factor)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _change_speeds(topology: dict[str, Any], config: EnvironmentConfig, fitted: Mapping[str, Fit]) -> None:
    """Change the speeds of a topology that states one for each node, or for each type of device."""
    key = {Manual: "nodes", Tiers: "tiers"}.get(type(config.topology), "devices")
    for described, part in zip(getattr(config.topology, key), topology[key], strict=True):
        if described.type in fitted:
            part["instructions_per_second"] = _slower(described.instructions_per_second, fitted[described.type])


def _written_out(scenario: BuiltScenario, fitted: Mapping[str, Fit]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a `manual` topology of the same network with other speeds, and overrides with the rates that it states."""
    config, network = scenario.config, scenario.network
    if resamples(config.topology):
        raise ConfigError(
            f"topology: every episode draws a network (resample: episode), and kind {config.topology.kind} states no "
            "speed for each type of device, so speeds cannot be written; accepted: resample: never, or another kind"
        )
    if config.links.kind == "topology" and config.links.latency_s.constant is None:
        raise ConfigError(
            "links.latency_s: with links.kind topology a drawn latency cannot be written beside the stated ones; "
            "accepted: a number, or links.jitter_s"
        )
    nodes, names = [], [node.name for node in network.nodes]
    for node in network.nodes:
        if node.cloud:
            continue
        described: dict[str, Any] = {
            "name": node.name,
            "type": node.type,
            "instructions_per_second": node.core_speed,
            "cores": int(node.cores),
            "queue_capacity": None if node.queue_capacity is None else int(node.queue_capacity),
            "queue_capacity_bits": node.queue_capacity_bits,
            "client": node.client,
            "position_m": [float(x) for x in node.position_m],
        }
        if node.type in fitted:
            described["instructions_per_second"] = _slower(node.core_speed, fitted[node.type])
        nodes.append(described)
    own = [(a, b) for a, b in network.links if not (network.nodes[a].cloud or network.nodes[b].cloud)]
    topology = {"kind": "manual", "nodes": nodes, "links": [[names[a], names[b]] for a, b in own]}
    stated = []
    if config.links.kind == "topology" and network.rates_bps is not None and network.latencies_s is not None:
        each = dict(zip(network.links, zip(network.rates_bps, network.latencies_s, strict=True), strict=True))
        stated = [
            {
                "between": [names[x], names[y]],
                "one_way": True,
                "rate_bps": each[a, b][0][way],
                "latency_s": each[a, b][1][way] + config.links.latency_s.mean,
            }
            for a, b in own
            for way, (x, y) in enumerate(((a, b), (b, a)))
        ]
    return topology, stated


def _stated_links(scenario: BuiltScenario, links: dict[str, Any]) -> dict[str, Any]:
    """Return links of a kind that needs no statement of the topology, whose rate every link overrides."""
    return links | {"kind": "fixed", "rate_bps": max(max(pair) for pair in scenario.network.rates_bps or ())}


def _link_overrides(scenario: BuiltScenario, calibration: Calibration) -> list[dict[str, Any]]:
    """Return the overrides that give links what was measured: one for all between two types if they are alike."""
    nodes = scenario.network.nodes
    directions = link_directions(scenario.config, scenario.network)
    by_kind: dict[tuple[str, str], dict[tuple[int, int], dict[str, float]]] = {}
    for (a, b), direction in directions.items():
        one, other = sorted((nodes[a].type, nodes[b].type))
        fit = calibration.of_link(one, other)
        if not fit.kept:
            by_kind.setdefault((one, other), {})[a, b] = _measured(direction, fit)
    overrides = []
    for types, links in by_kind.items():
        values = list(links.values())
        if all(value == values[0] for value in values):
            overrides.append({"between_types": list(types)} | values[0])
            continue
        for (a, b), value in links.items():
            both = value == links[b, a]
            if both and a > b:
                continue
            ends = {"between": [nodes[a].name, nodes[b].name]}
            overrides.append(ends | ({} if both else {"one_way": True}) | value)
    return overrides


def _measured(direction: Direction, fit: Fit) -> dict[str, float]:
    values = {"rate_bps": _rounded(direction.rate_bps / fit.factor)}
    if not fit.latency_kept:
        values["latency_s"] = _rounded(max(direction.propagation_s + direction.latency.mean + fit.shift_s, 0.0))
    return values


def write_calibrated(content: Mapping[str, Any], out: Path, *, about: str) -> EnvironmentConfig:
    """Write a calibrated environment, if it can be built, and return it.

    Args:
        content: from `calibrated`.
        out: the YAML file; must not exist.
        about: lines of a comment at its beginning.

    Raises:
        ConfigError: `out` is not a YAML file or exists, or the environment cannot be built.
        OSError: the folder does not take the file.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{out}: must end in .yaml or .yml")
    refuse_existing(out)
    with tempfile.TemporaryDirectory() as trial:
        draft = Path(trial) / out.name
        write_yaml(draft, content)
        try:
            config = load_environment(draft)
            build_scenario(config)
        except ConfigError as error:
            shown = str(error).replace(f"{trial}/", "")
            raise ConfigError(f"with what was measured, the environment cannot be built: {shown}") from error
    write_yaml(out, content, about)
    return config
