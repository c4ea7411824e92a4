"""Every loss, and every gradient of it, is that of a plain reference in scalars."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import make_env, small_environment
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing

from offload_rllib.algorithms.appo_learner import TARGET_LOGP
from offload_rllib.algorithms.ddqn_learner import DISCOUNTS, RETURNS, TD_ERRORS, WEIGHTS
from offload_rllib.algorithms.on_policy import HAS_CHOICE
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.policies.module import QF_PREDS
from offload_rllib.policies.network import INVALID_LOGIT
from offload_rllib.policies.sharing import SHARED
from offload_rllib.training.rllib_config import algorithm_config

CLIP, VF_COEFF, IMPORTANCE_CLIP, DELTA = 0.15, 0.3, 1.4, 0.8
ENTROPY_COEFFS = (0.4, 0.1)
ENV_STEPS = 480
ENTROPY_COEFF_HALFWAY = 0.25
COEFFICIENTS: dict[str, Any] = {
    "entropy_coeff": ENTROPY_COEFFS[0],
    "final_entropy_coeff": ENTROPY_COEFFS[1],
    "vf_loss_coeff": VF_COEFF,
}
ROWS, ACTIONS = 24, 3
Scalars = list[list[float]]


def make_learner(name: str, **algorithm: Any) -> Any:
    """Return a learner of the small environment, its schedules half way through the run."""
    policy = load_policy_config(
        {
            "algorithm": {"name": name} | algorithm,
            "network": {"hidden": [8]},
            "training": {"runners": 1, "envs_per_runner": 4, "env_steps": ENV_STEPS, "seed": 3},
        }
    )
    env = make_env(small_environment())
    config = algorithm_config(load_environment(small_environment()), policy, cpus=2)
    learner = config.build_learner(env=None, spaces={SHARED: (observation_space(env), action_space(env))})
    for schedule in learner.schedules():
        schedule.update(timestep=ENV_STEPS // 2)
    return learner


def draw_batch(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return rows of which two thirds have a choice, among two or three actions; ratios fall on both sides of clips."""
    masks = np.ones((ROWS, ACTIONS), np.int8)
    masks[::3, 1:] = 0
    masks[1::6, 2] = 0
    actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
    return {
        "masks": masks,
        "actions": actions,
        "logp": rng.uniform(-2.0, -0.2, ROWS),
        "target_logp": rng.uniform(-2.0, -0.2, ROWS),
        "advantages": rng.normal(0.3, 1.0, ROWS),
        "targets": rng.normal(0.0, 2.0, ROWS),
    }


def log_softmax(scores: list[float], mask: np.ndarray) -> list[float]:
    """Return log probabilities of the valid actions; minus infinity for the others."""
    total = sum(math.exp(score) for score, valid in zip(scores, mask, strict=True) if valid)
    return [score - math.log(total) if valid else -math.inf for score, valid in zip(scores, mask, strict=True)]


def reference(
    name: str, rows: dict[str, np.ndarray], scores: Scalars, values: list[float]
) -> tuple[float, dict[str, float]]:
    """Return the loss of `docs/algorithms`, and its parts, row by row."""
    gain = entropy = value_loss = 0.0
    choices = 0
    for i, mask in enumerate(rows["masks"]):
        value_loss += (values[i] - rows["targets"][i]) ** 2 / len(values)
        if mask.sum() < 2:
            continue
        choices += 1
        logp = log_softmax(scores[i], mask)
        entropy -= sum(math.exp(one) * one for one in logp if one > -math.inf)
        advantage = rows["advantages"][i]
        taken = logp[rows["actions"][i]]
        if name == "A2C":
            gain += advantage * taken
            continue
        ratio = math.exp(taken - rows["logp"][i])
        if name == "APPO":
            ratio *= min(math.exp(rows["logp"][i] - rows["target_logp"][i]), IMPORTANCE_CLIP)
        gain += min(ratio * advantage, max(1 - CLIP, min(1 + CLIP, ratio)) * advantage)
    parts = {POLICY_LOSS_KEY: -gain / choices, VF_LOSS_KEY: value_loss, ENTROPY_KEY: entropy / choices}
    loss = parts[POLICY_LOSS_KEY] + VF_COEFF * value_loss - ENTROPY_COEFF_HALFWAY * parts[ENTROPY_KEY]
    return loss, parts


def slope(function: Callable[[Any], float], at: Any, index: tuple[int, ...]) -> float:
    """Return the derivative by one number of nested lists, by central differences."""
    found = []
    for step in (1e-5, -1e-5):
        moved = copy.deepcopy(at)
        inner = moved
        for i in index[:-1]:
            inner = inner[i]
        inner[index[-1]] += step
        found.append(function(moved))
    return (found[0] - found[1]) / 2e-5


@pytest.mark.parametrize("name", ["PPO", "A2C", "APPO"])
def test_the_losses_of_actor_and_critic_and_their_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = COEFFICIENTS | ({"clip": CLIP} if name != "A2C" else {})
    settings |= (
        {"importance_clip": IMPORTANCE_CLIP, "fragment_steps": 20, "batch_env_steps": 80} if name == "APPO" else {}
    )
    learner = make_learner(name, **settings)
    rng = np.random.default_rng(0)
    rows = draw_batch(rng)
    scores = torch.from_numpy(rng.normal(0, 1, (ROWS, ACTIONS))).requires_grad_()
    values = torch.from_numpy(rng.normal(0, 2, ROWS)).requires_grad_()
    has_choice = torch.from_numpy(rows["masks"].sum(1) > 1)
    logits = scores.masked_fill(torch.from_numpy(rows["masks"]) == 0, INVALID_LOGIT)
    batch = {
        Columns.ACTIONS: torch.from_numpy(rows["actions"]),
        Columns.ACTION_LOGP: torch.from_numpy(rows["logp"]),
        TARGET_LOGP: torch.from_numpy(rows["target_logp"]),
        HAS_CHOICE: has_choice,
        Postprocessing.ADVANTAGES: torch.from_numpy(rows["advantages"]),
        Postprocessing.VALUE_TARGETS: torch.from_numpy(rows["targets"]),
    }
    monkeypatch.setattr(learner.module[SHARED].unwrapped(), "compute_values", lambda _batch: values)
    outputs = {Columns.ACTION_DIST_INPUTS: logits[has_choice] if name == "APPO" else logits}
    config = learner.config.get_config_for_module(SHARED)
    loss = learner.compute_loss_for_module(module_id=SHARED, config=config, batch=batch, fwd_out=outputs)
    loss.backward()

    plain_scores, plain_values = scores.detach().tolist(), values.detach().tolist()
    expected, parts = reference(name, rows, plain_scores, plain_values)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    noted = learner._noted[SHARED][-1]
    for key, part in parts.items():
        assert noted[key].item() == pytest.approx(part, rel=1e-6), key
    for i in range(ROWS):
        by_value = slope(lambda moved: reference(name, rows, plain_scores, moved)[0], plain_values, (i,))
        assert values.grad[i].item() == pytest.approx(by_value, abs=1e-6), i
        for action in range(ACTIONS):
            by_score = slope(lambda moved: reference(name, rows, moved, plain_values)[0], plain_scores, (i, action))
            assert scores.grad[i, action].item() == pytest.approx(by_score, abs=1e-6), (i, action)
    if name == "APPO":
        learner.shutdown()


def huber(errors: list[float], weights: np.ndarray) -> float:
    """Return the mean of weight x Huber loss."""
    losses = [0.5 * e * e if abs(e) <= DELTA else DELTA * (abs(e) - 0.5 * DELTA) for e in errors]
    return sum(weight * one for weight, one in zip(weights, losses, strict=True)) / len(errors)


def test_the_loss_of_action_values_and_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner("DDQN", huber_delta=DELTA)
    module = learner.module[SHARED].unwrapped()
    rng = np.random.default_rng(0)
    now, online, target = rng.normal(0, 1.5, (3, ROWS, ACTIONS))
    masks = draw_batch(rng)["masks"][np.arange(ROWS) % 3 > 0]
    masks = np.concatenate([masks, masks])[:ROWS]
    for values in (online, target):
        values[masks == 0] = INVALID_LOGIT
    actions = rng.integers(0, ACTIONS, ROWS)
    returns, discounts, weights = rng.normal(size=ROWS), rng.uniform(0.3, 1, ROWS), rng.uniform(0.1, 1, ROWS)
    present = torch.from_numpy(now).requires_grad_()
    batch = {
        Columns.NEXT_OBS: {},
        Columns.ACTIONS: torch.from_numpy(actions),
        RETURNS: torch.from_numpy(returns),
        DISCOUNTS: torch.from_numpy(discounts),
        WEIGHTS: torch.from_numpy(weights),
    }
    monkeypatch.setattr(module, "compute_q_values", lambda _batch: {QF_PREDS: torch.from_numpy(online)})
    monkeypatch.setattr(module, "forward_target", lambda _batch: {QF_PREDS: torch.from_numpy(target)})
    outputs = {QF_PREDS: present}
    config = learner.config.get_config_for_module(SHARED)
    loss = learner.compute_loss_for_module(module_id=SHARED, config=config, batch=batch, fwd_out=outputs)
    loss.backward()

    def errors_of(values: Scalars) -> list[float]:
        found = []
        for i in range(ROWS):
            best = max(range(ACTIONS), key=lambda action, i=i: online[i, action])
            found.append(returns[i] + discounts[i] * target[i, best] - values[i][actions[i]])
        return found

    plain = now.tolist()
    expected = errors_of(plain)
    assert 0.2 < np.mean(np.abs(expected) > DELTA) < 0.8, "both branches of the loss are met"
    assert loss.item() == pytest.approx(huber(expected, weights), rel=1e-6)
    assert outputs[TD_ERRORS].tolist() == pytest.approx(expected)
    for i in range(ROWS):
        for action in range(ACTIONS):
            by_value = slope(lambda moved: huber(errors_of(moved), weights), plain, (i, action))
            assert present.grad[i, action].item() == pytest.approx(by_value, abs=1e-6), (i, action)
