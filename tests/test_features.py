"""No number of an observation is always the same, and none is there twice, but for stated reasons."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from offload_rllib.config import load_environment
from offload_rllib.config.loading import presets
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import NativeEnv, batch_of, held_out_keys
from offload_rllib.scenario import build_scenario

STEPS = 200


class Reason(NamedTuple):
    """Why a preset makes features constant, or equal to others."""

    features: str
    """Pattern of their names; of features that are equal, one need not match."""
    holds: Callable[[NativeEnv], bool]


def _equal_speeds(env: NativeEnv) -> bool:
    return bool(np.ptp(env.scenario.arrays.node["speed"]) == 0)


def _one_hop(env: NativeEnv) -> bool:
    return env.scenario.config.decisions.max_hops == 1


def _always(env: NativeEnv) -> bool:  # noqa: ARG001 - has the signature of the others
    return True


def _all_clients(env: NativeEnv) -> bool:
    return bool((env.scenario.arrays.node["arrival_rate"][env.scenario.arrays.agent_node] > 0).all())


def _equal_degrees(env: NativeEnv) -> bool:
    return bool(np.ptp(env.scenario.arrays.node["degree"][env.scenario.arrays.agent_node]) == 0)


def _no_deadlines(env: NativeEnv) -> bool:
    return not env.scenario.arrays.settings[0]["has_deadline"]


def _sizes_of_one_table(env: NativeEnv) -> bool:
    return env.scenario.config.workload.jobs is not None and env.scenario.config.workload.jobs.kind == "alibaba"


def _agents_of_equal_speed(env: NativeEnv) -> bool:
    return bool(np.ptp(env.scenario.arrays.node["speed"][env.scenario.arrays.agent_node]) == 0)


def _at_arrivals(env: NativeEnv) -> bool:
    return env.scenario.config.decisions.when == "arrival"


def _decided_when_created(env: NativeEnv) -> bool:
    return _at_arrivals(env) and _one_hop(env)


def _ages_are_transfers(env: NativeEnv) -> bool:
    """Return whether a task has travelled for as long as its result will, once and without waiting for links."""
    links = env.scenario.config.links
    hops = env.scenario.config.decisions.max_hops
    return _at_arrivals(env) and _sizes_of_one_table(env) and hops <= 2 and links.contention == "none"


def _clients_decide_only_their_own(env: NativeEnv) -> bool:
    """Return whether clients receive only tasks without a hop left, and other agents only tasks with one."""
    client, link = env.scenario.arrays.node["arrival_rate"] > 0, env.scenario.arrays.link
    adjacent = (client[link["source"]] & client[link["destination"]]).any()
    return _at_arrivals(env) and env.scenario.config.decisions.max_hops == 2 and not adjacent


def _equal_tasks(env: NativeEnv) -> bool:
    jobs = env.scenario.config.workload.jobs
    return _at_arrivals(env) and jobs is not None and jobs.kind == "mix" and len(jobs.types) == 1


def _agents_cost_nothing(env: NativeEnv) -> bool:
    arrays = env.scenario.arrays
    return len(arrays.price) > 0 and bool((arrays.price["server_w"][arrays.agent_node[: len(env.agents)]] == 0).all())


def _drawn_weights(env: NativeEnv) -> bool:
    return env.scenario.config.reward.weights == "drawn"


REASONS = (
    # It tells padding from a destination, and is all there is of a task where `observe` leaves the task out.
    Reason(r"row\.valid", _always),
    # 1 in the row of the action that rejects a task, which leads to no destination.
    Reason(r"row\.rejects", _always),
    Reason(r"task\.hops|row\.offers_again|row_0\.return", _one_hop),
    Reason(r"task\.time_left|row(_0)?\.slack", _no_deadlines),
    Reason(r"self\.client", _all_clients),
    Reason(r"self\.degree", _equal_degrees),
    Reason(r"row(_0)?\.(speed|service)", _equal_speeds),
    Reason(r"row_0\.speed", _agents_of_equal_speed),
    Reason(r"task\.bits_out", _sizes_of_one_table),
    # The task that has just arrived is the only one, always there, and its node is up.
    Reason(r"self\.held|task\.offered|row_0\.alive", _at_arrivals),
    Reason(r"task\.age", _decided_when_created),
    Reason(r"task\.age", _ages_are_transfers),
    Reason(r"row\.offers_again", _clients_decide_only_their_own),
    Reason(r"task\.bits_(in|out)|row\.(transfer|return)", _equal_tasks),
    # An episode draws them once.
    Reason(r"self\.weight_\w+", _drawn_weights),
    Reason(r"row_0\.charge_price", _agents_cost_nothing),
)


def excused(env: NativeEnv, name: str) -> bool:
    """Return whether there is a reason for a feature to be constant or equal to another."""
    return any(re.fullmatch(reason.features, name) and reason.holds(env) for reason in REASONS)


def played(env: NativeEnv) -> dict[str, np.ndarray]:
    """Return what was seen of every feature along an episode of random actions, once per agent and destination."""
    env.reset(held_out_keys(0, 1))
    rng = np.random.default_rng(0)
    steps, deciding = [], []
    done = False
    while not done and len(steps) < STEPS:
        steps.append(env.observations[0].copy())
        if isinstance(env, ArrivalEnv):
            deciding.append(env.deciding[0])
        done = env.step((rng.random(env.masks.shape) * env.masks).argmax(-1))
    destinations = env.scenario.arrays.destination[: len(env.agents), 1:] >= 0
    if isinstance(env, ArrivalEnv):
        step, row = np.nonzero(destinations[deciding])
        seen = np.stack(steps)[None, step]  # [1, steps x destinations, F]
    else:
        agent, row = np.nonzero(destinations)
        seen = np.stack(steps)[:, agent]  # [steps, pairs, F]
    layout = env.layout
    here = layout.first_row + layout.here_size
    values = {name: seen[..., column] for column, name in enumerate(layout.names[:here])}
    for column in range(layout.row_size):
        name = layout.names[here + column].replace("row_1", "row")
        values[name] = np.take_along_axis(seen, (here + row * layout.row_size + column)[None, :, None], 2)[..., 0]
    return values


@pytest.mark.parametrize("preset", sorted(presets("envs")))
def test_no_feature_is_constant_or_there_twice(preset: str) -> None:
    env = batch_of(build_scenario(load_environment(preset)), 1)
    alike = defaultdict(list)
    for name, values in played(env).items():
        alike[values.tobytes()].append(name)
        assert np.ptp(values) > 0 or excused(env, name), f"{name} is constant"
    for names in alike.values():
        unexcused = [name for name in names if not excused(env, name)]
        assert len(unexcused) <= 1, f"{', '.join(unexcused)} are the same"
