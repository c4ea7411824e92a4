"""Policies that take weights of objectives: numbers of the observation that say which trade-off is wanted."""

from __future__ import annotations

from collections.abc import Mapping

from offload_rllib.config.decisions import Weights
from offload_rllib.config.errors import ConfigError
from offload_rllib.simulator.types import Array

Places = Mapping[str, int]
"""Index of the weight of each objective in an observation (`envs.layout.ObservationLayout.weights`)."""


def other_weights(trained: Places, met: Places) -> str:
    """Return why a policy does not fit an environment by the weights that it is shown, or nothing if it does.

    Args:
        trained: of its training.
        met: of the environment.
    """
    if dict(trained) == dict(met):
        return ""
    accepted = "reward.weights: null"
    if trained:
        example = ", ".join(f"{name}=1" for name in trained)
        accepted = f"reward.weights: drawn, or weights of {', '.join(trained)} (--weights {example.replace(' ', '')})"
    return (
        f"this policy was trained with {_listed(trained)}; the environment shows {_listed(met)}. Accepted: an "
        f"environment with {accepted}, and the same terms in its reward"
    )


def _listed(places: Places) -> str:
    return f"weights of {', '.join(places)}" if places else "no weights of objectives"


def write_weights(observations: Array, places: Places, weights: Weights) -> None:
    """Write weights, over their sum, into observations [..., F].

    Raises:
        ConfigError: an objective has a weight above 0 that the observations do not show.
    """
    given = weights.model_dump()
    total = sum(given.values())
    for name, weight in given.items():
        if name in places:
            observations[..., places[name]] = weight / total
        elif weight > 0:
            accepted = ", ".join(places) or "no weights: the policy was trained without any"
            raise ConfigError(
                f"weights.{name}: {weight:g} is for an objective that this policy lacks; accepted: {accepted}"
            )
