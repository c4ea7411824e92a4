"""The schema of `training.imitate`: cloning the decisions of a rule, or those of a file, before training."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from offload_rllib.config.base import Count, Positive, Schema

DATA_SET = ".parquet"
# In place of a rule's name: the best of all.
BEST = "best"


def teacher_key(text: str) -> str:
    """Return the key that a text is given for: `file` of one that ends in .parquet, otherwise `rule`."""
    return "file" if text.endswith(DATA_SET) else "rule"


class Imitation(Schema):
    """Behaviour cloning of a rule or of recorded decisions; in YAML the rule's name, or the file's, alone will do."""

    rule: Annotated[str, Field(min_length=1)] | None = None
    """A heuristic, with its parameter if need be, whose decisions are cloned. best: the one with the lowest mean score
    on training episodes, parameters tried (`docs/warm_start.md`)."""
    file: Annotated[str, Field(min_length=1), AfterValidator(os.path.abspath)] | None = None
    """In place of a rule: a Parquet file of decisions (`docs/datasets.md`); all but every tenth episode are learned
    from."""
    decisions: Annotated[int, Field(ge=100, le=10_000_000, strict=True)] = 40_000
    """Decisions of the rule, on training episodes of its own, that are learned from; of a file all are."""
    epochs: Count = 20
    """Passes over them."""
    lr: Positive = 3e-3
    """Step size of Adam, which falls to 0 along a line."""
    minibatch_decisions: Count = 256
    """Decisions of a policy per gradient step."""

    start: bool = True
    """false: training starts with random weights all the same, and the clone is only one of the policies that the final
    one is selected from. Needs `training.final_policy: selected`."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {teacher_key(value): value}
        return value

    @model_validator(mode="after")
    def _one_teacher(self) -> Imitation:
        if (self.rule is None) == (self.file is None):
            raise ValueError(f"rule: {self.rule}, file: {self.file}; give one of the two")
        return self

    @property
    def teacher(self) -> str:
        """The rule, or the file."""
        return self.rule or self.file or ""
