"""Logs of a testbed, made by the simulator: one environment takes the place of the machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from helpers.environments import at_once
from offload_rllib.config import load_environment
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.testbed.analysis.log import LOAD, SIDE, SIMULATOR, TESTBED

RULES = ("local", "shortest_finish", "random")


def played(environment: dict[str, Any], side: str, *, policies: Sequence[str], loads: Sequence[float]) -> pd.DataFrame:
    """Return the log of rules in an environment at some loads, as one side."""
    tables = []
    for load in loads:
        config = load_environment(environment, [f"workload.load.tasks_per_second_per_client={load}"])
        logs: list[pa.Table] = []
        evaluate(config, make_contenders(policies), episodes=2, seed=0, logs=logs)
        tables.append(pa.concat_tables(logs, promote_options="default").to_pandas().assign(**{SIDE: side, LOAD: load}))
    return pd.concat(tables, ignore_index=True)


def two_sided(
    changes: dict[str, Any] | None = None,
    *,
    policies: Sequence[str] = RULES,
    loads: Sequence[float] = (0.6, 1.2),
) -> pd.DataFrame:
    """Return a log whose testbed is the simulator in a changed environment."""
    testbed = played(at_once(**(changes or {})), TESTBED, policies=policies, loads=loads)
    simulator = played(at_once(), SIMULATOR, policies=policies, loads=loads)
    return pd.concat([testbed, simulator], ignore_index=True)


def written(tasks: pd.DataFrame, path: Path) -> Path:
    """Write a log to a Parquet file; return its path."""
    pyarrow.parquet.write_table(pa.Table.from_pandas(tasks, preserve_index=False), path)
    return path


def made_up(responses: Sequence[float], *, side: str, policy: str = "rule") -> pd.DataFrame:
    """Return a log of tasks that finished after these times, one a second, served where they came, at load 0.5."""
    count = len(responses)
    created = np.arange(count, dtype=float)
    return pd.DataFrame(
        {
            SIDE: pd.Series([side] * count, dtype=object),
            "policy": pd.Series([policy] * count, dtype=object),
            LOAD: [0.5] * count,
            "episode": np.zeros(count, int),
            "task": np.arange(count),
            "created_s": created,
            "ended_s": created + responses,
            "outcome": pd.Series(["finished"] * count, dtype=object),
            "work": [1e6] * count,
            "bits_in": [1e5] * count,
            "bits_out": [0.0] * count,
            "origin": pd.Series(["a"] * count, dtype=object),
            "node": pd.Series(["a"] * count, dtype=object),
            "hops": [0] * count,
            "waiting_s": [0.0] * count,
        }
    )
