"""Gradient steps of DDQN that are written out are those of autograd, except for rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.ddqn import make_learner, make_sample, policy_config
from helpers.environments import small_environment
from helpers.learners import give_loss_without_gradient

from offload_rllib.algorithms.ddqn_learner import DDQNLearner
from offload_rllib.algorithms.direct_learner import DivergedError
from offload_rllib.config import load_environment
from offload_rllib.envs.rllib import register_environments
from offload_rllib.policies.sharing import SHARED
from offload_rllib.training.rllib_config import algorithm_config

NETWORKS: tuple[dict[str, Any], ...] = (
    {"hidden": [16, 8], "activation": "tanh"},
    {"hidden": [], "activation": "relu"},
    {"hidden": [12, 12, 12], "activation": "relu"},
    {"kind": "pointer", "hidden": [8, 6], "activation": "relu"},
)


def make_pair(network: dict[str, Any], **algorithm: Any) -> tuple[DDQNLearner, DDQNLearner]:
    """Return two learners with the same weights: one with steps that are written out, one with autograd's."""
    fused, plain = (make_learner(network, learner=kind, **algorithm) for kind in ("fused", "torch"))
    assert torch.equal(weights(fused), weights(plain))
    return fused, plain


def weights(learner: DDQNLearner, name: str = "q") -> torch.Tensor:
    return torch.cat(
        [parameter.detach().flatten() for parameter in getattr(learner.network(SHARED), name).parameters()]
    )


def scatter(learner: DDQNLearner, seed: int) -> None:
    """Move network and target network away from their initial weights, and from each other."""
    rng = np.random.default_rng(seed)
    module = learner.network(SHARED)
    with torch.no_grad():
        for parameter in [*module.q.parameters(), *module.target_q.parameters()]:
            parameter.copy_(torch.from_numpy(rng.normal(0, 0.4, tuple(parameter.shape)).astype(np.float32)))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("dueling", [True, False])
def test_gradients_and_errors_equal_autograds(network: dict[str, Any], *, dueling: bool) -> None:
    fused, plain = make_pair(network, dueling=dueling, huber_delta=1.5)
    steps = fused.fused_steps(SHARED)
    module, config = plain.network(SHARED), plain.config.get_config_for_module(SHARED)
    for seed, rows in enumerate((24, 200, 1)):
        scatter(fused, seed)
        scatter(plain, seed)
        steps.take_over()
        sample = make_sample(fused, rows, seed)
        errors, figures = steps.compute(sample, 1.5)
        batch = plain._tensors(SHARED, sample)
        outputs = module.compute_q_values(batch)
        loss = plain.compute_loss_for_module(module_id=SHARED, config=config, batch=batch, fwd_out=outputs)
        module.zero_grad()
        loss.backward()
        places = dict(zip(map(id, steps.network.parameters()), steps.gradients, strict=True))
        for one, other in zip(fused.network(SHARED).q.parameters(), module.q.parameters(), strict=True):
            largest = float(other.grad.abs().max())
            torch.testing.assert_close(places[id(one)], other.grad, rtol=1e-5, atol=max(1e-6, 1e-5 * largest))
        expected = plain._noted.pop(SHARED)[-1]
        np.testing.assert_allclose(errors, outputs["td_errors"].numpy(), rtol=1e-4, atol=1e-5)
        assert figures == pytest.approx(
            [float(expected[name]) for name in ("total_loss", "td_error_mean", "q_mean")], rel=1e-5, abs=1e-6
        )
        assert np.abs(errors).min() < 1.5 < np.abs(errors).max() or rows == 1, "both branches of the loss"


@pytest.mark.parametrize("dueling", [True, False])
def test_rounds_give_the_same_weights_targets_and_figures(*, dueling: bool) -> None:
    """Clipped, with Adam, and with a target network that follows in the middle of a round."""
    fused, plain = make_pair(
        NETWORKS[0], dueling=dueling, target_update_every=3, target_tau=0.5, grad_clip=0.5, lr=1e-2
    )
    before = weights(fused)
    for number in range(4):
        figures = []
        for learner in (fused, plain):
            learner.begin_round(SHARED)
            for step in range(5):
                learner.learn(SHARED, make_sample(learner, 24 + step % 2, 10 * number + step))
            figures.append(learner.finish_round(100 * number, {SHARED: 50})[SHARED])
        torch.testing.assert_close(weights(fused), weights(plain), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights(fused, "target_q"), weights(plain, "target_q"), rtol=1e-4, atol=1e-5)
        assert set(figures[0]) == set(figures[1])
        for name in ("total_loss", "td_error_mean", "q_mean", "gradient_norm", "updates_lifetime"):
            found, wanted = (float(one[name].peek()) for one in figures)
            assert found == pytest.approx(wanted, rel=1e-3), name
    assert (weights(fused) - before).abs().max() > 1e-2
    assert (weights(fused) - weights(fused, "target_q")).abs().max() > 1e-3
    assert set(fused._fused) == {SHARED}
    assert not plain._fused


@pytest.mark.usefixtures("ray_session")
def test_an_algorithm_learns_the_same_with_both() -> None:
    """Drawn uniformly, so that rounding does not choose other transitions; and nothing is left with the steps."""
    environment = load_environment(small_environment())
    register_environments()
    learned = []
    for kind in ("fused", "torch"):
        policy = policy_config({"learner": kind, "priority_alpha": 0})
        algorithm = algorithm_config(environment, policy, cpus=2).build_algo()
        try:
            for _ in range(3):
                algorithm.train()
            learner = algorithm.learner_group._learner
            assert set(learner._fused) == ({SHARED} if kind == "fused" else set())
            assert not learner._taken_over
            learned.append((weights(learner), learner.get_optimizer(SHARED).state_dict()["state"][0]["step"]))
        finally:
            algorithm.stop()
    (fused, steps), (plain, others) = learned
    assert steps == others > 5
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("where", ["returns", "weights"])
def test_divergence_is_an_error_and_moves_nothing(where: str) -> None:
    learner = make_learner(NETWORKS[0], learner="fused")
    sample = make_sample(learner)
    if where == "weights":
        with torch.no_grad():
            learner.network(SHARED).target_q.scores[0].weight[0, 0] = torch.nan
    elif where == "returns":
        sample.transitions.returns[3] = np.inf
    before = weights(learner)
    learner.begin_round(SHARED)
    with pytest.raises(DivergedError, match=r"policy 'shared'.*not finite \(loss .*td_error_mean"):
        learner.learn(SHARED, sample)
    learner._hand_back()
    assert torch.equal(weights(learner), before)


def test_a_loss_of_ones_own_and_a_hooked_network_are_left_to_torch() -> None:
    learner = make_learner(NETWORKS[0], learner="fused")
    assert learner.fused_steps(SHARED) is not None
    original = type(learner)
    give_loss_without_gradient(learner)
    before = weights(learner)
    learner.begin_round(SHARED)
    learner.learn(SHARED, make_sample(learner))
    learner.finish_round(0, {SHARED: 50})  # written-out steps would give their weights back here
    assert torch.equal(weights(learner), before), "the gradient of this loss is zero"
    learner.__class__ = original
    hook = learner.network(SHARED).target_q.register_forward_hook(lambda *_: None)
    assert learner.fused_steps(SHARED) is None
    hook.remove()
    learner.network(SHARED).target_q.scores[1] = torch.nn.Identity()
    assert learner.fused_steps(SHARED) is None, "the target network is another"
