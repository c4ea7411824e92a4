"""How far a testbed and the simulator are apart: figures, distributions, parts of the response, order of policies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from offload_rllib.config.errors import ConfigError
from offload_rllib.evaluation.results import EPISODE, POLICY
from offload_rllib.evaluation.statistics import Interval, certain, paired_difference
from offload_rllib.simulator.types import CAUSES
from offload_rllib.testbed.analysis.log import DONE, LOAD, PARTS, ROUNDING_S, SIDE, SIMULATOR, TASK, TESTBED, Table

SIDES = (TESTBED, SIMULATOR)
DECISION, HOLDING = PARTS[:2]
OTHER = "other_s"
DROPPED, UNFINISHED = "dropped", "unfinished"
# The method of batch means keeps 10 to 30 batches (B. Schmeiser, "Batch size effects in the analysis of simulation
# output", Operations Research 30, 1982): fewer, longer ones depend less on each other.
BATCHES = 20
FEWEST_IN_A_BATCH = 5


@dataclass(frozen=True)
class Target:
    """How close two sides should be in one respect."""

    name: str
    title: str
    limit: float
    factor: float = 1.0
    """From the value to the unit in which it is shown."""
    unit: str = ""
    at_least: bool = False
    """Whether more is better."""

    def meets(self, value: float) -> bool:
        """Return whether a value is within the limit, up to rounding."""
        return value >= self.limit - 1e-12 if self.at_least else value <= self.limit + 1e-12


TARGETS = (
    Target("mean", "mean response time", 0.05, 100.0, "%"),
    Target("p95", "95th percentile of the response time", 0.10, 100.0, "%"),
    Target("drops", "tasks dropped, in all and by cause", 0.01, 100.0, "points"),
    Target("ks", "Kolmogorov distance of response times", 0.1),
    Target("tau", "Kendall's tau of the order of policies", 0.9, at_least=True),
    Target("opposite", "pairs of policies that differ with certainty, and the other way round", 0.0),
)


@dataclass(frozen=True)
class Verdict:
    """A target, and what was found."""

    target: Target
    worst: float
    """The value that is farthest from the target; NaN if there is none."""
    where: str
    """The policy and load of it."""
    missed: int
    """In how many cases the target is missed."""
    cases: int
    """In how many it could be judged."""

    @property
    def met(self) -> bool | None:
        """Whether every case meets the target; None if there is none to judge."""
        return None if not self.cases else not self.missed


@dataclass(frozen=True)
class Differences:
    """A testbed beside the simulator. Differences are testbed minus simulator."""

    cases: Table
    """A row for each policy and load, policies in the order of the log. Columns:

    - `load`, `policy`; `tasks_SIDE`, `finished_SIDE`: how many.
    - `mean_SIDE`, `p50_SIDE`, `p95_SIDE`: response times of the finished tasks in seconds; with `_difference` in place
      of the side as a share of the simulator's.
    - `dropped_SIDE`, `CAUSE_SIDE` for each cause, `unfinished_SIDE`: shares of all tasks; `_difference` likewise.
    - `score_SIDE`: mean score in seconds.
    - `paired_mean`, `paired_low`, `paired_high`: the difference of the mean response time of the tasks that finished on
      both sides, with its 95 % interval, as a share of the simulator's.
    - `ks`: the Kolmogorov distance of the response times.
    - `created_late_s`: by how much tasks were created later on the testbed, on average.
    - `unpaired`: tasks that only one side has."""
    parts: Table
    """A row for each policy, load and part of the response: `load`, `policy`, `part`, `testbed_s`, `simulator_s`,
    `difference_s`, means over finished tasks. `other_s` is what the parts that both sides have leave over."""
    rankings: Table
    """A row for each load: `load`, `policies`, `order_testbed`, `order_simulator` (best first), `tau`, `certain` (pairs
    of policies that differ with certainty on both sides), `opposite` (and the other way round)."""
    pairs: Table
    """A row for each load and pair of policies: `load`, `policy`, `other`, and for each side the mean difference of
    their scores with its 95 % interval, `mean_SIDE`, `low_SIDE`, `high_SIDE` (seconds), `certain_SIDE`; `opposite`."""
    notes: tuple[str, ...]
    """Notes on the log: what could not be compared."""

    def verdicts(self) -> list[Verdict]:
        """Return what was found for each of `TARGETS`."""
        cases, rankings = self.cases, self.rankings
        places = [f"{policy}, load {load:g}" for policy, load in zip(cases[POLICY], cases[LOAD], strict=True)]
        loads = [f"load {load:g}" for load in rankings[LOAD]]
        drops = cases[[f"{cause}_difference" for cause in (DROPPED, *CAUSES)]].abs().max(axis=1)
        found = {
            "mean": (cases["mean_difference"].abs(), places),
            "p95": (cases["p95_difference"].abs(), places),
            "drops": (drops, places),
            "ks": (cases["ks"], places),
            "tau": (rankings["tau"], loads),
            "opposite": (rankings["opposite"].where(rankings["policies"] > 1), loads),
        }
        return [_verdict(target, *found[target.name]) for target in TARGETS]


def _verdict(target: Target, values: pd.Series, places: Sequence[str]) -> Verdict:
    known = [(float(value), place) for value, place in zip(values, places, strict=True) if math.isfinite(value)]
    if not known:
        return Verdict(target, float("nan"), "", 0, 0)
    worst, where = (min if target.at_least else max)(known, key=lambda pair: pair[0])
    return Verdict(target, worst, where, sum(not target.meets(value) for value, _ in known), len(known))


def differences_of(tasks: Table, *, drop_s: float = 0.0) -> Differences:
    """Return how far the two sides of a log are apart, for each policy and load that both have.

    Args:
        tasks: from `log.read_log`.
        drop_s: `score.drop_s` of the environment: the least score of a task that did not finish.

    Raises:
        ConfigError: a side is missing, or no policy was played at one load on both sides.
    """
    for side in SIDES:
        if not (tasks[SIDE] == side).any():
            raise ConfigError(f"the log has no row with {SIDE} '{side}', so there is nothing to compare")
    tasks = tasks[tasks["counts"]].assign(score_s=lambda table: scores(table, drop_s))
    groups: dict[Any, Any] = dict(iter(tasks.groupby([LOAD, POLICY, SIDE], sort=False)))
    keys = list(dict.fromkeys((load, policy) for load, policy, _ in groups))
    both = [key for key in keys if all((*key, side) in groups for side in SIDES)]
    notes = [
        f"{policy}, load {load:g}: on one side only, left out" for load, policy in keys if (load, policy) not in both
    ]
    if not both:
        raise ConfigError("the log has no policy that counts tasks at one load on both sides")
    both.sort(key=lambda key: key[0])  # by load, policies in the order of the log
    cases, parts = [], []
    for load, policy in both:
        testbed, simulator = (groups[load, policy, side] for side in SIDES)
        about = {LOAD: load, POLICY: policy}
        cases.append(about | _case(testbed, simulator))
        parts += [about | row for row in _parts(testbed, simulator)]
    pairs, rankings = [], []
    for load in dict.fromkeys(load for load, _ in both):
        played = {policy: [groups[load, policy, side] for side in SIDES] for at, policy in both if at == load}
        compared = _pairs(played)
        pairs += [{LOAD: load} | pair for pair in compared]
        rankings.append({LOAD: load} | _ranking(played, compared))
    table: Any = pd.DataFrame(cases)
    unpaired = int(table["unpaired"].sum())
    if unpaired:
        notes.append(f"{unpaired} tasks are on one side only: the arrivals were not the same, or do not count the same")
    return Differences(table, pd.DataFrame(parts), pd.DataFrame(rankings), pd.DataFrame(pairs), tuple(notes))


def scores(tasks: Table, drop_s: float) -> np.ndarray:
    """Return the score of each task in seconds, as the simulator has it where late tasks are aborted.

    The response time; of a task that did not finish its relative deadline, its age at the end, or `drop_s`, whichever
    is most.
    """
    age_s = (tasks["ended_s"] - tasks["created_s"]).clip(lower=drop_s)
    relative_s = (tasks["deadline_s"] - tasks["created_s"]).replace(np.inf, 0.0)
    return np.where(tasks["outcome"] == DONE, tasks["response_s"], np.maximum(age_s, relative_s))


def _case(testbed: Table, simulator: Table) -> dict[str, float]:
    """Return the row of `Differences.cases` of a policy at a load."""
    row: dict[str, float] = {}
    responses = {}
    for side, tasks in zip(SIDES, (testbed, simulator), strict=True):
        done = responses[side] = tasks["response_s"].dropna().to_numpy()
        ended = tasks["outcome"].value_counts(normalize=True)
        row |= {f"tasks_{side}": len(tasks), f"finished_{side}": len(done)}
        row |= dict(zip([f"{name}_{side}" for name in ("mean", "p50", "p95")], _figures(done), strict=True))
        row |= {f"{outcome}_{side}": float(ended.get(outcome, 0.0)) for outcome in (*CAUSES, UNFINISHED)}
        row[f"{DROPPED}_{side}"] = sum(row[f"{cause}_{side}"] for cause in CAUSES)
        row[f"score_{side}"] = float(tasks["score_s"].mean())
    for name in ("mean", "p50", "p95"):
        row[f"{name}_difference"] = _relative(row[f"{name}_{TESTBED}"], row[f"{name}_{SIMULATOR}"])
    for name in (DROPPED, *CAUSES, UNFINISHED):
        row[f"{name}_difference"] = row[f"{name}_{TESTBED}"] - row[f"{name}_{SIMULATOR}"]
    paired = testbed.merge(simulator, on=[EPISODE, TASK], suffixes=("_0", "_1"))
    finished = paired.dropna(subset=["response_s_0", "response_s_1"]).sort_values([EPISODE, TASK])
    apart = paired_difference(*_batched(finished[EPISODE], finished[["response_s_0", "response_s_1"]].to_numpy().T))
    of_same = float(finished["response_s_1"].mean())
    row |= {f"paired_{end}": _share(getattr(apart, end), of_same) for end in ("mean", "low", "high")}
    both = all(map(len, responses.values()))
    distance: Any = stats.ks_2samp(*responses.values()) if both else None
    row["ks"] = float(distance.statistic) if both else float("nan")
    row["created_late_s"] = float((paired["created_s_0"] - paired["created_s_1"]).mean())
    row["unpaired"] = len(testbed) + len(simulator) - 2 * len(paired)
    return row


def _figures(done: np.ndarray) -> list[float]:
    if not len(done):
        return [float("nan")] * 3
    return [float(done.mean()), *np.quantile(done, (0.5, 0.95)).tolist()]


def _relative(value: float, reference: float) -> float:
    return _share(value - reference, reference)


def _share(value: float, of: float) -> float:
    return value / of if of else 0.0 if value == 0 else float("nan")


def _parts(testbed: Table, simulator: Table) -> list[dict[str, Any]]:
    """Return the parts of the mean response time of the finished tasks, on both sides.

    A part is compared where every finished task has it, on both sides; the simulator decides in no time. Holding is
    without what deciding took. The rest of the response time is `OTHER`, so that the differences of all parts add up
    to that of the mean.
    """
    found = []
    left = {}
    done = {side: tasks[tasks["outcome"] == DONE] for side, tasks in zip(SIDES, (testbed, simulator), strict=True)}
    for side, tasks in done.items():
        left[side] = float(tasks["response_s"].mean())
    for part in PARTS:
        means = {side: _part_mean(tasks, part, idle=side == SIMULATOR) for side, tasks in done.items()}
        if any(map(math.isnan, means.values())):
            continue
        if part == HOLDING and found:  # by definition it includes what deciding took
            means = {side: mean - float(found[0][f"{side}_s"]) for side, mean in means.items()}
        for side in SIDES:
            left[side] -= means[side]
        found.append(_part(part, means))
    return [*found, _part(OTHER, {side: 0.0 if abs(rest) < ROUNDING_S else rest for side, rest in left.items()})]


def _part_mean(tasks: Table, part: str, *, idle: bool) -> float:
    if idle and part == DECISION and (part not in tasks or tasks[part].isna().all()):
        return 0.0
    return float(tasks[part].mean(skipna=False)) if part in tasks else float("nan")


def _part(part: str, means: dict[str, float]) -> dict[str, Any]:
    difference = means[TESTBED] - means[SIMULATOR]
    return {"part": part} | {f"{side}_s": mean for side, mean in means.items()} | {"difference_s": difference}


def _batched(episodes: Table, values: np.ndarray) -> np.ndarray:
    """Return means [n, batches] of values [n, tasks]: over episodes, or over pieces of them where they are few.

    Tasks that follow each other wait in the same queues. Means over many of them depend little on each other: the
    method of batch means.

    Args:
        episodes: of the tasks, in order of episode and task.
        values: of the tasks.
    """
    ends = np.flatnonzero(np.diff(episodes.to_numpy())) + 1
    pieces = []
    for piece in np.split(np.arange(len(episodes)), ends):
        if len(piece):
            # About as many tasks in each: a mean over batches is then close to that over tasks.
            wanted = round(BATCHES * len(piece) / len(episodes)) if len(ends) + 1 < BATCHES else 1
            pieces += np.array_split(piece, max(1, min(wanted, len(piece) // FEWEST_IN_A_BATCH)))
    return np.array([[row[piece].mean() for piece in pieces] for row in values]).reshape(len(values), len(pieces))


def _pairs(played: dict[str, list[Table]]) -> list[dict[str, Any]]:
    """Return the rows of `Differences.pairs` of the policies of a load, on the tasks that all of them had."""
    columns = [(policy, side) for policy in played for side in SIDES]
    each = [played[policy][SIDES.index(side)].set_index([EPISODE, TASK])["score_s"] for policy, side in columns]
    common = pd.concat(each, axis=1, join="inner").sort_index()
    batches = dict(
        zip(columns, _batched(common.index.get_level_values(0).to_series(), common.to_numpy().T), strict=True)
    )
    pairs = list(itertools.combinations(played, 2))
    found: dict[str, list[Interval]] = {
        side: [paired_difference(batches[a, side], batches[b, side]) for a, b in pairs] for side in SIDES
    }
    sure = {side: certain(intervals) for side, intervals in found.items()}
    rows = []
    for i, (policy, other) in enumerate(pairs):
        row: dict[str, Any] = {POLICY: policy, "other": other}
        for side in SIDES:
            each_side = found[side][i]
            row |= {f"mean_{side}": each_side.mean, f"low_{side}": each_side.low, f"high_{side}": each_side.high}
            row[f"certain_{side}"] = sure[side][i]
        both = all(sure[side][i] for side in SIDES)
        row["opposite"] = both and found[TESTBED][i].mean * found[SIMULATOR][i].mean < 0
        rows.append(row)
    return rows


def _ranking(played: dict[str, list[Table]], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of `Differences.rankings` of a load."""
    means = {
        side: {policy: float(tasks[i]["score_s"].mean()) for policy, tasks in played.items()}
        for i, side in enumerate(SIDES)
    }
    tau = float("nan")
    if len(played) > 1:
        found: Any = stats.kendalltau(*(list(of.values()) for of in means.values()))
        tau = float(found.statistic)
    return {
        "policies": len(played),
        **{f"order_{side}": ", ".join(sorted(of, key=of.__getitem__)) for side, of in means.items()},
        "tau": tau,
        "certain": sum(all(bool(pair[f"certain_{side}"]) for side in SIDES) for pair in pairs),
        "opposite": sum(bool(pair["opposite"]) for pair in pairs),
    }
