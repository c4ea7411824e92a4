"""What checks found: one result for each, and a report of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from rich.progress import Progress


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    NOTE = "note"
    FAILED = "failed"


class CheckFailed(Exception):  # noqa: N818 - it is how a check says so, and never leaves `run_checks`
    """Raised by a check that failed; its text says why."""


class Note(str):
    """What a check found that is allowed, and that a user should know."""

    __slots__ = ()


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    name: str
    """What was checked."""
    outcome: Outcome
    found: str
    """What was seen, or why the check failed."""


@dataclass(frozen=True)
class CheckReport:
    """The results of all checks of one file or folder."""

    subject: str
    """What was checked, e.g. ``environment lab.yaml``."""
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; notes are allowed."""
        return all(result.outcome is not Outcome.FAILED for result in self.results)

    def of(self, name: str) -> CheckResult:
        """Return the result of a check.

        Raises:
            KeyError: there was no check of that name.
        """
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)


# A check returns what it saw, as text or as a `Note`, or raises.
Check = Callable[[], str]


def run_checks(checks: Iterable[tuple[str, Check]], progress: Progress | None = None) -> tuple[CheckResult, ...]:
    """Run checks in order, each to its end whatever the others found.

    Args:
        checks: name and function of each.
        progress: where to show which one runs.
    """
    results = []
    task = progress.add_task("", total=None) if progress else None
    for name, check in checks:
        if progress and task is not None:
            progress.update(task, description=name)
        results.append(_result(name, check))
    return tuple(results)


def _result(name: str, check: Check) -> CheckResult:
    try:
        found = check()
    except CheckFailed as error:
        return CheckResult(name, Outcome.FAILED, str(error))
    except Exception as error:  # noqa: BLE001 - whatever stops a checker of others, or code of the user, is the result
        return CheckResult(name, Outcome.FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")
    return CheckResult(name, Outcome.NOTE if isinstance(found, Note) else Outcome.PASSED, str(found))
