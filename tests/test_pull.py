"""`algorithm.pull_coeff`: a pull to the policy that training started with, which fades; by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import make_env, small_environment, typed_environment
from helpers.policies import kept
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor

from offload_rllib.algorithms.on_policy import FIRST_DIVERGENCE, HAS_CHOICE
from offload_rllib.algorithms.pull import FIRST_LOGP, divergence
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.policies.saved import load_saved_policy
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.episodes import agent_steps_of
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.training.rllib_config import algorithm_config

ENV_STEPS, PULL = 320, 0.5


def make_learner(folder: Path, name: str = "PPO", pull: float = PULL, **training: Any) -> Any:
    """Return a learner that is pulled to the policy of a folder, with random weights of its own."""
    policy = load_policy_config(
        {
            "algorithm": {"name": name, "batch_env_steps": 16, "minibatch_steps": 8, "lr": 0.01} | {"pull_coeff": pull},
            "network": {"hidden": [8]},
            "training": {"runners": 0, "envs_per_runner": 2, "env_steps": ENV_STEPS, "start_from": str(folder)}
            | training,
        }
    )
    env = make_env(small_environment())
    config = algorithm_config(load_environment(small_environment()), policy, cpus=2)
    return config.build_learner(env=None, spaces={SHARED: (observation_space(env), action_space(env))})


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Return the folder of a policy to start from."""
    kept(tmp_path / "first", make_env(typed_environment()), "shared", algorithm="PPO", output="logits")
    return tmp_path / "first"


def draw_steps() -> list[AgentSteps]:
    """Return steps of four agents in two environments; half of them have a choice."""
    rng = np.random.default_rng(0)
    features = make_env(small_environment()).observation_size
    shape = (8, 2, 4)
    masks = np.zeros((9, *shape[1:], 3), np.int8)
    masks[..., 0] = 1
    masks[..., 1] = rng.random(masks.shape[:-1]) < 0.5
    return agent_steps_of(
        [
            Fragment(
                module_id=SHARED,
                agents=("a", "b", "c", "d"),
                observations=rng.uniform(-1, 1, (9, *shape[1:], features)).astype(np.float32),
                masks=masks,
                actions=(rng.random(shape) < 0.5).astype(np.int32) * masks[:-1, ..., 1],
                log_probabilities=rng.uniform(-2, -0.1, shape).astype(np.float32),
                rewards=rng.normal(size=shape).astype(np.float32),
                truncated=np.zeros((8, 2), np.bool_),
                final_observations=np.zeros((0, 4, features), np.float32),
                final_masks=np.ones((0, 4, 3), np.int8),
            )
        ],
        joint=False,
    )


def rows_at(learner: Any, env_steps: int) -> dict[str, Any]:
    """Return what is learned from after so many environment steps."""
    learner.schedules_are_at({NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps})
    return learner.rows_of(SHARED, draw_steps(), own(learner))


def own(learner: Any) -> Any:
    return learner.config.get_config_for_module(SHARED)


def loss_of(learner: Any, rows: dict[str, Any]) -> Tensor:
    outputs = learner.module[SHARED].forward_train(rows)
    return learner.compute_loss_for_module(module_id=SHARED, config=own(learner), batch=rows, fwd_out=outputs)


def probabilities(network: Any, rows: dict[str, Any]) -> np.ndarray:
    seen = rows[Columns.OBS]
    with torch.no_grad():
        return network(seen["observations"], seen["action_mask"]).softmax(-1).double().numpy()


def plain_divergence(first: np.ndarray, present: np.ndarray, has_choice: np.ndarray) -> float:
    """Return the mean of KL(first || present), action by action."""
    total = 0.0
    for p, q, chosen in zip(first, present, has_choice, strict=True):
        total += sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0) if chosen else 0.0
    return total / max(int(has_choice.sum()), 1)


def test_a_divergence_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 4, generator=generator)
    logits[:, 2:, 3] = torch.finfo(torch.float32).min  # an action that is not valid
    has_choice = torch.tensor([True, False, True, True, False, True])
    first, present = (each.double().softmax(-1).numpy() for each in logits)
    found = divergence(logits[0].log_softmax(-1), logits[1], has_choice)
    assert float(found) == pytest.approx(plain_divergence(first, present, has_choice.numpy()), rel=1e-5)
    assert float(divergence(logits[0].log_softmax(-1), logits[0], has_choice)) == pytest.approx(0.0, abs=1e-6)
    assert float(divergence(logits[0].log_softmax(-1), logits[1], has_choice & False)) == 0.0


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_it_is_a_part_of_the_loss_that_falls_along_a_line(name: str, first: Path) -> None:
    learner = make_learner(first, name)
    source = load_saved_policy(first).networks[SHARED]
    for env_steps, weight in ((0, PULL), (ENV_STEPS // 4, 0.75 * PULL)):
        rows = rows_at(learner, env_steps)
        apart = plain_divergence(
            probabilities(source, rows),
            probabilities(learner.network(SHARED).actor, rows),
            rows[HAS_CHOICE].numpy(),
        )
        assert apart > 0.01
        with_pull = loss_of(learner, rows)
        assert float(learner._noted[SHARED][-1][FIRST_DIVERGENCE]) == pytest.approx(apart, rel=1e-4)
        rows.pop(FIRST_LOGP)
        assert (with_pull - loss_of(learner, rows)).item() == pytest.approx(weight * apart, rel=1e-3)
    for env_steps in (ENV_STEPS, 2 * ENV_STEPS):
        assert FIRST_LOGP not in rows_at(learner, env_steps)


def test_steps_are_written_out_again_when_it_is_over(first: Path) -> None:
    learner = make_learner(first)
    learner.schedules_are_at({NUM_ENV_STEPS_SAMPLED_LIFETIME: ENV_STEPS - 1})
    assert learner.fused_steps(SHARED) is None
    learner.schedules_are_at({NUM_ENV_STEPS_SAMPLED_LIFETIME: ENV_STEPS})
    assert learner.fused_steps(SHARED) is not None
    assert make_learner(first, pull=0.0).fused_steps(SHARED) is not None


def test_updates_pull_a_policy_back(first: Path) -> None:
    source = load_saved_policy(first).networks[SHARED]

    def apart_after(pull: float) -> float:
        learner = make_learner(first, pull=pull)
        steps = draw_steps()
        for _ in range(30):
            learner.update(training_data=None, episodes=steps, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: 0})
        rows = rows_at(learner, 0)
        present = probabilities(learner.network(SHARED).actor, rows)
        return plain_divergence(probabilities(source, rows), present, rows[HAS_CHOICE].numpy())

    assert apart_after(100.0) < 0.5 * apart_after(0.0)


def test_it_needs_a_first_policy() -> None:
    with pytest.raises(
        ConfigError, match=r"algorithm.pull_coeff \(0.5\) pulls to the policy that training starts with"
    ):
        load_policy_config("ppo", ["algorithm.pull_coeff=0.5"])
