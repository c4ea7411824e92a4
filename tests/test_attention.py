"""Attention in use: every algorithm trains it, and what is kept, loaded and sent to a service gives the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import at_once, make_env

from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.policies.saved import load_saved_policy, packed, save_policies, unpacked
from offload_rllib.policies.sharing import SHARED
from offload_rllib.training.rllib_config import algorithm_config

SMALL: dict[str, dict[str, Any]] = {
    "PPO": {"batch_env_steps": 160, "minibatch_steps": 64},
    "A2C": {"batch_env_steps": 160},
    "APPO": {"batch_env_steps": 80, "fragment_steps": 20},
    "DDQN": {"learning_starts": 50, "replay_capacity": 1000, "sample_env_steps": 160, "batch_env_steps": 160},
}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", ["PPO", "A2C", "DDQN", pytest.param("APPO", marks=pytest.mark.slow)])
def test_every_algorithm_trains_attention_and_keeps_it(name: str, tmp_path: Path) -> None:
    policy = load_policy_config(
        {
            "algorithm": {"name": name, "lr": 0.01} | SMALL[name],
            "network": {"kind": "attention", "hidden": [8], "heads": 4},
            "training": {"runners": int(name == "APPO"), "envs_per_runner": 4, "seed": 3},
        }
    )
    algorithm = algorithm_config(load_environment(at_once()), policy, cpus=2).build_algo()
    try:
        network = algorithm.network(SHARED).q if name == "DDQN" else algorithm.network(SHARED).actor
        before = {key: value.clone() for key, value in network.state_dict().items()}
        assert any("projections" in key for key in before)
        assert network.scores.layers.heads == 4
        description, weights = algorithm.kept_policy()
        changed = [False]
        for _ in range(10):
            algorithm.train()
            description, weights = algorithm.kept_policy()
            changed = [not torch.equal(weights[SHARED][key], value) for key, value in before.items()]
            if all(changed):  # APPO's learner may not have had its first batch when an iteration ends
                break
        assert all(changed)
        if name != "APPO":
            # The learners whose gradients are written out leave it to autograd.
            learner = algorithm.learner_group._learner
            assert policy.algorithm.learner == "fused"
            assert learner.fused_steps(SHARED) is None
        network.load_state_dict(weights[SHARED])
        save_policies(tmp_path / "kept", description, weights)
    finally:
        algorithm.stop()
    loaded = load_saved_policy(tmp_path / "kept")
    sent = unpacked(packed(tmp_path / "kept"))
    env = make_env(at_once(), 8)
    env.reset(held_out_keys(0, 8))
    masks = np.ones_like(env.masks)
    seen, valid = torch.from_numpy(env.observations), torch.from_numpy(masks)
    with torch.no_grad():
        expected = network(seen, valid)
        for other in (loaded, sent):
            assert torch.allclose(other.networks[SHARED](seen, valid), expected, rtol=0, atol=1e-6)
    assert (sent(env.observations, masks) == expected.argmax(-1).numpy()).all()
    assert (loaded.on(env)(env.observations, masks, agents=env.deciding) == expected.argmax(-1).numpy()).all()
