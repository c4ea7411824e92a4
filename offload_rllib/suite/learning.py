"""Where learning wins: each learner of the reference results beside the rules of its point, paired by episode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from offload_rllib.evaluation.interval_text import difference_text, number
from offload_rllib.evaluation.statistics import Interval, certain, paired_difference
from offload_rllib.suite.results import PointResult, PolicyResult
from offload_rllib.suite.scenarios import Place, places

WINS, LOSES, OPEN = "learner", "rule", "not certain"
TITLE = "## Where learning wins"
NONE = "There are no reference results of learners so far."
ABOUT = """\
Each learner plays greedily here, with its shipped settings and without any tuning. *Best rule* is the rule with the
lowest mean score on the very episodes that count, which favours rules. [ ] is the 95 % interval of the learner minus
that rule, paired by episode, over training seeds and episodes. A difference in parentheses is not certain. Certainty is
adjusted for the number of rules at the point.
"""


@dataclass(frozen=True)
class Standing:
    """A learner beside the best rule of a point."""

    place: str
    """The point."""
    learner: str
    """Its name."""
    score_s: float
    """Its mean score."""
    rule: str
    """The rule with the lowest mean score."""
    rule_s: float
    """Its mean score."""
    difference_s: Interval
    """Learner minus rule."""
    sure: bool
    """Whether they differ, adjusted for the number of rules."""

    @property
    def verdict(self) -> str:
        """Which has the lower mean score, where that is certain."""
        if not self.sure:
            return OPEN
        return WINS if self.difference_s.mean < 0 else LOSES


def standings(place: str, point: PointResult) -> list[Standing]:
    """Return how the learners of a point stand, played greedily; those that may be compared."""
    mine = [policy for policy in point.policies if not policy.not_comparable and not policy.sampled]
    rules = [policy for policy in mine if policy.kind == "rule"]
    if not rules:
        return []
    best = int(np.argmin([_scores(rule).mean() for rule in rules]))
    found = []
    for learner in mine:
        if learner.kind == "trained":
            differences = [paired_difference(_scores(learner), _scores(rule)) for rule in rules]
            means = _scores(learner).mean(), _scores(rules[best]).mean()
            found.append(
                Standing(
                    place,
                    learner.name,
                    float(means[0]),
                    rules[best].name,
                    float(means[1]),
                    differences[best],
                    bool(certain(differences)[best]),
                )
            )
    return found


def _scores(policy: PolicyResult) -> np.ndarray:
    return np.array(policy.scores_s, float)


def learning(found: dict[tuple[str, str], PointResult], among: Iterable[Place] | None = None) -> str:
    """Return the section on who wins where.

    Args:
        found: reference results by scenario and point.
        among: the points of the suite; None: all.
    """
    known = list(places() if among is None else among)
    results = [(place, found.get((place.scenario.title, place.point.name))) for place in known]
    rows = [one for place, point in results if point is not None for one in standings(place.name, point)]
    if not rows:
        return f"{TITLE}\n\n{NONE}\n"
    table = pd.DataFrame(
        [
            {
                "point": one.place,
                "learner": one.learner,
                "its score, s": number(one.score_s),
                "best rule": one.rule,
                "its score, s ": number(one.rule_s),
                "difference, s": difference_text(one.difference_s, sure=one.sure),
                "lower": one.verdict,
            }
            for one in rows
        ]
    )
    lines = [TITLE, "", ABOUT]
    for name in dict.fromkeys(one.learner for one in rows):
        mine = [one for one in rows if one.learner == name]
        below, above, open_ones = (
            _listed([one.place for one in mine if one.verdict == verdict]) for verdict in (WINS, LOSES, OPEN)
        )
        lines.append(
            f"- `{name}`: certainly below the best rule at {below}; certainly above it at {above}; not certain at "
            f"{open_ones}."
        )
    trained = {one.place for one in rows}
    missing = [place.name for place in known if place.name not in trained]
    if missing:
        lines.append(f"- Without a learner so far: {_listed(missing)}.")
    return "\n".join([*lines, "", table.to_markdown(index=False, disable_numparse=True), ""])


def _listed(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"
