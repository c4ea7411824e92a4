"""From the reward's configuration to its weights, and to what it is charged with."""

from __future__ import annotations

import numpy as np

from offload_rllib.config.environment import EnvironmentConfig
from offload_rllib.config.errors import ConfigError
from offload_rllib.simulator.objectives import ABSENT, DRAWN, OBJECTIVES
from offload_rllib.simulator.types import POWER

# What makes the reward have a term.
FACTORS = {"drops": "drop_penalty_s", "energy": "energy_weight", "price": "price_weight"}


def objective_weights(config: EnvironmentConfig) -> np.ndarray:
    """Return [4] float64, the weights of the objectives as `simulator.objectives` takes them; [0] without any.

    Raises:
        ConfigError: the reward has no terms to choose between, or a weight is given of a term that it lacks.
    """
    reward = config.reward
    if reward.weights is None:
        return np.zeros(0)
    if reward.name != "delay":
        raise ConfigError(f"reward.weights: needs reward.name: delay (given: {reward.name})")
    there = [name not in FACTORS or getattr(reward, FACTORS[name]) > 0 for name in OBJECTIVES]
    if sum(there) < 2:
        keys = ", ".join(f"reward.{key}" for key in FACTORS.values())
        raise ConfigError(
            f"reward.weights: there is nothing to weigh: the reward has one term, the response time. Accepted: one or "
            f"more of {keys} above 0"
        )
    if reward.weights == "drawn":
        return np.where(there, DRAWN, ABSENT)
    given = np.array([getattr(reward.weights, name) for name in OBJECTIVES])
    for name, value, is_there in zip(OBJECTIVES, given.tolist(), there, strict=True):
        if value > 0 and not is_there:
            raise ConfigError(f"reward.weights.{name}: {value:g} needs reward.{FACTORS[name]} above 0 (given: 0)")
    return np.where(there, given / given.sum(), ABSENT)


def charges(config: EnvironmentConfig, power: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Return [A, N] POWER: what the reward is charged with, in s, on each account.

    There is one account of energy and price together, or two of each by itself where the objectives have weights; none,
    [0, N], if the reward has no term of either. Idling and broadcasts are left out: no task uses them.

    Raises:
        ConfigError: a weight is given without what it weighs.
    """
    reward = config.reward
    if reward.energy_weight == 0 and reward.price_weight == 0:
        return np.zeros((0, len(power)), POWER)
    for key, weight, what, given in (
        ("energy_weight", reward.energy_weight, "energy", config.energy),
        ("price_weight", reward.price_weight, "price", config.price),
    ):
        if weight > 0 and given is None:
            raise ConfigError(f"reward.{key}: {weight:g} needs {what}: nothing is accounted for (given: null)")
        if weight > 0 and reward.name not in ("delay", "sparse"):
            raise ConfigError(f"reward.{key}: {weight:g} needs reward.name: delay or sparse (given: {reward.name})")
    record = np.zeros((1 if reward.weights is None else 2, len(power)), POWER)
    for use in ("server_w", "transmit_w", "j_per_bit", "j_per_result_bit"):
        record[0][use] = reward.energy_weight * power[use]
        if len(price):
            record[-1][use] += reward.price_weight * price[use]
    return record
