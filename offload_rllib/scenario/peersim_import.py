"""From a configuration of PeersimGym to one of ours, with an account of what was carried over, changed or left out.

`docs/peersimgym.md` describes what its keys do, from its code at commit aff2286.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.files import written_at_once
from offload_rllib.scenario.build import build_scenario
from offload_rllib.scenario.peersim_file import CARRIED, CHANGED, NOTHING, Note, Reader, read_peersim

MEGABYTE_BITS = 8e6
SIDE_M = 100.0
LARGEST_DB = 300.0  # the range of this project's decibels
# Every node is written out, and every pair of nodes looked at.
MOST_NODES = 10_000
MOST_TYPES = 1_000

# Keys without a counterpart, and why none is needed.
DEAD = {
    "SIZE": "follows from NO_NODES_PER_LAYERS",
    "NO_LAYERS": "follows from NO_NODES_PER_LAYERS",
    "DROP": "has no effect in PeersimGym: no message uses the lossy transport",
    "MINDELAY": "jitter of messages, in percent of a tick; transfers take latency + bits / rate here",
    "MAXDELAY": "jitter of messages, in percent of a tick; transfers take latency + bits / rate here",
    "VARIATIONS": "one draw per layer there; give each node its own speed in topology.nodes",
    "CONTROLLERS": "agents are all nodes that a task can enter and that have a neighbour",
    "protocol.mng.cycle": "is never read in PeersimGym",
    "protocol.clt.taskArrivalRate": "only its dense reward reads it; the rate is in schedules",
    "protocol.props.Beta1": "is never used in PeersimGym",
    "protocol.props.Beta2": "is never used in PeersimGym",
    "protocol.wrk.energyCostComm": "there the price of computing; energy is not part of the environment's score",
    "protocol.wrk.energyCostComp": "is never used in PeersimGym",
    "protocol.lnk.capacity": "a hint for the size of a list",
    "protocol.clt.workloadPath": "for jobs of the Alibaba trace write workload.jobs: {kind: alibaba}",
    "protocol.clt.defaultCPUWorkload": "workload.jobs.reference_instructions_per_second, with kind: alibaba",
    "protocol.clt.defaultMemoryWorkload": "workload.jobs.megabytes_per_memory_unit, with kind: alibaba",
    **dict.fromkeys(
        ("protocol.clt.numberOfDAG", "protocol.clt.dagWeights", "protocol.clt.edges", "protocol.clt.vertices"),
        "tasks are independent of each other; task graphs do not start in PeersimGym either",
    ),
    "no_op_reward": "a step without a task on offer has no reward for its action",
}


@dataclass(frozen=True)
class Imported:
    """A converted configuration."""

    source: Path
    """The file it came from."""
    environment: dict[str, Any]
    """Ours, as YAML holds it."""
    files: dict[str, str]
    """Files that it refers to, by name."""
    notes: tuple[Note, ...]
    """How each key was handled."""


def import_peersim(path: Path, name: str, *, as_coded: bool = False) -> Imported:
    """Return our form of a PeersimGym configuration.

    Args:
        path: its dictionary as JSON or Python text, or the simulator's file of lines `key value`.
        name: of the environment; files in its folder are named after it.
        as_coded: also take over three rules that its code follows and its paper does not mention. The newest task is
            served first. It is also the one to decide, while the queue is being served. Time has ticks, within which
            events are in random order.

    Raises:
        ConfigError: a value is invalid; the message names file, key, value and what is accepted.
    """
    reader = read_peersim(path)
    scale = reader.count("SCALE")
    if as_coded:
        reader.note("SCALE", CARRIED, "tick_s")
    else:
        reader.note("SCALE", NOTHING, "time is continuous, nothing is rounded to ticks")
    interval_s = reader.count("CYCLE") / scale
    reader.note("CYCLE", CARRIED, "decisions.interval_s")
    seconds = reader.number("CYCLES", lowest=1e-9)
    steps = max(round(seconds / interval_s), 1)
    fits = math.isclose(steps * interval_s, seconds)
    reader.note("CYCLES", CARRIED if fits else CHANGED, "horizon_s" + ("" if fits else ", to whole decision intervals"))
    topology = _topology(reader)
    files: dict[str, str] = {}
    environment: dict[str, Any] = {
        "description": f"{name}, carried over from PeersimGym",
        "format": 1,
        "horizon_s": steps * interval_s,
        "topology": topology,
        "links": _links(reader),
        "service": "pooled",
        "queue": "lifo" if as_coded else "fifo",
        "workload": _workload(reader, topology, name, files),
        # Queues are bounded and late tasks may finish: a drop scores as much as a task that lasts for the whole
        # episode.
        "score": {"drop_s": steps * interval_s},
    }
    if as_coded:
        environment["tick_s"] = 1 / scale
    cloud = _cloud(reader, topology)
    if cloud:
        environment["cloud"] = cloud
    if environment["workload"]["deadline_s"] is not None:
        grace_s = reader.number("protocol.wrk.maxTimeAfterDeadline", lowest=0) / scale
        environment["deadlines"] = {"expiry": "queued", "grace_s": grace_s}
        reader.note("protocol.wrk.maxTimeAfterDeadline", CARRIED, "deadlines.grace_s; only waiting tasks expire")
    offer = "newest" if as_coded else "arrival"
    environment["decisions"] = {"when": "interval", "interval_s": interval_s, "offer": offer, "max_hops": 2}
    environment["information"] = {"kind": "broadcast", "interval_s": 1 / scale if as_coded else interval_s}
    reward = _reward(reader)
    if reward:
        environment["reward"] = reward
    if "random.seed" in reader.content and not any(note.key == "random.seed" for note in reader.notes):
        reader.note("random.seed", NOTHING, "seeds are given to runs and evaluations; every episode has its own")
    noted = {note.key for note in reader.notes}
    for key in reader.content:
        if key not in noted:
            reader.note(key, NOTHING, DEAD.get(key, "is not known to have an effect"))
    return Imported(path, environment, files, tuple(reader.notes))


def _topology(reader: Reader) -> dict[str, Any]:
    layers = reader.whole("NO_NODES_PER_LAYERS", lowest=1)
    if sum(layers) > MOST_NODES:
        raise reader.fail("NO_NODES_PER_LAYERS", f"at most {MOST_NODES:,} nodes")
    reader.note("NO_NODES_PER_LAYERS", CARRIED, "topology.nodes, of type layer0, layer1, ...")
    layer = [index for index, count in enumerate(layers) for _ in range(count)]
    if reader.flag("MANUAL_CONFIG"):
        reader.note("MANUAL_CONFIG", CARRIED, "speeds, cores and queues are those of single nodes")
        keys, what, pick = ("MANUAL_FREQS", "MANUAL_CORES", "MANUAL_QMAX"), "node", list(range(len(layer)))
    else:
        keys, what, pick = ("FREQS", "NO_CORES", "Q_MAX"), "layer", layer
    length = max(pick) + 1
    scale = reader.count("SCALE")
    # The dictionary's writer divides the speeds of layers by SCALE, those of single nodes it does not.
    per_tick = reader.speeds_per_tick or keys[0] == "MANUAL_FREQS"
    speeds = [speed * (scale if per_tick else 1) for speed in reader.each(keys[0], length, what, lowest=1e-9)]
    cores = reader.counts(keys[1], length, what)
    capacities = reader.counts(keys[2], length, what)
    for key, target in zip(keys, ("instructions_per_second", "cores", "queue_capacity"), strict=True):
        reader.note(key, CARRIED, f"topology.nodes: {target}")
    clients = set(reader.whole("clientLayers"))
    if not clients & set(range(len(layers))):
        raise reader.fail("clientLayers", f"numbers of layers, from 0 to {len(layers) - 1}")
    reader.note("clientLayers", CARRIED, "topology.nodes: client")
    receivers = set(reader.whole("layersThatGetTasks"))
    same = clients <= receivers
    reader.note(
        "layersThatGetTasks",
        CARRIED if same else CHANGED,
        "tasks enter at their client's node" + ("" if same else ", also in layers that get none there"),
    )
    rng = np.random.default_rng(reader.count("random.seed", lowest=0))
    positions = _positions(reader, len(layer), rng)
    nodes = [
        {
            "name": f"layer{layer[n]}_{layer[:n].count(layer[n])}",
            "type": f"layer{layer[n]}",
            "instructions_per_second": speeds[pick[n]],
            "cores": cores[pick[n]],
            "queue_capacity": capacities[pick[n]],
            "position_m": [round(float(x), 6) for x in positions[n]],
            "client": layer[n] in clients,
        }
        for n in range(len(layer))
    ]
    links = sorted(_link_pairs(reader, layer, positions))
    return {"kind": "manual", "nodes": nodes, "links": [[nodes[a]["name"], nodes[b]["name"]] for a, b in links]}


def _positions(reader: Reader, count: int, rng: np.random.Generator) -> np.ndarray:
    key = "init.Net0.POSITIONS"
    if reader.flag("RANDOMIZEPOSITIONS"):
        reader.note("RANDOMIZEPOSITIONS", CHANGED, f"drawn once, uniformly in {SIDE_M:g} m x {SIDE_M:g} m, and written")
        reader.note("random.seed", CHANGED, "drew the positions; runs and evaluations are given their own seeds")
        return rng.uniform(0, SIDE_M, (count, 2))
    reader.note("RANDOMIZEPOSITIONS", CARRIED, "positions are those of init.Net0.POSITIONS")
    rows = reader.rows(key)
    if len(rows) != count or any(len(row) != 2 for row in rows):
        raise reader.fail(key, f"{count} positions `x,y`, separated by semicolons")
    reader.note(key, CARRIED, "topology.nodes: position_m")
    return np.array(rows)


def _link_pairs(reader: Reader, layer: list[int], positions: np.ndarray) -> set[tuple[int, int]]:
    count = len(layer)
    if reader.flag("RANDOMIZETOPOLOGY"):
        reader.note("RANDOMIZETOPOLOGY", CHANGED, "links follow from init.Net1.r, and are written out")
        radius = reader.number("init.Net1.r", lowest=0)
        reader.note("init.Net1.r", CARRIED, "topology.links: nodes closer than this, in layers one apart at most")
        return {
            (a, b)
            for a in range(count)
            for b in range(a + 1, count)
            if math.dist(positions[a], positions[b]) < radius and abs(layer[a] - layer[b]) <= 1
        }
    key = "init.Net1.TOPOLOGY"
    reader.note("RANDOMIZETOPOLOGY", CARRIED, f"links are those of {key}")
    pairs = set()
    for row in reader.rows(key):
        for other in row[1:]:
            if not all(value == int(value) and 0 <= value < count for value in (row[0], other)):
                raise reader.fail(key, f"rows `node,neighbour,...` of node numbers from 0 to {count - 1}")
            if other != row[0]:
                a, b = sorted((int(row[0]), int(other)))
                pairs.add((a, b))
    reader.note(key, CARRIED, "topology.links")
    return pairs


def _links(reader: Reader) -> dict[str, Any]:
    bandwidth_hz = 1e6 * reader.number("protocol.props.B", lowest=1e-9)
    power_dbm = reader.number("protocol.props.P_ti")
    channels = reader.content.get("protocol.urt.channelTypes", "WirelessSNR").split(";")
    fibre = ["fib" in channel.lower() for channel in channels]
    reader.note("protocol.props.B", CHANGED, "bandwidth; noise is taken over it, not over the size of the message")
    for key in ("protocol.urt.channelTypes", "protocol.urt.channelTypesBetweenLayers"):
        if key in reader.content:
            mixed = any(fibre) and not all(fibre)
            why = "every link is of the first type: links.kind" if mixed else "links.kind"
            reader.note(key, CHANGED if mixed else CARRIED, why)
    if fibre[0]:
        snr_db = reader.number("protocol.urt.SNR")
        if abs(snr_db) > LARGEST_DB:
            raise reader.fail("protocol.urt.SNR", f"decibels from -{LARGEST_DB:g} to {LARGEST_DB:g}")
        reader.note("protocol.urt.SNR", CARRIED, "links.rate_bps = B log2(1 + SNR)")
        return {"kind": "fixed", "rate_bps": bandwidth_hz * math.log2(1 + 10 ** (snr_db / 10))}
    reader.note("protocol.props.P_ti", CARRIED, "links.transmit_power_dbm")
    return {"kind": "wireless", "bandwidth_hz": bandwidth_hz, "transmit_power_dbm": power_dbm}


def _workload(reader: Reader, topology: dict[str, Any], name: str, files: dict[str, str]) -> dict[str, Any]:
    types = reader.count("protocol.clt.numberOfTasks")
    if types > MOST_TYPES:
        raise reader.fail("protocol.clt.numberOfTasks", f"at most {MOST_TYPES:,} task types")
    reader.note("protocol.clt.numberOfTasks", CARRIED, "workload.jobs.types")
    columns = {}
    for key, target in (
        ("weight", "weight; PeersimGym draws types by other shares" if types > 1 else "weight"),
        ("I", "instructions"),
        ("CPI", "cycles_per_instruction"),
        ("T", "bits_in and bits_out"),
    ):
        columns[key] = reader.each(f"protocol.clt.{key}", types, "task type", lowest=0 if key == "T" else 1e-9)
        fate = CHANGED if key == "weight" and types > 1 else CARRIED
        reader.note(f"protocol.clt.{key}", fate, f"workload.jobs.types: {target}")
    jobs = [
        {
            "weight": weight,
            "instructions": instructions,
            "cycles_per_instruction": cycles,
            "bits_in": size * MEGABYTE_BITS,
            "bits_out": size * MEGABYTE_BITS,
        }
        for weight, instructions, cycles, size in zip(*columns.values(), strict=True)
    ]
    workload: dict[str, Any] = {"jobs": {"kind": "mix", "types": jobs}, "deadline_s": None}
    workload |= _arrivals(reader, topology, name, files)
    earliest_s = reader.number("protocol.clt.minDeadline")
    if earliest_s > 0:
        workload["deadline_s"] = {"uniform": [earliest_s, 2 * earliest_s]}
        reader.note("protocol.clt.minDeadline", CARRIED, "workload.deadline_s, uniform from it to twice it")
    else:
        reader.note("protocol.clt.minDeadline", CHANGED, "no deadlines; PeersimGym crashes where it is not above 0")
    return workload


def _arrivals(reader: Reader, topology: dict[str, Any], name: str, files: dict[str, str]) -> dict[str, Any]:
    reader.note(
        "clientIsSelf",
        CHANGED,
        "tasks enter at their client's node; PeersimGym also sends one stream to each neighbour, so its load is higher "
        "by about the number of neighbours",
    )
    clients = [node for node in topology["nodes"] if node["client"]]
    kinds = sorted({node["type"] for node in clients})
    schedules = []
    for text in reader.text("schedules").strip(" ;").split(";"):
        try:
            schedules.append([tuple(float(x) for x in entry.split("-", 1)) for entry in text.split(",")])
        except ValueError as error:
            raise reader.fail("schedules", "`rate-seconds,rate-seconds,...`, one such list for each layer") from error
    if "schedules" not in reader.content:
        schedules = schedules[:1] * len(kinds)
    if len(schedules) < len(kinds) or any(len(entry) != 2 or min(entry) < 0 for row in schedules for entry in row):
        raise reader.fail("schedules", f"`rate-seconds,...` with numbers from 0 up, for each of {len(kinds)} layers")
    by_kind = dict(zip(kinds, schedules, strict=False))
    if all(len(row) == 1 for row in by_kind.values()):
        rates = [by_kind[node["type"]][0][0] for node in clients]
        if not min(rates, default=0) > 0:
            raise reader.fail("schedules", "rates above 0")
        reader.note("schedules", CHANGED, "workload.load: a Poisson process; PeersimGym makes at most one task a tick")
        load: dict[str, Any] = {"tasks_per_second_per_client": sum(rates) / len(rates)}
        if len(set(rates)) > 1:
            load["client_weights"] = {kind: row[0][0] for kind, row in by_kind.items()}
        return {"load": load}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["time_s", "rate", "client"])
    for node in clients:
        time_s = 0.0
        for rate, duration_s in by_kind[node["type"]]:
            writer.writerow([f"{time_s:g}", f"{rate:g}", node["name"]])
            time_s += duration_s
    file = f"{name}_rates.csv"
    files[file] = table.getvalue()
    reader.note("schedules", CHANGED, f"workload.arrivals: {file}; a Poisson process, not at most one task a tick")
    return {"arrivals": {"kind": "table", "path": file}}


def _cloud(reader: Reader, topology: dict[str, Any]) -> dict[str, Any] | None:
    if not reader.flag("CLOUD_EXISTS"):
        reader.note("CLOUD_EXISTS", CARRIED, "no cloud")
        return None
    kinds = list(dict.fromkeys(node["type"] for node in topology["nodes"]))
    access = reader.counts("CLOUD_ACCESS", len(kinds), "layer", lowest=0)
    linked = [kind for kind, has in zip(kinds, access, strict=True) if has]
    position = reader.each("CLOUD_POS", 2, "coordinate", lowest=-math.inf)
    reader.note("CLOUD_EXISTS", CARRIED, "cloud" if linked else "no cloud: CLOUD_ACCESS links it to no layer")
    reader.note("CLOUD_ACCESS", CARRIED, "cloud.access")
    if not linked:
        return None
    reader.note("CLOUD_POS", CARRIED, "cloud.position_m")
    reader.note("protocol.cld.no_vms", CARRIED, "cloud.vms")
    reader.note("protocol.cld.VMProcessingPower", CHANGED, "cloud.instructions_per_second; there it serves more")
    return {
        "vms": reader.count("protocol.cld.no_vms"),
        "instructions_per_second": reader.number("protocol.cld.VMProcessingPower", lowest=1e-9)
        * (reader.count("SCALE") if reader.speeds_per_tick else 1),
        "access": "all" if len(linked) == len(kinds) else {"types": linked},
        "position_m": position,
    }


def _reward(reader: Reader) -> dict[str, Any] | None:
    if "utility_reward" not in reader.content:
        return None
    reward: dict[str, Any] = {"name": "paper", "scope": "own", "utility": reader.number("utility_reward")}
    reader.note("utility_reward", CARRIED, "reward.utility, with the formula of the paper")
    if "overload_weight" in reader.content:
        reward["overload_weight"] = reader.number("overload_weight", lowest=0)
        reader.note("overload_weight", CHANGED, "reward.overload_weight; the overload is divided by 3, as in the paper")
    if "delay_weight" in reader.content:
        try:
            weights = json.loads(reader.text("delay_weight"))
            parts = {"waiting": "queue", "execution": "exec", "communication": "comm"}
            reward |= {
                f"{ours}_weight": float(weights[theirs] if isinstance(weights, dict) else weights)
                for ours, theirs in parts.items()
            }
        except (ValueError, KeyError, TypeError) as error:
            raise reader.fail("delay_weight", "a number, or a dictionary with queue, exec and comm") from error
        reader.note("delay_weight", CHANGED, "reward.*_weight: factors, as in the paper; caps in its code")
    return reward


def write_imported(imported: Imported, out: Path, *, force: bool) -> list[Path]:
    """Write a converted configuration and the files it refers to, if it can be built, and return their paths.

    Raises:
        ConfigError: the environment is invalid, `out` is not a YAML file, or a file exists and `force` is off.
        OSError: the folder does not take the files.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{out}: must end in .yaml or .yml")
    texts = {out.name: yaml.safe_dump(imported.environment, sort_keys=False, default_flow_style=None, width=110)}
    texts |= imported.files
    for name in texts:
        if (out.parent / name).exists() and not force:
            raise ConfigError(f"{out.parent / name}: exists and is not overwritten; choose another --out, or --force")
    with tempfile.TemporaryDirectory() as trial:
        for name, text in texts.items():
            (Path(trial) / name).write_text(text, encoding="utf-8")
        try:
            build_scenario(load_environment(Path(trial) / out.name))
        except ConfigError as error:
            shown = str(error).replace(f"{trial}/", "")
            raise ConfigError(f"{imported.source}: carried over, this environment cannot be built: {shown}") from error
    for name, text in texts.items():
        with written_at_once(out.parent / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return [out.parent / name for name in texts]
