"""PPO respects masks, learns from choices alone, and leaves a policy that works without RLlib."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import make_env, small_environment
from helpers.policies import policy_config
from helpers.results import leaves
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.evaluation.postprocessing import Postprocessing

import offload_rllib
from offload_rllib.algorithms.on_policy import HAS_CHOICE, select_rows
from offload_rllib.algorithms.ppo import PPO
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.observation import layout_of
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.policies.module import MaskedActorCritic
from offload_rllib.policies.sharing import SHARED
from offload_rllib.training.rllib_config import algorithm_config


@pytest.fixture
def module() -> MaskedActorCritic:
    env = make_env(small_environment())
    return MaskedActorCritic(
        observation_space=observation_space(env),
        action_space=action_space(env),
        inference_only=False,
        model_config={"hidden": (16, 16), "activation": "tanh"},
    )


def batch_of(rows: int, seed: int = 0) -> dict[str, Any]:
    """Return a learner's batch in which the first half of the rows has a choice."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((rows, 3), np.int8)
    masks[:, 0] = 1
    masks[: rows // 2, 1:] = 1
    return {
        Columns.OBS: {
            "observations": torch.from_numpy(rng.uniform(-1, 1, (rows, layout_of(3).size)).astype(np.float32)),
            "action_mask": torch.from_numpy(masks),
        },
        Columns.ACTIONS: torch.zeros(rows, dtype=torch.long),
        Columns.ACTION_LOGP: torch.full((rows,), -1.0),
        HAS_CHOICE: torch.from_numpy(masks.sum(1) > 1),
        Postprocessing.ADVANTAGES: torch.from_numpy(rng.normal(5, 3, rows).astype(np.float32)),
        Postprocessing.VALUE_TARGETS: torch.from_numpy(rng.normal(0, 1, rows).astype(np.float32)),
    }


def test_actions_that_are_not_valid_are_never_drawn(module: MaskedActorCritic) -> None:
    batch = batch_of(64)
    for parameter in module.actor.parameters():
        torch.nn.init.zeros_(parameter)  # scores of exactly 0 are no special case
    before = batch[Columns.OBS]["observations"].clone()
    distribution = module.get_exploration_action_dist_cls().from_logits(
        module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
    )
    torch.manual_seed(0)
    drawn = torch.stack([distribution.sample() for _ in range(300)])
    assert (drawn[:, 32:] == 0).all()
    for action in range(3):
        assert (drawn[:, :32] == action).float().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert (batch[Columns.OBS]["observations"] == before).all(), "the batch is only read"
    assert set(batch[Columns.OBS]) == {"observations", "action_mask"}
    assert distribution.entropy()[32:].abs().max() < 1e-6


def test_every_choice_is_kept_and_a_sample_of_the_rest() -> None:
    has_choice = np.arange(100) % 4 == 0
    rows = select_rows(has_choice, 0.5, np.random.default_rng(0))
    assert len(set(rows.tolist())) == len(rows) == 25 + 12
    assert set(np.flatnonzero(has_choice)) <= set(rows.tolist())
    assert 0 < has_choice[rows[:12]].sum() < 12, "choices and other steps are mixed: each minibatch is a fair sample"
    assert (select_rows(has_choice, 0.5, np.random.default_rng(1)) != rows).any()
    assert sorted(select_rows(np.zeros(20, np.bool_), 1.0, np.random.default_rng(0))) == list(range(20)), (
        "without any choice the critic still learns"
    )


@pytest.mark.usefixtures("ray_session")
def test_steps_without_a_choice_do_not_move_the_actor() -> None:
    env = make_env(small_environment())
    config = algorithm_config(load_environment(small_environment()), policy_config(), cpus=2)
    learner = config.build_learner(
        env=None,
        spaces={SHARED: (observation_space(env), action_space(env))},
    )
    gradients = []
    for noise in (0.0, 10.0):
        batch = batch_of(64)
        idle = ~batch[HAS_CHOICE]
        batch[Postprocessing.ADVANTAGES][idle] += noise
        batch[Columns.ACTION_LOGP][idle] -= noise / 10
        module = learner.module[SHARED].unwrapped()
        module.zero_grad()
        outputs = module.forward_train(batch)
        config_of_module = learner.config.get_config_for_module(SHARED)
        loss = learner.compute_loss_for_module(module_id=SHARED, config=config_of_module, batch=batch, fwd_out=outputs)
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in module.actor.parameters()])
        assert all(parameter.grad.abs().sum() > 0 for parameter in module.critic.parameters())
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)
    assert any(gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.usefixtures("ray_session")
def test_a_checkpoint_carries_a_policy_that_acts_as_rllibs(tmp_path: Path) -> None:
    from offload_rllib.envs.rllib import register_environments

    register_environments()
    algorithm = algorithm_config(load_environment(small_environment()), policy_config(), cpus=2).build_algo()
    try:
        result = algorithm.train()
        assert result["timesteps_total"] == 160
        algorithm.save_checkpoint(str(tmp_path))
    finally:
        algorithm.stop()
    saved = offload_rllib.load_policy(tmp_path)
    assert saved.description.env_steps == 160
    assert saved.description.decides == "interval"
    restored = RLModule.from_checkpoint(tmp_path / "learner_group" / "learner" / "rl_module" / SHARED)
    env = make_env(small_environment(), 8)
    for _ in range(20):
        env.step(env.heuristic_actions("random"))
        outputs = restored.forward_inference(
            {
                Columns.OBS: {
                    "observations": torch.from_numpy(env.observations.copy()),
                    "action_mask": torch.from_numpy(env.masks.copy()),
                }
            }
        )
        expected = outputs[Columns.ACTION_DIST_INPUTS].argmax(-1).numpy()
        assert (saved(env.observations, env.masks) == expected).all()
    with pytest.raises(ValueError, match=r"takes 42 observations and 3 actions; the environment has 41 and 3"):
        saved(env.observations[..., 1:], env.masks)


@pytest.mark.usefixtures("ray_session")
def test_every_policy_of_a_sharing_is_trained_with_its_own_hyperparameters_and_kept(tmp_path: Path) -> None:
    from offload_rllib.envs.rllib import register_environments

    register_environments()
    shared = {"mapping": {"even": ["a", "c"], "odd": ["b", "d"]}}
    content = policy_config().model_dump(mode="json", by_alias=True)
    content |= {"sharing": shared, "policies": {"odd": {"lr": 1e-12}}, "network": {"kind": "pointer", "hidden": [8]}}
    config = algorithm_config(load_environment(small_environment()), load_policy_config(content), cpus=2)
    algorithm = config.build_algo()
    try:
        before = algorithm.get_weights()
        algorithm.train()
        after = algorithm.get_weights()
        algorithm.save_checkpoint(str(tmp_path))
    finally:
        algorithm.stop()
    assert set(after) == {"even", "odd"}
    for name, moves in (("even", True), ("odd", False)):
        change = max(np.abs(after[name][key] - before[name][key]).max() for key in after[name])
        assert (change > 1e-4) == moves, (name, change)
    env = make_env(small_environment(), 4)
    policy = offload_rllib.load_policy(tmp_path).on(env)
    assert policy(env.observations, env.masks).shape == (4, 4)
    described = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert described["serves"] == {"even": ["a", "c"], "odd": ["b", "d"]}
    assert described["policy_of"] == ["even", "odd", "even", "odd"]
    assert described["network"]["kind"] == "pointer"


@pytest.mark.usefixtures("ray_session")
def test_a_restored_run_counts_on_and_plays_new_episodes(tmp_path: Path) -> None:
    from offload_rllib.envs.rllib import register_environments

    register_environments()
    config = algorithm_config(load_environment(small_environment()), policy_config(), cpus=2)
    first, second = config.copy().build_algo(), config.copy().build_algo()
    try:
        first.train()
        first.train()
        first.save_checkpoint(str(tmp_path))
        second.load_checkpoint(str(tmp_path))
        assert second.env_runner_group.local_env_runner._first_episode == 320
        before = second.get_weights()[SHARED]
        for key, value in first.get_weights()[SHARED].items():
            np.testing.assert_array_equal(value, before[key])
        assert second.train()["timesteps_total"] == 480
    finally:
        first.stop()
        second.stop()


@pytest.mark.usefixtures("ray_session")
def test_the_number_of_result_keys_does_not_grow_with_the_network() -> None:
    from offload_rllib.envs.rllib import register_environments

    register_environments()
    counts = []
    for name in ("ether_12", "ether_31"):
        overrides = ["horizon_s=40", "warmup_s=0", "drain_s=0"]
        config = algorithm_config(load_environment(name, overrides), policy_config(), cpus=2)
        algorithm = config.build_algo()
        try:
            algorithm.train()
            result = algorithm.train()
        finally:
            algorithm.stop()
        result.pop("config")
        counts.append(leaves(result))
    assert counts[1] - counts[0] <= 31 * 4, counts  # RLlib's own returns and lengths per agent
    assert counts[1] < 350, counts


def test_the_algorithm_is_an_ordinary_rllib_algorithm() -> None:
    from ray.rllib.algorithms.ppo import PPO as RLLIB_PPO

    assert issubclass(PPO, RLLIB_PPO)
