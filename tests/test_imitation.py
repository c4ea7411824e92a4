"""`train --imitate`: a rule's decisions are cloned before training, and it is measured how well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import ARRIVAL, small_environment, typed_environment
from helpers.policies import kept
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.commands import train as train_command
from offload_rllib.config import ConfigError, PolicyConfig, load_environment, load_policy_config
from offload_rllib.envs.vector import NativeEnv, training_key
from offload_rllib.evaluation.rule_tuning import rank_rules
from offload_rllib.policies.network import Critic
from offload_rllib.policies.saved import load_description, load_saved_policy
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training import imitation
from offload_rllib.training.imitation import (
    PLAYED_BY,
    _equal_destinations,
    _played,
    agreement_with,
    imitate,
    ranked_episodes,
)
from offload_rllib.training.rllib_config import algorithm_config, built
from offload_rllib.training.train import train
from offload_rllib.training.warm_start import START, keep_source


def environment(**changes: Any) -> dict[str, Any]:
    return typed_environment() | {"decisions": ARRIVAL} | changes


def policy(rule: str | None = "always_server", **keys: Any) -> PolicyConfig:
    """Return a policy that clones a rule in a second and trains for a moment."""
    imitation = None if rule is None else {"rule": rule, "decisions": 3000, "epochs": 12}
    algorithm = {"name": "PPO", "batch_env_steps": 160, "minibatch_steps": 64, "epochs": 2}
    training = {"runners": 0, "envs_per_runner": 4, "env_steps": 320, "imitate": imitation}
    return load_policy_config({"algorithm": algorithm, "network": {"hidden": [16]}, "training": training} | keys)


@pytest.fixture(scope="module")
def env() -> NativeEnv:
    return built(load_environment(environment()))


@pytest.mark.parametrize("sharing", ["shared", "per_device"])
def test_a_clone_decides_as_the_rule_does(sharing: str, env: NativeEnv, tmp_path: Path) -> None:
    reached = imitate(tmp_path, policy(sharing=sharing), env)
    assert reached["rule"] == "always_server"
    assert 3000 - 16 * len(env.agents) <= reached["decisions"] <= 3016
    assert reached["agreement"] >= 0.99
    again = load_saved_policy(tmp_path)
    assert agreement_with("always_server", again, env) == pytest.approx(reached["agreement"], abs=1e-4)
    assert agreement_with("local", again, env) < 0.7
    assert agreement_with("always_server", kept(tmp_path / "random", env, sharing), env) < 0.9
    start = algorithm_config(env.scenario.config, policy(sharing=sharing), cpus=2, env=env, start=tmp_path)
    assert start.starting_weights.about["critic"] == "taken over"  # type: ignore[attr-defined]


def test_best_is_the_best_rule_of_the_training_episodes(env: NativeEnv, tmp_path: Path) -> None:
    ranked = rank_rules(env.scenario.config, episodes=ranked_episodes(env), seed=3)

    def cloned(rule: str) -> dict[str, Any]:
        training = policy(rule).training.model_dump() | {"seed": 3}
        return imitate(tmp_path / rule, policy(training=training), env)

    best, named = cloned("best"), cloned(ranked.best)
    assert best["rule"] == ranked.best
    assert best == named
    assert load_saved_policy(tmp_path / "best").description == load_saved_policy(tmp_path / ranked.best).description


def test_long_episodes_rank_rules_in_smaller_numbers(env: NativeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranked_episodes(env) == 64
    one: Any = built(env.scenario.config)
    one.reset(np.array([training_key(0, PLAYED_BY, 0, 0)], np.uint64))
    decisions = 0
    while not one.truncated.all():
        decisions += 1
        one.step(one.heuristic_actions("local"))
    monkeypatch.setattr(imitation, "RANKED_DECISIONS", 20 * decisions)
    assert ranked_episodes(env) == 20
    monkeypatch.setattr(imitation, "RANKED_DECISIONS", 2 * decisions)
    assert ranked_episodes(env) == 8


def test_its_critic_predicts_the_discounted_returns_of_the_rule(env: NativeEnv, tmp_path: Path) -> None:
    algorithm = {"name": "PPO", "gamma": 0.7, "discount_s": 1.0, "batch_env_steps": 160, "minibatch_steps": 64}
    given = policy(algorithm=algorithm)
    imitate(tmp_path, given, env)
    assert given.training.imitate is not None
    steps = _played(env, given.training.imitate, seed=5)
    critic = Critic(env.observation_size, (16,), "tanh")
    critic.load_state_dict(load_file(tmp_path / "shared.critic.safetensors"))
    with torch.no_grad():
        predicted = critic(torch.from_numpy(steps.observations)).double().numpy()

    def unexplained(gamma: float) -> float:
        """Return the mean squared error relative to the variance."""
        returns = np.zeros(len(steps) + len(steps.ended))
        for row in reversed(range(len(steps))):
            after = returns[steps.following[row]]
            returns[row] = steps.rewards[row] + gamma ** steps.elapsed_s[row] * after
        found = returns[: len(steps)]
        return float(((predicted - found) ** 2).mean() / found.var())

    assert unexplained(0.7) < 0.8
    assert unexplained(0.7) < 0.5 * unexplained(1.0)


def test_the_same_seed_gives_the_same_clone(env: NativeEnv, tmp_path: Path) -> None:
    for name in ("one", "two"):
        imitate(tmp_path / name, policy("shortest_finish"), env)
    first, second = (load_saved_policy(tmp_path / name).networks["shared"].state_dict() for name in ("one", "two"))
    for key, value in first.items():
        np.testing.assert_array_equal(second[key], value)


def test_destinations_with_equal_features_are_one() -> None:
    observations = np.zeros((1, 2 + 1 + 3 * 2), np.float32)
    observations[0, 3:] = [0.5, 1.0, 0.5, 1.0, 0.5, 0.9]
    seen = np.repeat(observations, 4, 0)
    pairs = np.array([[1, 2], [1, 3], [0, 1], [0, 0]])
    assert _equal_destinations(seen, pairs[:, 0], pairs[:, 1], (2, 1, 2)).tolist() == [True, False, False, False]
    assert not _equal_destinations(seen, pairs[:, 0], pairs[:, 1], (2, 1, 0)).any()
    nobody = np.zeros(0, np.int64)
    assert _equal_destinations(seen[:0], nobody, nobody, (2, 1, 2)).shape == (0,), "at a moment without a choice"


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"rule": "always_cloud"}, {}, "training.imitate.rule: 'always_cloud' needs a cloud"),
        ({"rule": "shortest"}, {}, "training.imitate.rule: 'shortest' is not a heuristic"),
        ({"rule": "bestt"}, {}, "Did you mean 'best'"),
        ({}, {"decisions": {"when": "interval"}}, "decisions.when: interval; accepted: arrival"),
        ({"algorithm": {"name": "DDQN", "sample_env_steps": 80}}, {}, "DDQN learns action values"),
    ],
)
def test_what_cannot_be_cloned_is_rejected(changes: dict[str, Any], where: dict[str, Any], message: str) -> None:
    given = policy(changes.pop("rule", "local"), **changes)
    with pytest.raises(ConfigError, match=message):
        algorithm_config(load_environment(environment(**where)), given, cpus=2)


def test_a_run_starts_from_one_thing(tmp_path: Path) -> None:
    both = [f"training.start_from={tmp_path}", "training.imitate=local"]
    with pytest.raises(ConfigError, match=r"start_from \(.*\) and imitate \(local\): give one of the two"):
        load_policy_config("ppo", both)


def test_the_option_is_a_key_of_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(train_command, "_train_one", lambda _, given, *__, **___: asked.append(given))
    changes = ["--set-policy", "training.imitate.epochs=3"]
    result = CliRunner().invoke(app, ["train", "ether_12", "ppo", "--imitate", "size_interval:3", *changes])
    assert result.exit_code == 0, result.exception
    wanted = load_policy_config("ppo", asked[0].changes).training.imitate
    assert wanted is not None
    assert (wanted.rule, wanted.epochs) == ("size_interval:3", 3)


def test_a_run_clones_once(env: NativeEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(str(tmp_path / "run"), env.scenario.config, policy(), "")
    folder = keep_source(run, env)
    assert folder == run.path / START
    assert run.entries()["imitated"]["agreement"] >= 0.99
    monkeypatch.setattr("offload_rllib.training.warm_start.imitate", None)
    assert keep_source(run, env) == folder
    assert keep_source(RunFolder.create(str(tmp_path / "plain"), env.scenario.config, policy(None), "")) is None


def test_a_clone_may_be_a_candidate_alone(env: NativeEnv, tmp_path: Path) -> None:
    given = policy()
    assert given.training.imitate is not None
    apart = given.training.imitate.model_copy(update={"start": False})
    training = given.training.model_copy(update={"imitate": apart, "final_policy": "selected"})
    run = RunFolder.create(
        str(tmp_path / "run"), env.scenario.config, given.model_copy(update={"training": training}), ""
    )
    assert keep_source(run, env) is None
    assert run.entries()["imitated"]["agreement"] >= 0.99
    assert load_description(run.path / START)
    random: Any = algorithm_config(env.scenario.config, run.policy_config, cpus=2, start=keep_source(run, env))
    assert random.starting_weights is None
    cloned: Any = algorithm_config(env.scenario.config, given, cpus=2, start=run.path / START)
    assert cloned.starting_weights is not None


def test_a_clone_that_nothing_uses_is_refused() -> None:
    apart = {"rule": "local", "start": False}
    with pytest.raises(ConfigError, match=r"imitate.start: false makes a clone for final_policy: selected alone"):
        load_policy_config({"algorithm": {"name": "PPO"}, "training": {"imitate": apart}})
    pulled = {"algorithm": {"name": "PPO", "pull_coeff": 0.1}}
    with pytest.raises(ConfigError, match=r"pull_coeff \(0.1\) pulls to the policy that training starts with"):
        load_policy_config(pulled | {"training": {"imitate": apart, "final_policy": "selected"}})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_from_a_clone(tmp_path: Path) -> None:
    given = policy()
    given = given.model_copy(
        update={
            "training": given.training.model_copy(update={"final_policy": "selected"}),
            "algorithm": given.algorithm.model_copy(update={"credit": "auto"}),
        }
    )
    run = RunFolder.create(str(tmp_path / "run"), load_environment(small_environment(decisions=ARRIVAL)), given, "")
    assert train(run, Console(quiet=True))
    selected = run.entries()["selected"]
    assert {"last", START} <= set(selected["scores_s"])
    assert selected["scores_s"][selected["policy"]] == min(selected["scores_s"].values())
    assert run.entries()["started_from"]["algorithm"] == "imitation of always_server"
    card = (run.path / "MODEL_CARD.md").read_text()
    assert "| imitated | `always_server`, " in card
    assert "| started from |" in card
    assert "| credit | annealed |" in card
