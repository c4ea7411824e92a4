"""The fused learner gives the losses, gradients and weights of the torch learner, except for rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import make_env, small_environment
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from offload_rllib.algorithms.fused import HAS_CHOICE, FusedGradients, covered_layers
from offload_rllib.config import load_environment, load_policy_config
from offload_rllib.envs.spaces import action_space, observation_space
from offload_rllib.policies.sharing import SHARED
from offload_rllib.training.rllib_config import algorithm_config

ENV = make_env(small_environment())
NETWORKS: tuple[dict[str, Any], ...] = (
    {"hidden": [16, 8], "activation": "tanh"},
    {"hidden": [8], "activation": "relu"},
    {"hidden": [], "activation": "tanh"},
    {"hidden": [12, 12, 12], "activation": "relu"},
)


def make_learner(name: str, gradients: str, network: dict[str, Any], **algorithm: Any) -> Any:
    """Return a learner of the small environment; those of one seed have the same weights."""
    settings = {
        "entropy_coeff": 0.2,
        "final_entropy_coeff": 0.1,
        "vf_loss_coeff": 0.3,
        "lr": 1e-2,
        "grad_clip": 0.5,
    } | algorithm
    policy = load_policy_config(
        {
            "algorithm": {"name": name, "learner": gradients} | settings,
            "network": network,
            "training": {"runners": 1, "envs_per_runner": 4, "seed": 5},
        }
    )
    config = algorithm_config(load_environment(small_environment()), policy, cpus=2)
    return config.build_learner(env=None, spaces={SHARED: (observation_space(ENV), action_space(ENV))})


def draw_minibatch(rows: int, seed: int, *, choices: float = 0.7) -> dict[str, Any]:
    """Return rows as `rows_of` does; ratios of probabilities fall on both sides of the clip."""
    rng = np.random.default_rng(seed)
    size, actions = ENV.layout.size, int(action_space(ENV).n)  # type: ignore[attr-defined]
    masks = (rng.random((rows, actions)) < 0.7).astype(np.int8)
    has_choice = rng.random(rows) < choices
    masks[:, 0] = 1
    masks[has_choice, 1] = 1
    masks[~has_choice, 1:] = 0
    columns = {
        Columns.ACTIONS: np.array([rng.choice(np.flatnonzero(mask)) for mask in masks]),
        Columns.ACTION_LOGP: rng.uniform(-2, -0.1, rows).astype(np.float32),
        Postprocessing.ADVANTAGES: rng.normal(0.2, 1, rows).astype(np.float32),
        Postprocessing.VALUE_TARGETS: rng.normal(0, 2, rows).astype(np.float32),
        HAS_CHOICE: has_choice,
    }
    seen = {"observations": rng.normal(0, 1, (rows, size)).astype(np.float32), "action_mask": masks}
    return {name: torch.from_numpy(column) for name, column in columns.items()} | {
        Columns.OBS: {name: torch.from_numpy(column) for name, column in seen.items()}
    }


def weights(learner: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.network(SHARED).parameters()])


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_gradients_equal_autograds(name: str, network: dict[str, Any]) -> None:
    fused, plain = (make_learner(name, gradients, network) for gradients in ("fused", "torch"))
    assert torch.equal(weights(fused), weights(plain))
    layers = covered_layers(fused.network(SHARED))
    assert layers is not None
    config = fused.config.get_config_for_module(SHARED)
    for seed, (rows, choices) in enumerate([(64, 0.7), (33, 1.0), (40, 0.1), (3, 0.0), (2, 1.0)]):
        minibatch = draw_minibatch(rows, seed, choices=choices)
        with torch.no_grad():  # away from the initial weights, at which all actions are equally likely
            for one, other in zip(fused.network(SHARED).parameters(), plain.network(SHARED).parameters(), strict=True):
                moved = torch.from_numpy(
                    np.random.default_rng(seed).normal(0, 0.3, tuple(one.shape)).astype(np.float32)
                )
                one.copy_(moved)
                other.copy_(moved)
        of_policy, values, errors = FusedGradients(fused.network(SHARED), layers).compute(
            minibatch, clip=fused.clip_of(config), entropy_coeff=0.2, value_coeff=0.3
        )
        module = plain.network(SHARED)
        module.zero_grad()
        loss = plain.compute_loss_for_module(
            module_id=SHARED, config=config, batch=minibatch, fwd_out=module.forward_train(minibatch)
        )
        loss.backward()
        for found, wanted in zip(fused.network(SHARED).parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-5, atol=1e-6)
        expected = {key: float(value) for key, value in plain._noted.pop(SHARED)[-1].items()}
        assert float(errors.square().mean()) == pytest.approx(expected["vf_loss"], rel=1e-5)
        assert float(of_policy[4]) == int(minibatch[HAS_CHOICE].sum())
        assert len(values) == rows


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_gradient_steps_give_the_same_weights_and_figures(name: str) -> None:
    """Clipped, with Adam, for minibatches of several sizes; each sees the weights of the one before."""
    learners = [make_learner(name, gradients, NETWORKS[0]) for gradients in ("fused", "torch")]
    before = weights(learners[0])
    for learner in learners:
        config = learner.config.get_config_for_module(SHARED)
        for seed, rows in enumerate((64, 65, 64, 20)):
            learner._gradient_step(SHARED, config, draw_minibatch(rows, seed))
    fused, plain = learners
    assert isinstance(fused._fused[SHARED], FusedGradients)
    assert plain._fused[SHARED] is None
    torch.testing.assert_close(weights(fused), weights(plain), rtol=1e-4, atol=1e-5)
    assert (weights(fused) - before).abs().max() > 1e-2
    for found, wanted in zip(fused._noted[SHARED], plain._noted[SHARED], strict=True):
        assert set(found) == set(wanted)
        for key, value in wanted.items():
            assert float(found[key]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize(
    ("network", "algorithm"),
    [({"kind": "pointer", "hidden": [8], "activation": "tanh"}, {}), (NETWORKS[0], {"critic": "central"})],
)
def test_other_networks_are_left_to_torch(network: dict[str, Any], algorithm: dict[str, Any]) -> None:
    assert covered_layers(make_learner("PPO", "fused", network, **algorithm).network(SHARED)) is None


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_a_loss_of_ones_own_is_used(name: str) -> None:
    """Whoever overrides `compute_loss_for_module` gets the gradient of that."""
    learner = make_learner(name, "fused", NETWORKS[0])
    original = type(learner)

    class Own(original):
        def compute_loss_for_module(self, **arguments: Any) -> Any:
            return 0.0 * super().compute_loss_for_module(**arguments)

    learner.__class__ = Own
    before = weights(learner)
    learner._gradient_step(SHARED, learner.config.get_config_for_module(SHARED), draw_minibatch(32, 0))
    assert learner._fused[SHARED] is None
    assert torch.equal(weights(learner), before), "the gradient of this loss is zero"
