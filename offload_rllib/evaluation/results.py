"""The results of a comparison: a tidy table of episodes, and the statistics that are read from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.loading import nearest
from offload_rllib.evaluation.metrics import SCORE, chosen, metric_of
from offload_rllib.evaluation.own_metrics import load_own_metrics
from offload_rllib.evaluation.statistics import (
    Interval,
    holm,
    interquartile_mean,
    interval,
    mean_over_seeds_and_episodes,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    profile_band,
)
from offload_rllib.simulator.metrics import BIN_MIDDLES, COUNTED_FROM

# Ending of the name of a policy that draws its actions; without it, it plays greedily.
SAMPLED = " (sampled)"
# Columns of `Comparison.episodes` that say what was played; the values of the sweep stand behind `environment`.
ENVIRONMENT = "environment"
FINGERPRINT = "fingerprint"
POLICY = "policy"
TRAINED_ON = "trained_on"
TRAINING_SEED = "training_seed"
HELD_OUT_SEED = "held_out_seed"
EPISODE = "episode"
ABOUT = (ENVIRONMENT, FINGERPRINT, POLICY, TRAINED_ON, TRAINING_SEED, HELD_OUT_SEED, EPISODE)
RECORD = "comparison.json"
EPISODES = "episodes.parquet"
TIMINGS = "timings.csv"

Point = tuple[Any, ...]  # an environment's label, and the values of the swept keys


@dataclass(frozen=True)
class Comparison:
    """What policies achieved on the same held-out episodes, in one environment or several.

    Attributes:
        episodes: one row per environment, policy, training seed and episode: `ABOUT`, the swept keys, and every figure
            of the episode. `training_seed` is missing, and `trained_on` empty, for what was not trained.
        timings: one row per environment, policy and training seed: wall-clock and CPU microseconds per decision,
            seconds in all. Not the same from run to run; everything else is.
        sweep: names of the columns with swept values.
        responses: for each point and policy the response times of finished tasks: counts by bin of
            `simulator.metrics.BIN_MIDDLES`, over all episodes.
        record: where it comes from: configurations, versions, seeds, command.
        environments: configuration of each point; empty for a comparison that was read from its folder.
    """

    episodes: pd.DataFrame
    timings: pd.DataFrame
    sweep: tuple[str, ...] = ()
    responses: dict[tuple[Point, str], np.ndarray] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    environments: dict[Point, EnvironmentConfig] = field(default_factory=dict)

    def with_own_metrics(self, names: Iterable[str]) -> Comparison:
        """Return it with the metrics of the user among `names`, computed from the figures of each episode.

        Raises:
            ConfigError: a function cannot be loaded, raises, or returns no number; or its name is taken.
        """
        functions = load_own_metrics(names)
        if not functions:
            return self
        taken = functions.keys() & {*ABOUT, *self.sweep}
        if taken:
            raise ConfigError(f"--metric: '{min(taken)}' is a column already; rename the function")
        rows = self.episodes.to_dict("records")
        columns = {name: [function(row) for row in rows] for name, function in functions.items()}
        return replace(self, episodes=self.episodes.assign(**columns))

    @property
    def keys(self) -> list[str]:
        """The columns that make a point of the comparison: environment and swept keys."""
        return [ENVIRONMENT, *self.sweep]

    @cached_property
    def points(self) -> list[Point]:
        """Environments with the values of the swept keys, in the order played."""
        return list(dict.fromkeys(self.episodes[self.keys].itertuples(index=False, name=None)))

    @cached_property
    def policies(self) -> tuple[str, ...]:
        """Names, in the order given."""
        return tuple(self.episodes[POLICY].unique())

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the figures."""
        return tuple(name for name in self.episodes.columns if name not in {*ABOUT, *self.sweep})

    @cached_property
    def environment(self) -> str:
        """The fingerprint of the environment, if there is but one."""
        (found,) = self.episodes[FINGERPRINT].unique()
        return str(found)

    @cached_property
    def seed(self) -> int:
        """The seed of the held-out episodes."""
        return next(iter(self.episodes[HELD_OUT_SEED].tolist()))

    @cached_property
    def episode_count(self) -> int:
        """How many held-out episodes each policy played, with each training seed."""
        return len(set(self.episodes[EPISODE]))

    def matrix(self, policy: str, metric: str, point: Point | None = None) -> np.ndarray:
        """Return the values [M, N] of a metric: training seeds (1 if not trained) by episodes.

        Args:
            policy: one of `policies`.
            metric: one of `metrics`.
            point: one of `points`; may be left out where there is only one.

        Raises:
            ConfigError: there is no such policy, metric or point, or the policy did not play there.
        """
        for what, name, known in (("policy", policy, self.policies), ("metric", metric, self.metrics)):
            if name not in known:
                raise ConfigError(f"'{name}': no {what} of this comparison.{nearest(name, known)}")
        points = self.points
        if point is None and len(points) > 1:
            raise ConfigError(f"name one of the {len(points)} points of this comparison")
        rows = self._rows.get((points[0] if point is None else point, policy))
        if rows is None:
            raise ConfigError(f"'{policy}' did not play in {self.label(points[0] if point is None else point)}")
        return self._columns[metric][rows]

    @cached_property
    def _rows(self) -> dict[tuple[Point, str], np.ndarray]:
        """Rows of `episodes` [M, N] of each point and policy."""
        rows = {}
        for key, part in self.episodes.reset_index(drop=True).groupby([*self.keys, POLICY], sort=False, dropna=False):
            *point, policy = tuple(key)  # pyright: ignore[reportArgumentType] - a tuple, for several columns
            by_seed = part.sort_values([TRAINING_SEED, EPISODE], kind="stable")
            rows[tuple(point), policy] = by_seed.index.to_numpy().reshape(-1, self.episode_count)
        return rows

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return {metric: self.episodes[metric].to_numpy(np.float64) for metric in self.metrics}

    @cached_property
    def _intervals(self) -> dict[tuple[Any, ...], Interval]:
        """Means and differences so far: tables, figures and pages show the same ones, and some take a bootstrap."""
        return {}

    def mean(self, policy: str, metric: str, point: Point | None = None) -> Interval:
        """Return the mean over training seeds and episodes with its 95 % interval; arguments as `matrix`."""
        key = (policy, metric, point)
        if key not in self._intervals:
            self._intervals[key] = mean_over_seeds_and_episodes(self.matrix(policy, metric, point))
        return self._intervals[key]

    def difference(self, policy: str, reference: str, metric: str, point: Point | None = None) -> Interval:
        """Return the mean of policy minus reference, paired by episode, with its 95 % interval; see also `matrix`."""
        key = (policy, metric, point, reference)
        if key not in self._intervals:
            values, other = (self.matrix(name, metric, point) for name in (policy, reference))
            self._intervals[key] = paired_difference(values, other)
        return self._intervals[key]

    def of(self, policy: str, metric: str) -> np.ndarray:
        """Return the values [M x N] of a metric of a policy, where there is only one point."""
        return self.matrix(policy, metric).ravel()

    def label(self, point: Point) -> str:
        """Return a point as text: the environment and the swept values."""
        return label_of(point[0], dict(zip(self.sweep, point[1:], strict=True)))

    def played(self, point: Point) -> tuple[str, ...]:
        """Return the policies that played at a point."""
        rows = self._rows
        return tuple(policy for policy in self.policies if (point, policy) in rows)

    def only(self, policies: Sequence[str]) -> Comparison:
        """Return the comparison of some of the policies; a trained one is named without ``(sampled)`` for both.

        Raises:
            ConfigError: there is no such policy.
        """
        for name in policies:
            if name not in self.policies:
                raise ConfigError(f"'{name}': no policy of this comparison.{nearest(name, self.policies)}")
        wanted = [name for name in self.policies if name in policies or name.removesuffix(SAMPLED) in policies]
        episodes, timings = (
            table[table[POLICY].isin(wanted)].reset_index(drop=True) for table in (self.episodes, self.timings)
        )
        responses = {key: counts for key, counts in self.responses.items() if key[1] in wanted}
        return replace(self, episodes=episodes, timings=timings, responses=responses)

    def _cells(self) -> Iterator[tuple[Point, str, dict[str, Any]]]:
        for point in self.points:
            about = dict(zip(self.keys, point, strict=True))
            for policy in self.played(point):
                yield point, policy, about

    def summary(self, metrics: Iterable[str] = ()) -> pd.DataFrame:
        """Return means and interquartile means with their 95 % intervals, one row per point, policy and metric.

        Args:
            metrics: which; by default the usual ones.
        """
        rows = []
        names = chosen(metrics, self.metrics)
        for point, policy, about in self._cells():
            for metric in names:
                values = self.matrix(policy, metric, point)
                mean, middle = self.mean(policy, metric, point), interquartile_mean(values)
                rows.append(
                    about
                    | {
                        POLICY: policy,
                        "metric": metric,
                        "training_seeds": len(values),
                        "episodes": values.shape[1],
                        "mean": mean.mean,
                        "low": mean.low,
                        "high": mean.high,
                        "method": mean.method,
                        "iqm": middle.mean,
                        "iqm_low": middle.low,
                        "iqm_high": middle.high,
                    }
                )
        return pd.DataFrame(rows)

    def paired(self, reference: str, metrics: Iterable[str] = ()) -> pd.DataFrame:
        """Return differences from a policy, paired by episode, and probabilities of doing better than it.

        One row per point, policy and metric: the mean difference (policy minus reference) with its 95 % interval, the
        same relative to the reference's mean, and the probability of improvement with its interval. `p` is the p-value
        of the difference alone; `p_adjusted` is adjusted for all policies and metrics of the point. Points where the
        reference did not play are left out.

        Args:
            reference: one of `policies`.
            metrics: which; by default the usual ones.
        """
        if reference not in self.policies:
            raise ConfigError(f"--reference '{reference}': no policy here.{nearest(reference, self.policies)}")
        rows = []
        names = chosen(metrics, self.metrics)
        for point, policy, about in self._cells():
            if policy == reference or reference not in self.played(point):
                continue
            for metric in names:
                values, other = (self.matrix(name, metric, point) for name in (policy, reference))
                difference = self.difference(policy, reference, metric, point)
                better = probability_of_improvement(values, other, lower_is_better=metric_of(metric).lower_is_better)
                base = abs(interval(other.mean(axis=0)).mean)
                rows.append(
                    about
                    | {
                        POLICY: policy,
                        "reference": reference,
                        "metric": metric,
                        "difference": difference.mean,
                        "low": difference.low,
                        "high": difference.high,
                        "method": difference.method,
                        "p": difference.p,
                        "relative": difference.mean / base if base > 0 else float("nan"),
                        "improvement": better.mean,
                        "improvement_low": better.low,
                        "improvement_high": better.high,
                    }
                )
        found = pd.DataFrame(rows)
        if rows:
            found["p_adjusted"] = found.groupby(self.keys, sort=False, dropna=False)["p"].transform(holm)
        return found

    def profiles(
        self, reference: str, metric: str = SCORE, ratios: Sequence[float] = tuple(np.linspace(0.5, 2.0, 61))
    ) -> pd.DataFrame:
        """Return performance profiles over all points: how often a policy comes within a factor of a reference.

        One row per policy and ratio: `share` of training seeds, points and episodes in which the metric is at most
        `ratio` times the reference's mean over its seeds on the same episode, with its pointwise 95 % band (`low`,
        `high`). Only points where both played count.

        Args:
            reference: one of `policies`.
            metric: a positive one of which less is better.
            ratios: where to look, in rising order.
        """
        rows = []
        for policy in self.policies:
            relative = []
            for point in self.points:
                if {policy, reference} <= set(self.played(point)):
                    base = self.matrix(reference, metric, point).mean(axis=0)
                    with np.errstate(divide="ignore", invalid="ignore"):
                        relative.append(self.matrix(policy, metric, point) / base)
            if not relative:
                continue
            seeds = min(map(len, relative))
            values = np.stack([part[:seeds] for part in relative], axis=1)  # [M, points, N]
            below = 1 - performance_profile(values, ratios)
            high, low = (1 - profile_band(values, ratios)).clip(0, 1)  # sums of shares are 1 only up to rounding
            about = {POLICY: policy, "reference": reference, "metric": metric}
            rows += [
                about | {"ratio": ratio, "share": share, "low": least, "high": most}
                for ratio, share, least, most in zip(ratios, below, low, high, strict=True)
            ]
        return pd.DataFrame(rows)

    def save(self, folder: Path) -> None:
        """Write the table of episodes (Parquet and CSV), the timings and the record into an existing folder."""
        with written_at_once(folder / EPISODES) as partial:
            self.episodes.to_parquet(partial, index=False)
        with written_at_once(folder / "episodes.csv") as partial:
            self.episodes.to_csv(partial, index=False)
        with written_at_once(folder / TIMINGS) as partial:
            self.timings.to_csv(partial, index=False)
        responses = [
            {
                "point": list(point),
                POLICY: policy,
                "counts": {int(i) - COUNTED_FROM: int(counts[i]) for i in np.flatnonzero(counts)},
            }
            for (point, policy), counts in self.responses.items()
        ]
        record = {"sweep": list(self.sweep), **self.record, "responses": responses}
        with written_at_once(folder / RECORD) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load_comparison(folder: str | Path) -> Comparison:
    """Return a comparison that was saved in a folder.

    Raises:
        ConfigError: the folder holds none.
    """
    folder = Path(folder)
    for name in (RECORD, EPISODES, TIMINGS):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: no finished comparison: {name} is missing")
    record = read_json(folder / RECORD, "the record of a comparison")
    responses = {}
    try:
        for entry in record.pop("responses"):
            counts = np.zeros(len(BIN_MIDDLES), np.int64)
            for index, count in entry["counts"].items():
                counts[int(index) + COUNTED_FROM] = count
            responses[tuple(entry["point"]), entry[POLICY]] = counts
        timings = pd.read_csv(folder / TIMINGS, keep_default_na=False, na_values=[""])
        return Comparison(pd.read_parquet(folder / EPISODES), timings, tuple(record.pop("sweep")), responses, record)
    except (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ConfigError(f"{folder}: not a finished comparison ({error!r})") from error


def combined(comparisons: Sequence[Comparison]) -> Comparison:
    """Return one comparison with the rows of several, of the same held-out episodes.

    Raises:
        ConfigError: they are of different environments under one name, of different episodes or sweeps, or have a
            policy in common at the same point.
    """
    first, *others = comparisons
    for other in others:
        for what, mine, theirs in (
            ("the swept keys", list(first.sweep), list(other.sweep)),
            ("the seed of the held-out episodes", first.seed, other.seed),
            ("the number of held-out episodes", first.episode_count, other.episode_count),
            ("the version of the simulator", first.record.get("simulator"), other.record.get("simulator")),
        ):
            if mine != theirs:
                raise ConfigError(f"comparisons cannot be put together: {what} differ: {mine}, {theirs}")
    rows = pd.concat([comparison.episodes for comparison in comparisons], ignore_index=True)
    refuse_mixed_environments(rows, first.keys)
    repeated = rows[POLICY].to_numpy()[rows.duplicated([*first.keys, POLICY, TRAINED_ON, TRAINING_SEED, EPISODE])]
    if len(repeated):
        raise ConfigError(f"comparisons cannot be put together: both have '{repeated[0]}'")
    timings = pd.concat([comparison.timings for comparison in comparisons], ignore_index=True)
    responses = {key: counts for comparison in comparisons for key, counts in comparison.responses.items()}
    return replace(first, episodes=rows, timings=timings, responses=responses)


def refuse_mixed_environments(rows: pd.DataFrame, keys: Sequence[str]) -> None:
    """Raise ConfigError if rows of one point come from environments with different fingerprints."""
    for point, part in rows.groupby(list(keys), sort=False):
        found = part.groupby(FINGERPRINT, sort=False)[POLICY].first()
        if len(found) > 1:
            versions = ", ".join(f"{name} ('{policy}')" for name, policy in found.items())
            raise ConfigError(
                f"{', '.join(map(str, np.atleast_1d(np.array(point, object))))}: results of different versions of this "
                f"environment are not put into one table; fingerprints: {versions}"
            )


def label_of(environment: str, values: dict[str, Any]) -> str:
    """Return an environment and swept values as text."""
    shown = (f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items())
    return ", ".join((environment, *shown))
