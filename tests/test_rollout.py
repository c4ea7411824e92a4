"""The batched runner gives what RLlib's own runner gives, and nothing depends on how it is batched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import small_environment
from helpers.sampling import SHARING, by_agent, make_runner, runner_config
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets
from scipy import stats

from offload_rllib.algorithms.advantages import generalised_advantages
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.rollout.acting import draw_uniform
from offload_rllib.rollout.episodes import as_samples
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.runner import BatchedEnvRunner
from offload_rllib.training.rllib_config import algorithm_config


def pair_of_runners(sharing: str, **options: Any) -> tuple[BatchedEnvRunner, MultiAgentEnvRunner]:
    """Return a batched and a stock runner with the same weights."""
    config = runner_config(sharing, **options)
    batched = make_runner(config)
    stock = MultiAgentEnvRunner(config=config, worker_index=0)
    torch.manual_seed(3)
    for module in batched.module.values():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)  # far from uniform, so that the choices differ
    stock.module.set_state(batched.module.get_state())
    return batched, stock


@pytest.mark.parametrize("sharing", sorted(SHARING))
def test_both_runners_give_the_same_trajectories(sharing: str) -> None:
    batched, stock = pair_of_runners(sharing)
    fragments = batched.sample(num_timesteps=3 * 40, explore=False)  # one whole episode each
    episodes = stock.sample(num_episodes=3, explore=False)
    assert len(episodes) == 3
    compared = choices = 0
    taken: set[int] = set()
    for e, episode in enumerate(episodes):
        expected = as_samples([episode])
        for agent in batched.env.batch.agents:
            ours, theirs = by_agent(fragments, e, agent), by_agent(expected, 0, agent)
            assert ours.module_id == theirs.module_id == SHARING[sharing][0](agent, None)
            np.testing.assert_array_equal(ours.observations[:-1], theirs.observations[:-1])
            np.testing.assert_array_equal(ours.masks[:-1], theirs.masks[:-1])
            np.testing.assert_array_equal(ours.actions, theirs.actions)
            np.testing.assert_array_equal(ours.rewards, theirs.rewards)
            np.testing.assert_array_equal(ours.truncated, theirs.truncated)
            np.testing.assert_array_equal(ours.final_observations, theirs.final_observations)
            np.testing.assert_array_equal(ours.final_masks, theirs.final_masks)
            assert ours.truncated[-1, 0]
            compared += 1
            choices += int(ours.choices.sum())
            taken |= set(ours.actions.ravel().tolist())
    assert compared == 3 * len(batched.env.batch.agents)
    assert choices > 100
    assert taken == {0, 1, 2}


def test_episodes_go_on_across_samples() -> None:
    whole = make_runner(runner_config()).sample(num_timesteps=3 * 100)[0]
    runner = make_runner(runner_config())
    runner.module.set_state(make_runner(runner_config()).module.get_state())
    pieces = []
    for steps in (1, 38, 2, 59):
        piece = runner.sample(num_timesteps=3 * steps)[0]
        pieces.append((piece.observations[:-1].copy(), piece.truncated.copy(), piece.final_observations.copy()))
    assert whole.truncated.sum() == 6
    assert (np.concatenate([p[1] for p in pieces]) == whole.truncated).all()
    assert np.concatenate([p[2] for p in pieces]).shape == whole.final_observations.shape


def test_what_was_sampled_stays_as_long_as_it_is_held() -> None:
    runner = make_runner(runner_config())
    held = runner.sample(num_timesteps=60)[0].observations[1:, 0]
    before = held.copy()
    again = runner.sample(num_timesteps=60)[0]
    np.testing.assert_array_equal(held, before)
    del again
    address = runner.sample(num_timesteps=60)[0].observations.ctypes.data
    assert runner.sample(num_timesteps=60)[0].observations.ctypes.data == address, "free memory is used again"


def test_sampled_actions_depend_on_the_episode_alone() -> None:
    one, many = make_runner(runner_config(envs=1)), make_runner(runner_config(envs=8))
    many.module.set_state(one.module.get_state())
    few, all_ = one.sample(num_timesteps=80)[0], many.sample(num_timesteps=8 * 80)[0]
    np.testing.assert_array_equal(few.actions[:, 0], all_.actions[:, 0])
    np.testing.assert_array_equal(few.observations[:, 0], all_.observations[:, 0])
    assert (all_.actions[:, 0] != all_.actions[:, 1]).any()
    assert len(np.unique(few.actions)) == many.env.batch.num_actions


def test_runners_and_seeds_play_different_episodes() -> None:
    firsts = []
    for worker in (0, 1, 2):
        for seed in (7, 8):
            runner = make_runner(runner_config(envs=4, seed=seed), worker=worker)
            runner.sample(num_timesteps=4)
            firsts.append(runner.keys.copy())
    keys = np.concatenate(firsts)
    # RLlib's seeds overlap (worker 1 of seed 7 is worker 0 of seed 8), but the address holds the worker as well;
    # the run's own seed is in env_config, and here the same.
    assert len(np.unique(keys.reshape(3, -1), axis=0)) == 3
    assert not set(firsts[0].tolist()) & set(firsts[2].tolist())
    config = runner_config(envs=4)
    config.environment(env_config={"env": small_environment(), "seed": 6})
    other = make_runner(config)
    other.sample(num_timesteps=4)
    assert not set(other.keys.tolist()) & set(keys.tolist())


def test_an_environment_plays_no_episode_twice() -> None:
    runner = make_runner(runner_config(envs=2))
    played = []
    for _ in range(4):
        runner.sample(num_timesteps=2 * 40)  # one episode of each
        played += runner.keys.tolist()
    assert len(set(played)) == 8


def test_a_runner_that_comes_back_plays_new_episodes() -> None:
    runner = make_runner(runner_config())
    runner.sample(num_timesteps=3)
    before = set(runner.keys.tolist())
    runner.continue_series(1000)
    runner.sample(num_timesteps=3)
    assert not before & set(runner.keys.tolist())


def test_state_goes_from_runner_to_runner() -> None:
    first, second = make_runner(runner_config(seed=1)), make_runner(runner_config(seed=2))
    first.sample(num_timesteps=30)
    state = first.get_state()
    second.set_state(state)
    assert second.num_env_steps_sampled_lifetime == 30
    for name, value in first.module["shared"].state_dict().items():
        assert torch.equal(value, second.module["shared"].state_dict()[name])
    assert second.assert_healthy() is None


def test_whole_episodes_and_counts() -> None:
    runner = make_runner(runner_config())
    fragment = runner.sample(num_episodes=5)[0]  # three environments: six episodes
    assert fragment.truncated.sum() == 6
    assert fragment.final_observations.shape[0] == 6
    metrics = runner.get_metrics()
    assert metrics["num_episodes"].peek() == 6
    assert metrics["num_env_steps_sampled"].peek() == 240
    assert metrics["num_module_steps_sampled"]["shared"].peek() == 240 * len(fragment.agents)
    returned = fragment.rewards.sum(axis=(0, 2)).mean() / 2
    assert metrics["episode_return_mean"].peek() == pytest.approx(returned, rel=1e-5)


def test_probabilities_of_both_runners_are_the_same() -> None:
    """Chi-square over all choices of equal observations: the first step's, of many episodes."""
    batched, stock = pair_of_runners("shared", envs=8)
    ours = batched.sample(num_timesteps=8 * 400, explore=True)
    theirs = as_samples(stock.sample(num_timesteps=8 * 400, explore=True))
    width = batched.env.batch.num_actions
    counts = np.zeros((2, width))
    expected = np.zeros((2, width))
    for which, fragments in enumerate((ours, theirs)):
        for fragment in fragments:
            chosen = fragment.choices
            seen = torch.from_numpy(fragment.observations[:-1][chosen])
            masks = torch.from_numpy(fragment.masks[:-1][chosen])
            logits = batched.module["shared"].actor(seen, masks)
            logp = torch.log_softmax(logits, -1).detach().numpy()
            taken = fragment.actions[chosen]
            np.testing.assert_allclose(
                fragment.log_probabilities[chosen], logp[np.arange(len(taken)), taken], rtol=1e-4, atol=1e-5
            )
            counts[which] += np.bincount(taken, minlength=width)
            expected[which] += np.exp(logp).sum(0)
        assert counts[which].sum() > 1000
        assert (
            stats.chisquare(counts[which], expected[which] * counts[which].sum() / expected[which].sum()).pvalue > 1e-3
        )


def test_random_actions_are_valid_and_even() -> None:
    runner = make_runner(runner_config(envs=16))
    fragment = runner.sample(num_timesteps=16 * 200, random_actions=True)[0]
    assert np.take_along_axis(fragment.masks[:-1], fragment.actions[..., None], -1).all()
    counts = np.bincount(fragment.actions[fragment.choices], minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_action_has_a_draw_of_its_own() -> None:
    keys = np.array([3, 4], np.uint64)
    drawn = {float(draw_uniform(keys, e, agent, step)) for e in range(2) for agent in range(50) for step in range(50)}
    assert len(drawn) == 2 * 50 * 50


def random_fragment(rng: np.random.Generator, steps: int, envs: int, agents: int) -> Fragment:
    truncated = rng.random((steps, envs)) < 0.1
    ended = int(truncated.sum())
    return Fragment(
        "m",
        tuple(map(str, range(agents))),
        rng.normal(size=(steps + 1, envs, agents, 5)).astype(np.float32),
        np.ones((steps + 1, envs, agents, 2), np.int8),
        np.zeros((steps, envs, agents), np.int32),
        np.zeros((steps, envs, agents), np.float32),
        rng.normal(size=(steps, envs, agents)).astype(np.float32),
        truncated,
        rng.normal(size=(ended, agents, 5)).astype(np.float32),
        np.ones((ended, agents, 2), np.int8),
    )


def grid_advantages(fragment: Fragment, values: np.ndarray, final_values: np.ndarray, **how: float) -> np.ndarray:
    """Return the advantages [T, E, A] of a fragment, from the critic's values of its states and of its ends."""
    everything = np.concatenate([values.ravel(), final_values.ravel()])
    found = generalised_advantages(fragment.agent_steps_of(), everything, **how, discount_s=1.0)
    return found.reshape(fragment.rewards.shape)


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_advantages_equal_rllibs(gamma: float, lambda_: float) -> None:
    rng = np.random.default_rng(0)
    fragment = random_fragment(rng, 60, 3, 2)
    values = rng.normal(size=(61, 3, 2)).astype(np.float32)
    final_values = rng.normal(size=(len(fragment.final_observations), 2)).astype(np.float32)
    ours = grid_advantages(fragment, values, final_values, gamma=gamma, lambda_=lambda_)
    ended = {(int(t), int(e)): k for k, (t, e) in enumerate(np.argwhere(fragment.truncated))}
    for e in range(3):
        for a in range(2):
            first = 0
            for t in range(60):
                if t < 59 and (t, e) not in ended:
                    continue
                last = t + 1
                bootstrap = final_values[ended[t, e], a] if (t, e) in ended else values[last, e, a]
                seen = np.append(values[first:last, e, a], bootstrap)
                # RLlib's form: one artificial step behind the piece, whose value is the bootstrap.
                targets = compute_value_targets(
                    values=seen,
                    rewards=np.append(fragment.rewards[first:last, e, a], 0.0),
                    terminateds=np.zeros(len(seen)),
                    truncateds=np.append(np.zeros(len(seen) - 2), [1.0, 1.0]),
                    gamma=gamma,
                    lambda_=lambda_,
                )
                expected = (targets - seen)[:-1]
                np.testing.assert_allclose(ours[first:last, e, a], expected, rtol=1e-6, atol=1e-6)
                first = last


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("sharing", sorted(SHARING))
def test_the_learner_computes_the_same_loss_from_both_runners(sharing: str) -> None:
    batched, stock = pair_of_runners(sharing)
    config = runner_config(sharing)
    config.learner_config_dict = {"idle_per_choice": 1e9}  # all rows, so that both see the same set
    learner = config.build_learner(env=None, spaces=batched.get_spaces())
    episodes = stock.sample(num_episodes=3, explore=False)
    fragments = batched.sample(num_timesteps=3 * 40, explore=False)
    for fragment in fragments:
        fragment.log_probabilities[:] = 0.0
    compared = 0
    for module_id in SHARING[sharing][1]:
        losses = []
        for sampled in (fragments, as_samples(episodes)):
            mine = [f for f in sampled if f.module_id == module_id]
            for f in mine:
                f.log_probabilities[:] = 0.0  # greedy actions: RLlib's runner has no probabilities of them
            rows = learner.rows_of(module_id, [f.agent_steps_of() for f in mine], learner.config)
            outputs = learner.module[module_id].forward_train(rows)
            module_config = learner.config.get_config_for_module(module_id)
            loss = learner.compute_loss_for_module(
                module_id=module_id, config=module_config, batch=rows, fwd_out=outputs
            )
            losses.append((loss.item(), len(rows[Columns.ACTIONS]), rows[Postprocessing.VALUE_TARGETS].sum().item()))
        assert losses[0][1] == losses[1][1] > 0
        assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
        assert losses[0][2] == pytest.approx(losses[1][2], rel=1e-4)
        compared += 1
    assert compared == len(SHARING[sharing][1])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_learning_curves_of_both_runners_overlap() -> None:
    """Mean scores of training episodes, early and late, differ by no more than seeds do."""
    curves: dict[str, list[list[float]]] = {"batched": [], "stock": []}
    environment = load_environment(small_environment(reward={"name": "delay", "scope": "team", "scale": 0.1}))
    for seed in range(4):
        for kind, of_kind in curves.items():
            policy = load_policy_config(
                {
                    "algorithm": {"name": "PPO", "batch_env_steps": 800, "minibatch_steps": 128, "lr": 2e-3},
                    "network": {"hidden": [32, 32]},
                    "training": {"runners": 0, "envs_per_runner": 4, "env_runner": kind, "seed": seed},
                }
            )
            algorithm = algorithm_config(environment, policy, cpus=2).build_algo()
            try:
                scores = [algorithm.train()["env_runners"]["offload"]["score_mean_s"] for _ in range(24)]
            finally:
                algorithm.stop()
            of_kind.append(scores)
    ours, theirs = (np.array(curves[kind]) for kind in ("batched", "stock"))
    assert ours[:, -6:].mean() < 0.97 * ours[:, :2].mean(), "it learns"
    for part in (slice(0, 6), slice(6, 12), slice(12, 18), slice(18, 24)):
        a, b = ours[:, part].mean(1), theirs[:, part].mean(1)
        assert stats.ttest_ind(a, b).pvalue > 0.005, (part, a, b)
