"""Policies on common random numbers: every policy plays the same held-out episodes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress

from offload_rllib.config import ConfigError, EnvironmentConfig
from offload_rllib.config.fingerprint import fingerprint
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.vector import NativeEnv, batch_of, held_out_keys
from offload_rllib.evaluation import results
from offload_rllib.evaluation.players import Contender
from offload_rllib.evaluation.results import Comparison
from offload_rllib.evaluation.task_log import task_table
from offload_rllib.policies.heuristic import HeuristicPolicy
from offload_rllib.policies.policy import Policy
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.simulator.metrics import RESPONSES

# Episodes of one policy are played in parallel in batches; more would only cost memory. The size is part of the
# result: networks differ in the last digit with it, so it depends neither on the machine nor on the workers.
LARGEST_BATCH = 32
# Steps in which the decisions of a rule are timed that then plays by itself.
TIMED_STEPS = 256


@dataclass(frozen=True)
class Place:
    """An environment in which policies are compared: one point of a sweep.

    Attributes:
        environment: label, e.g. the preset's name.
        config: with the swept values in it.
        values: the swept values by column.
        fingerprint: of the configuration.
    """

    environment: str
    config: EnvironmentConfig
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> results.Point:
        """The name of the place in a `Comparison`."""
        return (self.environment, *self.values.values())

    @cached_property
    def fingerprint(self) -> str:
        """Of the environment."""
        return fingerprint(self.config)

    @property
    def label(self) -> str:
        """The environment and the swept values, as text."""
        return results.label_of(self.environment, self.values)


@dataclass(frozen=True)
class Cell:
    """One batch of episodes of one policy at one place: the smallest piece of work."""

    place: Place
    contender: Contender
    first: int
    """Index of its first episode."""
    count: int
    """How many episodes."""
    seed: int
    """Of the held-out episodes."""
    log: bool = False
    """Whether to log every task."""


@dataclass
class Played:
    """Results of one batch of episodes."""

    figures: list[dict[str, float]]
    """Of each episode."""
    responses: np.ndarray
    """Finished tasks by bin of their response time, over the episodes."""
    timed: int
    """Decisions with a task on offer that were timed."""
    wall_s: float
    """Wall-clock time spent deciding."""
    cpu_s: float
    """CPU time of it."""
    seconds: float
    """Wall-clock time in all."""
    tasks: Any = None
    """The log of all tasks, a pyarrow table, if requested."""


class Player:
    """Plays cells; keeps the latest scenario and environment for the next cell."""

    def __init__(self, scenario: BuiltScenario | None = None) -> None:
        """Begin without an environment.

        Args:
            scenario: of the first place, if it is built already.
        """
        self._scenario = scenario
        self._fingerprint = fingerprint(scenario.config) if scenario else ""
        self._made: tuple[tuple[int, bool], NativeEnv] | None = None

    def environment(self, place: Place, count: int, *, log: bool = False) -> NativeEnv:
        """Return `count` environments of a place, with or without a log of tasks: the latest ones, if they are such."""
        if self._scenario is None or self._fingerprint != place.fingerprint:
            # Dropped before the next one is built: two large networks may not fit into memory.
            self._scenario = self._made = None
            self._scenario, self._fingerprint = build_scenario(place.config), place.fingerprint
        if self._made is None or self._made[0] != (count, log):
            self._made = None
            self._made = (count, log), batch_of(self._scenario, count, log=log)
        return self._made[1]

    def play(self, cell: Cell) -> Played:
        """Play a cell's episodes to their end.

        Raises:
            ConfigError: the policy does not fit the environment.
        """
        started = time.perf_counter()
        env = self.environment(cell.place, cell.count, log=cell.log)
        policy = cell.contender.begin(env, cell.seed + cell.first // LARGEST_BATCH)
        env.reset(held_out_keys(cell.seed, cell.first + cell.count)[cell.first :])
        timed, wall_s, cpu_s = play_episodes(env, policy, deterministic=cell.contender.deterministic)
        batch = range(env.num_envs)
        return Played(
            [env.episode_metrics(e) for e in batch],
            env.state.histogram[:, :, RESPONSES].sum(axis=(0, 1), dtype=np.int64),
            timed,
            wall_s,
            cpu_s,
            time.perf_counter() - started,
            task_table(env, about_episodes(cell)) if cell.log else None,
        )


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch work on one thread: with several its sums differ in the last digit, and small networks are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class DecisionTimes(NamedTuple):
    """What deciding took."""

    timed: int
    """Decisions with a task on offer that were timed."""
    wall_s: float
    """Wall-clock time of them."""
    cpu_s: float
    """CPU time of them."""


def play_episodes(env: NativeEnv, policy: Policy, *, deterministic: bool = True) -> DecisionTimes:
    """Let a policy decide until the episodes of an environment end.

    A rule that the kernels know plays by itself where decisions are taken at arrivals, behind the first ones.

    Args:
        env: it was reset.
        policy: fitted to it by `on`.
        deterministic: as `Policy` takes it.
    """
    wall_s = cpu_s = 0.0
    by_arrival = isinstance(env, ArrivalEnv)
    left = TIMED_STEPS if by_arrival and isinstance(policy, HeuristicPolicy) else math.inf
    with one_torch_thread():
        while left > 0 and not env.truncated.all():
            wall, cpu = time.perf_counter(), time.thread_time()
            agents = env.deciding if by_arrival else None
            actions = policy(env.observations, env.masks, agents=agents, deterministic=deterministic)
            wall_s += time.perf_counter() - wall
            cpu_s += time.thread_time() - cpu
            env.step(actions)
            left -= 1
    timed = int(env.state.episode["choices"].sum())
    if isinstance(policy, HeuristicPolicy) and not env.truncated.all():
        env.play(policy.name)
    return DecisionTimes(timed, wall_s, cpu_s)


def about_episodes(cell: Cell) -> list[dict[str, Any]]:
    """Return the columns that describe each episode of a cell, in addition to its figures."""
    contender = cell.contender
    return [
        {
            results.ENVIRONMENT: cell.place.environment,
            **cell.place.values,
            results.FINGERPRINT: cell.place.fingerprint,
            results.POLICY: contender.name,
            results.TRAINED_ON: contender.trained_on,
            results.TRAINING_SEED: contender.training_seed,
            results.HELD_OUT_SEED: cell.seed,
            results.EPISODE: cell.first + i,
        }
        for i in range(cell.count)
    ]


def cells_of(
    place: Place, contenders: Iterable[Contender], *, episodes: int, seed: int, log: bool = False
) -> list[Cell]:
    """Return the cells of policies at a place, in order."""
    return [
        Cell(place, contender, first, min(LARGEST_BATCH, episodes - first), seed, log)
        for contender in contenders
        for first in range(0, episodes, LARGEST_BATCH)
    ]


def check(
    place: Place, contenders: Sequence[Contender], *, episodes: int, seed: int = 0, player: Player | None = None
) -> tuple[str, ...]:
    """Check an evaluation before anything plays; return the names of the figures.

    Args:
        place: where.
        contenders: who plays.
        episodes: how many each.
        seed: of the held-out episodes.
        player: who will play the cells, and keeps what is built here.

    Raises:
        ConfigError: too few episodes, equal names, or a policy that does not fit the environment.
    """
    if episodes < 2:
        raise ConfigError(f"episodes must be at least 2 for an interval, is {episodes}")
    names = [(contender.name, contender.training_seed) for contender in contenders]
    if len(set(names)) < len(names):
        raise ConfigError(f"policies must have different names; given: {', '.join(name for name, _ in names)}")
    env = (player or Player()).environment(place, 1)
    for contender in contenders:
        contender.begin(env, seed)
    env.reset(held_out_keys(seed, 1))
    if not env.truncated[0]:  # an episode without a decision has ended already
        env.step(np.zeros(env.masks.shape[:-1], np.int32))
    return tuple(env.episode_metrics(0))


def assemble(cells: Sequence[Cell], played: Sequence[Played]) -> Comparison:
    """Return the comparison of cells that have been played."""
    rows, timings, responses = [], {}, {}
    for cell, result in zip(cells, played, strict=True):
        abouts = about_episodes(cell)
        rows += [about | figures for about, figures in zip(abouts, result.figures, strict=True)]
        key = (cell.place.key, cell.contender.name)
        responses[key] = responses.get(key, 0) + result.responses
        about = {name: value for name, value in abouts[0].items() if name != results.EPISODE}
        costs = timings.setdefault((*key, cell.contender.training_seed), [about, 0, 0.0, 0.0, 0.0])
        for i, cost in enumerate((result.timed, result.wall_s, result.cpu_s, result.seconds), 1):
            costs[i] += cost
    episodes = pd.DataFrame(rows)
    episodes[results.TRAINING_SEED] = episodes[results.TRAINING_SEED].astype("Int64")
    microseconds = [
        about
        | {
            "decisions": timed,
            "decision_wall_us": 1e6 * wall_s / timed if timed else float("nan"),
            "decision_cpu_us": 1e6 * cpu_s / timed if timed else float("nan"),
            "seconds": seconds,
        }
        for about, timed, wall_s, cpu_s, seconds in timings.values()
    ]
    environments = {cell.place.key: cell.place.config for cell in cells}
    sweep = tuple(cells[0].place.values)
    return Comparison(episodes, pd.DataFrame(microseconds), sweep, responses, environments=environments)


def evaluate(
    config: EnvironmentConfig,
    contenders: Sequence[Contender],
    *,
    episodes: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
    label: str = "environment",
    player: Player | None = None,
    logs: list[Any] | None = None,
) -> Comparison:
    """Let every policy play the same held-out episodes of one environment, in this process.

    Args:
        config: the environment.
        contenders: from `make_contenders`; names must differ.
        episodes: how many, at least 2.
        seed: of the held-out episodes, which training never uses, whatever its seed.
        progress: where to show it.
        label: what the environment is called in the results.
        player: who plays, and may have built the environment before.
        logs: gets a table of the tasks (`task_table`) of each batch of episodes; None: no task is logged.

    Raises:
        ConfigError: too few episodes, equal names, or a policy that does not fit the environment.
    """
    place, player = Place(label, config), player or Player()
    check(place, contenders, episodes=episodes, seed=seed, player=player)
    cells = cells_of(place, contenders, episodes=episodes, seed=seed, log=logs is not None)
    shown = progress.track(cells, description="evaluating") if progress else cells
    played = [player.play(cell) for cell in shown]
    if logs is not None:
        logs += [each.tasks for each in played]
    return assemble(cells, played)
