"""The figures of one finished episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offload_rllib.simulator.energy import node_energy, node_use
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.objectives import ABSENT, OBJECTIVES
from offload_rllib.simulator.types import (
    CAUSES,
    ENERGY_NONE,
    ENERGY_POWER,
    FAILURES_NONE,
    NONE,
    UNBOUNDED,
    Scenario,
    State,
    record,
)

# The histograms of times have 128 bins per octave from 2^-40 s (1 ps) to 2^40 s (35,000 years). A bin is at most 1/128
# wide relative to its lower edge. A percentile read at a bin's middle is off by at most 0.4 %. The first bin holds what
# is shorter, and counts as 0; the last holds what is longer, and counts as infinite.
HISTOGRAM_BITS = 7
HISTOGRAM_LOWEST = 2.0**-40
HISTOGRAM_OCTAVES = 80
HISTOGRAM_BINS = (HISTOGRAM_OCTAVES << HISTOGRAM_BITS) + 2
RESPONSES, UNFINISHED_SCORES = range(2)

METRICS = record(  # of the tasks of a type that count (see `score_from_s`); not weighted
    score_sum_s="f8",
    response_sum_s="f8",
    holding_sum_s="f8",
    waiting_sum_s="f8",
    service_sum_s="f8",
    transfer_sum_s="f8",
    return_sum_s="f8",
    created="i8",
    finished="i8",
    late="i8",
    queue_full="i8",
    expired="i8",
    lost="i8",
    node_failed="i8",
    rejected="i8",
    unfinished="i8",
    offloaded="i8",
)


def bin_middles() -> np.ndarray:
    """Return the middle in seconds of each histogram bin [B]: 0 below the range, infinite above it."""
    index = np.arange(HISTOGRAM_BINS - 2)
    per_octave = 1 << HISTOGRAM_BITS
    inside = HISTOGRAM_LOWEST * 2.0 ** (index // per_octave) * (1 + (index % per_octave + 0.5) / per_octave)
    return np.concatenate([[0.0], inside, [np.inf]])


BIN_MIDDLES = bin_middles()
PLACES = np.append(BIN_MIDDLES, np.nan)
# The percentiles among the figures.
SHARES = np.array([0.5, 0.95, 0.99])
# Between the name of a figure and that of the type of the tasks that it is of.
OF_TYPE = "_of_"
# In files bins are counted from that which begins here, so that a wider range leaves older files readable.
COUNTED_FROM_S = 2.0**-20
COUNTED_FROM = 1 + (round(np.log2(COUNTED_FROM_S / HISTOGRAM_LOWEST)) << HISTOGRAM_BITS)


@kernel
def _count(histogram, kinds, first, last):
    """Return how many tasks of all types are in the bins from `first` to before `last`, of the first so many kinds."""
    count = 0
    for y in range(histogram.shape[0]):
        for kind in range(kinds):
            for b in range(first, last):
                count += histogram[y, kind, b]
    return count


@kernel
def _find_percentiles(histogram, shares, bins):
    """Write the bins of percentiles.

    Args:
        histogram: [Y, 2, B] uint32, see `types.State`.
        shares: [S] float64, ascending.
        bins: [2, S] int64, overwritten: of the response times, and of all scores; NONE without a task.
    """
    size = histogram.shape[2]
    for kinds in range(1, 3):
        total = _count(histogram, kinds, 0, size)
        found, below, b = 0, 0, 0
        while total > 0 and found < shares.shape[0]:
            # Most octaves hold no percentile; their bins are summed together.
            last = min(b + (1 << HISTOGRAM_BITS), size)
            inside = _count(histogram, kinds, b, last)
            if below + inside < shares[found] * total:
                below += inside
                b = last
                continue
            inside = _count(histogram, kinds, b, b + 1)
            while below + inside < shares[found] * total:
                below += inside
                b += 1
                inside = _count(histogram, kinds, b, b + 1)
            bins[kinds - 1, found] = b
            found += 1
        for rest in range(found, shares.shape[0]):
            bins[kinds - 1, rest] = NONE


def percentiles(histogram: np.ndarray, shares: np.ndarray) -> list[list[float]]:
    """Return percentiles in seconds of the response times of all types together, and of all scores; NaN without any.

    A percentile is the time of rank share x tasks, rounded up, in ascending order (the inverse of the empirical
    distribution, without interpolation), to 0.4 %.

    Args:
        histogram: [Y, 2, B] uint32.
        shares: [S] float64, ascending.
    """
    bins = np.empty((2, len(shares)), np.int64)
    _find_percentiles(histogram, shares, bins)
    # The last place, which NONE means, is that of no bin.
    return PLACES[bins].tolist()


def jain(sums: np.ndarray, counts: np.ndarray) -> float:
    """Return Jain's fairness index of the means sums / counts [N], over those that have a count; NaN if none has.

    (sum of x)^2 / (n x sum of x^2): 1 if all are alike, 1 / n if one has it all (R. Jain, D. Chiu, W. Hawe, "A
    quantitative measure of fairness and discrimination", DEC-TR-301, 1984).
    """
    counted = counts > 0
    means = sums[counted] / counts[counted]
    if len(means) == 0:
        return float("nan")
    squares = len(means) * float((means * means).sum())
    return float(means.sum()) ** 2 / squares if squares > 0 else 1.0


def of_tasks(
    record: np.ndarray, histogram: np.ndarray, weight: np.ndarray, *, rejects: bool = False
) -> dict[str, float]:
    """Return the figures of the tasks of some types.

    Args:
        record: [Y] METRICS.
        histogram: [Y, 2, B] of the same types.
        weight: [Y] of a task in the score.
        rejects: whether agents can reject tasks, and the share of those is a figure.
    """
    names = METRICS.names or ()
    if len(record) == 1:
        total = dict(zip(names, record[0].tolist(), strict=True))
    else:
        total = {name: record[name].sum() for name in names}
    created, finished = int(total["created"]), int(total["finished"])
    response_s, score_s = percentiles(histogram, SHARES)
    weights = float(weight @ record["created"])
    per_created = 1 / created if created else float("nan")
    per_finished = 1 / finished if finished else float("nan")
    causes = {cause: int(total[cause]) for cause in (*CAUSES, *(["rejected"] if rejects else []))}
    return {
        "score_mean_s": float(weight @ record["score_sum_s"]) * (1 / weights if weights else float("nan")),
        "score_p50_s": score_s[0],
        "score_p95_s": score_s[1],
        "score_p99_s": score_s[2],
        "response_mean_s": float(total["response_sum_s"]) * per_finished,
        "response_p50_s": response_s[0],
        "response_p95_s": response_s[1],
        "response_p99_s": response_s[2],
        "dropped_share": sum(causes.values()) * per_created,
        **{f"dropped_{cause}_share": count * per_created for cause, count in causes.items()},
        "unfinished_share": int(total["unfinished"]) * per_created,
        "late_share": int(total["late"]) * per_created,
        "missed_share": (sum(causes.values()) + int(total["late"]) + int(total["unfinished"])) * per_created,
        "offloaded_share": int(total["offloaded"]) * per_created,
        "holding_mean_s": float(total["holding_sum_s"]) * per_finished,
        "waiting_mean_s": float(total["waiting_sum_s"]) * per_finished,
        "service_mean_s": float(total["service_sum_s"]) * per_finished,
        "transfer_mean_s": float(total["transfer_sum_s"]) * per_finished,
        "return_mean_s": float(total["return_sum_s"]) * per_finished,
        "tasks_created": float(created),
        "tasks_finished": float(finished),
    }


def summary(scenario: Scenario, state: State, e: int, types: Sequence[str] = ()) -> dict[str, float]:
    """Return the figures of environment `e` at the end of its episode.

    Times are in seconds. Tasks count as `score_from_s` and `score_until_s` say. What a task scores that was dropped or
    is unfinished says `tasks.score_of_unfinished`. `score_mean_s` is the mean of the scores by the weights of the
    tasks' types; all other figures count every task alike. `response_*` are of finished tasks alone, and NaN if there
    is none. `overload` is the share of time that a node with a bounded queue spends full, averaged over those nodes;
    `occupancy_tasks` the mean number of tasks at a node. `missed_share` is the share of tasks without a result in time:
    dropped, late, or unfinished. `fairness` is Jain's index of the clients' mean scores (`jain`), by weight as well.

    Where nodes move there is `handovers`, changes of the access point over the whole episode for each of them.
    With set-ups there is `cold_start_share`, the share of the services of the whole episode that began with one. With
    failures there is `availability`, the share of time that a node is up, averaged over all nodes. With an
    account of energy there are `energy_<use>_j` by use (`node_energy`) and `energy_j`, their sum, of all nodes over
    the whole episode, and `energy_per_task_j`, that sum over the tasks that finished, NaN if none did; without `_j` in
    PeersimGym's unit. Prices have the same figures: `price_compute`, `price_transmit`, `price`, `price_per_task`. Where
    objectives have weights there is `weight_<objective>`.

    Args:
        scenario: of the environment.
        state: of the batch.
        e: which environment.
        types: names [Y] of the types; with more than one, every figure of tasks is also given of each, as
            ``<figure>_of_<type>``.
    """
    bounded = scenario.node["capacity"] < UNBOUNDED
    now_s = float(state.episode[e]["now_s"])
    extra: dict[str, float] = {}
    if scenario.settings[0]["failures"] != FAILURES_NONE:
        down_s = state.usage[e]["down_seconds"] + state.node[e]["down"] * now_s
        extra["availability"] = 1 - float(down_s.mean()) / now_s
    if len(scenario.setup_s):
        starts = int(state.warm[e]["starts"].sum())
        extra["cold_start_share"] = int(state.warm[e]["cold"].sum()) / starts if starts else float("nan")
    if len(scenario.moving):
        extra["handovers"] = int(state.episode[e]["handovers"]) / len(scenario.moving)
    account, ended = scenario.settings[0]["energy"], int(state.episode[e]["finished"])
    if account != ENERGY_NONE:
        unit = "_j" if account == ENERGY_POWER else ""
        uses = {f"energy_{use}{unit}": float(used.sum()) for use, used in node_energy(scenario, state, e).items()}
        total = sum(uses.values())
        extra |= {f"energy{unit}": total, **uses}
        extra[f"energy_per_task{unit}"] = total / ended if ended else float("nan")
    if len(scenario.price):
        paid = {use: float(each.sum()) for use, each in node_use(scenario, state, e, scenario.price).items()}
        total = paid["compute"] + paid["transmit"]
        extra |= {"price": total, "price_compute": paid["compute"], "price_transmit": paid["transmit"]}
        extra["price_per_task"] = total / ended if ended else float("nan")
    objectives = zip(OBJECTIVES, scenario.weight, state.weight[e], strict=False)
    extra |= {f"weight_{name}": float(weight) for name, given, weight in objectives if given != ABSENT}
    node = state.node[e]
    full_share = node["full_seconds"][bounded] / now_s
    record, histogram, weight = state.metrics[e], state.histogram[e], scenario.type_weight
    rejects = bool(scenario.settings[0]["rejects"])
    each: dict[str, float] = {}
    if len(types) > 1:
        for i, name in enumerate(types):
            of_one = of_tasks(record[i : i + 1], histogram[i : i + 1], weight[i : i + 1], rejects=rejects)
            each |= {f"{figure}{OF_TYPE}{name}": value for figure, value in of_one.items()}
    return {
        **of_tasks(record, histogram, weight, rejects=rejects),
        "fairness": jain(node["score_sum_s"], node["scored"]),
        "overload": float(full_share.sum()) / len(full_share) if len(full_share) else 0.0,
        "occupancy_tasks": float(node["task_seconds"].sum()) / len(node) / now_s,
        "masked_actions": float(state.episode[e]["masked_actions"]),
        **extra,
        **each,
    }
