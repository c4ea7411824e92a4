"""The fused learner gives the losses, gradients and weights of the torch learner, except for rounding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import make_env, small_environment
from helpers.learners import give_loss_without_gradient
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.util.tracing.tracing_helper import _inject_tracing_into_class

from offload_rllib.algorithms.direct_learner import DivergedError
from offload_rllib.algorithms.fused.actor_critic import HAS_CHOICE, ActorCriticSteps, LossSettings
from offload_rllib.algorithms.fused.kernels import CHOICES, EXPLAINED, VALUE_LOSS
from offload_rllib.algorithms.fused.network import CoveredNetwork
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
    {"hidden": [40, 24], "activation": "tanh"},
    {"kind": "pointer", "hidden": [8, 6], "activation": "tanh"},
    {"kind": "pointer", "hidden": [5], "activation": "relu"},
    {"kind": "pointer", "hidden": [6, 4, 7], "activation": "relu"},
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


def draw_rows(rows: int, seed: int, *, choices: float = 0.7) -> dict[str, Any]:
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
    observations = rng.normal(0, 1, (rows, size)).astype(np.float32)
    # Some agents have a destination less, some have two that are alike.
    row = ENV.layout.blocks[2]
    observations[::3, -row:] = 0
    observations[1::3, -row:] = observations[1::3, -2 * row : -row]
    seen = {"observations": observations, "action_mask": masks}
    return {name: torch.from_numpy(column) for name, column in columns.items()} | {
        Columns.OBS: {name: torch.from_numpy(column) for name, column in seen.items()}
    }


def orders_of(rows: int, sizes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    """Return places of minibatches of these sizes, each drawn from all rows."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.permutation(rows)[:size]) for size in sizes]


def learn(learner: Any, seed: int, sizes: tuple[int, ...] = (64, 65, 64, 20)) -> None:
    """Let a learner take steps over rows that are the same for every learner."""
    rows = draw_rows(80, seed)
    minibatches = [(order, 1.0) for order in orders_of(80, sizes, seed)]
    learner.learn_from(SHARED, learner.config.get_config_for_module(SHARED), rows, minibatches)


def covered(learner: Any) -> CoveredNetwork | None:
    return CoveredNetwork.of(learner.network(SHARED), learner.get_optimizer(SHARED))


def weights(learner: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.network(SHARED).parameters()])


def moments(learner: Any) -> dict[str, torch.Tensor]:
    """Return the state of Adam, of one parameter after the other."""
    optimizer = learner.get_optimizer(SHARED)
    states = [optimizer.state[parameter] for parameter in learner.network(SHARED).parameters()]
    return {name: torch.cat([state[name].flatten() for state in states]) for name in ("step", "exp_avg", "exp_avg_sq")}


def assert_same(fused: Any, plain: Any) -> None:
    """Weights and moments are the same, except for the rounding of some steps."""
    torch.testing.assert_close(weights(fused), weights(plain), rtol=1e-4, atol=1e-5)
    for name, expected in moments(plain).items():
        torch.testing.assert_close(moments(fused)[name], expected, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_gradients_equal_autograds(name: str, network: dict[str, Any]) -> None:
    fused, plain = (make_learner(name, gradients, network) for gradients in ("fused", "torch"))
    assert torch.equal(weights(fused), weights(plain))
    layers = covered(fused)
    assert layers is not None
    steps = ActorCriticSteps(layers, fused.get_optimizer(SHARED))
    config = fused.config.get_config_for_module(SHARED)
    cases = [(64, 0.7, 0.3), (33, 1.0, 0.3), (40, 0.1, 0.3), (3, 0.0, 0.3), (2, 1.0, 0.3), (200, 0.9, 0.6)]
    for seed, (size, choices, spread) in enumerate(cases):
        rows = draw_rows(size + 7, seed, choices=choices)
        (order,) = orders_of(size + 7, (size,), seed)
        with torch.no_grad():  # away from the initial weights, at which all actions are equally likely
            for one, other in zip(fused.network(SHARED).parameters(), plain.network(SHARED).parameters(), strict=True):
                moved = torch.from_numpy(
                    np.random.default_rng(seed).normal(0, spread, tuple(one.shape)).astype(np.float32)
                )
                one.copy_(moved)
                other.copy_(moved)
        steps.take_over()
        figures = steps.compute(rows, order, LossSettings(fused.clip_of(config), entropy_coeff=0.2, value_coeff=0.3))
        module = plain.network(SHARED)
        module.zero_grad()
        minibatch = plain_rows(rows, order)
        loss = plain.compute_loss_for_module(
            module_id=SHARED, config=config, batch=minibatch, fwd_out=module.forward_train(minibatch)
        )
        loss.backward()
        gradients = dict(zip(map(id, layers.parameters()), steps.gradients, strict=True))
        for one, other in zip(fused.network(SHARED).parameters(), module.parameters(), strict=True):
            largest = float(other.grad.abs().max())
            torch.testing.assert_close(gradients[id(one)], other.grad, rtol=1e-5, atol=max(1e-6, 1e-5 * largest))
        expected = {key: float(value) for key, value in plain._noted.pop(SHARED)[-1].items()}
        assert figures[VALUE_LOSS] == pytest.approx(expected["vf_loss"], rel=1e-5)
        assert figures[EXPLAINED] == pytest.approx(expected["vf_explained_var"], rel=1e-4, abs=1e-5)
        assert figures[CHOICES] == int(minibatch[HAS_CHOICE].sum())
        of_all = LossSettings(None, entropy_coeff=0.2, value_coeff=0.3).loss_of(figures)
        assert of_all == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-5)


def plain_rows(rows: dict[str, Any], order: torch.Tensor) -> dict[str, Any]:
    return {
        key: plain_rows(value, order) if isinstance(value, dict) else value[order.numpy()]
        for key, value in rows.items()
    }


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_gradient_steps_give_the_same_weights_moments_and_figures(name: str) -> None:
    """Clipped, with Adam, for minibatches of several sizes; each sees the weights of the one before."""
    fused, plain = learners = [make_learner(name, gradients, NETWORKS[0]) for gradients in ("fused", "torch")]
    before = weights(fused)
    for seed in range(3):
        for learner in learners:
            learn(learner, seed)
        assert_same(fused, plain)
        found, wanted = ({key: means(learner, key) for key in learner._noted[SHARED][0]} for learner in learners)
        assert set(found) == set(wanted)
        for key, value in wanted.items():
            assert found[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
        for learner in learners:
            learner._noted.clear()
    assert (weights(fused) - before).abs().max() > 1e-2
    assert set(fused._fused) == {SHARED}
    assert not plain._fused


def means(learner: Any, key: str) -> float:
    """Return the mean of a figure over what has been noted."""
    return float(np.mean([float(noted[key]) for noted in learner._noted[SHARED]]))


@pytest.mark.parametrize("largest_norm", [0.02, 1e9])
def test_clipping_and_adam_are_torchs(largest_norm: float) -> None:
    """Step by step from the first on, with gradients of all sizes, at a rate that changes."""
    fused, plain = (make_learner("PPO", gradients, NETWORKS[0]) for gradients in ("fused", "torch"))
    layers = covered(fused)
    assert layers is not None
    steps = ActorCriticSteps(layers, fused.get_optimizer(SHARED))
    optimizer = plain.get_optimizer(SHARED)
    parameters = list(plain.network(SHARED).parameters())
    places = {id(parameter): place for parameter, place in zip(layers.parameters(), steps.gradients, strict=True)}
    of_fused = [places[id(parameter)] for parameter in fused.network(SHARED).parameters()]
    rng = np.random.default_rng(1)
    steps.take_over()
    for step in range(120):
        for parameter, place in zip(parameters, of_fused, strict=True):
            size = 10.0 ** rng.uniform(-6, 0, tuple(parameter.shape))
            parameter.grad = torch.from_numpy((size * rng.normal(0, 1, size.shape)).astype(np.float32))
            place.copy_(parameter.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, largest_norm))
        assert steps.norm() == pytest.approx(norm, rel=1e-5)
        for one in (optimizer, fused.get_optimizer(SHARED)):
            one.param_groups[0]["lr"] = 1e-2 / (step + 1)
        optimizer.step()
        steps.step(steps.norm(), largest_norm)
        if step in (0, 1, 119):
            steps.hand_back()
            torch.testing.assert_close(weights(fused), weights(plain), rtol=1e-5, atol=1e-6)
            for name, expected in moments(plain).items():
                torch.testing.assert_close(moments(fused)[name], expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("kinds", [("fused", "torch"), ("torch", "fused")], ids="to".join)
def test_a_checkpoint_of_one_learner_goes_on_in_the_other(kinds: tuple[str, str], tmp_path: Path) -> None:
    """Weights, moments and their count: without any of them the next steps would differ."""
    first, second = (make_learner("PPO", kind, NETWORKS[0]) for kind in kinds)
    learn(first, 1)
    first.save_to_path(tmp_path / "checkpoint")
    second.restore_from_path(tmp_path / "checkpoint")
    assert torch.equal(weights(first), weights(second))
    for name, expected in moments(first).items():
        assert torch.equal(moments(second)[name], expected), name
    before = weights(first)
    for learner in (first, second):
        learn(learner, 2)
    assert_same(first, second)
    assert (weights(first) - before).abs().max() > 1e-2


def test_a_learner_may_change_over_at_any_time() -> None:
    """A hook that comes and goes between updates changes who takes the steps, and nothing else."""
    mixed, plain = (make_learner("PPO", gradients, NETWORKS[0]) for gradients in ("fused", "torch"))
    calls = []
    for seed in range(4):
        hook = mixed.network(SHARED).actor.scores[0].register_forward_hook(lambda *_: calls.append(1))
        if seed % 2:
            hook.remove()
        learn(mixed, seed, (40, 30))
        learn(plain, seed, (40, 30))
        hook.remove()
        assert_same(mixed, plain)
    assert len(calls) == 4, "two updates of two steps"


def test_other_networks_are_left_to_torch() -> None:
    assert covered(make_learner("PPO", "fused", NETWORKS[0], critic="central")) is None


def frozen(learner: Any) -> None:
    learner.network(SHARED).critic.value.bias.requires_grad = False


def decayed(learner: Any) -> None:
    learner.get_optimizer(SHARED).param_groups[0]["weight_decay"] = 0.1


def hooked_in_the_way_back(learner: Any) -> None:
    learner.network(SHARED).critic.value.register_full_backward_hook(lambda *_: None)


def hooked_on_a_weight(learner: Any) -> None:
    learner.network(SHARED).critic.value.weight.register_hook(lambda gradient: gradient)


def hooked_behind_a_gradient(learner: Any) -> None:
    learner.network(SHARED).critic.value.weight.register_post_accumulate_grad_hook(print)


def hooked_on_steps(learner: Any) -> None:
    learner.get_optimizer(SHARED).register_step_post_hook(lambda *_: None)


def in_double_precision(learner: Any) -> None:
    learner.network(SHARED).double()


def without_offset(learner: Any) -> None:
    learner.network(SHARED).critic.value.bias = None


def of_two_activations(learner: Any) -> None:
    learner.network(SHARED).actor.scores[1] = torch.nn.ReLU()


def shared(learner: Any) -> None:
    learner.network(SHARED).critic.features[0].weight = learner.network(SHARED).actor.scores[0].weight


def learned_in_parts(learner: Any) -> None:
    learner.get_optimizer(SHARED).param_groups[0]["params"].pop()


CHANGES = (frozen, decayed, hooked_in_the_way_back, hooked_on_a_weight, hooked_behind_a_gradient, hooked_on_steps)
CHANGES += (in_double_precision, without_offset, of_two_activations, shared, learned_in_parts)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_unusual_about_weights_or_their_optimizer_is_left_to_torch(change: Callable[[Any], None]) -> None:
    learner = make_learner("PPO", "fused", NETWORKS[0])
    assert covered(learner) is not None
    change(learner)
    assert covered(learner) is None


def test_frozen_weights_stay_as_they_are() -> None:
    learner = make_learner("PPO", "fused", NETWORKS[0])
    critic = learner.network(SHARED).critic.features[0]
    before = critic.weight.detach().clone()
    critic.weight.requires_grad = False
    learn(learner, 0)
    assert torch.equal(critic.weight, before)


@pytest.mark.parametrize("gradients", ["fused", "torch"])
@pytest.mark.parametrize("where", ["weights", "targets", "advantages"])
def test_divergence_is_an_error_and_moves_nothing(gradients: str, where: str) -> None:
    learner = make_learner("PPO", gradients, NETWORKS[0])
    rows = draw_rows(40, 0, choices=1.0)
    if where == "weights":
        with torch.no_grad():
            learner.network(SHARED).actor.scores[0].weight[0, 0] = torch.nan
    else:
        column = {"targets": Postprocessing.VALUE_TARGETS, "advantages": Postprocessing.ADVANTAGES}[where]
        rows[column][3] = torch.inf
    before = weights(learner)
    with pytest.raises(DivergedError, match=r"policy 'shared'.*not finite \(loss .*vf_loss"):
        learner.learn_from(SHARED, learner.config.get_config_for_module(SHARED), rows, [(torch.arange(40), 1.0)])
    torch.testing.assert_close(weights(learner), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_a_loss_of_ones_own_is_used(name: str) -> None:
    """Whoever overrides `compute_loss_for_module` gets the gradient of that."""
    learner = make_learner(name, "fused", NETWORKS[0])
    give_loss_without_gradient(learner)
    before = weights(learner)
    learn(learner, 0)
    assert not learner._fused
    assert torch.equal(weights(learner), before), "the gradient of this loss is zero"


def test_wrappers_are_told_apart() -> None:
    """Ray wraps the methods of a learner in a process of its own; whoever wraps the loss has a loss of their own."""
    learner = make_learner("PPO", "fused", NETWORKS[0])
    original = type(learner)

    class Own(original):
        @functools.wraps(original.compute_loss_for_module)
        def compute_loss_for_module(self, **arguments: Any) -> Any:
            return super().compute_loss_for_module(**arguments)

    class Actor(original):
        """What Ray makes of the class."""

    class OwnActor(Own):
        """What Ray makes of the other."""

    for actor in (Actor, OwnActor):
        _inject_tracing_into_class(actor)
    for kind, is_fused in ((original, True), (Actor, True), (Own, False), (OwnActor, False)):
        learner.__class__ = kind
        assert (learner.fused_steps(SHARED) is not None) == is_fused, kind


def test_a_step_of_ones_own_is_used() -> None:
    """Whoever overrides `descend` takes the steps."""
    learner = make_learner("PPO", "fused", NETWORKS[0])
    original = type(learner)

    class Own(original):
        def descend(self, *arguments: Any) -> None:
            """Take no step."""

    learner.__class__ = Own
    before = weights(learner)
    learn(learner, 0)
    assert torch.equal(weights(learner), before)
