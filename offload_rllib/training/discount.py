"""The unit of time of gamma and lambda, where a policy file leaves it to the environment."""

from __future__ import annotations

from offload_rllib.algorithms.settings import DISCOUNT_S
from offload_rllib.config import PolicyConfig
from offload_rllib.scenario import BuiltScenario

# In a mean deadline. With gamma 0.99 decisions look two thirds of a deadline ahead: what comes later is mostly noise.
UNITS = 150


def with_discount(policy: PolicyConfig, scenario: BuiltScenario) -> PolicyConfig:
    """Return the settings of a policy with `algorithm.discount_s`, s, as it is in an environment."""
    if policy.algorithm.discount_s is not None:
        return policy
    deadline_s = scenario.mean_deadline_s
    discount_s = DISCOUNT_S if deadline_s is None else deadline_s / UNITS
    algorithm = policy.algorithm.model_copy(update={"discount_s": discount_s})
    return policy.model_copy(update={"algorithm": algorithm})
