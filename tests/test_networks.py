"""Networks: masks hold, those of rows fit any degree, permuting destinations permutes scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offload_rllib.envs.observation import FIRST_ROW, HERE_SIZE, ROW_SIZE
from offload_rllib.policies.attention import AttendingLayers
from offload_rllib.policies.network import (
    INVALID_LOGIT,
    KINDS,
    OF_ROWS,
    POINTER,
    Actor,
    CentralCritic,
    Critic,
    QNetwork,
    epsilon_greedy,
)
from offload_rllib.policies.pointer import FULL_ROWS, DestinationScores

HIDDEN = (16, 8)


def observation_size(rows: int) -> int:
    return FIRST_ROW + HERE_SIZE + (rows - 1) * ROW_SIZE


def observations_and_masks(batch: int, rows: int, padding: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random observations [batch, F] and masks [batch, rows + padding]; half of the agents have a choice."""
    rng = np.random.default_rng(seed)
    observations = rng.uniform(-1, 1, (batch, observation_size(rows))).astype(np.float32)
    observations = np.pad(observations, ((0, 0), (0, padding * ROW_SIZE)))
    masks = np.zeros((batch, rows + padding), np.int8)
    masks[:, 0] = 1
    masks[: batch // 2, :rows] = 1
    return torch.from_numpy(observations), torch.from_numpy(masks)


def randomised(network: nn.Module) -> nn.Module:
    """Return the network with weights that make every difference visible."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return network


def permute_rows(observations: Tensor, order: list[int]) -> Tensor:
    """Return observations whose row i is row order[i] of the given ones; row 0 stays."""
    start = FIRST_ROW + HERE_SIZE
    rows = observations[:, start:].unflatten(-1, (-1, ROW_SIZE))[:, [row - 1 for row in order[1:]]]
    return torch.cat([observations[:, :start], rows.flatten(1)], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_actions_that_are_not_valid_have_the_invalid_logit_alone(kind: str) -> None:
    observations, masks = observations_and_masks(6, 4)
    networks = [
        Actor(observation_size(4), 4, HIDDEN, "tanh", kind),
        QNetwork(observation_size(4), 4, HIDDEN, "relu", kind),
        QNetwork(observation_size(4), 4, HIDDEN, "relu", kind, dueling=True),
    ]
    for network in networks:
        values = network(observations, masks)
        assert values.shape == (6, 4)
        assert ((values == INVALID_LOGIT) == (masks == 0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_dueling_values_have_the_value_as_their_mean_over_valid_actions(kind: str) -> None:
    observations, masks = observations_and_masks(6, 4)
    network = QNetwork(observation_size(4), 4, HIDDEN, "tanh", kind, dueling=True)
    randomised(network)
    values = network(observations, masks)
    mean = torch.where(masks == 1, values, 0.0).sum(-1) / masks.sum(-1)
    assert network.value is not None
    assert torch.allclose(mean, network.value(observations), atol=1e-5)


@pytest.mark.parametrize("kind", OF_ROWS)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_destinations_are_treated_alike_and_staying_apart(activation: str, kind: str) -> None:
    observations, masks = observations_and_masks(8, 5)
    order = [0, 3, 1, 4, 2]
    permuted = permute_rows(observations, order)
    size = observation_size(5)
    for scores in (
        Actor(size, 5, HIDDEN, activation, kind),
        QNetwork(size, 5, HIDDEN, activation, kind, dueling=True),
    ):
        randomised(scores)
        assert torch.allclose(scores(observations, masks)[:, order], scores(permuted, masks[:, order]), atol=1e-6)
        # Row 0 begins as any row: only what is known of keeping the task is left.
        swapped = observations.clone()
        swapped[:, FIRST_ROW : FIRST_ROW + HERE_SIZE] = observations[:, -HERE_SIZE:]
        moved, before = scores(swapped, masks)[:4], scores(observations, masks)[:4]
        assert not torch.allclose(moved[:, 0], before[:, 0], atol=1e-3)
        if isinstance(scores, Actor):
            # A pointer scores each row by itself; with attention the others have seen the change.
            same = torch.isclose(moved[:, 1:], before[:, 1:], rtol=0, atol=1e-6)
            assert same.all() if kind == POINTER else not same.any()
    critic = randomised(Critic(size, HIDDEN, activation, kind))
    assert torch.allclose(critic(observations), critic(permuted), atol=1e-6)
    mlp = randomised(Actor(size, 5, HIDDEN, activation))
    assert not torch.allclose(mlp(observations, masks)[:4, order], mlp(permuted, masks[:, order])[:4], atol=1e-3)


@pytest.mark.parametrize("kind", OF_ROWS)
def test_networks_of_rows_fit_any_degree_and_padding_changes_nothing(kind: str) -> None:
    actor = randomised(Actor(observation_size(3), 3, HIDDEN, "tanh", kind))
    critic = randomised(Critic(observation_size(3), HIDDEN, "tanh", kind))
    for rows in (2, 3, 17):
        observations, masks = observations_and_masks(4, rows)
        wider, wider_masks = observations_and_masks(4, rows, padding=5)
        assert torch.allclose(actor(observations, masks), actor(wider, wider_masks)[:, :rows], atol=1e-6)
        assert torch.allclose(critic(observations), critic(wider), atol=1e-6)


def test_the_split_first_layer_is_one_layer_over_self_task_and_row() -> None:
    observations, masks = observations_and_masks(4, 3)
    actor = Actor(observation_size(3), 3, (8,), "tanh", "pointer")
    randomised(actor)
    scores = actor.scores
    assert isinstance(scores, DestinationScores)
    layers: Any = scores.layers
    score = scores.score
    for row in range(3):
        start = FIRST_ROW + HERE_SIZE + (row - 1) * ROW_SIZE if row else FIRST_ROW
        own = layers.row.weight if row else layers.here.weight
        weight = torch.cat([layers.context.weight, own], 1)
        joined = torch.cat([observations[:, :FIRST_ROW], observations[:, start : start + own.shape[1]]], 1)
        first = joined @ weight.T + layers.context.bias + (0.0 if row else layers.here.bias)
        expected = score(torch.tanh(first)).squeeze(-1)
        assert torch.allclose(actor(observations, masks)[:2, row], expected[:2], atol=1e-5)


def test_attention_is_that_of_torch() -> None:
    """Against `torch.nn.MultiheadAttention` over the features of a pointer's layers, with padding left out."""
    observations, _ = observations_and_masks(6, 4, padding=3)
    layers = AttendingLayers((12, 8), "relu", FULL_ROWS, heads=4)
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    plain = torch.nn.MultiheadAttention(8, 4, batch_first=True)
    plain.load_state_dict(
        {
            "in_proj_weight": layers.projections.weight,
            "in_proj_bias": layers.projections.bias,
            "out_proj.weight": layers.mixed.weight,
            "out_proj.bias": layers.mixed.bias,
        }
    )
    features = layers.layers(observations)
    padding = torch.tensor([[False] * 4 + [True] * 3]).expand(len(observations), -1)
    assert torch.equal(layers.real_rows(observations), ~padding)
    attended, _ = plain(features, features, features, key_padding_mask=padding)
    expected = layers.behind(features + attended)
    found = layers(observations)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, layers.behind(features), atol=1e-2)
    several = observations.reshape(2, 3, -1)
    assert torch.allclose(layers(several).reshape(found.shape), found, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_central_critic_sees_all_agents_in_no_order(kind: str) -> None:
    observations, _ = observations_and_masks(12, 3)
    everyone = observations.reshape(2, 6, -1)
    critic = CentralCritic(observation_size(3), HIDDEN, "tanh", kind)
    randomised(critic)
    values = critic(everyone[:, :2], everyone)
    assert values.shape == (2, 2)
    assert torch.allclose(values, critic(everyone, everyone)[:, :2], atol=1e-6)
    assert torch.allclose(values, critic(everyone[:, :2], everyone.flip(1)), atol=1e-6)
    changed = everyone.clone()
    changed[0, 5] *= -1
    other = critic(everyone[:, :2], changed)
    assert not torch.isclose(other[0], values[0], atol=1e-4).any(), "an agent elsewhere matters"
    assert torch.equal(other[1], values[1]), "but not one of another environment"
    assert critic(everyone[:, :2], everyone[:, :4]).shape == (2, 2), "any number of agents"


def test_epsilon_greedy_draws_among_valid_actions_even_where_all_values_are_zero() -> None:
    masks = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0]], dtype=torch.int8)
    values = torch.zeros(2, 4).masked_fill(masks == 0, INVALID_LOGIT)
    values[0, 3] = 1.0
    probabilities = epsilon_greedy(values, masks, 0.3).exp()
    assert torch.allclose(probabilities, torch.tensor([[0.1, 0.1, 0.0, 0.8], [1.0, 0.0, 0.0, 0.0]]), atol=1e-6)
    for epsilon in (0.0, 1.0):
        logits = epsilon_greedy(torch.zeros(2, 4).masked_fill(masks == 0, INVALID_LOGIT), masks, epsilon)
        assert torch.isfinite(logits).all()
        assert (logits.exp()[masks == 0] == 0).all()


def test_epsilon_greedy_decides_between_equal_values_by_lot() -> None:
    masks = torch.tensor([[1, 1, 0, 1]], dtype=torch.int8)
    values = torch.tensor([[2.0, 1.0, INVALID_LOGIT, 2.0]])
    assert torch.allclose(epsilon_greedy(values, masks, 0.3).exp(), torch.tensor([[0.45, 0.1, 0.0, 0.45]]), atol=1e-6)


@pytest.mark.parametrize("kind", OF_ROWS)
@pytest.mark.parametrize("batch", [1, 5, 63, 64])
def test_destinations_that_look_alike_have_equal_values(batch: int, kind: str) -> None:
    observations, masks = observations_and_masks(batch, 6)
    alike = permute_rows(observations, [0, 1, 1, 1, 1, 1])
    values = randomised(QNetwork(observation_size(6), 6, HIDDEN, "tanh", kind))(alike, torch.ones_like(masks))
    assert torch.allclose(values[:, 2:], values[:, 1:2].expand(-1, 4), rtol=0, atol=1e-5)
    ties = (values[:, 2:] == values[:, 1:2]).all(-1)
    assert ties[:-1].all(), "not only close, or they would be no ties; kernels may round the last row otherwise"
    assert not torch.isclose(values[:, 0], values[:, 1]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_and_are_finite(kind: str) -> None:
    observations, masks = observations_and_masks(8, 3, padding=2)
    size = observation_size(5)
    q = QNetwork(size, 5, HIDDEN, "tanh", kind)
    critic = CentralCritic(size, HIDDEN, "tanh", kind)
    (q(observations, masks)[:4, :2].square().sum() + critic(observations, observations).sum()).backward()
    for network in (q, critic):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", OF_ROWS)
def test_networks_of_rows_without_hidden_layers_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="at least one hidden layer"):
        Actor(observation_size(3), 3, (), "tanh", kind)
