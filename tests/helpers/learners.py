"""Learners that somebody has changed."""

from __future__ import annotations

from typing import Any


def give_loss_without_gradient(learner: Any) -> None:
    """Make a learner one of a subclass that has a loss of its own; its gradient is zero."""
    original = type(learner)

    class Own(original):
        def compute_loss_for_module(self, **arguments: Any) -> Any:
            return 0.0 * super().compute_loss_for_module(**arguments)

    learner.__class__ = Own
