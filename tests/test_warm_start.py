"""`train --from`: a training starts with the weights of a run or a policy, equal to it before its first decision."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import ARRIVAL, make_env, small_environment, typed_environment, with_choices
from helpers.policies import kept
from ray.rllib.core.columns import Columns
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.commands import train as train_command
from offload_rllib.config import ConfigError, PolicyConfig, load_environment, load_policy_config
from offload_rllib.config.policy import Network
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.policies.saved import load_description, load_saved_policy
from offload_rllib.policies.sharing import SHARED
from offload_rllib.runs.training_run import RunFolder
from offload_rllib.training.model_card import write_model_card
from offload_rllib.training.rllib_config import algorithm_config, built
from offload_rllib.training.train import train
from offload_rllib.training.warm_start import START, keep_source

SETTINGS: dict[str, dict[str, Any]] = {
    "PPO": {"batch_env_steps": 160, "minibatch_steps": 64, "epochs": 2},
    "A2C": {"batch_env_steps": 160},
    "APPO": {"batch_env_steps": 160, "fragment_steps": 40, "report_env_steps": 160},
    "DDQN": {"sample_env_steps": 80, "learning_starts": 20, "replay_capacity": 2000, "batch_transitions": 32},
}


def policy(
    algorithm: str = "PPO", start_from: Path | None = None, sharing: Any = "shared", **keys: Any
) -> PolicyConfig:
    """Return a policy that is trained in seconds, and starts from a folder."""
    own = {key: keys.pop(key) for key in ("dueling", "critic") if key in keys}
    training = {
        "runners": int(algorithm == "APPO"),
        "envs_per_runner": 4,
        "env_steps": 320,
        "start_from": None if start_from is None else str(start_from),
    }
    return load_policy_config(
        {
            "sharing": sharing,
            "algorithm": {"name": algorithm, **SETTINGS[algorithm], **own},
            "network": {"hidden": [8], **keys},
            "training": training,
        }
    )


def config_of(given: PolicyConfig, environment: dict[str, Any] | None = None) -> Any:
    return algorithm_config(load_environment(environment or small_environment()), given, cpus=2)


def source(folder: Path, algorithm: str = "PPO", rule: Any = "shared", **changes: Any) -> Path:
    """Keep a policy with random weights, as of a training in the small environment with types of devices."""
    output = "values" if algorithm == "DDQN" else "logits"
    kept(folder, make_env(typed_environment()), rule, algorithm=algorithm, output=output, **changes)
    return folder


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("algorithm", "other"),
    [("PPO", "A2C"), ("A2C", "PPO"), ("DDQN", "DDQN"), pytest.param("APPO", "PPO", marks=pytest.mark.slow)],
)
def test_before_its_first_decision_it_is_the_source(algorithm: str, other: str, tmp_path: Path) -> None:
    saved = load_saved_policy(source(tmp_path / "source", other, dueling=other == "DDQN"))
    learner = config_of(policy(algorithm, tmp_path / "source")).build_algo()
    try:
        description, weights = learner.kept_policy()
        expected = saved.networks[SHARED].state_dict()
        for key, value in weights[SHARED].items():
            np.testing.assert_array_equal(value, expected[key])
        env = with_choices(make_env(small_environment(), num_envs=5))
        seen = {
            "observations": torch.from_numpy(env.observations.reshape(-1, env.observation_size)),
            "action_mask": torch.from_numpy(env.masks.reshape(-1, env.num_actions)),
        }
        logits = saved.networks[SHARED](seen["observations"], seen["action_mask"])
        # The learner's module, and that of the runner that acts: its exploration is that of the algorithm.
        for module in (learner.get_module(SHARED), learner.env_runner_group.local_env_runner.module[SHARED]):
            with torch.no_grad():
                given = module.forward_inference({Columns.OBS: seen})[Columns.ACTION_DIST_INPUTS]
            np.testing.assert_array_equal(given, logits.detach())
        for network, target in targets_of(learner):
            for key, value in network.items():
                np.testing.assert_array_equal(target[key], value)
        assert description.env_steps == 0
    finally:
        learner.stop()


def targets_of(learner: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the weights of the networks that have targets, with those of their targets."""

    def of(each: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        pairs = getattr(each.network(SHARED), "get_target_network_pairs", list)()
        return [({k: v.numpy() for k, v in one.state_dict().items()} for one in pair) for pair in pairs]  # type: ignore[misc]

    return [tuple(pair) for pair in next(iter(learner.learner_group.foreach_learner(of))).get()]


@pytest.mark.usefixtures("ray_session")
def test_a_checkpoint_gives_its_critic_and_resuming_does_not_start_over(tmp_path: Path) -> None:
    first = config_of(policy(start_from=source(tmp_path / "source"))).build_algo()
    assert first.config.starting_weights.about["critic"] == "new: the source has none"
    first.train()
    first.save_checkpoint(str(tmp_path / "saved"))
    trained = first.learner_group.get_weights()[SHARED]
    critic = load_file(tmp_path / "saved" / "policy" / f"{SHARED}.critic.safetensors")
    assert {f"critic.{key}" for key in critic} == {key for key in trained if key.startswith("critic.")}
    second = config_of(policy("A2C", tmp_path / "saved")).build_algo()
    again = config_of(policy(start_from=tmp_path / "source")).build_algo()
    try:
        assert second.config.starting_weights.about["critic"] == "taken over"
        again.load_checkpoint(str(tmp_path / "saved"))
        for learner in (second, again):
            for key, value in learner.learner_group.get_weights()[SHARED].items():
                np.testing.assert_array_equal(value, trained[key], err_msg=key)
        result = second.train()  # a step from there, by its own optimiser
        assert "starting_weights" not in result["config"]
    finally:
        for learner in (first, second, again):
            learner.stop()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "taken over"),
        ({"critic": "central"}, "new: that of the source is another network"),
    ],
)
def test_a_critic_is_taken_over_only_by_the_same_network(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder = source(tmp_path)
    module = config_of(policy()).rl_module_spec
    env = built(load_environment(small_environment()))
    module.observation_space, module.action_space = observation_space(env), action_space(env)
    critic = module.build().critic.state_dict()
    save_file(critic, folder / f"{SHARED}.critic.safetensors")
    start = config_of(policy(start_from=folder, **changes)).starting_weights
    assert start.about["critic"] == expected
    assert any(key.startswith("critic.") for key in start.modules[SHARED]) == (expected == "taken over")
    assert (
        "critic" not in config_of(policy("DDQN", source(tmp_path / "q", "DDQN", dueling=True))).starting_weights.about
    )
    (folder / f"{SHARED}.critic.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"shared\.critic\.safetensors: not the weights of a critic"):
        config_of(policy(start_from=folder))


def test_pointers_start_in_another_environment(tmp_path: Path) -> None:
    network = {"network": Network(kind="pointer", hidden=(8,)), "rows": make_env(small_environment()).layout.blocks}
    source(tmp_path, **network)
    wider = small_environment()
    wider["topology"]["links"].append(["a", "c"])
    start = config_of(policy(start_from=tmp_path, kind="pointer"), wider).starting_weights
    expected = load_saved_policy(tmp_path).networks[SHARED].state_dict()
    assert {key.removeprefix("actor.") for key in start.modules[SHARED]} == set(expected)
    source(tmp_path / "mlp")
    with pytest.raises(ConfigError, match=r"policy.json: this policy takes .* `network.kind: pointer` would fit both"):
        config_of(policy(start_from=tmp_path / "mlp"), wider)


@pytest.mark.parametrize(
    ("rule", "sharing", "expected"),
    [
        ("shared", "per_node", dict.fromkeys("abcd", SHARED)),
        ("per_device", "per_node", {"a": "rpi3", "b": "nuc", "c": "rpi3", "d": "server"}),
        ("per_node", "per_node", {name: name for name in "abcd"}),
        ("per_device", {"mapping": {"small": ["rpi3"], "big": ["server"], "b": ["b"]}},
         {"small": "rpi3", "big": "server", "b": "nuc"}),
    ],
)  # fmt: skip
def test_each_policy_starts_from_the_one_that_acts_for_its_agents(
    rule: Any, sharing: Any, expected: dict[str, str], tmp_path: Path
) -> None:
    saved = load_saved_policy(source(tmp_path, rule=rule))
    start = config_of(policy(start_from=tmp_path, sharing=sharing), typed_environment()).starting_weights
    assert start.about["policies"] == expected
    for name, theirs in expected.items():
        for key, value in saved.networks[theirs].state_dict().items():
            np.testing.assert_array_equal(start.modules[name][f"actor.{key}"], value)


@pytest.mark.parametrize(
    ("made", "trained", "message"),
    [
        ({"algorithm": "DDQN"}, {}, "policy.json: output: values (DDQN); accepted: logits, of a policy that"),
        ({}, {"algorithm": "DDQN"}, "policy.json: output: logits (PPO); accepted: values"),
        ({}, {"hidden": [16, 16]}, "policy.json: network.hidden: [8]; accepted: [16,16]"),
        ({}, {"activation": "relu"}, "--set-policy network.activation=tanh"),
        ({}, {"kind": "pointer"}, "policy.json: network.kind: mlp; accepted: pointer"),
        ({"algorithm": "DDQN"}, {"algorithm": "DDQN"}, "policy.json: dueling: false; accepted: true"),
        ({"rule": "per_node"}, {}, "policy 'shared' would start from 'a' (agent 'a') and 'b' (agent 'b'); accepted:"),
        ({"decides": "arrival"}, {}, "policy.json: this policy was trained with decisions.when: arrival"),
        ({"observation_size": 7, "actions": 2}, {}, "policy.json: this policy takes 7 observations and 2 actions"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_rejected(
    made: dict[str, Any], trained: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source(tmp_path, **made)
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        config_of(policy(start_from=tmp_path, **trained))
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("given", ["nowhere", "."])
def test_a_folder_without_a_policy_is_rejected(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"training.start_from: .*\. Accepted: the folder of a run, a checkpoint"):
        config_of(policy(start_from=Path(given)))


def test_the_option_is_a_key_of_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "_train_one", lambda _, given, *__, **___: asked.append(given))
        result = CliRunner().invoke(app, ["train", "ether_12", "ppo", "--from", "my runs: #1"])
    assert result.exit_code == 0, result.exception
    given = load_policy_config("ppo", asked[0].changes)
    assert given.training.start_from == str(tmp_path / "my runs: #1")
    assert load_policy_config(given.model_dump(mode="json", by_alias=True)) == given
    with pytest.raises(ConfigError, match="--resume takes environment and policy from the run"):
        CliRunner().invoke(app, ["train", "--resume", "run", "--from", "other"], catch_exceptions=False)


def test_a_run_keeps_its_source_and_its_card_names_it(tmp_path: Path) -> None:
    source(tmp_path / "source", env_steps=1234)
    run = RunFolder.create(
        str(tmp_path / "run"), load_environment(small_environment()), policy(start_from=tmp_path / "source"), ""
    )
    folder = keep_source(run)
    assert folder == run.path / START
    shutil.rmtree(tmp_path / "source")
    assert keep_source(run) == folder
    start = config_of(policy(start_from=folder)).starting_weights
    run.record(started_from=start.about | {"folder": "runs/a`b"})
    kept(run.path / "policy", make_env(small_environment()))
    card = write_model_card(run).read_text()
    assert f"| started from | `runs/a_b`, version `{start.about['version']}`: PPO, 1,234 environment steps on" in card
    assert "critic: new: the source has none |" in card


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_from_a_run(tmp_path: Path) -> None:
    environment = load_environment(small_environment(decisions=ARRIVAL))
    first = RunFolder.create(str(tmp_path / "first"), environment, policy(), "")
    assert train(first, Console(quiet=True))
    still = policy(start_from=first.path)
    still = still.model_copy(update={"algorithm": still.algorithm.model_copy(update={"lr": 1e-12})})
    second = RunFolder.create(str(tmp_path / "second"), environment, still, "")
    assert train(second, Console(quiet=True))
    ours, theirs = (load_file(run.path / "policy" / f"{SHARED}.safetensors") for run in (second, first))
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, atol=1e-6)
    about = second.entries()["started_from"]
    assert about["folder"] == str(first.path)
    assert about["critic"] == "taken over"
    assert about["env_steps"] == 320
    assert load_description(second.path / START).env_steps == 320
    assert "| started from |" in (second.path / "MODEL_CARD.md").read_text()
