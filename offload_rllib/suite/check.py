"""Checks of a result from outside: its policies play the stated episodes again, and others that were not known."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress
from scipy import stats

from offload_rllib.config import ConfigError
from offload_rllib.evaluation.evaluate import Player, evaluate
from offload_rllib.evaluation.metrics import SCORE
from offload_rllib.evaluation.players import Contender
from offload_rllib.policies.saved import DESCRIPTION, load_description
from offload_rllib.suite.conformance import conform
from offload_rllib.suite.results import BoundResult, PointResult, PolicyResult, Result
from offload_rllib.suite.scenarios import Place, digest, places
from offload_rllib.suite.scorecard import bound_of, entrants, exact_result, why_not_comparable

PASSED, NOTE, FAILED = "passed", "note", "failed"
# Scores of rules agree to this, relative; a network's may differ where another processor sums in another order.
RULES_APART, NETWORKS_APART = 1e-9, 1e-3
# Bounds agree to this, relative: the solver meets its optimum to 1e-6, by another way on another machine.
BOUNDS_APART = 1e-5
# A stated mean that is better than that of the hidden episodes with this probability by chance, or less, is rejected.
CHANCE = 1e-3


@dataclass(frozen=True)
class Finding:
    """One check at one point, of a policy or of the point itself."""

    place: str
    policy: str
    check: str
    outcome: str
    found: str


def hidden_seed() -> int:
    """Return a seed of held-out episodes that is drawn now."""
    return secrets.randbelow(2**31 - 1) + 1


def check_result(
    result: Result,
    folder: Path,
    hidden: int,
    *,
    episodes: int | None = None,
    bounds: bool = True,
    progress: Progress | None = None,
) -> Iterator[Finding]:
    """Yield what is found about each policy of a result, its exact responses and its bounds.

    Args:
        result: as read.
        folder: of its file.
        hidden: seed of the episodes that the result did not know.
        episodes: how many of them; None: as many as the result states.
        bounds: whether bounds are computed again.
        progress: where to show it.

    Raises:
        ConfigError: the result is not of this suite; or a policy is not there, was changed, names code, or looks at
            what the suite hides.
    """
    if not result.finished:
        raise ConfigError(
            f"{folder}: holds {len(result.points)} of {len(result.places)} points; accepted: a finished result "
            "(suite run --resume)"
        )
    player = Player()  # builds each network once
    known = {(place.scenario.title, place.point.name): place for place in places()}
    for point in result.points:
        place = known.get((point.scenario, point.point))
        if place is None:
            raise ConfigError(f"{folder}: '{point.scenario}/{point.point}': no point of this suite")
        if point.scenario_version != place.scenario.version or point.fingerprint != place.point.fingerprint:
            raise ConfigError(
                f"{folder}: {place.name}: version {point.scenario_version}, fingerprint {point.fingerprint}; accepted: "
                f"version {place.scenario.version}, fingerprint {place.point.fingerprint}"
            )
        yield from _check_exact(point, place)
        if bounds and point.bound is not None:
            yield _check_bound(point.bound, place, result.seed, progress)
        for policy in point.policies:
            unknown = hidden, episodes or result.episodes
            yield from _check_policy(policy, place, result, folder, unknown, player, progress)


def _check_exact(point: PointResult, place: Place) -> Iterator[Finding]:
    if not point.exact:
        return
    found = tuple(map(exact_result, conform(place)))
    same = found == point.exact
    text = "as stated" if same else "differs from what is stated"
    passed = all(each.passed for each in found) and same
    rules = ", ".join(each.rule for each in found)
    yield Finding(place.name, rules, "exact responses", PASSED if passed else FAILED, text)


def _check_bound(stated: BoundResult, place: Place, seed: int, progress: Progress | None) -> Finding:
    """Return whether a stated bound is that of the scenario."""
    check, wanted = "bound", place.scenario.bound
    if not wanted.episodes:
        return Finding(place.name, "", check, FAILED, "the suite states no bound here")
    if stated.episodes != wanted.episodes:
        text = f"over {stated.episodes} episodes; accepted: {wanted.episodes}"
        return Finding(place.name, "", check, FAILED, text)
    again = bound_of(place, seed, progress)
    if again == stated:
        return Finding(place.name, "", check, PASSED, "the same to the digit")
    if again.slot_s != stated.slot_s:
        text = f"slots of {stated.slot_s} s; accepted: {again.slot_s} s"
        return Finding(place.name, "", check, FAILED, text)
    pairs = ((again.mean_s, stated.mean_s), (again.low_s, stated.low_s), (again.high_s, stated.high_s))
    apart = max(_apart(*pair) for pair in pairs)
    outcome = PASSED if apart <= BOUNDS_APART else FAILED
    return Finding(place.name, "", check, outcome, f"apart by {apart:.1e}; accepted: {BOUNDS_APART:g}")


def _apart(again: float | None, stated: float | None) -> float:
    """Return how far a stated number is from the right one, relative to it; infinite if one of them is missing."""
    if again is None or stated is None:
        return 0.0 if again is stated else math.inf
    return abs(stated - again) / max(abs(again), 1e-300)


def contenders_of(policy: PolicyResult, folder: Path) -> list[Contender]:
    """Return who plays for a policy of a result: nothing of the folder is run, and every file is that which was hashed.

    Raises:
        ConfigError: it cannot be checked, a file is missing or was changed, or its description names code.
    """
    if policy.kind in ("code", "service"):
        raise ConfigError(
            f"{folder}: policy '{policy.name}': a {policy.kind} cannot be checked: the check runs no code of others. "
            "Accepted: rules, and saved policies (JSON and safetensors)"
        )
    if policy.kind == "rule":
        entrants([policy.source])
        return [Contender(policy.name, policy.source)]
    found = []
    for i, seed in enumerate(policy.seeds):
        place = (folder / seed.folder).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder}: policy '{policy.name}': folder {seed.folder}: must lie beside the result")
        expected = {DESCRIPTION, *(f"{name}.safetensors" for name in load_description(place).serves)}
        if set(seed.files) != expected:
            raise ConfigError(f"{place}: files {sorted(seed.files)}; accepted: {sorted(expected)}")
        for name in sorted(expected):
            sha = digest(place / name)
            if sha != seed.files[name]:
                raise ConfigError(f"{place / name}: its SHA-256 is {sha}; the result states {seed.files[name]}")
        module = load_description(place).network.module
        if module is not None:
            raise ConfigError(f"{place / DESCRIPTION}: network.module: {module}: the check runs no code of others")
        found.append(Contender(policy.name, place, not policy.sampled, training_seed=i))
    return found


def _check_policy(
    policy: PolicyResult,
    place: Place,
    result: Result,
    folder: Path,
    unknown: tuple[int, int],
    player: Player,
    progress: Progress | None,
) -> Iterator[Finding]:
    contenders = contenders_of(policy, folder)
    config = place.environment()
    steps = [load_description(Path(one.source)).env_steps for one in contenders] if policy.kind == "trained" else []
    if steps != [seed.env_steps for seed in policy.seeds]:
        raise ConfigError(f"{folder}: policy '{policy.name}': trained with {steps} decisions, and the result differs")
    reasons = why_not_comparable(policy.kind, policy.seeds, place.scenario, result.episodes, result.seed)
    if tuple(reasons) != policy.not_comparable:
        yield Finding(place.name, policy.name, "comparable", FAILED, f"states {list(policy.not_comparable)}: {reasons}")
    elif reasons:
        yield Finding(place.name, policy.name, "comparable", NOTE, "; ".join(reasons))
    again = evaluate(config, contenders, episodes=result.episodes, seed=result.seed, progress=progress, player=player)
    stated = np.array(policy.scores_s, float)
    yield _repeated(place, policy, stated, again.matrix(policy.name, SCORE))
    mean = policy.figures.get(SCORE)
    if mean is None or mean.mean is None or not np.isclose(mean.mean, np.nanmean(stated), rtol=1e-9):
        yield Finding(place.name, policy.name, "mean", FAILED, "the stated mean is not that of the stated scores")
    seed, episodes = unknown
    other = evaluate(config, contenders, episodes=episodes, seed=seed, progress=progress, player=player)
    yield _on_hidden(place, policy, stated, other.matrix(policy.name, SCORE))


def _repeated(place: Place, policy: PolicyResult, stated: np.ndarray, again: np.ndarray) -> Finding:
    """Return whether the stated episodes give the stated scores."""
    check = "stated episodes"
    if stated.shape != again.shape:
        return Finding(place.name, policy.name, check, FAILED, f"states {stated.shape} scores, played {again.shape}")
    if np.array_equal(stated, again, equal_nan=True):
        return Finding(place.name, policy.name, check, PASSED, "the same to the digit")
    if policy.kind == "trained":
        apart, most = abs(np.nanmean(again) / np.nanmean(stated) - 1), NETWORKS_APART
    else:
        apart, most = float(np.nanmax(np.abs(again / stated - 1))), RULES_APART
    outcome = PASSED if apart <= most else FAILED
    return Finding(place.name, policy.name, check, outcome, f"apart by {apart:.1e}; accepted: {most:g}")


def _on_hidden(place: Place, policy: PolicyResult, stated: np.ndarray, other: np.ndarray) -> Finding:
    """Return whether the stated scores could be those of episodes that were not known (Welch's test, one-sided)."""
    mine, theirs = np.nanmean(stated, axis=0), np.nanmean(other, axis=0)
    chance = _chance_of_less(mine, theirs)
    outcome = FAILED if chance < CHANCE else PASSED
    text = f"{theirs.mean():.6g} s there, {mine.mean():.6g} s stated (chance {chance:.2g})"
    return Finding(place.name, policy.name, "hidden episodes", outcome, text)


def _chance_of_less(mine: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> float:
    """Return the probability that means are as far apart by chance, if the first is the lower one."""
    if np.ptp(mine) == 0 and np.ptp(theirs) == 0:
        return 0.0 if np.mean(mine) < np.mean(theirs) else 1.0
    _, chance = stats.ttest_ind(mine, theirs, equal_var=False, alternative="less")
    return float(chance)  # pyright: ignore[reportArgumentType] - of two lists of numbers
