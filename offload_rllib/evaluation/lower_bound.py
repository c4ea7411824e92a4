"""A clairvoyant lower bound on the score of any policy, on an episode whose tasks are all known beforehand.

The bound is the optimum of a relaxation, found by HiGHS through scipy: a linear program over slots of time, or, with
`whole`, a mixed-integer one in which every task is processed at one node. For many tasks there is `dual`, without
slots. `docs/bound.md` states the relaxation and why each of its parts holds for every policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress
from scipy import optimize, sparse

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.config.decisions import Agents
from offload_rllib.envs.vector import batch_of, held_out_keys
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.scenario.links import gains_are_drawn
from offload_rllib.simulator.streams import CONSTANT, LOGNORMAL, UNIFORM
from offload_rllib.simulator.types import EXPIRY_ABORT, NONE, OFFER_ARRIVAL, Array, Scenario

# More takes HiGHS many minutes and gigabytes.
MOST_VARIABLES = 1_500_000
# HiGHS meets constraints and optimality to this; a bound is lowered by as much, relative to it.
TOLERANCE = 1e-6
SLOTS = 500
BATCH = 16


@dataclass(frozen=True)
class Bound:
    """A lower bound on the mean score of one episode.

    Attributes:
        mean_s: no policy's `score_mean_s` is below it; NaN if no task counts.
        tasks: that count.
        slot_s: length of the slots; infinite: none (`dual_bound`).
        proven: whether the relaxation was solved; False if the time limit ended it, which costs tightness only.
    """

    mean_s: float
    tasks: int
    slot_s: float
    proven: bool


class EarliestTimes(NamedTuple):
    """How soon, at best, each of J tasks could be served at each of N nodes, and what its result needs back."""

    ready_s: Array  # [J, N] absolute; infinite: out of reach
    back_s: Array  # [J, N] from the end of service to the origin


class _Entry(NamedTuple):
    """Variables of one task at one node: the share of it processed in each of some slots."""

    task: int
    node: int
    slot: Array  # [V] indices
    service_s: float  # of the whole task
    most: Array  # [V] largest share that fits into the slot
    cost_s: Array  # [V] response, less what the position of a part within its slot may add
    least_s: float  # response if it is served as soon as it can be there


def recorded_tasks(config: EnvironmentConfig, keys: Array) -> Iterator[tuple[Scenario, Array]]:
    """Yield the arrays and the tasks [J] LOG that count of each episode.

    The workload of a key does not depend on the decisions, so everything is kept where it enters, and a record's
    `node` is the node that the task enters first.

    Args:
        config: the environment.
        keys: [E] of the episodes.
    """
    everyone = config.model_copy(update={"agents": Agents()})
    scenario = build_scenario(everyone)
    _refuse_varying_rates(scenario.arrays)
    env = batch_of(_keeping_everywhere(scenario), len(keys), log=True)
    env.reset(keys)
    env.play("local")
    lacking = len(scenario.arrays.onward) > 0
    for e in range(len(keys)):
        arrays = scenario.arrays if lacking else env.scenario_of(e).arrays
        tasks = env.task_log(e)
        settings = arrays.settings[0]
        counts = (tasks["created_s"] >= settings["score_from_s"]) & (tasks["created_s"] < settings["score_until_s"])
        yield arrays, tasks[counts]


def _refuse_varying_rates(arrays: Scenario) -> None:
    for key, given in (
        ("mobility", len(arrays.moving) > 0),
        ("links.rate_schedule", len(arrays.rate_change) > 0),
        ("links with fading or shadowing_db", gains_are_drawn(arrays.link_law)),
    ):
        if given:
            raise ConfigError(f"bound: {key}: the best rate of a link is not known; accepted: links of constant rates")


def _keeping_everywhere(scenario: BuiltScenario) -> BuiltScenario:
    """Return the same scenario, in which nodes without a processor can keep tasks as well."""
    arrays = scenario.arrays
    if not len(arrays.onward):
        return scenario
    node, lacking = arrays.node.copy(), arrays.node["speed"] <= 0
    for key in ("speed", "core_speed", "seconds_per_instruction"):
        node[key][lacking] = 1.0
    return replace(scenario, arrays=arrays._replace(node=node, onward=arrays.onward[:0]))


def _transfer(scenario: Scenario, index: int, bits: Array) -> Array:
    """Return the least seconds [J] that messages can take over a link: nothing waits, and random parts are least."""
    legs = scenario.leg[slice(*scenario.first_leg[index : index + 2])] if len(scenario.leg) else ()
    if len(legs):
        return np.sum([_transfer(scenario, int(leg), bits) for leg in legs], axis=0)
    link, law = scenario.link[index], scenario.link_law[index]
    if link["plain"]:
        return link["latency_s"] + bits * link["seconds_per_bit"]
    seconds = bits * link["seconds_per_bit"]
    if law["message_noise_hz"] > 0:
        sent = np.maximum(bits, 1e-300)
        rate = law["message_noise_hz"] * np.log2(1 + law["message_snr_bits"] / sent)
        seconds = np.where(bits > 0, bits / rate, 0.0)
    return seconds + law["propagation_s"] + _least(law["latency"]) + _least(law["jitter"])


def _least(law: Array) -> float:
    if law["kind"] in (CONSTANT, UNIFORM):
        return float(law["a"])
    return float(law["b"]) if law["kind"] == LOGNORMAL else 0.0


def _next_decision(time_s: Array, interval_s: float) -> Array:
    if interval_s == 0.0:
        return time_s  # decisions are taken at arrivals
    return np.ceil(time_s / interval_s - 1e-9) * interval_s


def earliest_times(scenario: Scenario, tasks: Array) -> EarliestTimes:
    """Return how soon tasks could be served at each node, over all walks of at most `max_hops` hops.

    The soonest arrival and the shortest way back may be those of different walks: each is a lower bound by itself.

    Args:
        scenario: of the episode.
        tasks: [J] LOG, from `recorded_tasks`.
    """
    settings = scenario.settings[0]
    interval_s, max_hops = float(settings["decision_interval_s"]), int(settings["max_hops"])
    held = settings["offer"] == OFFER_ARRIVAL
    count, nodes = len(tasks), len(scenario.node)
    outgoing = [
        (int(scenario.agent_node[d]), int(index), int(scenario.link[index]["destination"]))
        for d, row in enumerate(scenario.destination)
        for index in row
        if index != NONE
    ]
    over = {
        index: (
            _transfer(scenario, index, tasks["bits_in"]),
            _transfer(scenario, int(scenario.link[index]["reverse"]), tasks["bits_out"]),
        )
        for _, index, _ in outgoing
    }
    arrival = np.full((count, nodes), np.inf)
    arrival[np.arange(count), tasks["node"]] = tasks["created_s"]
    back = np.where(np.isfinite(arrival), 0.0, np.inf)
    decides = scenario.node["agent"] != NONE
    ready_s, back_s = np.full_like(arrival, np.inf), back.copy()
    for hop in range(max_hops + 1):
        decided = _next_decision(arrival, interval_s)
        waits = held & decides & (hop < max_hops)
        ready_s = np.minimum(ready_s, np.where(waits, decided, arrival))
        back_s = np.minimum(back_s, back)
        if hop == max_hops:
            break
        further, further_back = np.full_like(arrival, np.inf), np.full_like(arrival, np.inf)
        for source, index, to in outgoing:
            there, home = over[index]
            further[:, to] = np.minimum(further[:, to], decided[:, source] + there)
            further_back[:, to] = np.minimum(further_back[:, to], back[:, source] + home)
        arrival, back = further, further_back
    return EarliestTimes(ready_s, back_s)


def _drop_penalties(scenario: Scenario, tasks: Array) -> Array:
    """Return the least score [J] of tasks that do not finish; see `simulator.tasks.score_of_unfinished`."""
    settings = scenario.settings[0]
    aborted = (settings["expiry"] == EXPIRY_ABORT) & np.isfinite(tasks["deadline_s"])
    latest_s = np.where(aborted, tasks["deadline_s"], settings["horizon_s"])
    return np.maximum(latest_s - tasks["created_s"], settings["drop_s"])


def _latest_ends(scenario: Scenario, tasks: Array) -> Array:
    """Return when [J] the results of tasks must be back at the latest."""
    settings = scenario.settings[0]
    latest = np.full(len(tasks), settings["horizon_s"])
    return np.minimum(latest, tasks["deadline_s"]) if settings["expiry"] == EXPIRY_ABORT else latest


def _entries(scenario: Scenario, tasks: Array, slot_s: float) -> Iterator[_Entry]:
    """Yield the variables of every task at every node where it could finish."""
    soonest = earliest_times(scenario, tasks)
    latest = _latest_ends(scenario, tasks)
    for j, n in np.argwhere(np.isfinite(soonest.ready_s) & (scenario.node["speed"] > 0)):
        ready_s, back_s = soonest.ready_s[j, n], soonest.back_s[j, n]
        service_s = float(tasks["work"][j] * scenario.node[n]["seconds_per_instruction"])
        end_s = latest[j] - back_s
        # A task that could just be in time must not be lost to rounding.
        if ready_s + service_s > end_s + 1e-9 * max(end_s, 1.0):
            continue
        slot = np.arange(int(ready_s // slot_s), max(int(np.ceil(end_s / slot_s)), int(ready_s // slot_s) + 1))
        fits = np.minimum((slot + 1) * slot_s, end_s + 1e-9) - np.maximum(slot * slot_s, ready_s)
        slot, fits = slot[fits >= 0], fits[fits >= 0]
        # Mid-slots overstate the mean time of a contiguous service by at most this, reached in its last slot; where
        # tasks share the cores, what is done of one in a slot may all be done at its beginning.
        part = min(slot_s / 2, service_s)
        contiguous = service_s > 0 and scenario.node[n]["concurrency"] == scenario.node[n]["servers"]
        excess_s = part * (slot_s - part) / (2 * service_s) if contiguous else slot_s / 2
        rest_s = service_s / 2 + back_s - tasks["created_s"][j]
        most = np.minimum(fits / service_s, 1.0) if service_s > 0 else np.ones(len(slot))
        cost_s = (slot + 0.5) * slot_s - excess_s + rest_s
        least_s = float(ready_s + service_s + back_s - tasks["created_s"][j])
        yield _Entry(int(j), int(n), slot, service_s, most, cost_s, least_s)


def lower_bound(
    scenario: Scenario, tasks: Array, *, slot_s: float | None = None, whole: bool = False, time_limit_s: float = 60.0
) -> Bound:
    """Return a lower bound on the mean score that any policy can reach on an episode.

    Args:
        scenario: of the episode.
        tasks: [J] LOG of the tasks that count, from `recorded_tasks`.
        slot_s: length of the slots; shorter is tighter and slower. None: the horizon / 500.
        whole: process every task at one node, by a mixed-integer program: tighter, and much slower.
        time_limit_s: of the mixed-integer program, whose best proven bound counts then.

    Raises:
        ConfigError: the slot is not above 0, or the program would be too large.
        RuntimeError: the linear program was not solved.
    """
    slot_s = float(scenario.settings[0]["horizon_s"]) / SLOTS if slot_s is None else slot_s
    if not slot_s > 0:
        raise ConfigError(f"the slot must be above 0 s, is {slot_s}")
    if len(tasks) == 0:
        return Bound(float("nan"), 0, slot_s, proven=True)
    entries: list[_Entry] = []
    shares = 0
    for entry in _entries(scenario, tasks, slot_s):
        entries.append(entry)
        shares += len(entry.slot)
        if shares > MOST_VARIABLES:
            raise ConfigError(
                f"the bound of {len(tasks)} tasks with slots of {slot_s:g} s needs more than {MOST_VARIABLES:,} "
                "variables: take longer slots, a shorter horizon_s, or fewer nodes"
            )
    program = _program(scenario, tasks, entries, slot_s, whole=whole)
    result = optimize.milp(**program, options={"time_limit": time_limit_s} if whole else {})
    if whole and result.mip_dual_bound is not None:
        total = float(result.mip_dual_bound)
    elif result.status == 0:
        total = float(result.fun)
    else:
        raise RuntimeError(f"HiGHS did not solve the program of {shares:,} variables: {result.message}")
    mean_s = total * (1 - TOLERANCE) / scenario.type_weight[tasks["type"]].sum()
    return Bound(mean_s, len(tasks), slot_s, proven=result.status == 0)


def dual_bound(scenario: Scenario, tasks: Array) -> Bound:
    """Return a lower bound on the mean score, as `lower_bound` does, without slots: for any number of tasks.

    Every second of service has a price at each node. A task takes the node where its least response and its price are
    least together, or is dropped; what all capacity costs is taken off. By weak duality that is a bound for any prices
    of at least 0 (M. Fisher, "The Lagrangian relaxation method for solving integer programming problems", Management
    Science 27(1), 1981). The best ones that L-BFGS-B meets are taken; at 0 every task is alone in the network.

    Args:
        scenario: of the episode.
        tasks: [J] LOG of the tasks that count, from `recorded_tasks`.
    """
    if len(tasks) == 0:
        return Bound(float("nan"), 0, np.inf, proven=True)
    node, weight = scenario.node, scenario.type_weight[tasks["type"]]
    soonest, latest = earliest_times(scenario, tasks), _latest_ends(scenario, tasks)
    service_s = tasks["work"][:, None] * node["seconds_per_instruction"]
    end_s = latest[:, None] - soonest.back_s
    in_time = soonest.ready_s + service_s <= end_s + 1e-9 * np.maximum(end_s, 1.0)
    can = in_time & np.isfinite(soonest.ready_s) & (node["speed"] > 0)
    least_s = soonest.ready_s + service_s + soonest.back_s - tasks["created_s"][:, None]
    alone = np.where(can, weight[:, None] * least_s, np.inf)
    dropped = weight * _drop_penalties(scenario, tasks)
    service_s = np.where(can, service_s, 0.0)
    begins_s = np.where(can, soonest.ready_s, np.inf).min(axis=0)
    ends_s = np.where(can, end_s, -np.inf).max(axis=0)
    capacity_s = np.where(can.any(axis=0), node["servers"] * (ends_s - begins_s), 0.0)
    best = -np.inf

    def minus_bound(price: Array) -> tuple[float, Array]:
        nonlocal best
        cost = alone + price * service_s
        there = cost.argmin(axis=1)
        least = cost[np.arange(len(tasks)), there]
        total = float(np.minimum(least, dropped).sum() - price @ capacity_s)
        best = max(best, total)
        served = np.flatnonzero(least < dropped)
        used_s = np.bincount(there[served], service_s[served, there[served]], len(node))
        return -total, capacity_s - used_s

    start = np.zeros(len(node))
    optimize.minimize(minus_bound, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(node))
    return Bound(best * (1 - TOLERANCE) / weight.sum(), len(tasks), np.inf, proven=True)


def bounds_of_episodes(
    config: EnvironmentConfig,
    *,
    episodes: int = 20,
    seed: int = 0,
    slot_s: float | None = None,
    whole: bool = False,
    time_limit_s: float = 60.0,
    dual: bool = False,
    progress: Progress | None = None,
) -> list[Bound]:
    """Return the bounds of held-out episodes, the same that `evaluation.evaluate` plays.

    Args:
        config: the environment.
        episodes: how many.
        seed: of the held-out episodes.
        slot_s: see `lower_bound`, as the other options.
        whole: a mixed-integer program.
        time_limit_s: of that, for each episode.
        dual: `dual_bound` instead.
        progress: where to show it.

    Raises:
        ConfigError: a program would be too large.
    """
    keys = held_out_keys(seed, episodes)
    task = progress.add_task("bounding", total=episodes) if progress else None
    found: list[Bound] = []
    for first in range(0, episodes, BATCH):
        for scenario, tasks in recorded_tasks(config, keys[first : first + BATCH]):
            if dual:
                found.append(dual_bound(scenario, tasks))
            else:
                found.append(lower_bound(scenario, tasks, slot_s=slot_s, whole=whole, time_limit_s=time_limit_s))
            if progress and task is not None:
                progress.advance(task)
    return found


def _program(scenario: Scenario, tasks: Array, entries: list[_Entry], slot_s: float, *, whole: bool) -> dict[str, Any]:
    """Return the arguments of `scipy.optimize.milp`.

    Variables, in this order: the share of a task processed in a slot at a node; whether (how far) a task is dropped;
    a task's score; with `whole`, whether a task is processed at a node.
    """
    count, chosen = len(tasks), len(entries) if whole else 0
    length = np.array([len(entry.slot) for entry in entries], int)
    first = np.concatenate([[0], np.cumsum(length)])
    shares = int(first[-1])
    drop, score, at_node = shares, shares + count, shares + 2 * count
    variables = at_node + chosen
    rows: list[Array] = []
    columns: list[Array] = []
    values: list[Array] = []

    def put(row: Array | int, column: Array | int, value: Array | float) -> None:
        for kept, part in zip((rows, columns, values), np.broadcast_arrays(row, column, value), strict=True):
            kept.append(part.ravel())

    every, dropped_s = np.arange(count), _drop_penalties(scenario, tasks)
    # Rows: all of a task is processed or dropped; its score is at least either estimate; capacities; one node each.
    put(every, drop + every, 1.0)
    for row in (count, 2 * count):
        put(row + every, score + every, 1.0)
        put(row + every, drop + every, -dropped_s)
    capacity: dict[tuple[int, int], int] = {}
    limits: list[float] = []
    upper = np.ones(variables)
    upper[score : score + count] = np.inf
    slot_of_limits = []
    for i, entry in enumerate(entries):
        column = np.arange(first[i], first[i + 1])
        put(entry.task, column, 1.0)
        put(count + entry.task, column, -entry.cost_s)
        put(2 * count + entry.task, column, -entry.least_s)
        upper[column] = entry.most
        for slot in entry.slot.tolist():
            if (entry.node, slot) not in capacity:
                capacity[entry.node, slot] = len(limits)
                limits.append(float(scenario.node[entry.node]["servers"]) * slot_s)
        slot_of_limits.append(np.array([capacity[entry.node, slot] for slot in entry.slot.tolist()], int))
    for i, entry in enumerate(entries):
        put(3 * count + slot_of_limits[i], np.arange(first[i], first[i + 1]), entry.service_s)
    base = 3 * count + len(limits)
    if whole:
        for i in range(len(entries)):
            put(base + i, np.arange(first[i], first[i + 1]), 1.0)
            put(base + i, at_node + i, -1.0)
    low = np.concatenate([np.ones(count), np.zeros(2 * count), np.full(len(limits), -np.inf), np.zeros(chosen)])
    high = np.concatenate([np.ones(count), np.full(2 * count, np.inf), limits, np.zeros(chosen)])
    matrix = sparse.csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (len(low), variables)
    )
    integral = np.zeros(variables)
    integral[at_node:] = 1
    objective = np.zeros(variables)
    objective[score : score + count] = scenario.type_weight[tasks["type"]]
    return {
        "c": objective,
        # scipy's declared types lack arrays.
        "constraints": optimize.LinearConstraint(matrix, low, high),  # pyright: ignore[reportArgumentType]
        "bounds": optimize.Bounds(np.zeros(variables), upper),  # pyright: ignore[reportArgumentType]
        "integrality": integral,
    }
