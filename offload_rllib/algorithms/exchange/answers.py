"""What all learners answer; if one cannot, none is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from offload_rllib.algorithms.exchange.meeting import LearnerLostError

# Once one learner has failed, the others, which miss it at their next meeting, have so long to tell what they know.
OTHERS_MAY_TELL_S = 5.0


def answers_of(learners: Sequence[Any], method: str, **arguments: Any) -> list[Any]:
    """Call a method of all learners, Ray's actors, and return what each answers.

    Raises:
        Exception: the first learner's error that explains those of the others. All learners are ended before: one that
            waits at a meeting for a lost one would wait for as long as torch lets it.
    """
    asked = [getattr(learner, method).remote(**arguments) for learner in learners]
    missing = asked
    while missing:
        answered, missing = ray.wait(missing)
        errors = _errors(answered)
        if errors:
            errors += (
                _errors(ray.wait(missing, num_returns=len(missing), timeout=OTHERS_MAY_TELL_S)[0]) if missing else []
            )
            for learner in learners:
                ray.kill(learner)
            raise min(errors, key=_rank)
    return ray.get(asked)


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
