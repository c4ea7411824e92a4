"""The outcome of every task of an evaluation: a table for Parquet, and files to exchange with other simulators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from offload_rllib.config.names import plain_name
from offload_rllib.evaluation.results import EPISODE, POLICY
from offload_rllib.scenario import BuiltScenario
from offload_rllib.simulator.types import EXPIRED, FINISHED, LOST, NODE_FAILED, OPEN, QUEUE_FULL, REJECTED

OUTCOMES = {
    OPEN: "unfinished",
    FINISHED: "finished",
    QUEUE_FULL: "queue_full",
    EXPIRED: "expired",
    LOST: "lost",
    NODE_FAILED: "node_failed",
    REJECTED: "rejected",
}
NODES = ("origin", "node")
# Columns of a file of exchange, with those of `task_table` that they are made of; see `docs/workloads.md`.
EXCHANGED = {
    "task": "task",
    "time_s": "created_s",
    "origin": "origin",
    "destination": "node",
    "type": "type",
    "work": "work",
    "bits_in": "bits_in",
    "bits_out": "bits_out",
    "deadline_s": "deadline_s",
    "response_s": "response_s",
    "outcome": "outcome",
}


class Logged(Protocol):
    """What has a log of tasks: a batch of environments, or a testbed."""

    def task_log(self, e: int) -> np.ndarray:
        """Return the records [tasks made] LOG of episode `e`."""
        ...

    def scenario_of(self, e: int) -> BuiltScenario:
        """Return the scenario of that episode."""
        ...


def task_table(env: Logged, about: Sequence[dict[str, Any]]) -> pa.Table:
    """Return one row per task of all episodes of an environment that keeps a log.

    Columns: those of `about`, the task's number in its episode, and all of `simulator.types.LOG`. Times are in seconds,
    work is in instructions, nodes, types and outcomes are names. `counts` is whether the task is in the figures,
    `response_s` the time from its creation to its end, missing unless it finished.

    Args:
        env: at the end of its episodes.
        about: for each environment of the batch, columns with one value.
    """
    parts = []
    for e, columns in enumerate(about):
        log = env.task_log(e)
        scenario = env.scenario_of(e)
        settings = scenario.arrays.settings[0]
        names = np.array([node.name for node in scenario.network.nodes])
        types = np.array(scenario.arriving.types)
        created, finished = log["created_s"], log["outcome"] == FINISHED
        table: dict[str, Any] = {key: pa.repeat(_scalar(value), len(log)) for key, value in columns.items()}
        table["task"] = np.arange(len(log))
        for key in log.dtype.names or ():
            if key in NODES:
                table[key] = pa.array(names[log[key]]).dictionary_encode()
            elif key == "type":
                table[key] = pa.array(types[log[key]]).dictionary_encode()
            elif key == "outcome":
                table[key] = pa.array([OUTCOMES[code] for code in log[key].tolist()], pa.string()).dictionary_encode()
            else:
                table[key] = np.ascontiguousarray(log[key])
        table["counts"] = (created >= settings["score_from_s"]) & (created < settings["score_until_s"])
        table["response_s"] = pa.array(np.where(finished, log["ended_s"] - created, 0.0), mask=~finished)
        parts.append(pa.table(table))
    return pa.concat_tables(parts).unify_dictionaries()


def write_exchange(tables: Sequence[pa.Table], folder: Path) -> None:
    """Write one CSV file per policy and episode, one row per task, that a recording can be read from.

    Numbers have all their digits. A deadline is relative to the creation, and empty where there is none; so is the
    response of a task that did not finish.

    Args:
        tables: from `task_table`.
        folder: is made.
    """
    folder.mkdir()
    for table in tables:
        tasks = table.to_pandas()
        tasks["deadline_s"] = (tasks["deadline_s"] - tasks["created_s"]).where(np.isfinite(tasks["deadline_s"]))
        for (policy, episode), of_one in tasks.groupby([POLICY, EPISODE], observed=True):
            columns = {name: of_one[source] for name, source in EXCHANGED.items()}
            pd.DataFrame(columns).to_csv(folder / f"{_file_name(str(policy))}-{episode}.csv", index=False)


def _file_name(policy: str) -> str:
    return "".join("_" if c in ":/\\ " else c for c in plain_name(policy))


def _scalar(value: Any) -> pa.Scalar:
    return pa.scalar(value, pa.int64()) if value is None else pa.scalar(value)
