"""The schema of `training.imitate`: cloning the decisions of a rule before training."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from offload_rllib.config.base import Count, Positive, Schema


class Imitation(Schema):
    """Behaviour cloning of a rule; in YAML the rule's name alone will do."""

    rule: Annotated[str, Field(min_length=1)]
    """A heuristic, with its parameter if need be, whose decisions are cloned."""
    decisions: Annotated[int, Field(ge=100, le=10_000_000, strict=True)] = 40_000
    """Decisions of the rule, on training episodes of its own, that are learned from."""
    epochs: Count = 20
    """Passes over them."""
    lr: Positive = 3e-3
    """Step size of Adam, which falls to 0 along a line."""
    minibatch_decisions: Count = 256
    """Decisions of a policy per gradient step."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"rule": value} if isinstance(value, str) else value
