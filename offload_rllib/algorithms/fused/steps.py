"""What all gradient steps that are written out share: where weights and gradient are, clipping, and Adam.

With two hidden layers of 64 units, most of a gradient step of autograd is not spent on matrix products but around them.
Here nothing else but a handful of kernels is left around them. During an update the weights, their gradient and Adam's
moments are four vectors, so that clipping and Adam are one pass over each. Between updates they are where they always
are, in the module and its optimizer: checkpoints are those of the torch learner, and so are losses, gradients and
weights, except for rounding (by test).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offload_rllib.algorithms.exchange.averaging import MOMENTS, adam_state
from offload_rllib.algorithms.fused.kernels import adam_step, norm_of
from offload_rllib.algorithms.fused.network import CoveredNetwork
from offload_rllib.algorithms.fused.perceptron import Layer


class FusedSteps:
    """Gradient steps of a covered network; a subclass writes the gradient.

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
        self.layers: list[list[Layer]] = []
        """Of each part."""
        for part in network.parts:
            layers: list[Layer] = []
            for layer in part.layers:
                by_weight, by_offset = next(places), none if layer.bias is None else next(places)
                layers.append(Layer(*by_weight, *(place.numpy() for place in by_offset)))
            self.layers.append(layers)
        self._taken = 0

    def _places(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of a vector, in the shapes of the parameters.

        Weights of hidden layers stand the other way round: rows of as many numbers as there are hidden units suit the
        matrix products.
        """
        places: list[Tensor] = []
        first = 0
        for part in self.network.parts:
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
            adam_state(self.optimizer, parameter)["step"].fill_(self._taken)
        for name, places in zip(MOMENTS, self._moments, strict=True):
            _copy(places, [state[parameter][name] for parameter in parameters])

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
