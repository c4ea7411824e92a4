"""Sharing gives every agent one policy; kept policies act as they did, on environments of other sizes too."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import make_env, small_environment, typed_environment, with_choices
from helpers.policies import PPO, kept, sharing

import offload_rllib
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.policy import Network
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.observation import FIRST_ROW, HERE_SIZE, ROW_SIZE
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation.evaluate import evaluate
from offload_rllib.evaluation.players import make_contenders
from offload_rllib.policies.network import KINDS, OF_ROWS
from offload_rllib.policies.saved import load_saved_policy
from offload_rllib.policies.sharing import PolicyMapping, assign, assign_in, module_names
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.choice import best_action, choose_rows, draw_action
from offload_rllib.training.rllib_config import overrides_per_module

AGENTS = ("Pi_1", "pi_1", "nuc", "tx2_a", "tx2_b")
TYPES = ("rpi3", "rpi3", "nuc", "tx2", "tx2")

# --- sharing -------------------------------------------------------------------------------------------------------


def test_sharing_gives_every_agent_one_policy_by_a_name_that_can_be_a_file() -> None:
    assert assign(sharing("shared"), AGENTS, TYPES).policy_of == ("shared",) * 5
    by_device = assign(sharing("per_device"), AGENTS, TYPES)
    assert by_device.policy_of == TYPES
    assert by_device.policies == ("rpi3", "nuc", "tx2")
    assert by_device.indices("tx2").tolist() == [3, 4]
    by_node = assign(sharing("per_node"), AGENTS, TYPES)
    assert by_node.policy_of == ("pi_1", "pi_1_2", "nuc", "tx2_a", "tx2_b"), "names that would collide are numbered"
    mapping = {"mapping": {"small": ["rpi3", "tx2"], "large": ["nuc"], "special": ["tx2_b"]}}
    assert assign(sharing(mapping), AGENTS, TYPES).policy_of == ("small", "small", "large", "small", "special")


def test_module_names_are_plain_and_different() -> None:
    names = module_names(["Raspberry Pi 3", "raspberry-pi-3", "raspberry_pi_3_2", "ÄÖ", "ü", "x"])
    assert len(set(names.values())) == 6
    assert all(name and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_") for name in names.values())
    assert names["x"] == "x"
    assert module_names(["ü", "x", "ÄÖ"])["ÄÖ"] == names["ÄÖ"]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"a": ["rpi3", "nuc"]},
            r"agent 'tx2_a' \(device type 'tx2'\) has no policy; .* for: rpi3, nuc",
        ),
        ({"a": ["rpi3", "nuc"], "b": ["tx2", "nuc"]}, r"sharing.mapping: 'nuc' is given to 'a' and to 'b'"),
        ({"a": ["rpi3", "nuc", "tx3"]}, r"sharing.mapping.a: 'tx3' is neither .*Did you mean 'tx2'\?"),
        ({"a": ["rpi3", "nuc", "tx2_a", "tx2_b"], "b": ["tx2"]}, r"sharing.mapping.b: acts for no agent"),
    ],
)
def test_mappings_that_leave_doubt_are_refused(mapping: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign(sharing({"mapping": mapping}), AGENTS, TYPES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sharing": "per_planet"}, r"sharing.kind: .*'shared', 'per_device', 'per_node' or 'mapping'.*per_planet"),
        ({"sharing": "mapping"}, r"sharing: kind: mapping needs mapping"),
        ({"sharing": {"kind": "shared", "mapping": {"a": ["b"]}}}, r"sharing: .*other kinds have none"),
        ({"sharing": {"mapping": {"A b": ["x"]}}}, r"sharing.mapping.*pattern.*A b"),
        ({"sharing": {"mapping": {"a": []}}}, r"sharing.mapping.a: .*at least 1"),
        ({"network": {"kind": "pointer", "hidden": []}}, r"network: kind: pointer needs at least one hidden layer"),
        (
            {"network": {"kind": "attention", "hidden": [8, 6], "heads": 4}},
            r"network: heads \(4\) must divide the units of the last hidden layer \(6\); accepted: 1, 2, 3, 6",
        ),
        ({"network": {"kind": "attention", "heads": 0}}, r"network.heads: .*greater than or equal to 1"),
        ({"network": {"kind": "transformer"}}, r"network.kind: .*'mlp', 'pointer' or 'attention'"),
        ({"policies": {"shared": {"gamma": 0.9}}}, r"policies.shared.gamma: unknown key"),
        ({"policies": {"shared": {"lr": 0}}}, r"policies.shared.lr: .*greater than 0"),
    ],
)
def test_impossible_policies_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policy_config(PPO | changes)


def test_rllibs_mapping_survives_pickling_and_overrides_have_rllibs_names() -> None:
    config = load_policy_config(
        PPO | {"sharing": "per_device", "policies": {"tx2": {"lr": 0.01, "clip": 0.1}, "nuc": {}}}
    )
    assignment = assign(config.sharing, AGENTS, TYPES)
    mapping = pickle.loads(pickle.dumps(PolicyMapping(assignment)))  # noqa: S301 - written one call before
    assert [mapping(agent, None, worker=3) for agent in AGENTS] == list(TYPES)
    assert mapping.assignment == assignment
    assert overrides_per_module(config, assignment) == {"tx2": {"lr": 0.01, "clip_param": 0.1}, "nuc": {}}
    moving = PPO["algorithm"] | {"final_lr": 1e-5, "entropy_coeff": 0.1, "final_entropy_coeff": 0.0}
    scheduled = load_policy_config(
        {
            "algorithm": moving,
            "sharing": "per_device",
            "policies": {"tx2": {"lr": 0.01}, "nuc": {"entropy_coeff": 0.2, "final_lr": 0.001}},
            "training": {"env_steps": 96_000},
        }
    )
    # What is given replaces one end of the algorithm's line, and the other end stays.
    assert overrides_per_module(scheduled, assignment) == {
        "tx2": {"lr": [[0, 0.01], [96_000, 1e-5]]},
        "nuc": {"entropy_coeff": [[0, 0.2], [96_000, 0.0]], "lr": [[0, 3e-4], [96_000, 0.001]]},
    }
    with pytest.raises(ConfigError, match=r"policies.tx2: no policy of that name with sharing: per_node"):
        overrides_per_module(config, assign(sharing("per_node"), AGENTS, TYPES))


# --- keeping and loading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rule", ["shared", "per_device", "per_node", {"mapping": {"x": ["rpi3", "server"], "y": ["nuc"], "z": ["c"]}}]
)
def test_every_agent_acts_by_its_own_policy(kind: str, rule: Any, tmp_path: Path) -> None:
    env = with_choices(make_env(typed_environment(), 16))
    network = Network.model_validate({"kind": kind, "hidden": (8,)})
    policy = kept(tmp_path, env, rule, network=network)
    fitted = policy.on(env)
    actions = fitted(env.observations, env.masks)
    for a, name in enumerate(assign_in(sharing(rule), env.scenario).policy_of):
        expected = policy.networks[name](
            torch.from_numpy(env.observations[:, a]), torch.from_numpy(env.masks[:, a])
        ).argmax(-1)
        assert (actions[:, a] == expected.numpy()).all()
    assert np.take_along_axis(env.masks, actions[..., None], 2).all()
    assert len(np.unique(actions)) > 1
    fitted.seed(1)
    drawn = fitted(env.observations, env.masks, deterministic=False)
    fitted.seed(1)
    assert (fitted(env.observations, env.masks, deterministic=False) == drawn).all()
    assert np.take_along_axis(env.masks, drawn[..., None], 2).all()


def test_an_action_is_drawn_as_often_as_its_probability_says() -> None:
    logits, mask = np.array([0.5, 9.0, -1.0, 1.5], np.float32), np.array([1, 0, 1, 1], np.int8)
    expected = np.where(mask, np.exp(logits), 0.0) / np.exp(logits[mask == 1]).sum()
    draws = (np.arange(2000) + 0.5) / 2000
    drawn = [draw_action(logits, mask, u) for u in draws]
    shares = np.bincount([action for action, _ in drawn], minlength=4) / 2000
    np.testing.assert_allclose(shares, expected, atol=1 / 2000)
    for action, log_probability in drawn[::400]:
        assert log_probability == pytest.approx(np.log(expected[action]))
    assert best_action(logits, mask) == 3
    # Rows that are drawn and rows that take the best may be mixed, and the two may have scores of their own.
    actions, rows = np.zeros(2000, np.int64), np.tile(logits, (2000, 1))
    mixed = np.where(np.arange(2000) % 2, np.nan, draws)
    choose_rows(-rows, rows, np.tile(mask, (2000, 1)), mixed, actions)
    assert (actions[1::2] == 2).all()
    assert actions[::2].tolist() == [action for action, _ in drawn[::2]]


@pytest.mark.parametrize("kind", OF_ROWS)
def test_one_policy_of_rows_acts_on_networks_of_other_sizes(kind: Any, tmp_path: Path) -> None:
    short = ["horizon_s=20", "warmup_s=0", "drain_s=0"]
    trained_on, larger = (
        ArrivalEnv(build_scenario(load_environment(name, short)), 2) for name in ("ether_12", "ether_31")
    )
    assert trained_on.num_actions != larger.num_actions
    policy = kept(tmp_path / "rows", trained_on, "per_device", network=Network(kind=kind, hidden=(8,)))
    larger.reset(held_out_keys(0, 2))
    fitted = policy.on(larger)
    for _ in range(5):
        actions = fitted(larger.observations, larger.masks, agents=larger.deciding)
        assert np.take_along_axis(larger.masks, actions[..., None], 1).all()
        larger.step(actions)
    rigid = kept(tmp_path / "mlp", trained_on)
    given = f"{larger.observation_size} and {larger.num_actions}"
    with pytest.raises(ConfigError, match=rf"takes {trained_on.observation_size} observations and .*has {given}"):
        rigid.on(larger)
    with pytest.raises(ValueError, match=rf"the environment has {given}"):
        rigid(larger.observations, larger.masks)
    with pytest.raises(ValueError, match=r"18 \+ 12 x destinations observations; the environment has 49 for 2 dest"):
        policy(np.zeros((1, len(trained_on.agents), 49), np.float32), np.ones((1, len(trained_on.agents), 3), np.int8))
    with pytest.raises(ValueError, match=r"these policies are for \d+ agents"):
        policy(larger.observations, larger.masks)
    with pytest.raises(ConfigError, match=r"sharing \(per_device\): agent 'a' \(device type 'node'\) has no policy"):
        policy.on(make_env(small_environment()))


def test_sampled_actions_follow_the_policys_probabilities(tmp_path: Path) -> None:
    env = make_env(small_environment(), 1)
    rng = np.random.default_rng(0)
    observations = np.repeat(rng.uniform(-1, 1, (1, env.observation_size)).astype(np.float32), 20_000, 0)
    masks = np.tile(np.array([1, 1, 0], np.int8), (20_000, 1))
    for output, epsilon in (("logits", 0.0), ("values", 0.5), ("values", 0.0)):
        policy = kept(tmp_path / f"{output}{epsilon}", env, output=output, epsilon=epsilon, dueling=output == "values")
        scores = policy.networks["shared"](torch.from_numpy(observations[:1]), torch.from_numpy(masks[:1]))[0]
        expected = torch.softmax(scores, -1).detach().numpy()
        if output == "values":
            expected = np.where(np.arange(3) == int(scores.argmax()), 1 - epsilon / 2, epsilon / 2) * masks[0]
        policy.seed(2)
        drawn = policy(observations, masks, deterministic=False)
        assert np.bincount(drawn, minlength=3) / len(drawn) == pytest.approx(expected, abs=0.015)
        assert (policy(observations, masks) == int(scores.argmax())).all()


def test_files_that_are_damaged_or_of_another_format_are_named(tmp_path: Path) -> None:
    env = make_env(small_environment(), 1)
    kept(tmp_path, env)
    path = tmp_path / "policy.json"
    described = json.loads(path.read_text())
    for changes, message in (
        ({"format": 2}, r"policy.json: a policy of format 2; this version reads format 3. Load it with the version"),
        ({"observation_size": "x"}, r"policy.json: observation_size: .*integer"),
        ({"network": {"activation": "gelu"}}, r"policy.json: network.activation: .*'tanh' or 'relu'"),
        ({"serves": {}}, r"policy.json: serves: .*at least 1"),
        ({"serves": {"../other": []}}, r"policy.json: serves.*pattern"),
        ({"policy_of": ["shared"]}, r"policy.json: agents and policy_of do not belong together"),
        ({"network": {"hidden": [9]}}, r"shared.safetensors: not the weights that policy.json describes"),
    ):
        path.write_text(json.dumps(described | changes))
        with pytest.raises(ConfigError, match=message):
            load_saved_policy(tmp_path)
    for text in ("{}", "[]", "{"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"policy.json: not the description of a policy"):
            load_saved_policy(tmp_path)
    path.write_text(json.dumps(described))
    (tmp_path / "shared.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"shared.safetensors: not the weights"):
        load_saved_policy(tmp_path)
    (tmp_path / "shared.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"shared.safetensors: cannot be read: No such file"):
        load_saved_policy(tmp_path)


@pytest.mark.parametrize(("trained", "met"), [("interval", "arrival"), ("arrival", "interval")])
def test_a_policy_of_the_other_form_is_refused_by_name(tmp_path: Path, trained: str, met: str) -> None:
    folder = tmp_path / "mine"
    home, other = (small_environment(decisions={"when": when}) for when in (trained, met))
    policy = kept(folder, make_env(home), decides=trained)
    assert policy.on(make_env(home)).description.decides == trained
    refusal = (
        rf"mine: this policy was trained with decisions.when: {trained} .*the environment has decisions.when: {met} .*"
        rf"Accepted: an environment with decisions.when: {trained}, or a policy trained with decisions.when: {met}"
    )
    with pytest.raises(ConfigError, match=refusal):
        offload_rllib.load_policy(folder).on(make_env(other))
    with pytest.raises(ConfigError, match=refusal):
        evaluate(load_environment(other), make_contenders([str(folder)]), episodes=2)


def test_heuristics_have_the_interface_of_trained_policies() -> None:
    env = with_choices(make_env(small_environment(), 4))
    policy = offload_rllib.load_policy("least_queue")
    assert (policy.on(env)(env.observations, env.masks) == env.heuristic_actions("least_queue")).all()
    with pytest.raises(ValueError, match=r"load_policy\('least_queue'\).on\(env\)"):
        policy(env.observations, env.masks)
    with pytest.raises(ConfigError, match=r"no such folder"):
        offload_rllib.load_policy("least_queu")


def test_policies_are_loaded_and_used_without_ray(tmp_path: Path) -> None:
    env = make_env(small_environment(), 1)
    kept(tmp_path, env)
    program = (
        "import sys, numpy as np, offload_rllib\n"
        f"policy = offload_rllib.load_policy({str(tmp_path)!r})\n"
        f"seen = np.zeros((2, 4, {FIRST_ROW + HERE_SIZE + 2 * ROW_SIZE}), np.float32)\n"
        "actions = policy(seen, np.ones((2, 4, 3), np.int8))\n"
        "assert actions.shape == (2, 4)\n"
        "offload_rllib.load_policy('random')\n"
        "assert not any(name == 'ray' or name.startswith('ray.') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


@pytest.mark.parametrize("name", ["ppo", "a2c", "ddqn", "paper_a2c", "paper_ddqn"])
def test_every_preset_fits_the_default_environment(name: str) -> None:
    from offload_rllib.training.train import check

    check(load_environment("ether_12"), load_policy_config(name))


def test_policies_are_made_in_the_order_of_the_nodes() -> None:
    from offload_rllib.training.rllib_config import algorithm_config

    # Initial weights are drawn one policy after the other: in an order that changes from process to process the same
    # seed would be another run.
    policy = load_policy_config("ppo", ["sharing=per_node"])
    config = algorithm_config(load_environment("ether_12"), policy, cpus=2)
    assert tuple(config.policies) == build_scenario(load_environment("ether_12")).agents
