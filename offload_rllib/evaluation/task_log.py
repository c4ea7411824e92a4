"""The outcome of every task of an evaluation, as a table for Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from offload_rllib.envs.vector import NativeEnv
from offload_rllib.simulator.types import EXPIRED, FINISHED, LOST, NODE_FAILED, OPEN, QUEUE_FULL

OUTCOMES = {
    OPEN: "unfinished",
    FINISHED: "finished",
    QUEUE_FULL: "queue_full",
    EXPIRED: "expired",
    LOST: "lost",
    NODE_FAILED: "node_failed",
}
NODES = ("origin", "node")


def task_table(env: NativeEnv, about: Sequence[dict[str, Any]]) -> pa.Table:
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


def _scalar(value: Any) -> pa.Scalar:
    return pa.scalar(value, pa.int64()) if value is None else pa.scalar(value)
