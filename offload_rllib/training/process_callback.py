"""Callbacks of Tune that belong to the process that runs, not to the experiment that is written down."""

from __future__ import annotations

from typing import Any, Self

from ray.tune import Callback

_in_force: dict[type, PresentCallback] = {}


class PresentCallback(Callback):
    """A callback that is in force within a `with` block: a display, a log.

    Tune pickles its callbacks with the experiment and brings them back when it is resumed; what comes back is the one
    that is in force in the process that resumes.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a reference to the one in force."""
        return _in_force_of, (type(self),)

    def __enter__(self) -> Self:
        """Come into force."""
        _in_force[type(self)] = self
        return self

    def __exit__(self, *_: object) -> None:
        """End being in force."""
        del _in_force[type(self)]


def _in_force_of(kind: type[PresentCallback]) -> PresentCallback | None:
    return _in_force.get(kind)
