"""Fronts: what policies reach of several objectives over their weights, and how much of the space they dominate.

All figures here are minimised. A point dominates another one if it is nowhere worse and somewhere better.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import Progress

from offload_rllib.config import ConfigError, EnvironmentConfig, load_environment
from offload_rllib.config.decisions import Weights
from offload_rllib.config.loading import nearest
from offload_rllib.config.names import plain_name
from offload_rllib.evaluation.evaluate import Player, evaluate
from offload_rllib.evaluation.players import Contender
from offload_rllib.policies.heuristic import is_heuristic
from offload_rllib.runs.lookup import trained_policy_folder
from offload_rllib.runs.training_run import RECORD, RunFolder
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.simulator.objectives import OBJECTIVES, objectives_of
from offload_rllib.simulator.types import Array

POLICY = "policy"
# How far beyond the worst point the reference of the hypervolume is, as a share of the range: so the ends of a front
# count, too.
BEYOND = 0.1
# Rules that decide by the weights of the episode.
WEIGHING = ("least_cost",)

Share = tuple[float, ...]
"""Weights of the objectives of an environment, in order; they sum to 1."""


def corners_and_middles(count: int) -> list[Share]:
    """Return one objective alone, each pair at one half, and all alike: for three objectives 7 weights."""
    sets = [*itertools.combinations(range(count), 1), *itertools.combinations(range(count), 2)]
    shares = [tuple(1.0 / len(chosen) if k in chosen else 0.0 for k in range(count)) for chosen in sets]
    return [*shares, (1.0 / count,) * count] if count > 2 else shares


def lattice(count: int, steps: int) -> list[Share]:
    """Return all weights of `count` objectives that are multiples of 1 / `steps`."""
    every = itertools.product(range(steps + 1), repeat=count)
    return [tuple(part / steps for part in parts) for parts in every if sum(parts) == steps]


def dominated(points: Array) -> Array:
    """Return [P] bool, which of the points [P, K] another one dominates; of equal points none does."""
    nowhere_better = (points[:, None] >= points[None]).all(axis=-1)
    somewhere_worse = (points[:, None] > points[None]).any(axis=-1)
    return np.any(nowhere_better & somewhere_worse, axis=-1)


def hypervolume(points: Array, reference: Array) -> float:
    """Return the volume that is dominated by at least one of the points [P, K] and dominates `reference` [K].

    By slices along the last objective, each of which is a volume of one dimension less (J. D. Knowles, "Local-search
    and hybrid evolutionary algorithms for Pareto optimization", PhD thesis, Reading 2002; L. While et al., "A faster
    algorithm for calculating hypervolume", IEEE Transactions on Evolutionary Computation 10, 2006).
    """
    points = points[(points < reference).all(1)]
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[~dominated(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    ends = np.append(points[1:, -1], reference[-1])
    volume = 0.0
    for i, (start, end) in enumerate(zip(points[:, -1], ends, strict=True)):
        if end > start:
            volume += float(end - start) * hypervolume(points[: i + 1, :-1], reference[:-1])
    return volume


@dataclass(frozen=True)
class Front:
    """What policies reach over the weights.

    Attributes:
        objectives: names [K].
        figures: the figure of each objective, by which it is measured.
        points: a row per policy and weights: `policy`, `weight_<objective>`, and the mean of each figure over the
            episodes. Rules that do not weigh play once, without weights (NaN).
        episodes: that each point is a mean over.
        seed: of these.
    """

    objectives: tuple[str, ...]
    figures: tuple[str, ...]
    points: pd.DataFrame
    episodes: int
    seed: int

    @property
    def policies(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(dict.fromkeys(self.points[POLICY]))

    def of(self, policy: str) -> Array:
        """Return the points [P, K] of a policy."""
        return self.points.loc[self.points[POLICY] == policy, list(self.figures)].to_numpy(np.float64)

    def scaled(self, policy: str) -> Array:
        """Return the points of a policy where 0 is the best and 1 the worst of all points, in each objective."""
        every = self.points[list(self.figures)].to_numpy(np.float64)
        best, worst = every.min(0), every.max(0)
        return (self.of(policy) - best) / np.where(worst > best, worst - best, 1.0)

    def hypervolume(self, policy: str) -> float:
        """Return the share, 0 to 1, of the box from the best to the reference that the points of a policy dominate.

        The reference is a tenth of the range beyond the worst of all points, in each objective.
        """
        reference = np.full(len(self.figures), 1.0 + BEYOND)
        return hypervolume(self.scaled(policy), reference) / float(np.prod(reference))


@dataclass(frozen=True)
class _Player:
    """A policy, and at which weights it plays."""

    contender: Contender
    at: Share | None
    """Those that it was trained with; None: all."""
    takes_weights: bool


def _trained(name: str, folder: Path, objectives: Sequence[str]) -> _Player:
    weights = None
    if (folder / RECORD).is_file():
        weights = RunFolder.open(folder).environment.reward.weights
    at = None
    if isinstance(weights, Weights):
        given = np.array([getattr(weights, objective) for objective in objectives])
        at = tuple((given / given.sum()).tolist())
    return _Player(Contender(name, trained_policy_folder(folder)), at, takes_weights=True)


def _players(names: Iterable[str], objectives: Sequence[str]) -> list[_Player]:
    """Return the policies that names stand for; ``NAME=RUN,RUN,...`` are runs whose points belong together.

    Raises:
        ConfigError: a name is neither that, nor a heuristic, nor a run.
    """
    players = []
    for name in dict.fromkeys(names):
        called, equals, folders = name.partition("=")
        if equals and not Path(name).is_dir():
            players += [_trained(plain_name(called), Path(folder), objectives) for folder in folders.split(",")]
        elif is_heuristic(name, "policies"):
            players.append(_Player(Contender(name, name), None, takes_weights=name in WEIGHING))
        elif Path(name).is_dir():
            players.append(_trained(plain_name(Path(name).resolve().name), Path(name), objectives))
        else:
            raise ConfigError(
                f"'{name}' is neither a heuristic, nor a run folder, nor NAME=RUN,RUN,...{nearest(name, HEURISTICS)}"
            )
    return players


def figures_of(config: EnvironmentConfig, objectives: Iterable[str]) -> tuple[str, ...]:
    """Return the figure of an episode that measures each objective: over all episodes, the reward's term.

    The mean score in s, the share of tasks dropped, and energy and price of all nodes in an episode.
    """
    power = config.energy is not None and config.energy.kind == "power"
    measured = {"response": "score_mean_s", "drops": "dropped_share", "price": "price"}
    measured["energy"] = "energy_j" if power else "energy"
    return tuple(measured[name] for name in objectives)


def play_front(
    config: EnvironmentConfig,
    names: Sequence[str],
    *,
    steps: int = 0,
    episodes: int = 20,
    seed: int = 0,
    sampled: bool = False,
    progress: Progress | None = None,
) -> Front:
    """Let policies play held-out episodes at many weights, and return what they reach.

    A policy that was trained with drawn weights plays at all of them, one that was trained with fixed weights at these
    alone, and a rule once unless it weighs. All play the same episodes.

    Args:
        config: the environment; its `reward.weights` are replaced.
        names: heuristics, run folders, ``NAME=RUN,RUN,...``.
        steps: play at the multiples of 1 / `steps`; 0: at `corners_and_middles`.
        episodes: of each point, at least 2.
        seed: of the held-out episodes.
        sampled: policies draw their actions.
        progress: where to show it.

    Raises:
        ConfigError: the environment has no objectives, or a policy does not fit it.
    """
    config = load_environment(config, ["reward.weights=drawn"])
    objectives = objectives_of(build_scenario(config).arrays)
    players = _players(names, objectives)
    measured = figures_of(config, objectives)
    shares = lattice(len(objectives), steps) if steps else corners_and_middles(len(objectives))
    shares += [player.at for player in players if player.at is not None]
    rows = []
    distinct = list({_key(share): share for share in shares}.values())
    shown = progress.track(distinct, description="playing") if progress else distinct
    for number, share in enumerate(shown):
        here = [player for player in players if _plays(player, share, first=number == 0)]
        if not here:
            continue
        given = dict(zip(objectives, share, strict=True))
        rows += _played(_at(config, given), here, given, measured, episodes, seed, sampled=sampled)
    points = pd.DataFrame(rows)
    order = {player.contender.name: place for place, player in reversed(list(enumerate(players)))}
    points = points.sort_values(POLICY, key=lambda column: column.map(order), kind="stable", ignore_index=True)
    return Front(objectives, measured, points, episodes, seed)


def _key(share: Share) -> Share:
    return tuple(round(value, 9) for value in share)


def _plays(player: _Player, share: Share, *, first: bool) -> bool:
    if not player.takes_weights:
        return first
    return player.at is None or _key(player.at) == _key(share)


def _at(config: EnvironmentConfig, given: Mapping[str, float]) -> EnvironmentConfig:
    reward = config.reward.model_copy(update={"weights": Weights.model_validate(given)})
    return config.model_copy(update={"reward": reward})


def _played(
    config: EnvironmentConfig,
    players: Sequence[_Player],
    given: Mapping[str, float],
    measured: Sequence[str],
    episodes: int,
    seed: int,
    *,
    sampled: bool,
) -> list[dict[str, Any]]:
    """Return a row for each policy that plays at some weights."""
    # Several runs of a group may have been trained with the same weights: their names must differ here.
    contenders = [
        Contender(f"{number} {player.contender.name}", player.contender.source, deterministic=not sampled)
        for number, player in enumerate(players)
    ]
    played = evaluate(config, contenders, episodes=episodes, seed=seed, player=Player())
    rows: list[dict[str, Any]] = []
    for player, contender in zip(players, contenders, strict=True):
        weights = {f"weight_{name}": value if player.takes_weights else float("nan") for name, value in given.items()}
        means = {figure: float(played.of(contender.name, figure).mean()) for figure in measured}
        rows.append({POLICY: player.contender.name} | weights | means)
    return rows


assert set(OBJECTIVES) == set(Weights.model_fields)  # noqa: S101 - one list, two places
