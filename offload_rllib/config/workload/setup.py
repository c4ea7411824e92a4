"""The schema of `setup`: what a node does before it serves a task of a type that it does not hold."""

from __future__ import annotations

from pydantic import Field, model_validator

from offload_rllib.config.base import Count, NonNegative, Positive, Schema
from offload_rllib.config.score import TypeName


class SetupOfType(Schema):
    """The set-up of one type of tasks; a key that is left out is that of all types."""

    duration_s: NonNegative | None = None
    """Time of the set-up, beside the fetching of the image."""
    image_bits: NonNegative | None = None
    """Size of the image that is fetched."""


class Setup(Schema):
    """Set-ups of types of tasks: container images and cold starts."""

    duration_s: NonNegative = 0.0
    """Time of a set-up, beside the fetching of the image."""
    image_bits: NonNegative = 0.0
    """Size of the image that is fetched."""
    fetch_bps: Positive | None = None
    """Rate at which a node fetches images, from a registry and not over the links of the network."""
    types: dict[TypeName, SetupOfType] = Field(default={})
    """Other set-ups, by the name of the type."""
    slots: Count | None = None
    """Types that a node holds at most, at least as many as the tasks that it serves at once; the cloud holds all. The
    one that has been out of use for longest leaves. Null: all."""
    keep_warm_s: NonNegative | None = None
    """A node holds a type for so long after its last use; null: until it has to leave."""

    @model_validator(mode="after")
    def _images_can_be_fetched(self) -> Setup:
        if self.fetch_bps is None and (self.image_bits or any(kind.image_bits for kind in self.types.values())):
            raise ValueError("image_bits needs fetch_bps, the rate at which images are fetched")
        return self
