"""DDQN computes what it says, learns at the ratio it was told, and goes on where it was saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.ddqn import make_learner, make_sample, policy_config
from helpers.environments import small_environment

from offload_rllib.algorithms.ddqn import DDQN, DDQNConfig
from offload_rllib.algorithms.direct_learner import DivergedError
from offload_rllib.algorithms.double_q import double_q_targets, move_target, value_at, weighted_huber
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.envs.rllib import register_environments
from offload_rllib.policies.network import INVALID_LOGIT
from offload_rllib.policies.saved import POLICY_FOLDER, load_saved_policy
from offload_rllib.policies.sharing import SHARED
from offload_rllib.training.rllib_config import algorithm_config
from offload_rllib.training.train import check


def test_the_target_takes_the_action_of_one_network_and_the_value_of_the_other() -> None:
    online = torch.tensor([[1.0, 3.0, 2.0], [-5.0, INVALID_LOGIT, -4.0], [0.0, 0.0, INVALID_LOGIT]])
    target = torch.tensor([[10.0, 20.0, 30.0], [-7.0, INVALID_LOGIT, -8.0], [-3.0, -2.0, INVALID_LOGIT]])
    returns, discounts = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 0.0])
    assert double_q_targets(returns, discounts, online, target).tolist() == [1 + 0.5 * 20, 2 - 8, 3]


def test_huber_loss_is_weighted() -> None:
    generator = torch.Generator().manual_seed(0)
    errors, weights = torch.randn(100, generator=generator) * 3, torch.rand(100, generator=generator)
    for delta in (0.5, 1.0, 4.0):
        losses = torch.nn.functional.huber_loss(errors, torch.zeros(100), reduction="none", delta=delta)
        assert weighted_huber(errors, weights, delta) == pytest.approx((weights * losses).mean().item(), rel=1e-6)


def test_the_target_network_moves_by_tau() -> None:
    network, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    before = target.weight.detach().clone()
    move_target(network, target, 0.25)
    assert torch.allclose(target.weight, 0.25 * network.weight + 0.75 * before)
    move_target(network, target, 1.0)
    assert (target.weight == network.weight).all()
    assert (target.bias == network.bias).all()


def test_schedules_are_straight_lines() -> None:
    schedule = [[0, 1.0], [100, 0.2]]
    assert [value_at(schedule, steps) for steps in (0, 50, 100, 500)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("network", ["plain", "dueling"])
def test_td_errors_are_those_of_a_plain_reference(network: str) -> None:
    dueling = network == "dueling"
    learner = make_learner(dueling=dueling, target_update_every=10_000)
    module = learner.module[SHARED].unwrapped()
    for seed in range(5):  # lets the network leave its target behind
        learner.learn(SHARED, make_sample(learner, seed=1 + seed))
    sample = make_sample(learner)
    rows = sample.transitions

    def values_of(values: Any, observations: np.ndarray, masks: np.ndarray) -> np.ndarray:
        # A plain network's values do not depend on the mask, so that the reference need not use it.
        given = masks if dueling else np.ones_like(masks)
        with torch.no_grad():
            return values(torch.from_numpy(observations), torch.from_numpy(given)).numpy()

    now = values_of(module.q, rows.observations, rows.masks)
    online = values_of(module.q, rows.next_observations, rows.next_masks)
    target = values_of(module.target_q, rows.next_observations, rows.next_masks)
    assert not np.allclose(online, target)
    expected = np.zeros(len(now))
    for i in range(len(now)):
        valid = np.flatnonzero(rows.next_masks[i])
        best = max(valid, key=lambda action, i=i: online[i, action])
        expected[i] = rows.returns[i] + rows.discounts[i] * target[i, best] - now[i, rows.actions[i]]
    errors = learner.learn(SHARED, sample)
    assert errors == pytest.approx(expected, abs=1e-4)
    assert np.abs(errors).max() < 1000, "no target holds the mark of actions that are not valid"


def test_the_target_network_follows_every_so_many_updates() -> None:
    learner = make_learner(target_update_every=3)
    module = learner.module[SHARED].unwrapped()

    def same() -> bool:
        return all((a == b).all() for a, b in zip(module.q.parameters(), module.target_q.parameters(), strict=True))

    assert same()
    seen = []
    for i in range(7):
        learner.learn(SHARED, make_sample(learner, seed=i))
        seen.append(same())
    assert seen == [False, False, True, False, False, True, False]
    again = make_learner(target_update_every=3)
    again.set_state(learner.get_state())
    learner.learn(SHARED, make_sample(learner, seed=9))
    again.learn(SHARED, make_sample(learner, seed=9))
    again.learn(SHARED, make_sample(learner, seed=10))
    restored = again.module[SHARED].unwrapped()
    assert all((a == b).all() for a, b in zip(restored.q.parameters(), restored.target_q.parameters(), strict=True))


def test_gradients_are_clipped_and_divergence_is_an_error() -> None:
    learner = make_learner(grad_clip=1e-3)
    sample = make_sample(learner)
    learner.learn(SHARED, sample)
    parameters = list(learner.module[SHARED].unwrapped().q.parameters())
    norm = torch.stack([parameter.grad.norm() for parameter in parameters if parameter.grad is not None]).norm()
    assert norm.item() <= 1e-3 * 1.001
    sample.transitions.returns[0] = np.inf
    with pytest.raises(DivergedError, match="not finite"):
        learner.learn(SHARED, sample)


def test_several_learners_are_refused() -> None:
    config = algorithm_config(load_environment(small_environment()), policy_config(), cpus=2)
    with pytest.raises(ConfigError, match="accepted: 0 or 1"):
        config.learners(num_learners=2).validate()
    with pytest.raises(TypeError):
        DDQNConfig().training(replay_rato=2.0)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="learning_starts"):
        policy_config({"learning_starts": 201})
    with pytest.raises(ConfigError, match="sample_env_steps"):
        policy_config({"sample_env_steps": 82})
    with pytest.raises(ConfigError, match="unknown key"):
        policy_config({"minibatch_steps": 64})
    with pytest.raises(ConfigError, match="replay_capacity"):
        check(load_environment(small_environment()), policy_config({"replay_capacity": 2**31}))


def test_a_round_takes_the_updates_that_are_due_and_tells_replay_their_errors() -> None:
    calls: list[Any] = []
    replay = SimpleNamespace(
        sample=lambda size, *, beta: calls.append((size, beta)) or SimpleNamespace(states=f"states {len(calls)}"),
        update_priorities=lambda states, errors: calls.append((states, errors)),
    )
    config = SimpleNamespace(
        train_batch_size_per_learner=32, replay_ratio=2.0, priority_alpha=0.6, priority_beta=[[0, 0.4], [1000, 1.0]]
    )
    trainer = SimpleNamespace(
        config=config,
        _updates_due={SHARED: 0.5},
        env_steps=500,
        _learner=lambda learn: f"errors of {learn.keywords['module_id']}",
    )
    DDQN._update(trainer, SHARED, replay, 30)  # 0.5 + 2 x 30 / 32 = 2.375
    assert trainer._updates_due[SHARED] == pytest.approx(0.375)
    drawn, told = (32, pytest.approx(0.7)), "errors of shared"
    assert calls == [drawn, ("states 1", told), drawn, ("states 3", told)]
    calls.clear()
    config.priority_alpha = 0.0
    DDQN._update(trainer, SHARED, replay, 16)
    assert calls == [drawn]


@pytest.mark.usefixtures("ray_session")
def test_it_learns_at_its_ratio_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    register_environments()
    settings = {"replay_ratio": 2.0, "epsilon_decay_env_steps": 1000, "replay_in_checkpoints": True}
    settings |= {"gamma": 0.9, "discount_s": 3.0, "n_step": 2, "priority_alpha": 0.5}
    config = algorithm_config(load_environment(small_environment()), policy_config(settings), cpus=2)
    algorithm = config.build_algo()
    assert isinstance(algorithm, DDQN)
    try:
        replay = algorithm._replay[SHARED]
        assert (replay.capacity, replay._gamma, replay._n_step, replay._alpha) == (400, 0.9, 2, 0.5)
        assert replay._discount_s == 3.0
        finished = []
        add = replay.add

        def counted(fragment: Any) -> int:
            finished.append(add(fragment))
            return finished[-1]

        replay.add = counted
        figures = [algorithm.train()["learners"][SHARED] for _ in range(3)][-1]
        assert len(finished) == 6, "two rounds per iteration"
        starts = next(i for i in range(6) if sum(finished[: i + 1]) >= 50)
        assert figures["updates_lifetime"] == int(2.0 * sum(finished[starts:]) / 32)
        assert figures["replay_transitions"] == len(replay)
        assert figures["epsilon"] == pytest.approx(1 - 0.95 * 480 / 1000)
        for name in ("td_error_mean", "q_mean", "total_loss", "gradient_norm"):
            assert np.isfinite(figures[name]), name
        learned = algorithm.learner_group.get_weights()[SHARED]
        acting = algorithm.env_runner_group.local_env_runner.module[SHARED].state_dict()
        for name, weights in acting.items():
            assert (weights.numpy() == learned[name]).all(), name

        algorithm.save_to_path(str(tmp_path))
        algorithm.save_checkpoint(str(tmp_path))
        drawn = replay.sample(20).states
        saved = load_saved_policy(tmp_path / POLICY_FOLDER)
        seen = replay.sample(200).transitions
        with torch.no_grad():
            q = algorithm.learner_group._learner.module[SHARED].unwrapped().q
            best = q(torch.from_numpy(seen.observations), torch.from_numpy(seen.masks)).argmax(-1).numpy()
        assert (saved(seen.observations, seen.masks) == best).all(), "the kept policy acts without RLlib"
        resumed = config.build_algo()
        try:
            resumed.restore_from_path(str(tmp_path))
            assert (resumed._replay[SHARED].sample(20).states == drawn).all()
            assert resumed.train()["learners"][SHARED]["updates_lifetime"] > figures["updates_lifetime"]
        finally:
            resumed.stop()
    finally:
        algorithm.stop()
