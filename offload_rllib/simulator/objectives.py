"""Several objectives: the weights that an episode gives the terms of its reward.

Weights are at least 0 and sum to 1. They are the same in every episode, or drawn for each: uniformly from all that sum
to 1, the Dirichlet distribution with all parameters 1. That is what independent exponential variables over their sum
follow (L. Devroye, "Non-Uniform Random Variate Generation", Springer 1986, chapter V.2). They depend on the key of the
episode alone.
"""

from __future__ import annotations

from offload_rllib.simulator import streams
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator.streams import EXPONENTIAL, sample, stream, uniform
from offload_rllib.simulator.types import Array, Scenario
from offload_rllib.simulator.variants import has_extensions

OBJECTIVES = ("response", "drops", "energy", "price")
RESPONSE, DROPS, ENERGY, PRICE = range(4)

# In `Scenario.weight`, in place of a weight.
DRAWN = -1.0
ABSENT = -2.0  # the reward has no such term


def objectives_of(scenario: Scenario) -> tuple[str, ...]:
    """Return the names of the objectives that an environment has weights of, in order; none without weights."""
    weight: Array = scenario.weight
    return tuple(name for name, value in zip(OBJECTIVES, weight, strict=False) if value != ABSENT)


@kernel
def has_weights(scenario):
    """Return whether the terms of the reward have weights that are a part of the episode."""
    return has_extensions(scenario) and scenario.weight.shape[0] > 0


@kernel
def begin_weights(scenario, environment):
    """Write the weights of an episode that begins; its key is set."""
    weights = environment.weight
    draws = stream(environment.episode[0].key, streams.OBJECTIVE_WEIGHT)
    total = 0.0
    for k in range(weights.shape[0]):
        weight = scenario.weight[k]
        if weight == ABSENT:
            weight = 0.0
        elif weight == DRAWN:
            weight = sample(EXPONENTIAL, 1.0, 0.0, uniform(draws, k))
        weights[k] = weight
        total += weight
    for k in range(weights.shape[0]):
        weights[k] /= total


@kernel
def response_weight(scenario, environment):
    """Return the weight of the response time in this episode; 1 without weights."""
    return environment.weight[RESPONSE] if has_weights(scenario) else 1.0


@kernel
def account_weight(scenario, environment, account):
    """Return the weight of what is charged on an account (`Scenario.charge`) in this episode; 1 without weights."""
    return environment.weight[ENERGY + account] if has_weights(scenario) else 1.0


@kernel
def charged_so_far(scenario, environment, n):
    """Return what tasks made at node `n` were charged by weight, in s; with n = N, those of all nodes."""
    total = 0.0
    for account in range(environment.charged.shape[0]):
        total += account_weight(scenario, environment, account) * environment.charged[account, n]
    return total
