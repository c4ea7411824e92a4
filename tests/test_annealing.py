"""Annealed credit: advantages in hindsight at the beginning of a training, by rewards at its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.environments import ARRIVAL, make_env, small_environment
from helpers.sampling import make_runner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from offload_rllib.algorithms.advantages import generalised_advantages
from offload_rllib.algorithms.annealing import RIDGE, annealed, residuals
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.config.errors import ConfigError
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.training.rllib_config import algorithm_config

ENV_STEPS = 1000


def standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std(ddof=1)


def ridge_residuals(observations: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return the residuals of a ridge regression, as least squares with a row more for every coefficient."""
    seen = np.column_stack([observations, np.ones(len(observations))]).astype(float)
    more = np.sqrt(RIDGE * len(seen)) * np.eye(seen.shape[1])
    coefficients, *_ = np.linalg.lstsq(
        np.vstack([seen, more]), np.concatenate([gains, np.zeros(len(more))]), rcond=None
    )
    return gains - seen @ coefficients


def draw(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return advantages, gains, observations and choices; the last fifth of the gains is not known."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(count, 6)).astype(np.float32)
    observations[:, 2] = 1.0  # says nothing
    gains = (3.0 * observations[:, 0] - 40.0 + rng.normal(size=count)).astype(np.float32)
    gains[4 * count // 5 :] = np.nan
    return rng.normal(2.0, 5.0, count).astype(np.float32), gains, observations, rng.random(count) < 0.9


def test_residuals_are_those_of_a_ridge_regression() -> None:
    _, gains, observations, _ = draw(0)
    known = np.isfinite(gains)
    found = residuals(observations[known], gains[known]).numpy()
    np.testing.assert_allclose(found, ridge_residuals(observations[known], gains[known]), atol=1e-6)
    assert found.std() < 0.5 * gains[known].std()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_both_credits_are_standardised_and_weighted(weight: float) -> None:
    advantages, gains, observations, choices = draw(1)
    found = annealed(advantages, gains, observations, choices, weight)
    by_rewards = (advantages - advantages[choices].mean()) / advantages[choices].std(ddof=1)
    expected = (1 - weight) * by_rewards
    known = choices & np.isfinite(gains)
    expected[known] += weight * standard(ridge_residuals(observations[known], gains[known]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_any_known_cost_advantages_are_those_of_rewards() -> None:
    advantages, gains, observations, choices = draw(2)
    found = annealed(advantages, np.full_like(gains, np.nan), observations, choices, 0.5)
    np.testing.assert_allclose(found[choices], 0.5 * standard(advantages[choices]), atol=1e-5)


@pytest.mark.parametrize("env_steps", [0, 250, 1000, 1500])
def test_the_learner_moves_from_one_credit_to_the_other(env_steps: int) -> None:
    environment = load_environment(small_environment(decisions=ARRIVAL))
    policy = load_policy_config(
        {
            "algorithm": {"name": "PPO", "credit": "annealed", "batch_env_steps": 60, "minibatch_steps": 20},
            "network": {"hidden": [8]},
            "training": {"runners": 0, "envs_per_runner": 3, "env_steps": ENV_STEPS},
        }
    )
    config: Any = algorithm_config(environment, policy, cpus=2)
    samples = make_runner(config).sample(num_timesteps=60)
    env = make_env(environment)
    learner = config.build_learner(env=None, spaces={"shared": (observation_space(env), action_space(env))})
    learner.after_gradient_based_update(timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps})
    estimated, targets = learner._estimates("shared", samples, config)
    (steps,) = samples
    values = learner.values_of("shared", steps)
    plain = generalised_advantages(
        steps, values, gamma=config.gamma, lambda_=config.lambda_, discount_s=config.discount_s
    )
    weight = max(1 - env_steps / ENV_STEPS, 0)
    expected = annealed(plain, steps.hindsight, steps.observations, steps.choices, weight)
    np.testing.assert_array_equal(estimated[0], expected)
    np.testing.assert_allclose(targets[0], plain + values[: len(steps)], rtol=1e-6)  # critics learn of rewards alone
    if weight == 0:
        np.testing.assert_allclose(estimated[0][steps.choices], standard(plain[steps.choices]), atol=1e-4)


def test_annealed_credit_needs_decisions_at_arrivals() -> None:
    policy = load_policy_config({"algorithm": {"name": "A2C", "credit": "annealed"}})
    with pytest.raises(ConfigError, match=r"algorithm.credit: annealed needs decisions.when: arrival"):
        algorithm_config(load_environment(small_environment()), policy, cpus=2)
    stock = load_policy_config(
        {"algorithm": {"name": "PPO", "credit": "annealed"}, "training": {"env_runner": "stock"}}
    )
    with pytest.raises(ConfigError, match=r"algorithm.credit: annealed needs training.env_runner: batched"):
        algorithm_config(load_environment(small_environment(decisions=ARRIVAL)), stock, cpus=2)
