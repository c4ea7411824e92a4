"""Exported policies choose as the policies do, without torch; a run's card says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.environments import make_env, small_environment, typed_environment, with_choices
from helpers.policies import kept
from typer.testing import CliRunner

from offload_rllib.cli import app
from offload_rllib.config import ConfigError
from offload_rllib.config.policy import Network
from offload_rllib.envs.vector import VectorEnv
from offload_rllib.policies.export import export_onnx
from offload_rllib.policies.network import KINDS, OF_ROWS
from offload_rllib.policies.saved import SavedPolicy


def agree(path: Path, policy: SavedPolicy, name: str, observations: np.ndarray, masks: np.ndarray) -> None:
    """Assert that a file's scores and actions for [B, F], [B, R] are the policy's."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {"observations": observations, "action_mask": masks}
    scores, actions = (np.asarray(output) for output in session.run(["scores", "actions"], given))
    expected = policy.networks[name](torch.from_numpy(observations), torch.from_numpy(masks)).detach()
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert (actions == expected.argmax(-1).numpy()).all()


def seen(env: VectorEnv, agents: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return what agents see and may do, [E x A, F] and [E x A, R]."""
    observations, masks = env.observations[:, agents], env.masks[:, agents]
    return observations.reshape(-1, env.observation_size), masks.reshape(-1, env.num_actions)


@pytest.mark.parametrize("output", ["logits", "values"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_policy_acts_as_the_policy_for_any_batch(kind: str, output: str, tmp_path: Path) -> None:
    env = with_choices(make_env(small_environment(), 16))
    policy = kept(
        tmp_path,
        env,
        network=Network.model_validate({"kind": kind, "hidden": (8, 8)}),
        output=output,
        dueling=output == "values",
    )
    path = export_onnx(policy, tmp_path / "policy.onnx")["shared"]
    observations, masks = seen(env)
    for batch in (1, 3, len(masks)):
        agree(path, policy, "shared", observations[:batch], masks[:batch])
    if kind in OF_ROWS:
        wider = np.pad(observations, ((0, 0), (0, 24))), np.pad(masks, ((0, 0), (0, 2)))
        wider[0][:, -24:] = np.random.default_rng(0).uniform(-1, 1, (len(masks), 24))
        wider[1][:, -2:] = masks[:, -1:]
        agree(path, policy, "shared", *wider)
    about = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert about["policy"] == "shared"
    assert json.loads(about["description"]) == policy.description.model_dump(mode="json")


def test_every_policy_gets_a_file_and_none_is_overwritten(tmp_path: Path) -> None:
    env = with_choices(make_env(typed_environment(), 8))
    policy = kept(tmp_path / "policies", env, "per_node")
    output = tmp_path / "edge.onnx"
    result = CliRunner().invoke(app, ["export", str(tmp_path / "policies"), "--output", str(output)])
    assert result.exit_code == 0, result.output
    paths = {name: tmp_path / f"edge-{name}.onnx" for name in policy.networks}
    assert sorted(tmp_path.glob("*.onnx")) == sorted(paths.values())
    for name, path in paths.items():
        agree(path, policy, name, *seen(env, policy.assignment.indices(name)))
    with pytest.raises(ConfigError, match=r"edge-a.onnx: exists and is not overwritten"):
        export_onnx(policy, output)
    with pytest.raises(ConfigError, match=r"missing: no such folder"):
        export_onnx(policy, tmp_path / "missing" / "policy.onnx")
