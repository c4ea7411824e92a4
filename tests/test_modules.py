"""RLlib's modules: exploration respects masks, targets lag, runners carry no more than they need."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_PREDS
from ray.rllib.core.columns import Columns

from offload_rllib.config import ConfigError
from offload_rllib.envs.observation import FIRST_ROW, HERE_SIZE, ROW_SIZE
from offload_rllib.policies.module import EVERYONE, MaskedActorCritic, MaskedQ
from offload_rllib.policies.network import INVALID_LOGIT, KINDS

SIZE = FIRST_ROW + HERE_SIZE + 3 * ROW_SIZE
SPACES = {
    "observation_space": gym.spaces.Dict(
        observations=gym.spaces.Box(-1, 1, (SIZE,)), action_mask=gym.spaces.Box(0, 1, (4,), np.int8)
    ),
    "action_space": gym.spaces.Discrete(4),
}


def q_module(kind: str, *, inference_only: bool = False, **config: Any) -> MaskedQ:
    return MaskedQ(
        **SPACES,
        inference_only=inference_only,
        model_config={"hidden": (16, 16), "activation": "relu", "kind": kind} | config,
    )


@pytest.fixture
def batch() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        Columns.OBS: {
            "observations": torch.rand(3, SIZE),
            "action_mask": torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 0, 1, 0]], dtype=torch.int8),
        }
    }


@pytest.mark.parametrize("kind", KINDS)
def test_exploration_draws_among_valid_actions_and_follows_the_schedule(kind: str, batch: dict[str, Any]) -> None:
    module = q_module(kind, dueling=True, epsilon=[[0, 1.0], [1000, 0.2]])
    masks = batch[Columns.OBS]["action_mask"]
    alike = masks / masks.sum(-1, keepdim=True)
    best = torch.nn.functional.one_hot(module.forward_train(batch)[QF_PREDS].argmax(-1), masks.shape[-1])
    schedule = ((0, 1.0), (500, 0.6), (1000, 0.2), (9000, 0.2))
    for steps, epsilon in schedule:
        probabilities = module.forward_exploration(batch, t=steps)[Columns.ACTION_DIST_INPUTS].exp()
        assert torch.allclose(probabilities, (1 - epsilon) * best + epsilon * alike, atol=1e-5)
    for parameter in module.q.parameters():
        torch.nn.init.zeros_(parameter)  # RLlib's own exploration takes a value of exactly 0 for an invalid action
    for steps, _ in schedule:
        assert torch.allclose(module.forward_exploration(batch, t=steps)[Columns.ACTION_DIST_INPUTS].exp(), alike)


def test_the_target_network_stays_where_it_was_made(batch: dict[str, Any]) -> None:
    module = q_module("pointer", dueling=True)
    module.make_target_networks()
    before = module.forward_target(batch)[QF_PREDS]
    values = module.forward_train(batch)[QF_PREDS]
    assert torch.allclose(before, values, atol=1e-6)
    assert ((values == INVALID_LOGIT) == (batch[Columns.OBS]["action_mask"] == 0)).all()
    (main, target), *others = module.get_target_network_pairs()
    assert not others
    with torch.no_grad():
        for parameter in main.parameters():
            parameter.add_(0.5)
    assert not torch.equal(module.forward_train(batch)[QF_PREDS], values)
    assert torch.equal(module.forward_target(batch)[QF_PREDS], before)
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_runners_get_the_network_without_its_target(batch: dict[str, Any]) -> None:
    module, runner = q_module("mlp"), q_module("mlp", inference_only=True)
    module.make_target_networks()
    state = module.get_state(inference_only=True)
    assert not any(key.startswith("target") for key in state)
    runner.set_state(state)
    greedy = runner.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
    assert torch.equal(greedy, module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS])


def test_an_environment_that_asks_for_several_choices_at_once_is_refused() -> None:
    spaces = SPACES | {"action_space": gym.spaces.MultiDiscrete([4, 4])}
    for module in (MaskedQ, MaskedActorCritic):
        with pytest.raises(ConfigError, match=r"one action at a time.* asks for MultiDiscrete"):
            module(**spaces, inference_only=False, model_config={"hidden": (8,), "activation": "relu"})


def test_the_central_critic_of_a_module_reads_the_observations_of_everyone(batch: dict[str, Any]) -> None:
    config = {"hidden": (8,), "activation": "tanh", "kind": "pointer"}
    module = MaskedActorCritic(**SPACES, inference_only=False, model_config=config | {"critic": "central"})
    everyone = torch.rand(3, 5, SIZE)
    values = module.compute_values(batch | {EVERYONE: everyone})
    own = batch[Columns.OBS]["observations"]
    assert torch.allclose(values, module.critic(own[:, None], everyone)[:, 0])
    assert values.shape == (3,)
    assert not torch.allclose(values, module.compute_values(batch | {EVERYONE: -everyone}))
