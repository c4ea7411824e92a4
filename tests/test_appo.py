"""APPO samples and learns at the same time; RLlib's learner takes what the batched runner hands over."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.command_line import finish, start
from helpers.environments import small_environment
from helpers.results import trained_steps
from helpers.sampling import SHARING, by_agent, make_runner, runner_config
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

import offload_rllib
from offload_rllib.algorithms.appo_learner import LAG, SAMPLER_KL, TARGET_LOGP, APPOLearner, LearnerStoppedError
from offload_rllib.algorithms.exchange.averaging import parameters_of
from offload_rllib.algorithms.on_policy import HAS_CHOICE
from offload_rllib.algorithms.vtrace import vtrace
from offload_rllib.config import ConfigError, PolicyConfig, load_environment, load_policy_config
from offload_rllib.envs.spaces import ELAPSED_S
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.episodes import as_samples
from offload_rllib.rollout.episodes_runner import EpisodesEnvRunner
from offload_rllib.training.rllib_config import algorithm_config


def appo_config(algorithm: dict[str, Any] | None = None, **training: Any) -> PolicyConfig:
    """Return a policy that is trained in seconds."""
    small = {"name": "APPO", "fragment_steps": 20, "batch_env_steps": 80, "report_env_steps": 160}
    return load_policy_config(
        {
            "algorithm": small | (algorithm or {}),
            "network": {"hidden": [16, 16]},
            "training": {"runners": 1, "envs_per_runner": 4, "env_steps": 480, "seed": 3} | training,
        }
    )


def vtrace_by_definition(
    rewards: list[float],
    values: list[float],
    ratios: list[float],
    elapsed: list[float],
    *,
    gamma: float,
    lambda_: float,
    rho: float,
    pg_rho: float,
) -> tuple[list[float], list[float]]:
    """Return targets and advantages of one piece, as the sum in arXiv 1802.01561, eq. 1; one more value than steps.

    Discounts and lambda stand to the power of the time from each step to the next.
    """
    steps = len(rewards)
    targets = []
    for s in range(steps):
        total = values[s]
        for t in range(s, steps):
            traces = np.prod([lambda_ ** elapsed[k] * min(1.0, ratios[k]) for k in range(s, t)])
            delta = min(rho, ratios[t]) * (rewards[t] + gamma ** elapsed[t] * values[t + 1] - values[t])
            total += gamma ** sum(elapsed[s:t]) * traces * delta
        targets.append(total)
    after = [*targets[1:], values[steps]]
    kept = [lambda_ ** elapsed[s] for s in range(steps)]
    following = [kept[s] * after[s] + (1 - kept[s]) * values[s + 1] for s in range(steps)]
    advantages = [
        min(pg_rho, ratios[s]) * (rewards[s] + gamma ** elapsed[s] * following[s] - values[s]) for s in range(steps)
    ]
    return targets, advantages


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("lambda_", [1.0, 0.7])
def test_vtrace_is_its_definition(lambda_: float, *, unequal: bool) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 7, 20, 3]
    n = sum(lengths) + len(lengths)
    rewards, values = rng.normal(size=(2, n)).astype(np.float32)
    ratios = rng.uniform(0.2, 3.0, n).astype(np.float32)
    elapsed = rng.exponential(1.5, n) if unequal else np.ones(n)
    ends = np.cumsum([length + 1 for length in lengths]) - 1
    real = ~np.isin(np.arange(n), ends)
    targets, advantages = vtrace(
        rewards, values, ratios, real, elapsed, gamma=0.9, lambda_=lambda_, rho_clip=1.5, pg_rho_clip=2.0
    )
    first = 0
    for end in ends:
        expected = vtrace_by_definition(
            rewards[first:end].tolist(),
            values[first : end + 1].tolist(),
            ratios[first:end].tolist(),
            elapsed[first:end].tolist(),
            gamma=0.9,
            lambda_=lambda_,
            rho=1.5,
            pg_rho=2.0,
        )
        np.testing.assert_allclose(targets[first:end], expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(advantages[first:end], expected[1], rtol=1e-4, atol=1e-5)
        first = end + 1


@pytest.mark.parametrize("sharing", sorted(SHARING))
def test_episodes_hold_what_fragments_hold(sharing: str) -> None:
    config = runner_config(sharing)
    fragments_runner, episodes_runner = make_runner(config), EpisodesEnvRunner(config=config, worker_index=0)
    episodes_runner.module.set_state(fragments_runner.module.get_state())
    steps = {}  # of each agent's episode, so far
    ended = set()
    compared = 0
    for length in (15, 25, 50, 3):  # episodes of 40 steps: cut, ended with the sample, begun within it
        fragments = fragments_runner.sample(num_timesteps=3 * length)
        episodes = episodes_runner.sample(num_timesteps=3 * length)
        for episode in episodes:
            assert episode.t_started == steps.get(episode.id_, 0)
            assert episode.id_ not in ended
            steps[episode.id_] = episode.t_started + len(episode)
            assert not episode.is_terminated
            assert episode.is_truncated == (steps[episode.id_] == 40)
            if episode.is_truncated:
                ended.add(episode.id_)
            episode.validate()
        pieces = as_samples(episodes)
        for e in range(3):
            for agent in fragments_runner.env.batch.agents:
                whole = by_agent(fragments, e, agent)
                # The pieces of an environment follow each other; which are its own the first observation tells.
                first = 0
                while first < length:
                    piece = next(
                        part
                        for part in (by_agent([f], 0, agent) for f in pieces if agent in f.agents)
                        if np.array_equal(part.observations[0], whole.observations[first])
                        and np.array_equal(part.rewards, whole.rewards[first : first + len(part.rewards)])
                    )
                    here = slice(first, first + len(piece.actions))
                    np.testing.assert_array_equal(piece.observations[:-1], whole.observations[here])
                    np.testing.assert_array_equal(piece.masks[:-1], whole.masks[here])
                    np.testing.assert_array_equal(piece.actions, whole.actions[here])
                    np.testing.assert_array_equal(piece.log_probabilities, whole.log_probabilities[here])
                    np.testing.assert_array_equal(piece.truncated, whole.truncated[here])
                    assert piece.module_id == whole.module_id
                    last = whole.final_observations if piece.truncated[-1] else whole.observations[here.stop]
                    np.testing.assert_array_equal(piece.observations[-1].ravel(), last.ravel())
                    first = here.stop
                    compared += 1
    assert len(ended) == 3 * 2 * len(fragments_runner.env.batch.agents)
    assert compared > 4 * 3 * len(fragments_runner.env.batch.agents)


def make_learner(policy: PolicyConfig, **changes: Any) -> tuple[APPOLearner, EpisodesEnvRunner]:
    """Return a learner and a runner with the same weights, in a small environment with some changes."""
    config = algorithm_config(load_environment(small_environment(**changes)), policy, cpus=2)
    runner = EpisodesEnvRunner(config=config, worker_index=1)
    learner = config.build_learner(env=None, spaces=runner.get_spaces())
    assert isinstance(learner, APPOLearner)
    runner.module.set_state(learner.module.get_state(inference_only=True))
    return learner, runner


def batch_of(learner: APPOLearner, runner: EpisodesEnvRunner) -> dict[str, Any]:
    """Return what RLlib's connectors make of a sample."""
    from ray.rllib.core.learner.training_data import TrainingData

    batch = learner._make_batch_if_necessary(TrainingData(episodes=runner.sample()))
    return batch.policy_batches[SHARED]


def test_steps_without_a_choice_do_not_move_the_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, runner = make_learner(appo_config())
    batch = batch_of(learner, runner)
    rows = batch[Columns.LOSS_MASK]
    assert rows.sum() == 80 * len(runner.env.batch.agents)
    assert (~rows).sum() >= 4 * len(runner.env.batch.agents), "behind each piece stands what was seen at its end"
    module = learner.module[SHARED].unwrapped()
    idle = batch[Columns.OBS]["action_mask"].sum(-1) < 2
    assert 0.05 < idle.float().mean() < 0.95
    gradients = []
    monkeypatch.setattr(learner, "descend", lambda _module_id, _config, loss: loss.backward())
    for noise in (0.0, 5.0):
        batch[Columns.ACTION_LOGP][idle] -= noise
        module.zero_grad()
        learner._rng = np.random.default_rng(0)  # the same order of rows: sums are equal to the last bit
        learner._update({SHARED: batch})
        gradients.append([parameter.grad.clone() for parameter in module.actor.parameters()])
        assert all(parameter.grad.abs().sum() > 0 for parameter in module.critic.parameters())
        assert all(parameter.grad is None for parameter in module.target_actor.parameters())
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)
    assert any(gradient.abs().sum() > 0 for gradient in gradients[0])
    learner.shutdown()


def test_rows_hold_v_trace_between_the_sampling_policy_and_the_target_network() -> None:
    settings = {"gamma": 0.9, "lambda": 0.7, "rho_clip": 1.1, "pg_rho_clip": 1.3, "idle_per_choice": 0.25}
    learner, runner = make_learner(appo_config(settings))
    learner.config.discount_s = 2.0
    batch = batch_of(learner, runner)
    module = learner.module[SHARED].unwrapped()
    torch.manual_seed(0)
    for parameter in [*module.target_actor.parameters(), *module.critic.parameters()]:
        torch.nn.init.normal_(parameter, std=0.4)
    seen, masks = batch[Columns.OBS]["observations"], batch[Columns.OBS]["action_mask"]
    seen.uniform_(-1, 1)  # no two alike: rows are found again by what they hold
    batch[ELAPSED_S].uniform_(0.5, 3)  # as with decisions at arrivals
    elapsed = (batch[ELAPSED_S] / learner.config.discount_s).tolist()
    with torch.no_grad():
        values = module.critic(seen).tolist()
        target_logp = torch.log_softmax(module.target_actor(seen, masks), -1)
    real = batch[Columns.LOSS_MASK].bool().tolist()
    has_choice = (masks.sum(-1) > 1).tolist()
    logp = [float(target_logp[i, action]) if has_choice[i] else 0.0 for i, action in enumerate(batch[Columns.ACTIONS])]
    ratios = [
        float(np.exp(ours - theirs)) for ours, theirs in zip(logp, batch[Columns.ACTION_LOGP].tolist(), strict=True)
    ]
    assert min(ratios) < 0.7
    assert max(ratios) > 1.5
    wanted: dict[bytes, tuple[int, float, float]] = {}
    first = 0
    for end in [i for i, is_real in enumerate(real) if not is_real]:
        targets, advantages = vtrace_by_definition(
            batch[Columns.REWARDS][first:end].tolist(),
            values[first : end + 1],
            ratios[first:end],
            elapsed[first:end],
            gamma=0.9,
            lambda_=0.7,
            rho=1.1,
            pg_rho=1.3,
        )
        for i in range(first, end):
            wanted[seen[i].numpy().tobytes()] = (i, targets[i - first], advantages[i - first])
        first = end + 1
    rows = learner.rows_of(SHARED, learner.config.get_config_for_module(SHARED), batch)
    choices = [i for i in range(len(real)) if real[i] and has_choice[i]]
    assert int(rows[HAS_CHOICE].sum()) == len(choices)
    assert int((~rows[HAS_CHOICE]).sum()) == round(0.25 * len(choices))
    of_choices = np.array([advantage for i, _, advantage in wanted.values() if has_choice[i]])
    order = []
    for row, observation in enumerate(rows[Columns.OBS]["observations"]):
        i, target, advantage = wanted[observation.numpy().tobytes()]
        order.append(i)
        assert bool(rows[HAS_CHOICE][row]) == has_choice[i]
        assert int(rows[Columns.ACTIONS][row]) == int(batch[Columns.ACTIONS][i])
        assert float(rows[Columns.ACTION_LOGP][row]) == float(batch[Columns.ACTION_LOGP][i])
        assert float(rows[TARGET_LOGP][row]) == pytest.approx(logp[i], abs=1e-5)
        assert float(rows[Postprocessing.VALUE_TARGETS][row]) == pytest.approx(target, abs=1e-4)
        scaled = (advantage - of_choices.mean()) / of_choices.std(ddof=1)
        assert float(rows[Postprocessing.ADVANTAGES][row]) == pytest.approx(scaled, abs=1e-4)
    assert len(set(order)) == len(order)
    assert order != sorted(order), "minibatches are fair samples"
    learner.shutdown()


def test_every_use_of_a_batch_passes_over_it_once_in_minibatches(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, runner = make_learner(appo_config({"minibatch_steps": 50}))
    batch = batch_of(learner, runner)
    original, sizes = learner.compute_loss_for_module, []

    def watched(**how: Any) -> Any:
        sizes.append(len(how["batch"][HAS_CHOICE]))
        return original(**how)

    monkeypatch.setattr(learner, "compute_loss_for_module", watched)
    rows = len(learner.rows_of(SHARED, learner.config.get_config_for_module(SHARED), batch)[HAS_CHOICE])
    learner._update({SHARED: batch})
    assert sum(sizes) == rows
    assert len(sizes) == rows // 50 > 2
    assert max(sizes) - min(sizes) <= 1
    learner.shutdown()


def test_the_target_network_follows_when_it_is_due() -> None:
    learner, runner = make_learner(appo_config({"target_update_every": 3, "minibatch_steps": 10_000}))
    module = learner.module[SHARED].unwrapped()
    batch = batch_of(learner, runner)

    def differs() -> bool:
        pairs = zip(module.actor.parameters(), module.target_actor.parameters(), strict=True)
        return any(not torch.equal(first, second) for first, second in pairs)

    seen = []
    for _ in range(6):
        learner._update({SHARED: batch})
        seen.append(differs())
    assert seen == [True, True, False, True, True, False]
    assert not any(name.startswith(("critic", "target")) for name in module.get_state(inference_only=True))
    learner.shutdown()


@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_lag_counts_gradient_steps_since_the_weights_that_sampled(when: str) -> None:
    learner, runner = make_learner(appo_config({"minibatch_steps": 10_000}), decisions={"when": when})
    lags: list[float] = []

    def use(batch: dict[str, Any]) -> None:
        learner._update({SHARED: batch})
        lags.append(learner.metrics.peek((SHARED, LAG)))

    first = batch_of(learner, runner)
    for _ in range(3):
        use(first)
    learner._weights_seq_no = 7  # RLlib numbers weights by batches
    runner.set_state(learner.get_state(components=COMPONENT_RL_MODULE))
    use(first)
    second = batch_of(learner, runner)
    use(second)
    use(first)
    chosen = (second[Columns.OBS]["action_mask"].sum(-1) > 1) & second[Columns.LOSS_MASK].bool()
    older = torch.nonzero(chosen)[: int(chosen.sum()) // 4, 0]
    second[WEIGHTS_SEQ_NO][older] = 0
    use(second)
    share = len(older) / int(chosen.sum())
    assert lags == [0, 1, 2, 3, 1, 5, pytest.approx(share * 6 + (1 - share) * 3)]
    learner.shutdown()


@pytest.mark.parametrize("network", [{"hidden": [16, 8]}, {"kind": "pointer", "hidden": [8]}], ids=str)
def test_written_out_gradient_steps_are_those_of_autograd(network: dict[str, Any]) -> None:
    """On samples that are old: the target network has moved away from what sampled, the actor from both."""
    settings = {"minibatch_steps": 10_000, "importance_clip": 1.2, "entropy_coeff": 0.1, "grad_clip": None}
    learners, figures = [], []
    for how in ("fused", "torch"):
        policy = appo_config(settings | {"learner": how})
        content = policy.model_dump(mode="json", by_alias=True)
        learner, runner = make_learner(load_policy_config(content | {"network": network}))
        torch.manual_seed(7)
        for parameter in learner.network(SHARED).parameters():
            parameter.data += torch.randn_like(parameter)
        assert (learner.fused_steps(SHARED) is not None) == (how == "fused")
        learner._update({SHARED: batch_of(learner, runner)})
        figures.append(
            {
                name: learner.metrics.peek((SHARED, name))
                for name in (LAG, SAMPLER_KL, "importance_mean", "policy_loss", "vf_loss", "entropy", "clip_fraction")
            }
        )
        learners.append(learner)
    assert figures[0][SAMPLER_KL] > 0.01
    assert 0 < figures[0]["clip_fraction"] < 1
    assert figures[0] == pytest.approx(figures[1], rel=1e-3, abs=1e-5)
    optimizers = [learner.get_optimizer(SHARED) for learner in learners]
    for one, other in zip(*map(parameters_of, optimizers), strict=True):
        gradient, expected = (
            10 * optimizer.state[of]["exp_avg"] for optimizer, of in zip(optimizers, (one, other), strict=True)
        )
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=max(1e-6, 1e-5 * float(expected.abs().max())))
    for learner in learners:
        learner.shutdown()


@pytest.mark.usefixtures("ray_session")
def test_a_learner_that_has_failed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, runner = make_learner(appo_config({"uses_per_batch": 1}))
    episodes = runner.sample()
    for parameter in learner.module[SHARED].unwrapped().critic.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    with pytest.raises(LearnerStoppedError, match="'shared': a loss or its gradient is not finite"):
        learner.update(training_data=_data(episodes), timesteps={})
    with pytest.raises(LearnerStoppedError):
        learner.update(training_data=_data(runner.sample()), timesteps={})


@pytest.mark.usefixtures("ray_session")
def test_sampling_waits_until_batches_have_been_used_often_enough() -> None:
    learner, runner = make_learner(appo_config({"uses_per_batch": 3, "least_uses_per_batch": 2.0, "buffer_batches": 4}))
    samples = [_data(runner.sample()) for _ in range(2)]
    learner._batches, learner._uses_of_all = 11, 11  # of 11 batches, 6 must have been used twice: 5 may wait
    adding = threading.Thread(target=lambda: learner.update(training_data=samples[0], timesteps={}))
    adding.start()
    adding.join(0.3)
    assert adding.is_alive()
    assert learner._batches == 11
    learner._uses_of_all = 12
    adding.join(60)
    assert not adding.is_alive()
    assert learner._batches == 12
    learner._uses_of_all = 14
    learner.update(training_data=samples[1], timesteps={})
    assert learner._batches == 13
    deadline = time.monotonic() + 60
    while learner._uses_of_all == 14 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert learner._uses_of_all > 14, "what the learner does is counted"
    learner.shutdown()


def test_sampling_cannot_wait_for_more_uses_than_a_batch_has() -> None:
    with pytest.raises(ConfigError, match=r"least_uses_per_batch: 3 is more than uses_per_batch \(2\)"):
        appo_config({"uses_per_batch": 2, "least_uses_per_batch": 3.0})


def _data(episodes: list[Any]) -> Any:
    from ray.rllib.core.learner.training_data import TrainingData

    return TrainingData(episodes=episodes)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("env_runner", ["batched", "stock"])
def test_training_leaves_a_policy_that_goes_on(tmp_path: Path, env_runner: str) -> None:
    config = algorithm_config(load_environment(small_environment()), appo_config(env_runner=env_runner), cpus=2)
    algorithm = config.build_algo()
    try:
        first = algorithm.train()
        results = [algorithm.train() for _ in range(2)]
        figures = results[-1]["learners"][SHARED]
        assert {
            "policy_loss",
            "vf_loss",
            "entropy",
            "gradient_norm",
            "importance_mean",
            "sampler_kl",
            "updates",
        } <= set(figures)
        assert first["timesteps_total"] >= 160
        assert results[-1]["timesteps_total"] > results[0]["timesteps_total"]
        algorithm.save_checkpoint(str(tmp_path))
        kept = algorithm.learner_group.get_weights()[SHARED] if env_runner == "stock" else None
        steps = algorithm.env_steps
    finally:
        algorithm.stop()
    saved = offload_rllib.load_policy(tmp_path)
    assert saved.description.algorithm == "APPO"
    assert saved.description.env_steps == steps
    observations = np.zeros((5, saved.description.observation_size), np.float32)
    masks = np.ones((5, saved.description.actions), np.int8)
    assert saved(observations, masks, deterministic=True).shape == (5,)
    if kept is None:
        again = config.copy().build_algo()
        try:
            again.restore_from_path(str(tmp_path))
            assert again.env_steps == steps
            assert again.train()["timesteps_total"] > steps
        finally:
            again.stop()


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.runners: APPO samples while it learns"):
        appo_config(runners=0)
    with pytest.raises(ConfigError, match=r"batch_env_steps \(80\) must be a multiple of .*\(60\)"):
        appo_config(envs_per_runner=3)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "ring.yaml").write_text(yaml.safe_dump(small_environment()))
    policy = appo_config({"report_env_steps": 1600}, env_steps=40_000).model_dump(mode="json", by_alias=True)
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(policy))
    process = start(tmp_path, "train", "ring.yaml", "quick.yaml", "--name", "cut")
    run = tmp_path / "runs" / "cut"
    deadline = time.monotonic() + 200
    while not list(run.glob("tune/trial/checkpoint_*/policy/policy.json")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C sends
    output = finish(process, 60)
    assert process.returncode == 130, output
    cut_at = trained_steps(run)
    assert 0 < cut_at[-1] < 40_000
    resumed = start(tmp_path, "train", "--resume", "runs/cut", "--episodes", "2")
    output = finish(resumed)
    assert resumed.returncode == 0, output
    steps = trained_steps(run)
    assert steps[: len(cut_at)] == cut_at
    assert steps == sorted(set(steps)), "no step is counted twice"
    assert steps[-1] >= 40_000
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
