"""The scorecard: levels 0 to 2 of each point, written as each is done, and continued where it was interrupted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from offload_rllib.config import ConfigError
from offload_rllib.config.base import is_function_path
from offload_rllib.config.names import plain_name
from offload_rllib.envs.remote.connection import is_service
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.lower_bound import bounds_of_episodes
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.evaluation.players import Contender, make_contenders, trained_contenders
from offload_rllib.evaluation.results import SAMPLED, Comparison
from offload_rllib.evaluation.statistics import Interval, interval
from offload_rllib.policies.heuristic import is_heuristic
from offload_rllib.policies.saved import load_description, packed
from offload_rllib.suite.conformance import Conformance, conform
from offload_rllib.suite.results import (
    FIGURES,
    POLICIES,
    RESULT,
    BoundResult,
    ExactResult,
    Figure,
    PointResult,
    PolicyResult,
    Result,
    TrainedSeed,
    number,
    sha_of,
    write_result,
)
from offload_rllib.suite.scenarios import (
    BUDGET_APART,
    EPISODES,
    TRAINING_SEEDS,
    Place,
    Scenario,
    catalogue,
    looks_at_hidden,
    places,
)
from offload_rllib.version import __version__


@dataclass(frozen=True)
class Entrant:
    """A policy as it was named, with the contenders that it stands for."""

    source: str
    kind: str
    contenders: tuple[Contender, ...]


def entrants(names: Sequence[str]) -> list[Entrant]:
    """Return the policies that names stand for.

    Args:
        names: rules, functions ``package.module:function``, addresses of services, run folders, or
            ``NAME=RUN,RUN,...`` for the training seeds of one learner.

    Raises:
        ConfigError: a name is not one of these, or a rule looks at what the suite hides.
    """
    found = []
    for name in dict.fromkeys(names):
        called, equals, folders = name.partition("=")
        if equals and not Path(name).exists():
            runs = [Path(folder) for folder in folders.split(",") if folder]
            if not runs or plain_name(called) != called or "/" in called:
                raise ConfigError(f"--policy '{name}': must be NAME=RUN,RUN,... with a name of its own, without /")
            found.append(Entrant(called, "trained", tuple(trained_contenders(called, runs))))
            continue
        if looks_at_hidden(name):
            raise ConfigError(
                f"--policy '{name}': looks at the true state of other nodes, which the suite hides from agents. "
                "Accepted: rules that know what agents know, and policies that observe"
            )
        if is_service(name):
            kind = "service"
        elif is_heuristic(name, "--policy"):
            kind = "code" if is_function_path(name) else "rule"
        else:
            kind = "trained"
        found.append(Entrant(name, kind, tuple(make_contenders([name]))))
    return found


def new_result(names: Sequence[str], policies: Sequence[str], **asked: object) -> Result:
    """Return a result in which nothing is done yet.

    Args:
        names: of scenarios and points; empty: all.
        policies: as `entrants` takes them; empty: the rules of each scenario.
        asked: the other fields of `Result`.

    Raises:
        ConfigError: a name is unknown.
    """
    entrants(policies)
    chosen = tuple(place.name for place in places(list(names)))
    about = {"suite": catalogue().version, "version": __version__, "places": chosen, "policies": tuple(policies)}
    return Result.model_validate(about | asked)


def play(result: Result, folder: Path, progress: Progress | None = None) -> Iterator[PointResult]:
    """Play what is missing of a result; yield each point when it is done and written.

    Args:
        result: as far as it is done.
        folder: of the file, which is written after each point, and of the learners' policies.
        progress: where to show it.

    Raises:
        ConfigError: a policy does not fit an environment.
    """
    given = entrants(result.policies)
    for place in places(list(result.places[len(result.points) :])):
        done = play_point(place, result, given, folder, progress)
        result = result.model_copy(update={"points": (*result.points, done)})
        write_result(result, folder / RESULT)
        yield done


def play_point(
    place: Place, result: Result, given: Sequence[Entrant], folder: Path, progress: Progress | None = None
) -> PointResult:
    """Play one point: level 0, then the policies, then the bound; arguments as `play`."""
    config = place.environment()
    players = list(given) or entrants(place.scenario.rules)
    exact = tuple(map(exact_result, conform(place))) if place.point.exact else ()
    contenders = [contender for player in players for contender in player.contenders]
    comparison = evaluate(
        config, contenders, episodes=result.episodes, seed=result.seed, progress=progress, label=place.name
    )
    policies = [
        policy_result(name, player, comparison, place.scenario, result, folder)
        for player in players
        for name in dict.fromkeys(contender.name for contender in player.contenders)
    ]
    bound = None
    if result.bounds and place.scenario.bound.episodes:
        bound = bound_of(place, result.seed, progress)
    return PointResult(
        scenario=place.scenario.title,
        scenario_version=place.scenario.version,
        point=place.point.name,
        fingerprint=place.point.fingerprint,
        exact=exact,
        bound=bound,
        policies=tuple(policies),
    )


def exact_result(conformance: Conformance) -> ExactResult:
    """Return level 0 as a result holds it."""
    found = conformance.differences
    keys = ("mean_s", "p95_s", "exact_mean_s", "exact_p95_s", "mean_difference_s", "largest_difference_s")
    return ExactResult(
        rule=conformance.rule,
        tasks=found.tasks,
        other_outcomes=found.other_outcomes,
        passed=found.passed,
        **{key: number(getattr(found, key)) for key in keys},
    )


def bound_of(place: Place, seed: int, progress: Progress | None = None) -> BoundResult:
    """Return the clairvoyant bound of a point, on the first of the held-out episodes."""
    wanted = place.scenario.bound
    found = bounds_of_episodes(
        place.environment(),
        episodes=wanted.episodes,
        seed=seed,
        slot_s=wanted.slot_s,
        dual=wanted.dual,
        progress=progress,
    )
    mean = interval(np.array([each.mean_s for each in found]))
    return BoundResult(
        episodes=wanted.episodes,
        mean_s=mean.mean,
        low_s=number(mean.low),
        high_s=number(mean.high),
        slot_s=number(found[0].slot_s),
    )


def policy_result(
    name: str, player: Entrant, comparison: Comparison, scenario: Scenario, result: Result, folder: Path
) -> PolicyResult:
    """Return the figures of one policy, and keep a copy of what was trained beside the result."""
    seeds: tuple[TrainedSeed, ...] = ()
    if player.kind == "trained":
        mine = [contender for contender in player.contenders if contender.name == name]
        seeds = tuple(_kept(contender, i, folder) for i, contender in enumerate(mine))
    figures = {metric: _figure(comparison.mean(name, metric)) for metric in FIGURES if metric in comparison.metrics}
    return PolicyResult(
        name=name,
        source=player.source,
        kind=player.kind,  # pyright: ignore[reportArgumentType] - one of the four that `entrants` knows
        sampled=name.endswith(SAMPLED),
        seeds=seeds,
        not_comparable=tuple(why_not_comparable(player.kind, seeds, scenario, result.episodes, result.seed)),
        figures=figures,
        scores_s=tuple(tuple(number(score) for score in row) for row in comparison.matrix(name, SCORE)),
    )


def _figure(mean: Interval) -> Figure:
    return Figure(mean=number(mean.mean), low=number(mean.low), high=number(mean.high))


def _kept(contender: Contender, i: int, folder: Path) -> TrainedSeed:
    """Copy a saved policy into the folder of the result, once, and return what pins it."""
    source = Path(contender.source)
    files = packed(source)
    seed = contender.training_seed
    place = Path(POLICIES) / f"{plain_name(contender.name.removesuffix(SAMPLED))}-{i if seed is None else seed}"
    (folder / place).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / place / name).write_bytes(content)
    steps = load_description(source).env_steps
    return TrainedSeed(seed=seed, folder=str(place), files=sha_of(files), env_steps=steps)


def why_not_comparable(
    kind: str, seeds: Sequence[TrainedSeed], scenario: Scenario, episodes: int, seed: int
) -> list[str]:
    """Return what a result lacks to be put into a table beside others; nothing if it lacks nothing."""
    reasons = []
    if episodes < EPISODES:
        reasons.append(f"{episodes} held-out episodes; {EPISODES} are needed")
    if seed != 0:
        reasons.append(f"held-out seed {seed}; tables are of seed 0")
    if kind in ("code", "service"):
        reasons.append(f"a {'function of Python' if kind == 'code' else 'service'}: what it looks at cannot be checked")
    if kind == "trained":
        if len(seeds) < TRAINING_SEEDS:
            reasons.append(f"{len(seeds)} training seeds; {TRAINING_SEEDS} are needed")
        budget = scenario.env_steps
        reasons += [
            f"trained with {steps:,} decisions; the budget is {budget:,}, within {BUDGET_APART:.0%}"
            for steps in dict.fromkeys(each.env_steps for each in seeds)
            if not math.isclose(steps, budget, rel_tol=0, abs_tol=BUDGET_APART * budget)
        ]
    return reasons


def reproduced(policy: PolicyResult, reference: PointResult | None) -> str:
    """Return whether the scores of a policy are those of the reference; nothing if there are none to compare.

    Args:
        policy: as played.
        reference: of the same point, if there is one.
    """
    known = {each.name: each for each in reference.policies} if reference else {}
    stated = known.get(policy.name)
    if stated is None or len(stated.scores_s[0]) != len(policy.scores_s[0]):
        return ""
    if stated.scores_s == policy.scores_s:
        return "to the digit"
    mine, theirs = (np.array(each.scores_s, float) for each in (policy, stated))
    if mine.shape != theirs.shape:
        return "other training seeds"
    return f"differs by up to {np.nanmax(np.abs(mine - theirs)):.1e} s"
