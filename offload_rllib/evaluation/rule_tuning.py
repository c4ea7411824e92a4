"""The best parameter of a decision rule, found on training episodes, as learners are trained on them.

Held-out episodes judge policies, so neither learners nor rules may see them before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.config.algorithms import Constraint, excess_over
from offload_rllib.config.loading import nearest
from offload_rllib.envs.goal import goal_of
from offload_rllib.envs.vector import batch_of, training_key
from offload_rllib.evaluation.metrics import metric_of
from offload_rllib.evaluation.statistics import Interval, certain, interval, paired_difference
from offload_rllib.scenario import build_scenario
from offload_rllib.scenario.build import check_rule, fitting_rules
from offload_rllib.simulator.heuristics import HEURISTICS

# Times the default. A rule's score is flat around its best value, so finer steps would find noise.
FACTORS = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
# How the names of rules that see the true state of other nodes end.
ORACLE = "_oracle"
# Rules that compare their parameter with a number of tasks.
COUNTING = ("threshold",)
BATCH = 32


@dataclass(frozen=True)
class TunedRule:
    """What a rule scored with each value of its parameter on the same training episodes.

    Attributes:
        rule: its name.
        metric: by which a value is chosen.
        values: that were tried, in rising order.
        figures: [values, episodes] the metric of each episode.
        chosen: the value with the best mean.
        default: the value that the rule has without a parameter; among `values`.
    """

    rule: str
    metric: str
    values: tuple[float, ...]
    figures: np.ndarray
    chosen: float
    default: float

    @property
    def name(self) -> str:
        """The rule with the chosen value, as `compare` and `evaluate` take it."""
        return named(self.rule, self.chosen)

    @property
    def means(self) -> list[Interval]:
        """The mean at each value with its 95 % interval."""
        return [interval(row) for row in self.figures]

    @property
    def differences(self) -> list[Interval]:
        """Each value minus the default, paired by episode."""
        base = self.figures[self.values.index(self.default)]
        return [paired_difference(row, base) for row in self.figures]

    @property
    def differs(self) -> list[bool]:
        """Which values certainly differ from the default, adjusted for their number."""
        return certain(self.differences)

    @property
    def at_the_end(self) -> bool:
        """Whether the chosen value is the smallest or largest of several: a better one may lie beyond."""
        return len(self.values) > 1 and self.chosen in (self.values[0], self.values[-1])


def named(rule: str, value: float) -> str:
    """Return a rule with a parameter as text."""
    return f"{rule}:{value:g}"


def values_around(rule: str) -> tuple[float, ...]:
    """Return the values that are tried unless others are given: from a quarter to four times the default."""
    default = _default(rule)
    values = {float(f"{factor * default:.6g}") for factor in FACTORS}
    return tuple(sorted({float(np.ceil(value)) for value in values} if rule in COUNTING else values))


def _default(rule: str) -> float:
    if rule not in HEURISTICS:
        raise ConfigError(f"'{rule}' is not a heuristic.{nearest(rule, HEURISTICS)}")
    default = HEURISTICS[rule].parameter
    if default is None:
        with_one = ", ".join(name for name, each in HEURISTICS.items() if each.parameter is not None)
        raise ConfigError(f"'{rule}' takes no parameter; rules that do: {with_one}")
    return default


def tune_rule(
    config: EnvironmentConfig,
    rule: str,
    *,
    values: Sequence[float] = (),
    metric: str | None = None,
    episodes: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> TunedRule:
    """Let a rule play training episodes with each value of its parameter, and choose the best.

    Args:
        config: the environment.
        rule: a heuristic with a parameter, by its name alone.
        values: to try; the default is always tried, too. By default `values_around`.
        metric: of whose mean the best is chosen: the lowest, or the highest where more is better; None: the mean score,
            or the mean cost (`envs.goal`).
        episodes: how many, the same for all values.
        seed: of the training episodes, as `training.seed` of a run.
        progress: where to show it.

    Raises:
        ConfigError: no such rule, value or metric, or the rule makes no sense in the environment.
    """
    default = _default(rule)
    metric = metric or goal_of(config.reward)
    tried = tuple(sorted({*(values or values_around(rule)), default}))
    names = [named(rule, value) for value in tried]
    for name in names:
        check_rule(name, "values", config)
    figures = _played(config, names, [metric], episodes, seed, progress)
    standings = _standings(figures, metric, ())
    return TunedRule(rule, metric, tried, figures[0], tried[standings.index(min(standings))], default)


@dataclass(frozen=True)
class RankedRules:
    """What every rule that fits an environment scored on the same training episodes, with its best parameter.

    Attributes:
        metric: by which they are ranked, those within bounds first.
        names: the rules, the best first.
        figures: [rules, episodes] the metric of each episode.
    """

    metric: str
    names: tuple[str, ...]
    figures: np.ndarray

    @property
    def best(self) -> str:
        """The rule that ranks first."""
        return self.names[0]

    @property
    def means(self) -> list[Interval]:
        """The mean of each rule with its 95 % interval."""
        return [interval(row) for row in self.figures]

    @property
    def differences(self) -> list[Interval]:
        """Each rule minus the best, paired by episode."""
        return [paired_difference(row, self.figures[0]) for row in self.figures]


def rank_rules(
    config: EnvironmentConfig,
    *,
    metric: str | None = None,
    bounds: Sequence[Constraint] = (),
    episodes: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> RankedRules:
    """Let every rule play training episodes, with each of the usual values of its parameter, and rank the rules.

    Rules that see the true state of other nodes are left out: no agent could decide as they do. Rules that keep all
    bounds come before others, and of others the nearest to the bounds is best.

    Args:
        config: the environment.
        metric: of whose mean the best is chosen: the lowest, or the highest where more is better; None: the mean score,
            or the mean cost (`envs.goal`).
        bounds: on figures of an episode.
        episodes: how many, the same for all.
        seed: of the training episodes, as `training.seed` of a run.
        progress: where to show it.

    Raises:
        ConfigError: no such metric, or fewer than two episodes.
    """
    metric = metric or goal_of(config.reward)
    rules = [rule for rule in fitting_rules(config) if not rule.endswith(ORACLE)]
    variants = [
        (rule, name)
        for rule in rules
        for name in ([rule] if HEURISTICS[rule].parameter is None else [named(rule, v) for v in values_around(rule)])
    ]
    metrics = [metric, *(bound.figure for bound in bounds)]
    figures = _played(config, [name for _, name in variants], metrics, episodes, seed, progress)
    standings = _standings(figures, metric, bounds)
    of_rule = {rule: [i for i, (of, _) in enumerate(variants) if of == rule] for rule in rules}
    chosen = sorted((min(own, key=standings.__getitem__) for own in of_rule.values()), key=standings.__getitem__)
    return RankedRules(metric, tuple(variants[i][1] for i in chosen), figures[0, chosen])


def _standings(figures: np.ndarray, metric: str, bounds: Sequence[Constraint]) -> list[tuple[float, float]]:
    """Return how rules stand, the lower the better: by how much they exceed the bounds, and their mean.

    Args:
        figures: [1 + bounds, rules, episodes], the metric first.
        metric: its name.
        bounds: on the others.
    """
    sign = 1.0 if metric_of(metric).lower_is_better else -1.0
    return [(excess_over(bounds, shares), sign * mean) for mean, *shares in np.nanmean(figures, axis=2).T.tolist()]


def _played(
    config: EnvironmentConfig,
    names: Sequence[str],
    metrics: Sequence[str],
    episodes: int,
    seed: int,
    progress: Progress | None,
) -> np.ndarray:
    """Return metrics [metrics, rules, episodes] of rules that play the same training episodes."""
    if episodes < 2:
        raise ConfigError(f"episodes must be at least 2 for an interval, is {episodes}")
    scenario = build_scenario(config)
    keys = np.array([training_key(seed, 0, 0, episode) for episode in range(episodes)], np.uint64)
    figures = np.zeros((len(metrics), len(names), episodes))
    task = progress.add_task("tuning", total=figures[0].size) if progress else None
    for first in range(0, episodes, BATCH):
        batch = keys[first : first + BATCH]
        env = batch_of(scenario, len(batch))
        for row, name in enumerate(names):
            env.reset(batch)
            env.play(name)
            for e in range(len(batch)):
                found = env.episode_metrics(e)
                for m, metric in enumerate(metrics):
                    if metric not in found:
                        raise ConfigError(f"--metric '{metric}': not reported here.{nearest(metric, found)}")
                    figures[m, row, first + e] = found[metric]
            if progress and task is not None:
                progress.advance(task, len(batch))
    return figures
