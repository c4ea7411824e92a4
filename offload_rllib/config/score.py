"""The schema of `score`: the penalty of tasks that do not finish, and how much each type of task counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from offload_rllib.config.base import Positive, Schema

# Part of the names of figures, which become tags of TensorBoard, columns and words of the command line.
TYPE_NAME = r"^[A-Za-z0-9_-]+$"
TypeName = Annotated[str, StringConstraints(pattern=TYPE_NAME)]
Priority = Annotated[int, Field(strict=True, ge=-1000, le=1000)]


class Score(Schema):
    """The score of tasks, which the reward `delay` follows; formulas in `docs/simulator.md`."""

    drop_s: Positive | None = None
    """Least score of a task that is dropped or unfinished. Required, and at least `horizon_s`, where tasks can be
    dropped that could otherwise finish late: without deadlines, or with `deadlines.expiry` `queued` or `never`. Null: a
    task that is aborted at its deadline scores that."""
    weights: dict[TypeName, Positive] = Field(default={})
    """How much a task counts in score and reward, by the name of its type; 1 if not given."""
