"""Gradient steps of PPO and A2C written out for small networks: several times faster than autograd.

With two hidden layers of 64 units, most of a gradient step of autograd is not spent on matrix products but around them.
Here nothing else but a handful of kernels is left around them. During an update the weights, their gradient and Adam's
moments are four vectors, so that clipping and Adam are one pass over each. Between updates they are where they always
are, in the module and its optimizer: checkpoints are those of the torch learner, and so are losses, gradients and
weights, except for rounding (by test).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from offload_rllib.algorithms.fused_kernels import (
    BLOCK,
    ENTROPY,
    FIGURES,
    SURROGATE,
    VALUE_LOSS,
    adam_step,
    norm_of,
    policy_loss,
    value_loss,
)
from offload_rllib.algorithms.fused_network import CoveredNetwork, Part
from offload_rllib.algorithms.fused_perceptron import Layer

HAS_CHOICE = "has_choice"
# Sizes of minibatches whose buffers are kept: in an update there are two at most, one row apart.
KEPT_SIZES = 2
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class LossSettings:
    """What the loss of PPO or A2C depends on."""

    clip: float | None
    """Of PPO's surrogate; without it the gain is A log pi."""
    entropy_coeff: float
    value_coeff: float
    """Weight of the critic's mean squared error."""

    def loss_of(self, figures: np.ndarray) -> float:
        """Return the whole loss, given its figures."""
        by_critic = self.value_coeff * figures[VALUE_LOSS]
        return float(by_critic - figures[SURROGATE] - self.entropy_coeff * figures[ENTROPY])


class _Passes:
    """Forward and backward passes of actor and critic over the same rows."""

    def __init__(self, parts: tuple[Part, Part], layers: tuple[list[Layer], list[Layer]], inputs: Tensor) -> None:
        self.inputs = inputs
        self.actor, self.critic = (part.passes(own, inputs) for part, own in zip(parts, layers, strict=True))


class FusedSteps:
    """Gradient steps of an actor and a critic.

    `take_over` comes before the first step of an update, `hand_back` after the last.
    """

    def __init__(self, network: CoveredNetwork, optimizer: Any) -> None:
        """Make room.

        Args:
            network: whose weights are learned.
            optimizer: its Adam.
        """
        self.network, self.optimizer = network, optimizer
        size = sum(parameter.numel() for parameter in network.parameters())
        weights, self.gradient, *moments = (torch.zeros(size) for _ in range(4))
        self._vectors = [vector.numpy() for vector in (weights, self.gradient, *moments)]
        self._weights, self.gradients, *self._moments = map(self._places, (weights, self.gradient, *moments))
        places = zip(self._weights, self.gradients, strict=True)
        none = torch.empty(0), torch.empty(0)
        layers: list[Layer] = []
        for layer in network.actor.layers + network.critic.layers:
            by_weight, by_offset = next(places), none if layer.bias is None else next(places)
            layers.append(Layer(*by_weight, *(place.numpy() for place in by_offset)))
        actors = len(network.actor.layers)
        self._layers = layers[:actors], layers[actors:]
        self._passes: dict[int, _Passes] = {}
        self._loss_room = np.empty((2 * network.actions + 5, BLOCK))
        self._taken = 0

    def _places(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of a vector, in the shapes of the parameters.

        Weights of hidden layers stand the other way round: rows of as many numbers as there are hidden units suit the
        matrix products.
        """
        places: list[Tensor] = []
        first = 0
        for part in (self.network.actor, self.network.critic):
            for layer in part.layers:
                rows, columns = layer.weight.shape
                weights = vector[first : first + rows * columns]
                is_last = layer is part.layers[-1]
                places.append(weights.view(rows, columns) if is_last else weights.view(columns, rows).t())
                first += rows * columns
                if layer.bias is not None:
                    places.append(vector[first : first + rows])
                    first += rows
        return places

    @torch.no_grad()
    def take_over(self) -> None:
        """Read weights and moments from the module and its optimizer."""
        parameters, state = self.network.parameters(), self.optimizer.state
        _copy(parameters, self._weights)
        is_new = not all(parameter in state for parameter in parameters)
        self._taken = 0 if is_new else int(state[parameters[0]]["step"])
        for name, places in zip(MOMENTS, self._moments, strict=True):
            if is_new:
                for place in places:
                    place.zero_()
            else:
                _copy([state[parameter][name] for parameter in parameters], places)

    @torch.no_grad()
    def hand_back(self) -> None:
        """Write weights and moments to where `take_over` has them from."""
        parameters, state = self.network.parameters(), self.optimizer.state
        _copy(self._weights, parameters)
        for parameter in parameters:
            if parameter not in state:
                state[parameter] = {"step": torch.tensor(0.0)} | {name: torch.zeros_like(parameter) for name in MOMENTS}
            state[parameter]["step"].fill_(self._taken)
        for name, places in zip(MOMENTS, self._moments, strict=True):
            _copy(places, [state[parameter][name] for parameter in parameters])

    def compute(self, rows: dict[str, Any], order: Tensor, settings: LossSettings) -> np.ndarray:
        """Write the gradient of the loss into `gradient`; return its figures [FIGURES], all but the norm.

        Args:
            rows: the columns of `OnPolicyLearner.rows_of`.
            order: [B] the places in them of a minibatch.
            settings: of the loss.
        """
        seen = rows[Columns.OBS]
        figures = np.empty(FIGURES)
        places = order.numpy()
        passes = self._passes_over(len(order), seen["observations"].shape[1])
        torch.index_select(seen["observations"], 0, order, out=passes.inputs)
        passes.actor.forward()
        policy_loss(
            places,
            passes.actor.outputs,
            passes.actor.offsets,
            seen["action_mask"].numpy(),
            rows[Columns.ACTIONS].numpy(),
            rows[Columns.ACTION_LOGP].numpy(),
            rows[Postprocessing.ADVANTAGES].numpy(),
            rows[HAS_CHOICE].numpy(),
            settings.clip or 0.0,
            settings.entropy_coeff,
            settings.clip is not None,
            self._loss_room,
            passes.actor.by_offsets,
            figures,
        )
        passes.actor.backward()
        passes.critic.forward()
        value_loss(
            places,
            passes.critic.outputs,
            passes.critic.offsets,
            rows[Postprocessing.VALUE_TARGETS].numpy(),
            settings.value_coeff,
            passes.critic.by_offsets,
            figures,
        )
        passes.critic.backward()
        return figures

    def _passes_over(self, rows: int, features: int) -> _Passes:
        if rows not in self._passes:
            if len(self._passes) == KEPT_SIZES:
                self._passes.clear()
            parts = self.network.actor, self.network.critic
            self._passes[rows] = _Passes(parts, self._layers, torch.empty(rows, features))
        return self._passes[rows]

    def norm(self) -> float:
        """Return the norm of `gradient`."""
        return norm_of(self._vectors[1])

    def step(self, norm: float, largest_norm: float) -> None:
        """Move the weights along `gradient`, whose norm is given, scaled down as `clip_grad_norm_` does."""
        (group,) = self.optimizer.param_groups
        beta1, beta2 = map(float, group["betas"])
        self._taken += 1
        scale = min(largest_norm / (norm + 1e-6), 1.0)
        step_size = float(group["lr"]) / (1 - beta1**self._taken)
        correction = math.sqrt(1 - beta2**self._taken)
        numbers = (scale, step_size, 1 - beta1, 1 - beta2, correction, float(group["eps"]))
        adam_step(*self._vectors, *map(np.float32, numbers))


def _copy(sources: list[Any], targets: list[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        if target.dim() == 2 and not target.is_contiguous():
            target.t().copy_(source.t())  # several times faster
        else:
            target.copy_(source)
