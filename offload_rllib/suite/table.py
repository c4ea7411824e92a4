"""The page of results: each scenario with what is known of it, its exact references, and its leaderboard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from offload_rllib.config import ConfigError
from offload_rllib.config.names import plain_name
from offload_rllib.evaluation.interval_text import with_half_width
from offload_rllib.evaluation.metrics import SCORE, metric_of
from offload_rllib.evaluation.statistics import Interval
from offload_rllib.suite.learning import learning
from offload_rllib.suite.results import PointResult, PolicyResult, Result
from offload_rllib.suite.scenarios import SEPARATOR, Scenario, catalogue, scenarios

# The columns of a leaderboard.
SHOWN = (SCORE, "score_p95_s", "missed_share", "dropped_share", "offloaded_share", "fairness")
NOTHING = "-"
HEAD = """<!-- Written by `offload-rllib suite table`. Do not edit: run it. -->

# Suite: results

Reference results of version {version} of the [suite](suite.md). Every policy of a table played the same {episodes}
held-out episodes; ± is a 95 % interval over training seeds and episodes. The score is the mean response of tasks that
count, with a price for those that do not finish ([score](simulator.md#score-and-figures)): less is better. *Level 1*
are rules, *level 2* learners, with their budget in decisions. The *bound* is [clairvoyant](bound.md): no policy can
score below it on the episodes that it was computed for.
"""
FOOT = """
## Results of others

Nothing of others has been handed in so far. [How to](suite.md#hand-in-a-result).
"""


def table_of(point: PointResult, others: Sequence[PolicyResult] = ()) -> pd.DataFrame:
    """Return the leaderboard of a point, best first: all that may be compared.

    Args:
        point: the reference results.
        others: policies from elsewhere.
    """
    mine = [policy for policy in (*point.policies, *others) if not policy.not_comparable]
    mine.sort(key=lambda policy: (_mean(policy, SCORE), policy.name))
    names = [name for name in SHOWN if name == SCORE or any(_mean(policy, name) not in (0, np.inf) for policy in mine)]
    rows = []
    for policy in mine:
        row: dict[str, object] = {"policy": plain_name(policy.name), "level": policy.level}
        for name in names:
            metric = metric_of(name)
            row[metric.label] = _shown(policy, name, metric.factor)
        if any(other.seeds for other in mine):
            row["training"] = _training(policy)
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(policy: PolicyResult, name: str) -> float:
    mean = policy.figures[name].mean if name in policy.figures else None
    return np.inf if mean is None else mean


def _shown(policy: PolicyResult, name: str, factor: float) -> str:
    figure = policy.figures.get(name)
    if figure is None or figure.mean is None:
        return NOTHING
    low, high = (figure.mean if end is None else end for end in (figure.low, figure.high))
    return with_half_width(Interval(figure.mean, low, high), factor)


def _training(policy: PolicyResult) -> str:
    if not policy.seeds:
        return NOTHING
    steps = {seed.env_steps for seed in policy.seeds}
    return f"{len(policy.seeds)} seeds, {max(steps):,} decisions each"


def exact_table(points: Sequence[PointResult]) -> pd.DataFrame:
    """Return level 0 of the points of a scenario."""
    return pd.DataFrame(
        [
            {
                "point": point.point,
                "rule": exact.rule,
                "tasks": f"{exact.tasks:,}",
                "exact mean / p95, s": _pair(exact.exact_mean_s, exact.exact_p95_s),
                "largest difference of a task, s": NOTHING
                if exact.largest_difference_s is None
                else f"{exact.largest_difference_s:.1e}",
                "other outcomes": exact.other_outcomes,
            }
            for point in points
            for exact in point.exact
        ]
    )


def _pair(mean: float | None, tail: float | None) -> str:
    return NOTHING if mean is None or tail is None else f"{mean:.4f} / {tail:.4f}"


def page(found: dict[tuple[str, str], PointResult], others: Sequence[Result] = ()) -> str:
    """Return the page.

    Args:
        found: reference results by scenario and point.
        others: results from elsewhere that are put into the tables.

    Raises:
        ConfigError: there is no reference result.
    """
    if not found:
        raise ConfigError("the suite has no reference results; run `suite run` with --out in suite/results first")
    more: dict[tuple[str, str], list[PolicyResult]] = {}
    for result in others:
        for point in result.points:
            more.setdefault((point.scenario, point.point), []).extend(point.policies)
    episodes = max(len(policy.scores_s[0]) for point in found.values() for policy in point.policies)
    parts = [HEAD.format(version=catalogue().version, episodes=episodes), learning(found)]
    for title, (folder, scenario) in scenarios().items():
        mine = [found[title, point.name] for point in scenario.points if (title, point.name) in found]
        if mine:
            parts.append(_section(title, folder.name, scenario, mine, more))
    if not others:
        parts.append(FOOT)
    return "\n".join(parts)


def _section(
    title: str,
    name: str,
    scenario: Scenario,
    points: Sequence[PointResult],
    more: dict[tuple[str, str], list[PolicyResult]],
) -> str:
    again = f"`offload-rllib suite check suite/results/{name}`"
    if any(policy.seeds for point in points for policy in point.policies):
        again += f", and of learners `suite/results/{name}/*`"
    lines = [
        f"## {title}",
        "",
        f"{scenario.summary}. Version {scenario.version}; `suite/{name}`. Play it again: {again}.",
        "",
        f"- Information: {scenario.information.rstrip('.')}.",
        f"- Ties: {scenario.ties}.",
        f"- Sources: {'; '.join(scenario.sources)}.",
        f"- Budget of a learner: {scenario.env_steps:,} decisions for each training seed.",
    ]
    if not scenario.bound.episodes:
        lines.append(f"- No bound: {scenario.bound.why_not}.")
    exact = exact_table(points)
    if len(exact):
        lines += ["", f"### {title}: level 0", "", _markdown(exact)]
    for point in points:
        suffix = f"{SEPARATOR}{point.point}" if len(scenario.points) > 1 else ""
        lines += ["", f"### {title}{suffix}", ""]
        if point.bound is not None:
            low, high = (point.bound.mean_s if x is None else x for x in (point.bound.low_s, point.bound.high_s))
            shown = with_half_width(Interval(point.bound.mean_s, low, high))
            slots = "without slots" if point.bound.slot_s is None else f"slots of {point.bound.slot_s:g} s"
            lines += [
                f"Bound: {shown} s over the first {point.bound.episodes} episodes, {slots}.",
                "",
            ]
        lines.append(_markdown(table_of(point, more.get((title, point.point), ()))))
    return "\n".join([*lines, ""])


def _markdown(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)
