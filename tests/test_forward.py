"""Scores of actions without the calls of torch's modules: the same bits, and only where nothing else is to be done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns

from offload_rllib.policies.module import MaskedActorCritic, MaskedQ
from offload_rllib.policies.pointer import FULL_ROWS
from offload_rllib.rollout.forward import ModuleScores, PerceptronScores, PointerScores, scores_of

FEATURES, ACTIONS = sum(FULL_ROWS) + FULL_ROWS[2], 3  # two destinations


class Halved(MaskedActorCritic):
    """An actor whose logits are changed behind its network."""

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, torch.Tensor]:
        return {key: value / 2 for key, value in super()._forward(batch, **kwargs).items()}


def make_module(base: type = MaskedActorCritic, **model_config: Any) -> Any:
    torch.manual_seed(4)
    module = base(
        observation_space=spaces.Dict(
            {
                "observations": spaces.Box(-1, 1, (FEATURES,), np.float32),
                "action_mask": spaces.Box(0, 1, (ACTIONS,), np.int8),
            }
        ),
        action_space=spaces.Discrete(ACTIONS),
        model_config=model_config,
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(count)
    seen = torch.from_numpy(rng.normal(size=(count, FEATURES)).astype(np.float32))
    return seen, torch.from_numpy((rng.random((count, ACTIONS)) < 0.7).astype(np.int8))


@pytest.mark.parametrize(
    ("kind", "hidden"),
    [
        ("mlp", ()),
        ("mlp", (64,)),
        ("mlp", (64, 64)),
        ("mlp", (32, 16, 8)),
        ("pointer", (64,)),
        ("pointer", (32, 32)),
        ("pointer", (32, 16, 8)),
    ],
)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("explore", [True, False])
def test_matrices_alone_give_the_bits_of_the_module(
    kind: str, hidden: tuple[int, ...], activation: str, *, explore: bool
) -> None:
    module = make_module(kind=kind, hidden=hidden, activation=activation)
    short = scores_of(module, 64)
    assert isinstance(short, PointerScores if kind == "pointer" else PerceptronScores)
    for count in (1, 3, 16, 63, 64):
        seen, valid = rows(count)
        scores, expected = torch.full((count, ACTIONS), torch.nan), torch.full((count, ACTIONS), torch.nan)
        short(seen, valid, scores, explore=explore, env_steps=0)
        ModuleScores(module)(seen, valid, expected, explore=explore, env_steps=0)
        assert torch.equal(scores[valid == 1], expected[valid == 1])
        whole = module.forward_exploration({Columns.OBS: {"observations": seen, "action_mask": valid}})
        assert torch.equal(whole[Columns.ACTION_DIST_INPUTS], expected)


@pytest.mark.parametrize("kind", ["mlp", "pointer"])
def test_new_weights_are_seen(kind: str) -> None:
    module = make_module(kind=kind, hidden=(16,))
    short, (seen, valid) = scores_of(module, 8), rows(8)
    before, after = torch.zeros((8, ACTIONS)), torch.zeros((8, ACTIONS))
    short(seen, valid, before, explore=True, env_steps=0)
    module.set_state({key: value * 2 for key, value in module.get_state().items()})
    short(seen, valid, after, explore=True, env_steps=0)
    assert not torch.equal(before, after)


def test_a_module_that_does_more_is_asked_itself() -> None:
    hooked = make_module(hidden=(16,))
    hooked.actor.scores[0].register_forward_hook(lambda *_: None)
    halved = make_module(Halved, hidden=(16,))
    inside = make_module(kind="pointer", hidden=(16,))
    inside.actor.scores.layers.row.register_forward_hook(lambda *_: None)
    precise = make_module(kind="pointer", hidden=(16,))
    precise.actor.scores.layers.here.double()
    others = [halved, make_module(Halved, kind="pointer", hidden=(16,)), make_module(MaskedQ), hooked, inside, precise]
    for module in others:
        assert isinstance(scores_of(module, 8), ModuleScores)
    seen, valid = rows(8)
    scores, plain = torch.zeros((8, ACTIONS)), torch.zeros((8, ACTIONS))
    scores_of(halved, 8)(seen, valid, scores, explore=True, env_steps=0)
    scores_of(make_module(hidden=(16,)), 8)(seen, valid, plain, explore=True, env_steps=0)
    assert torch.allclose(scores[valid == 1], plain[valid == 1] / 2)
