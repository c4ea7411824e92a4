"""The schema of `algorithm.constraints`: bounds on shares of the tasks that a policy is trained to keep."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from offload_rllib.config.base import NonNegative, Positive, Schema, Share

CONSTRAINED = (
    "dropped_share",
    "dropped_queue_full_share",
    "dropped_expired_share",
    "dropped_lost_share",
    "dropped_node_failed_share",
    "late_share",
    "unfinished_share",
    "missed_share",
)


def _figure(value: str) -> str:
    if value.partition("_of_")[0] not in CONSTRAINED:
        raise ValueError(
            f"must be {', '.join(CONSTRAINED)}, with _of_TYPE behind it for the tasks of one type: other figures have "
            "no exact cost at each step"
        )
    return value


Figure = Annotated[
    str,
    AfterValidator(_figure),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(CONSTRAINED)})(_of_.+)?$"}),
]


class Constraint(Schema):
    """A figure that is to be at most so much on average; formulas in `docs/constraints.md`.

    Its multiplier is what a task that the figure counts costs, in the unit of the reward before `reward.scale`: seconds
    with `reward.name: delay`.
    """

    figure: Figure
    """A share of the tasks (`docs/metrics.md`)."""
    at_most: Share
    """The bound, from 0 to 1."""
    initial: NonNegative = 0.0
    """The multiplier before the first batch."""
    proportional: NonNegative = 2000.0
    """Factor on the smoothed excess over the bound."""
    integral: NonNegative = 1000.0
    """Factor on the excess of each batch in what it adds to the multiplier for good; below the bound it subtracts."""
    derivative: NonNegative = 0.0
    """Factor on the rise of the smoothed excess since the last batch."""
    largest_excess: Positive = 0.02
    """More excess in a batch counts as this much. An untrained policy breaks a bound many times over, which says
    nothing about the price at which a trained one keeps it."""
    smoothing: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.8
    """Weight of the past in the smoothed excess: 0 smoothes nothing."""
    largest: Positive = 1000.0
    """Bound of the multiplier: it stays there where the constraint cannot be met."""
