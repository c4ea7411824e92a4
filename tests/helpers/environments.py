"""Small environments, and ways to play and to refuse them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.vector import NativeEnv, VectorEnv, batch_of, held_out_keys
from offload_rllib.scenario import build_scenario

ARRIVAL = {"when": "arrival", "max_hops": 2}
# Rules that need what small environments do not have: a cloud, a recording, a choice to reject, a reward with charges.
RULES_THAT_NEED_MORE = frozenset({"always_cloud", "recorded", "admit_if_in_time", "least_cost"})


def small_environment(**changes: Any) -> dict[str, Any]:
    """Return a ring of four nodes, two of them with clients, with short tasks and generous deadlines.

    Agents decide every second, unless `decisions` among the changes says `when: arrival`.
    """
    environment: dict[str, Any] = {
        "horizon_s": 40,
        "topology": {
            "kind": "manual",
            "nodes": [
                {"name": "a", "instructions_per_second": 1e6, "client": True, "queue_capacity": 6},
                {"name": "b", "instructions_per_second": 2e6, "queue_capacity": 8},
                {"name": "c", "instructions_per_second": 1e6, "client": True, "queue_capacity": 6},
                {"name": "d", "instructions_per_second": 4e6},
            ],
            "links": [["a", "b"], ["b", "c"], ["c", "d"], ["d", "a"]],
        },
        "links": {"kind": "fixed", "rate_bps": 1e6, "latency_s": 0.05},
        "workload": {
            "jobs": {
                "kind": "mix",
                "types": [
                    {"weight": 2, "instructions": {"exponential": 8e5}, "bits_in": {"uniform": [1e5, 4e5]}},
                    {"instructions": 2e6, "bits_in": 1e5, "bits_out": 2e5},
                ],
            },
            "load": {"tasks_per_second_per_client": 1.2},
            "deadline_s": {"uniform": [2, 12]},
        },
    }
    return environment | changes | {"decisions": {"when": "interval"} | changes.get("decisions", {})}


def make_env(environment: Any, num_envs: int = 1, *, log: bool = False) -> Any:
    """Return a native environment, reset to the first held-out episodes: clocked, or with `decisions.when: arrival`."""
    env = batch_of(build_scenario(load_environment(environment)), num_envs, log=log)
    env.reset(held_out_keys(0, num_envs))
    return env


def random_actions(env: VectorEnv, rng: np.random.Generator) -> np.ndarray:
    """Return actions of which some are valid and some are not."""
    return rng.integers(0, env.num_actions, env.rewards.shape)


def log_bytes(env: VectorEnv, e: int) -> bytes:
    """Return the task log of an episode as bytes, without the padding between its records, which is undefined."""
    log = env.task_log(e)
    return b"".join(log[name].tobytes() for name in log.dtype.names or ())


def typed_environment() -> dict[str, Any]:
    """Return the small environment with types of devices."""
    environment = small_environment()
    for node, kind in zip(environment["topology"]["nodes"], ("rpi3", "nuc", "rpi3", "server"), strict=True):
        node["type"] = kind
    return environment


def with_choices(env: NativeEnv) -> NativeEnv:
    """Return the environment after some steps, where some agents have a choice and some have none."""
    for _ in range(6):
        env.step(env.heuristic_actions("random"))
    choices = env.masks.sum(-1) > 1
    assert choices.any()
    assert not choices.all()
    return env


def at_once(**changes: Any) -> dict[str, Any]:
    """Return the small environment without a clock."""
    return small_environment(**({"decisions": ARRIVAL} | changes))


def recorded(tmp_path: Path, at_start: int, **changes: Any) -> dict[str, Any]:
    """Return the small environment with tasks of a second at node a: some at 0 s, one at 1 s, one at 2.5 s."""
    path = tmp_path / "rows.csv"
    rows = [f"{time_s},a,1e6,1e5,1e5,20" for time_s in [0.0] * at_start + [1.0, 2.5]]
    path.write_text("t,node,work,in,out,deadline\n" + "\n".join(rows) + "\n")
    environment = small_environment(**changes)
    environment["topology"]["nodes"][2]["client"] = False
    columns = {"time": "t", "origin": "node", "work": "work", "bits_in": "in", "bits_out": "out"}
    environment["workload"] = {
        "arrivals": {"kind": "replay", "path": str(path), "columns": columns | {"deadline": "deadline"}}
    }
    return environment


def refused(content: object, overrides: list[str], message: str) -> None:
    """Assert that building the scenario fails with a message that matches."""
    with pytest.raises(ConfigError) as error:
        build_scenario(load_environment(content, overrides))  # pyright: ignore[reportArgumentType]
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)
