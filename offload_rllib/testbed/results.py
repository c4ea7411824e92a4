"""The files of a testbed: every task on both sides, and the record of how it was played."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from offload_rllib.config.files import read_json
from offload_rllib.evaluation.results import POLICY
from offload_rllib.evaluation.task_log import task_table
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import Array
from offload_rllib.testbed.analysis.log import SIDE, SIMULATOR, TASKS, TESTBED
from offload_rllib.testbed.fates import Fates
from offload_rllib.testbed.launch import HostSpec
from offload_rllib.testbed.playing import Outcome
from offload_rllib.testbed.setup import Options
from offload_rllib.version import __version__

RECORD = "testbed.json"
FORMAT_VERSION = 1
DECISION = "decision_s"
PACKAGES = ("numpy", "numba")
WIRE_COUNTS = ("wire_bytes", "segments_sent_again")

# A play counts if timers are late by no more than these shares of the simulator's mean response: on average, and 99 of
# 100 of them. A task passes about five timers, so the first bounds what lateness does to means, the second to tails.
MEAN_LATE_SHARE = 0.002
P99_LATE_SHARE = 0.05


@dataclass(frozen=True)
class _PlayedEpisode:
    """An episode with its log, as `task_table` takes it."""

    scenario: BuiltScenario
    log: Array

    def task_log(self, e: int) -> np.ndarray:
        del e
        return self.log

    def scenario_of(self, e: int) -> BuiltScenario:
        del e
        return self.scenario


def measured_table(scenario: BuiltScenario, played: Fates, about: Mapping[str, Any]) -> pa.Table:
    """Return one row per task of a play, as `task_table` with `side` and `decision_s`.

    Args:
        scenario: that was played.
        played: the fates of its tasks.
        about: columns with one value.
    """
    table = task_table(_PlayedEpisode(scenario, played.log), [{**about, SIDE: TESTBED}])
    return table.append_column(DECISION, pa.array(played.decision_s))


def simulated_table(tasks: pa.Table) -> pa.Table:
    """Return the simulator's rows (`task_table`) with the same columns; its decisions take no time."""
    place = tasks.column_names.index("task")
    side = pa.array([SIMULATOR] * len(tasks), pa.string())
    return tasks.add_column(place, SIDE, side).append_column(DECISION, pa.array(np.zeros(len(tasks))))


def mean_response_s(tasks: pa.Table) -> float:
    """Return the mean response of the finished tasks that count; nan without any."""
    responses = tasks.filter(pc.field("counts"))["response_s"].drop_null().to_numpy()
    return float(responses.mean()) if len(responses) else float("nan")


def _percentiles(values: Array, factor: float) -> dict[str, float]:
    if not len(values):
        return {}
    p50, p99 = np.percentile(values, (50, 99))
    mean = values.mean(dtype=np.float64)
    named = {"mean": mean, "p50": p50, "p99": p99, "max": values.max()}
    return {name: float(value) * factor for name, value in named.items()}


def reasons_against(outcome: Outcome, played: Fates, options: Options, response_s: float) -> list[str]:
    """Return why a play does not count; empty if it does.

    Args:
        outcome: what the nodes reported.
        played: the fates of its tasks.
        options: how it was played.
        response_s: mean response in the simulator.
    """
    reasons = []
    if len(outcome.late_s):
        mean_s = float(outcome.late_s.mean(dtype=np.float64)) * options.speed
        p99_s = float(np.percentile(outcome.late_s, 99)) * options.speed
        if not (mean_s <= MEAN_LATE_SHARE * response_s and p99_s <= P99_LATE_SHARE * response_s):
            reasons.append(
                f"this machine is too slow for --speed {options.speed:g}: timers are late by {mean_s:.2g} s of the "
                f"scenario on average, and 1 of 100 by {p99_s:.2g} s; accepted: {MEAN_LATE_SHARE:.1%} and "
                f"{P99_LATE_SHARE:.0%} of the mean response, {response_s:.3g} s. Take a lower speed, or more cores"
            )
    failed = sum(final["command_failures"] for final in outcome.finals.values())
    if failed:
        reasons.append(f"--command: the program failed, or could not be run, for {failed} tasks")
    if played.problems:
        reasons.append(f"{len(played.problems)} tasks cannot be accounted for, the first: {played.problems[0]}")
    return reasons


def record_of_play(
    about: Mapping[str, Any], outcome: Outcome, played: Fates, options: Options, names: Sequence[str], response_s: float
) -> dict[str, Any]:
    """Return what `testbed.json` says of one play; arguments as `reasons_against`."""
    reasons = reasons_against(outcome, played, options, response_s)
    nodes = {}
    for n, final in sorted(outcome.finals.items()):
        offset_s, round_trip_s = outcome.offsets_s[n]
        nodes[names[n]] = {
            "cpu_share": final["cpu_s"] / final["wall_s"] if final["wall_s"] > 0 else None,
            "resident_bytes": final.get("resident_bytes"),
            "proportional_bytes": final.get("proportional_bytes"),
            "clock_offset_s": offset_s,
            "clock_round_trip_s": round_trip_s,
            "decisions": final["decisions"],
            "masked_actions": final["masked"],
            "broadcasts": final["broadcasts"],
            "payload_bytes": final["payload_bytes"],
            "malformed_frames": final["malformed"],
            **{name: final[name] for name in WIRE_COUNTS if name in final},
        }
    shares = [node["cpu_share"] for node in nodes.values() if node["cpu_share"] is not None]
    return {
        **{key: about[key] for key in ("policy", "training_seed", "held_out_seed", "episode")},
        "valid": not reasons,
        "reasons": reasons,
        "timer_lateness_ms": _percentiles(outcome.late_s, 1e3),
        "decision_ms": _percentiles(outcome.decision_wall_s, 1e3),
        "cpu_share": sum(shares),
        "faults": [
            {"node": names[f.node], "from_s": f.from_s, "until_s": f.until_s if np.isfinite(f.until_s) else None}
            for f in outcome.faults
        ],
        "notes": [*outcome.notes, *played.problems],
        "nodes": nodes,
    }


def record_of_run(
    label: str,
    fingerprint: str,
    options: Options,
    hosts: Sequence[HostSpec],
    names: Sequence[str],
    plays: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the content of `testbed.json`."""
    return {
        "format": FORMAT_VERSION,
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "environment": label,
        "fingerprint": fingerprint,
        "speed": options.speed,
        "compute": options.compute,
        "command": list(options.command),
        "network": options.network,
        "hosts": [
            {"name": host.name, "address": host.address, "nodes": [names[n] for n in host.nodes]} for host in hosts
        ],
        "valid": all(play["valid"] for play in plays),
        "plays": list(plays),
    }


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of `testbed.json`; errors as `config.files.read_json`."""
    return read_json(folder / RECORD, "the record of a testbed")


def table_of_run(folder: Path) -> Table:
    """Return mean and 95th percentile of the response, and the share of dropped tasks, of each policy on both sides."""
    tasks = pd.read_parquet(folder / TASKS)
    shown = Table(title="response of the tasks that count")
    for column in ("policy", "side", "tasks", "mean", "p95", "dropped"):
        shown.add_column(column, justify="left" if column in ("policy", "side") else "right")
    counted = tasks[tasks["counts"]]
    for policy in dict.fromkeys(counted[POLICY]):
        for side in (TESTBED, SIMULATOR):
            of_one = counted[(counted[POLICY] == policy) & (counted[SIDE] == side)]
            response_s = np.asarray(of_one["response_s"], np.float64)
            response_s = response_s[np.isfinite(response_s)]
            p95_s = float(np.quantile(response_s, 0.95)) if len(response_s) else float("nan")
            mean_s = float(response_s.mean()) if len(response_s) else float("nan")
            dropped = sum(outcome not in ("finished", "unfinished") for outcome in of_one["outcome"])
            share = f"{dropped / len(of_one):.2%}" if len(of_one) else "-"
            shown.add_row(policy, side, str(len(of_one)), f"{mean_s:.3g} s", f"{p95_s:.3g} s", share)
    return shown


def write_files(folder: Path, tables: Sequence[pa.Table], record: Mapping[str, Any]) -> None:
    """Write both files into a new folder."""
    pq.write_table(pa.concat_tables(tables, promote_options="permissive").unify_dictionaries(), folder / TASKS)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
