"""What all learners answer; if one cannot, none is waited for."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from offload_rllib.algorithms.exchange.meeting import LearnerLostError

# Once one learner has failed, the others, which miss it at their next meeting, have so long to tell what they know.
OTHERS_MAY_TELL_S = 5.0
# Learners end a batch together: once one has answered, one look finds most of the others' answers.
SOON_S = 0.05


class LearnersHangError(RuntimeError):
    """Learners have not answered in time, and have been ended."""


def answers_of(learners: Sequence[Any], method: str, *, limit_s: float = math.inf, **arguments: Any) -> list[Any]:
    """Call a method of all learners, Ray's actors, and return what each answers.

    Args:
        learners: of one run. A learner that hangs lets all others wait at their next meeting.
        method: its name.
        limit_s: how long to wait for all.
        arguments: of the method.

    Raises:
        LearnersHangError: some have not answered in time. All learners are ended before.
        Exception: the first learner's error that explains those of the others. All learners are ended before: one that
            waits at a meeting for a lost one would wait for as long as torch lets it.
    """
    asked = [getattr(learner, method).remote(**arguments) for learner in learners]
    found: dict[Any, Any] = {}
    missing, end_s = asked, time.monotonic() + limit_s
    while missing:
        left_s = None if math.isinf(limit_s) else max(end_s - time.monotonic(), 0.0)
        answered, missing = ray.wait(missing, timeout=left_s)
        if not answered:
            end(learners)
            raise LearnersHangError(f"{len(missing)} of {len(learners)} learners have not answered for {limit_s:.0f} s")
        if missing:
            soon, missing = ray.wait(missing, num_returns=len(missing), timeout=SOON_S)
            answered += soon
        try:
            found |= zip(answered, ray.get(answered), strict=True)
        except Exception:  # noqa: BLE001 - of one of them; which, and of how many, is found next
            if missing:
                answered += ray.wait(missing, num_returns=len(missing), timeout=OTHERS_MAY_TELL_S)[0]
            errors = _errors(answered)
            end(learners)
            raise min(errors, key=_rank) from None
    return [found[reference] for reference in asked]


def end(learners: Sequence[Any]) -> None:
    """End learners at once, so that none of them complains of missing another."""
    for learner in learners:
        ray.kill(learner)


def _errors(answered: list[Any]) -> list[Exception]:
    errors: list[Exception] = []
    for reference in answered:
        try:
            ray.get(reference)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised once all are known
            errors.append(error)
    return errors


def _rank(error: Exception) -> int:
    """Return 0 for an error that comes before those of learners which only miss another one."""
    if isinstance(error, RayActorError):
        return 0
    return 2 if isinstance(error, LearnerLostError) else 1
